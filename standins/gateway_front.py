"""A Gateway's listener on this machine: a reverse proxy on a free port. Where a request goes, it is told."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"}


@dataclass(frozen=True)
class Way:
    """Where a request goes, by which route, and how many seconds it may take there."""

    host: str
    port: int
    route: str
    seconds: float | None = None


@dataclass(frozen=True)
class Refused:
    """What a request is answered instead."""

    status: int
    message: str


Decide = Callable[[str, str, dict[str, str], bytes], "Way | Refused"]


class Front:
    """A running listener on 127.0.0.1. `decide` is asked with method, path, headers in lower case, and body."""

    def __init__(self, decide: Decide) -> None:
        self._server = _Server(decide)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def stop(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, decide: Decide) -> None:
        self.decide = decide
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        way = self.server.decide(self.command, self.path, headers, body)
        if isinstance(way, Refused):
            self._refuse(way)
            return
        self._forward(way, headers, body)

    do_GET = do_PUT = do_DELETE = do_POST

    def _forward(self, way: Way, headers: Mapping[str, str], body: bytes) -> None:
        # Of the whole answer in Envoy, of each of its pieces here: the difference shows in streams only.
        with closing(http.client.HTTPConnection(way.host, way.port, timeout=way.seconds)) as upstream:
            try:
                passed = {name: value for name, value in headers.items() if name not in _HOP}
                # Envoy's connection manager always says so, whatever the client has said.
                passed["x-forwarded-proto"] = "http"
                upstream.request(self.command, self.path, body or None, passed)
                answer = upstream.getresponse()
            except TimeoutError:
                self._refuse(Refused(504, "upstream request timeout"))
            except OSError:
                self._refuse(Refused(503, "upstream connect error or disconnect/reset before headers"))
            else:
                self._pass_on(way, answer)

    def _pass_on(self, way: Way, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        # Not Envoy's: so that a test can see which route of several a request took.
        self.send_header("x-rehearsal-route", way.route)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while part := answer.read1(65536):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, refused: Refused) -> None:
        body = json.dumps({"error": {"code": refused.status, "message": refused.message}}).encode()
        self.send_response(refused.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        print(f"{self.client_address[0]} {format % args}", flush=True)
