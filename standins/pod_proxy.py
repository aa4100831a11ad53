"""Leads a program that reads pods by their addresses to what plays them: kwok gives a pod an address that nobody has.

A forward proxy on 127.0.0.1 for plain GETs, enough for metrics. Knows no cluster: it is told where an address leads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import urllib3

_SECONDS = 10


def serve(find: Callable[[str, int], tuple[str, int] | None]) -> str:
    """Starts the proxy, and returns its URL. `find` says where a pod's address and port lead; None: nobody listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            there = find(asked.hostname or "", asked.port or 80)
            try:
                if there is None:
                    raise urllib3.exceptions.HTTPError("connection refused")
                url = f"http://{there[0]}:{there[1]}{asked.path}"
                answer = urllib3.request("GET", url, retries=False, timeout=_SECONDS)
            except urllib3.exceptions.HTTPError as error:
                self.send_error(502, str(error))
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(answer.data)))
            self.end_headers()
            self.wfile.write(answer.data)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: a controller asks every few seconds."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
