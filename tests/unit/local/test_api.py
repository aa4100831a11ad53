"""The rehearsal's client: it waits if the server asks it to, and reports any other refusal at once."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from local import control_plane
from local.api import Api, ApiError
from tests.support.http_server import running


class Server(HTTPServer):
    """Answers requests with a sequence of statuses."""

    statuses: list[int]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.server.statuses.pop(0), b'{"message": "as told"}'
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Retry-After": "0",
            "Content-Length": len(body),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    with running(made):
        yield made


@pytest.mark.parametrize(("statuses", "left"), [([429, 503, 200, 200], 1), ([200, 200], 1)])
def test_a_server_that_says_when_to_come_back_is_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: list[int], left: int
) -> None:
    assert api(server, monkeypatch, tmp_path, statuses).request("POST", "/", {}) == {"message": "as told"}
    assert len(server.statuses) == left


@pytest.mark.parametrize("status", [409, 404, 500, 504])
def test_any_other_refusal_is_told_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    with pytest.raises(ApiError, match="as told") as refused:
        api(server, monkeypatch, tmp_path, [status, 200]).request("POST", "/", {})
    assert refused.value.code == status and server.statuses == [200]


def api(server: Server, monkeypatch: pytest.MonkeyPatch, pki: Path, statuses: list[int]) -> Api:
    """A client of the server, which needs no certificates."""
    server.statuses = statuses
    context = ssl.create_default_context()
    monkeypatch.setattr(context.__class__, "load_cert_chain", lambda *_: None)
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: context)
    return Api(f"http://127.0.0.1:{server.server_address[1]}", pki)


def test_a_control_plane_has_one_client_until_it_starts_anew_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []
    monkeypatch.setattr(control_plane, "Api", lambda server, _: made.append(server) or object())
    plane = control_plane.ControlPlane("x", tmp_path, tmp_path / "kubeconfig")
    for port in (1, 2):
        config = {"clusters": [{"cluster": {"server": f"https://127.0.0.1:{port}"}}]}
        plane.kubeconfig.write_text(json.dumps(config))
        assert plane.api is plane.api
    assert made == ["https://127.0.0.1:1", "https://127.0.0.1:2"]
