-- Merges what one sidecar knows into the hash KEYS[1], and tells whoever listens on the channel
-- ARGV[1] what was news. After it come, for each entry: its field, its rank, when it ends, and
-- the change as JSON. Of two, the higher rank and the later end stay, each for itself; the JSON
-- is that of the one that ends later, or has the higher rank where both end together.
local news = 0
for i = 2, #ARGV, 4 do
  local field, rank, ends, json = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3]
  local changed, kept = true, json
  local known = redis.call('HGET', KEYS[1], field)
  if known then
    local r, e, j = string.match(known, '^(%d+) (%d+) (.*)$')
    r, e = tonumber(r), tonumber(e)
    if r and e then
      changed = rank > r or ends > e
      if e > ends or (e == ends and r >= rank) then kept = j end
      rank, ends = math.max(rank, r), math.max(ends, e)
    end
  end
  if changed then
    redis.call('HSET', KEYS[1], field, string.format('%.0f %.0f ', rank, ends) .. kept)
    redis.call('PUBLISH', ARGV[1], json)
    news = news + 1
  end
end
return news
