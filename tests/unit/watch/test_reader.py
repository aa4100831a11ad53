"""The reader of a cluster against a server that answers as a kubelet does: a followed log goes on until its end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.http_server import Handler, serving
from tests.support.patience import PATIENCE_SECONDS

PROGRAM = """
import json, sys
from watch.rollout import Reader

cluster, user = {"name": "c", "cluster": {"server": sys.argv[1]}}, {"name": "u", "user": {}}
context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
config = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
reader = Reader("x", "default", json.dumps(config))
state = {"name": "vllm", "state": {"running": {"startedAt": "1"}}}
spec = {"containers": [{"name": "beside"}, {"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]}
pod = {"metadata": {"name": "p", "uid": "1"}, "spec": spec, "status": {"containerStatuses": [state]}}
while "second" not in (reader.follow("s", [pod]), reader.log(pod))[1]:
    pass
print(json.dumps([reader.follow("s", []), reader.follow("other", [])]))
"""


class Kubelet(Handler):
    """Two lines of a log, and then silence until the client goes away."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert "/pods/p/log?" in self.path and "container=vllm" in self.path
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if "follow=true" in self.path:
            self.wfile.write(b"d\r\nfirst\nsecond\n\r\n")
            self.connection.recv(1)
        else:
            self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def kubelet() -> Iterator[str]:
    """Its address."""
    with serving(Kubelet) as url:
        yield url


def test_what_a_pod_said_is_there_when_the_pod_is_not_and_a_program_that_follows_it_ends_in_order(kubelet: str):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, kubelet], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == [{"p": "first\nsecond\n"}, {}]
