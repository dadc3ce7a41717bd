"""An application on Python's http.server that says what it saw of each request, one line of
JSON each; before that, the port it listens on."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

turn = threading.Lock()


def say(line) -> None:
    with turn:
        print(json.dumps(line), flush=True)


class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str):
        """Every method is served alike."""
        if name.startswith("do_"):
            return self.record
        raise AttributeError(name)

    def record(self) -> None:
        try:
            body, trailers = self.read_body()
        except (EOFError, ValueError):
            self.close_connection = True
            return
        method, target, _ = self.raw_requestline.decode("latin-1").split(" ")
        say(
            {
                "method": method,
                "target": target,
                "headers": list(self.headers.raw_items()),
                "trailers": trailers,
                "body": body.decode("latin-1"),
            }
        )
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(b"ok\n")

    def read_body(self) -> tuple[bytes, list]:
        if self.headers.get("transfer-encoding") == "chunked":
            return self.read_chunks()
        return self.read(int(self.headers.get("content-length", 0))), []

    def read_chunks(self) -> tuple[bytes, list]:
        body = b""
        while size := int(self.line(), 16):
            body += self.read(size)
            self.line()
        trailers = []
        while line := self.line():
            trailers.append(line.decode("latin-1").split(": ", 1))
        return body, trailers

    def line(self) -> bytes:
        line = self.rfile.readline(65536)
        if not line.endswith(b"\r\n"):
            raise EOFError
        return line[:-2]

    def read(self, size: int) -> bytes:
        body = self.rfile.read(size)
        if len(body) < size:
            raise EOFError
        return body

    def log_message(self, *_) -> None:
        """Nothing beside the recorded lines."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
say({"port": server.server_port})
server.serve_forever()
