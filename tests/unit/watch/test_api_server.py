"""The lightweight cluster client, tested with a server: every kind of kubeconfig works, and a server that does not
answer is not asked again."""

from __future__ import annotations

import base64
import json
import ssl
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme
import yaml

from watch.api_server import METADATA, ApiServer, UnansweredError

QUESTION = ("/api/v1/namespaces/default/secrets", METADATA)


class Echo(BaseHTTPRequestHandler):
    """Echoes the request and its sender; refuses what it is told to."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        peer = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        asked = {"path": self.path, "accept": self.headers["Accept"], "user": self.headers["Authorization"]}
        content = json.dumps(asked | {"certificate": bool(peer)}).encode()
        self.send_response(403 if "forbidden" in self.path else self._busy() or 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _busy(self) -> int | None:
        """429 to `/busy?times=N` as often as it says, counted over all connections."""
        times = int(self.path.partition("/busy?times=")[2] or 0)
        self.server.asked = getattr(self.server, "asked", 0) + 1  # type: ignore[attr-defined]
        return 429 if self.server.asked <= times else None  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """One address, what trusts it and a certificate that it trusts."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.authority = authority.cert_pem.bytes()
        client = authority.issue_cert("client@example.com")
        self.certificate = client.cert_chain_pems[0].bytes()
        self.key = client.private_key_pem.bytes()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        self._http.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self._http.server_address[1]}"
        Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        for name, content in (("ca", self.authority), ("crt", self.certificate), ("key", self.key), ("token", b"t\n")):
            (folder / name).write_bytes(content)

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def kubeconfig(cluster: dict[str, Any], user: dict[str, Any]) -> str:
    entries = [{"name": "c", "cluster": cluster}], [{"name": "u", "user": user}]
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    return yaml.safe_dump({"clusters": entries[0], "users": entries[1], "contexts": [context]})


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


HELPER = (
    "import json; print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', "
    "'status': {'token': 't'}}))"
)
EXEC = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": sys.executable,
    "args": ["-c", HELPER],
    "interactiveMode": "Never",
}


@pytest.mark.parametrize(
    ("user", "known_by"),
    [
        ({"token": "t"}, "Bearer t"),
        ({"tokenFile": "token"}, "Bearer t"),
        ({"client-certificate": "crt", "client-key": "key"}, "certificate"),
        ({"exec": EXEC}, "Bearer t"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_way_to_say_who_one_is_gets_in(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: dict[str, Any], known_by: str
):
    written = tmp_path / "config"
    written.write_text(kubeconfig({"server": f"{server.address}/below", "certificate-authority": "ca"}, user))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}:{written}")
    (answer,) = ApiServer("x").answers([QUESTION])
    assert not isinstance(answer, UnansweredError), answer
    assert (answer["path"], answer["accept"]) == (f"/below{QUESTION[0]}", METADATA)
    assert known_by == ("certificate" if answer["certificate"] else answer["user"])


def test_a_kubeconfig_in_one_piece_gets_in_and_a_server_of_another_authority_is_not_trusted(server: Server):
    user = {"client-certificate-data": coded(server.certificate), "client-key-data": coded(server.key)}
    told = []
    for authority in (server.authority, trustme.CA().cert_pem.bytes()):
        cluster = {"server": server.address, "certificate-authority-data": coded(authority)}
        told += ApiServer("x", kubeconfig(cluster, user)).answers([QUESTION])
    assert not isinstance(told[0], UnansweredError) and told[0]["certificate"]
    assert isinstance(told[1], UnansweredError) and "CERTIFICATE_VERIFY_FAILED" in str(told[1])


def test_one_refusal_is_of_one_question(server: Server):
    cluster = {"server": server.address, "certificate-authority-data": coded(server.authority)}
    answers = ApiServer("x", kubeconfig(cluster, {})).answers([("/forbidden", METADATA), QUESTION])
    assert isinstance(answers[0], UnansweredError) and answers[0].status == 403
    assert not isinstance(answers[1], UnansweredError)


@pytest.mark.parametrize(("times", "status"), [(2, None), (99, 429)])
def test_a_busy_server_is_asked_again_and_not_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch, times: int, status: int | None
):
    monkeypatch.setattr("watch.api_server._PAUSE_SECONDS", 0.0)
    cluster = {"server": server.address, "certificate-authority-data": coded(server.authority)}
    (answer,) = ApiServer("x", kubeconfig(cluster, {})).answers([(f"/busy?times={times}", METADATA)])
    assert (answer.status if isinstance(answer, UnansweredError) else None) == status


def test_whoever_is_silent_is_asked_once_by_each_thread(monkeypatch: pytest.MonkeyPatch):
    tried = []

    def wait(*where: object) -> None:
        tried.append(where)
        time.sleep(0.05)
        raise TimeoutError

    monkeypatch.setattr("watch.api_server._connected", wait)
    answers = ApiServer("x", kubeconfig({"server": "http://192.0.2.1"}, {})).answers([QUESTION] * 40)
    assert {str(answer) for answer in answers} == {"TimeoutError"} and len(tried) < 10


@pytest.mark.parametrize("text", ["{}", "contexts: [{name: x, context: {cluster: c, user: u}}]", "contexts: [1]"])
def test_a_kubeconfig_that_leads_nowhere_is_said_to(text: str):
    with pytest.raises(UnansweredError, match="its kubeconfig is of no use"):
        ApiServer("x", text)
