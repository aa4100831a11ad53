"""The gate in front of the object store admits what the key holder's policies allow, and nothing else."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.weights.oss_bucket import access_policy
from standins.object_gate import Gate
from standins.providers.cloud import opened
from tests.support.http_server import Handler, serving

BUCKET, PREFIX = "weights", "models/R1"


class Store(Handler):
    """Echoes every request in its answer."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))) or self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with opened(tmp_path, "") as cloud:
        for name in ("reader", "writer"):
            document = access_policy(BUCKET, PREFIX, write=name == "writer")
            cloud.policies[name] = {"versions": {"v1": document}, "default": "v1"}
        cloud.keys |= {"AKreader": {"user": "reader"}, "AKnobody": {"user": "nobody"}, "AKvolc": {"user": "volc"}}
        cloud.policies["volc"] = {"document": '{"Statement": [{"Action": ["tos:GetObject"]}]}'}
        for user, holder in (("reader", "user"), ("writer", "role"), ("volc", "user")):
            cloud.attachments[user] = {holder: user, "policy": user, "type": "Custom"}
    with serving(Store) as store:
        made = Gate(tmp_path, store, {"STS.1": ("writer", "token")}.get)
        yield made
        made.close()


def ask(gate: Gate, method: str, path: str, key: str, token: str = "", body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(gate.url.removeprefix("http://"))
    headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={key}/20261129/x/s3/aws4_request, Signature=0"}
    connection.request(method, path, body or None, {**headers, **({"x-amz-security-token": token} if token else {})})
    said = connection.getresponse()
    return said.status, said.read()


@pytest.mark.parametrize(
    ("method", "path", "key", "token", "passes"),
    [
        ("GET", f"/{BUCKET}/{PREFIX}/config.json", "AKreader", "", True),
        ("GET", f"/{BUCKET}/models/other/config.json", "AKreader", "", False),
        ("GET", f"/{BUCKET}/{PREFIX}-2/config.json", "AKreader", "", False),
        ("GET", f"/another/{PREFIX}/config.json", "AKreader", "", False),
        ("GET", f"/{BUCKET}?list-type=2&prefix=models%2FR1%2F", "AKreader", "", True),
        ("GET", f"/{BUCKET}?list-type=2", "AKreader", "", False),
        ("GET", f"/{BUCKET}?list-type=2&prefix=models%2F", "AKreader", "", False),
        ("PUT", f"/{BUCKET}/{PREFIX}/a", "AKreader", "", False),
        ("PUT", f"/{BUCKET}/{PREFIX}/a", "STS.1", "token", True),
        ("PUT", f"/{BUCKET}/models/other/a", "STS.1", "token", False),
        ("PUT", f"/{BUCKET}/{PREFIX}/a", "STS.1", "another", False),
        ("PUT", f"/{BUCKET}/{PREFIX}/a", "STS.2", "token", False),
        ("POST", f"/{BUCKET}/{PREFIX}/a?uploads", "STS.1", "token", True),
        ("DELETE", f"/{BUCKET}/{PREFIX}/a?uploadId=1", "STS.1", "token", True),
        ("GET", f"/{BUCKET}/{PREFIX}/a", "AKnobody", "", False),
        ("DELETE", f"/{BUCKET}/anything", "AKowner", "", True),
        ("GET", "/tos/anything", "AKvolc", "", True),
    ],
)
def test_a_request_passes_where_one_statement_allows_it(gate: Gate, method, path, key, token, passes):
    status, _ = ask(gate, method, path, key, token)
    assert status == (200 if passes else 403)


def test_bodies_pass_whole_both_ways(gate: Gate):
    body = b"weights" * 300_000
    assert ask(gate, "PUT", f"/{BUCKET}/{PREFIX}/a", "STS.1", "token", body) == (200, body)
