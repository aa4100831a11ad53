"""How the sync's rclone addresses each cloud's object store: a proxy on loopback records the requests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.weights.sync.bucket import key_environment, remote_environment
from local.toolchain import ensure
from tests.support.http_server import running
from tests.support.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.rehearsal

BUCKET, KEY = "weights-1", "models/DeepSeek-R1/config.json"


class Proxy(ThreadingHTTPServer):
    """Answers every request with «not there» and keeps its address and signature."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.seen: list[tuple[str, str]] = []


class Answer(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(404)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = Proxy()
    with running(server):
        yield server


@pytest.mark.parametrize(
    ("host", "address", "region"),
    [
        ("tos-s3-cn-beijing.ivolces.com", f"{BUCKET}.tos-s3-cn-beijing.ivolces.com", "cn-beijing"),
        ("tos-s3-ap-southeast-1.volces.com", f"{BUCKET}.tos-s3-ap-southeast-1.volces.com", "ap-southeast-1"),
        ("oss-cn-hangzhou-internal.aliyuncs.com", f"{BUCKET}.oss-cn-hangzhou-internal.aliyuncs.com", None),
        # Not a particular cloud's: the bucket is the first part of the path.
        ("store.example.com", f"store.example.com/{BUCKET}", None),
    ],
)
def test_each_clouds_bucket_is_addressed_as_it_takes_it(proxy: Proxy, host: str, address: str, region: str | None):
    variables = remote_environment(f"http://{host}") | key_environment("AKid", "canary")
    variables["http_proxy"] = f"http://127.0.0.1:{proxy.server_port}"
    command = [ensure("rclone")["rclone"], "--config=", "--retries=1", "--low-level-retries=1", "cat"]
    subprocess.run(
        [*command, f"store:{BUCKET}/{KEY}"], env=os.environ | variables, capture_output=True, timeout=PATIENCE_SECONDS
    )
    asked, signature = proxy.seen[0]
    assert asked.partition("?")[0].startswith(f"http://{address}/{KEY}")
    assert region is None or f"/{region}/s3/aws4_request" in signature
