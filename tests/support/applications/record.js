// An application on Node's `http` module that says what it saw of each request, one line of
// JSON each; before that, the port it listens on.
"use strict";
const http = require("node:http");

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const pairs = (raw) => {
  const fields = [];
  for (let at = 0; at < raw.length; at += 2) fields.push([raw[at], raw[at + 1]]);
  return fields;
};

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    say({
      method: request.method,
      target: request.url,
      headers: pairs(request.rawHeaders),
      trailers: pairs(request.rawTrailers),
      body: Buffer.concat(chunks).toString("latin1"),
    });
    response.end("ok\n");
  });
});

server.listen(0, "127.0.0.1", () => say({ port: server.address().port }));
