"""The guard inside a real uvicorn, as vLLM runs it, in front of an application that answers every request."""

from __future__ import annotations

import ast
import asyncio
import http.client
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from components.serving import modelserve_guard as guard
from planning import routes
from tests.support.patience import PATIENCE_SECONDS

KEY = "sk-right"
CHAT = "/v1/chat/completions"
LISTED = " ".join(routes.let_through("0.25.1", ["/v1/responses/{response_id}"]))
CAP = 1 << 20
STREAM = 402
# The guard must work with both of uvicorn's parsers and event loops. vLLM's images have the second of each.
SERVERS = [("h11", "asyncio"), ("httptools", "uvloop")]


@dataclass
class Open:
    """An application that answers every request that reaches it with 200, and records these requests."""

    reached: list[str] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        self.reached.append(f"{scope.get('method', scope['type'])} {scope['path']}")
        size, more = 0, True
        while more:
            part = await receive()
            size, more = size + len(part.get("body", b"")), part.get("more_body", False)
        query = scope["query_string"]
        status = 400 if query == b"error" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        if status >= 400:  # as through one of Starlette's own middlewares, which passes the body on piece by piece
            await asyncio.sleep(0.005)
        if query == b"stream":
            for count in range(STREAM):
                await send({"type": "http.response.body", "body": b"%d\n" % count, "more_body": True})
                if count == 0:
                    await asyncio.to_thread(self.go_on.wait, 20)
        await send({"type": "http.response.body", "body": b"%d bytes" % size})


@dataclass
class Served:
    """A running server."""

    app: Open
    port: int
    drain: Path

    def ask(
        self, method: str, path: str, key: str | None = KEY, body: Any = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        given = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request(method, path, body, {**given, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = connection.getresponse()
        try:
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def raw(self, sent: bytes, until: Callable[[bytes], bool]) -> bytes:
        """The answer to raw bytes."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(sent)
            got = b""
            while not until(got) and (part := connection.recv(65536)):
                got += part
            return got


@pytest.fixture(params=SERVERS, ids=lambda each: each[0])
def serve(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Served]]:
    running: list[tuple[uvicorn.Server, threading.Thread, Open]] = []

    def start(key: str = KEY, **environment: str) -> Served:
        settings = {"VLLM_API_KEY": key, "MODELSERVE_PATHS": LISTED, "MODELSERVE_BODY_BYTES": str(CAP), **environment}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        drain = tmp_path / "drain"
        monkeypatch.setattr(guard, "DRAIN_FILE", str(drain))
        app, sock = Open(), socket.create_server(("127.0.0.1", 0))
        parser, loop = request.param
        config = uvicorn.Config(guard.Guard(app), http=parser, loop=loop, lifespan="on", log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        running.append((server, thread, app))
        while not server.started:
            time.sleep(0.01)
        port = sock.getsockname()[1]
        monkeypatch.setenv("MODELSERVE_PORT", str(port))
        return Served(app, port, drain)

    yield start
    for server, thread, app in running:
        app.go_on.set()
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)


ODD = [
    "/invocations",
    "/%69nvocations",
    "/tokenize",
    "/load",
    "/version",
    "/openapi.json",
    "/docs",
    f"/{CHAT}",
    "/v1/../invocations",
    "/v1/%2e%2e/invocations",
    "/v1/chat/completions/",
    "/V1/chat/completions",
    "/v1/chat/completions;a=b",
    "/v1/%63hat/completions",
    "/v1/chat%2fcompletions",
    "/v1/chat/completions%00",
    "/v1/chat/completions%3Fa",
    "/v1/chät/completions",
    "/%68ealth",
    "/health/",
    "/healthz",
    "/metrics/",
    "/metricsx",
    "/modelserve",
    "/v1/responses/a/b",
    "/v1/responses/",
    "/v1",
    "/",
    "*",
]


@pytest.mark.parametrize("key", [KEY, ""], ids=["with a key", "without a key"])
def test_what_is_not_listed_is_not_found_however_it_is_spelled_and_whoever_asks(serve: Callable[..., Served], key: str):
    served = serve(key)
    for path in ODD:
        for method in ("POST", "GET", "HEAD", "PUT", "OPTIONS"):
            sent = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
            got = served.raw(sent.encode(), lambda _: False)
            assert got.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), (method, path, got)
    assert served.app.reached == []


def test_a_listed_path_takes_its_own_methods_alone(serve: Callable[..., Served]):
    served = serve()
    for method, path in [("GET", CHAT), ("HEAD", CHAT), ("DELETE", "/v1/models"), ("POST", "/metrics"), ("PUT", CHAT)]:
        assert served.ask(method, path)[0] == 404
    for method, path in [line.split() for line in routes.let_through("0.25.1")] + [["GET", "/v1/responses/r-1"]]:
        assert served.ask(method, f"{path}?a=b")[0] == 200
    assert len(served.app.reached) == len(LISTED.split()) // 2


WRONG = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer sk-wrong",
    f"Basic {KEY}",
    KEY,
    f"Bearer  {KEY}",
    f"Bearer {KEY}x",
    "Bearer \xe9",
]


def test_everything_but_health_and_metrics_asks_for_the_key(serve: Callable[..., Served]):
    served = serve()
    for line in routes.let_through("0.25.1"):
        method, path = line.split()
        status, body, head = served.ask(method, path, key=None)
        if path in ("/health", "/ping", "/metrics"):
            assert status == 200
        else:
            assert (status, body, head["www-authenticate"]) == (401, b'{"error":"Unauthorized"}', "Bearer")
    for given in WRONG:
        assert served.ask("POST", CHAT, key=None, Authorization=given)[0] == 401, given
    twice = f"GET /v1/models HTTP/1.1\r\nHost: a\r\n{2 * f'Authorization: Bearer {KEY}' + chr(13) + chr(10)}\r\n"
    twice = twice.replace(f"{KEY}Auth", f"{KEY}\r\nAuth")
    assert served.raw(twice.encode(), lambda got: b"Unauthorized" in got).startswith(b"HTTP/1.1 401")
    assert served.ask("POST", CHAT, key=None, authorization=f"bearer {KEY}")[0] == 200


def test_without_a_key_what_is_listed_answers_anybody(serve: Callable[..., Served]):
    assert serve("").ask("POST", CHAT, key=None)[0] == 200


def test_metrics_are_not_for_whoever_comes_by_a_proxy_and_with_a_load_balancer_for_the_key_alone(
    serve: Callable[..., Served],
):
    served = serve()
    for header in ("x-forwarded-for", "X-Forwarded-Proto", "Forwarded", "Via", "x-real-ip", "x-envoy-peer"):
        assert served.ask("GET", "/metrics", **{header: "127.0.0.1"})[0] == 404
        assert served.ask("POST", CHAT, **{header: "127.0.0.1"})[0] == 200
    balanced = serve(MODELSERVE_METRICS="key")
    assert [balanced.ask("GET", "/metrics", key=key)[0] for key in (None, "sk-wrong", KEY)] == [401, 401, 200]


def test_a_browser_may_ask_whether_it_may_ask_of_listed_paths_alone(serve: Callable[..., Served]):
    served, asks = serve(), {"Origin": "https://a", "Access_Control_Request_Method": "POST"}
    assert served.ask("OPTIONS", CHAT, key=None, **asks)[0] == 200
    assert served.ask("OPTIONS", "/tokenize", key=None, **asks)[0] == 404
    assert served.ask("OPTIONS", CHAT, key=KEY, Origin="https://a")[0] == 404


def test_a_stream_passes_piece_by_piece(serve: Callable[..., Served]):
    served = serve()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", f"{CHAT}?stream", b"{}", {"Authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    # The application continues only after its first piece has arrived here.
    assert answer.readline() == b"0\n"
    served.app.go_on.set()
    assert answer.read() == b"".join(b"%d\n" % count for count in range(1, STREAM)) + b"2 bytes"
    connection.close()


def test_bodies_up_to_the_cap_pass_whole_and_longer_ones_are_refused_before_the_engine(serve: Callable[..., Served]):
    served = serve()
    assert served.ask("POST", CHAT, body=b"x" * CAP)[1] == b"%d bytes" % CAP
    assert served.ask("POST", CHAT, body=iter([b"x" * (CAP // 4)] * 4))[1] == b"%d bytes" % CAP
    status, body, head = served.ask("POST", CHAT, body=iter([b"x" * (CAP // 4)] * 4 + [b"x"]))
    assert (status, json.loads(body)["error"]["code"], head["connection"]) == (413, 413, "close")
    told = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {CAP + 1}\r\n\r\n"
    assert served.raw(told.encode(), lambda got: b"larger than" in got).startswith(b"HTTP/1.1 413")
    # Without a key, not a single byte of a body reaches the application.
    nobody = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {CAP}\r\n\r\n"
    assert served.raw(nobody.encode(), lambda got: b"Unauthorized" in got).startswith(b"HTTP/1.1 401")
    assert len(served.app.reached) == 2


def test_each_of_several_requests_on_one_connection_is_judged_for_itself(serve: Callable[..., Served]):
    served = serve()
    keyed = f"Authorization: Bearer {KEY}\r\n"
    asked = [("GET /v1/models", keyed), ("GET /v1/models", ""), ("POST /invocations", keyed), ("GET /health", "")]
    sent = "".join(f"{line} HTTP/1.1\r\nHost: a\r\n{head}\r\n" for line, head in asked)
    smuggled = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n{keyed}Content-Length: 44\r\n\r\n"
    smuggled += "GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Pad: abcd\r\n\r\n"[:44]
    got = served.raw((sent + smuggled).encode(), lambda got: b"44 bytes" in got)
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"401", b"404", b"200", b"200"]
    assert served.app.reached == ["GET /v1/models", "GET /health", f"POST {CHAT}"]


def test_websockets_are_refused(serve: Callable[..., Served]):
    served = serve()
    for path in ("/v1/realtime", CHAT, "/health"):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{served.port}{path}", additional_headers={"Authorization": f"Bearer {KEY}"})
        assert refused.value.response.status_code == 403
    assert served.app.reached == []


def test_head_and_body_of_an_error_leave_in_one_piece_whoever_answers_it(serve: Callable[..., Served]):
    served, keyed = serve(), f"Authorization: Bearer {KEY}\r\n"
    asked = {"the engine's": (f"{CHAT}?error", keyed), "no key": (CHAT, ""), "no path": ("/tokenize", keyed)}
    for who, (path, head) in asked.items():
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
                connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\n{head}Content-Length: 0\r\n\r\n".encode())
                first = connection.recv(65536)
                assert first.partition(b"\r\n\r\n")[2], who


def test_a_replica_that_ends_takes_no_new_work_and_finishes_what_it_has(serve: Callable[..., Served]):
    served = serve()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", f"{CHAT}?stream", b"{}", {"Authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    assert answer.readline() == b"0\n" and served.ask("GET", guard.OPEN_PATH, key=None)[1] == b"1"
    served.drain.touch()
    status, body, head = served.ask("POST", CHAT)
    assert (status, head["connection"], head["retry-after"]) == (503, "close", "5")
    assert "about to end" in json.loads(body)["error"]["message"]
    assert served.ask("POST", CHAT, key=None)[0] == 401
    assert [served.ask("GET", path)[0] for path in ("/health", "/metrics")] == [200, 200]
    served.app.go_on.set()
    assert b"2 bytes" in answer.read()
    assert served.ask("GET", guard.OPEN_PATH, key=None)[1] == b"0"
    assert served.ask("GET", guard.OPEN_PATH, key=None, X_Forwarded_For="127.0.0.1")[0] == 404


def test_a_container_that_starts_again_in_its_pod_serves_again(serve: Callable[..., Served], tmp_path: Path):
    (tmp_path / "drain").touch()
    assert serve().ask("POST", CHAT)[0] == 200


def test_it_is_one_file_that_python_3_8_reads_and_that_needs_nothing_but_python():
    tree = ast.parse(Path(guard.__file__).read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)
