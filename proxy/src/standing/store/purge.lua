-- Forgets entries of the hash KEYS[1] that are over: fields, each with the value that it had when
-- that was found, so that none is forgotten that has changed since.
local gone = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    gone = gone + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return gone
