"""`ops verify --url` against the engine simulator and against servers that answer badly."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from components.serving.modelserve_verify import NoAnswer
from config.judge import parse
from config.stack_file import read
from local.paths import ROOT
from ops.__main__ import main as ops
from ops.verify import _ask_service, _front
from planning.names import Live
from standins.vllm import Arguments, Engine
from tests.support.http_server import Handler, serving
from tests.support.simulator import Simulator
from watch import switchover

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts simulators and gives their addresses."""
    running: list[Simulator] = []

    def start(*words: str, token_seconds: float = 0.001, release: str = "0.7.3") -> str:
        arguments = Arguments.parse(["/weights/m", "--served-model-name", "ds", *words])
        running.append(Simulator(Engine(arguments, release, token_seconds=token_seconds)))
        return f"http://127.0.0.1:{running[-1].port}"

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def bad_server() -> Iterator[Callable[[int, str, bytes], str]]:
    """Starts servers that give one fixed answer to everything."""

    def start(status: int, kind: str, body: bytes) -> str:
        class Fixed(Handler):
            def do_POST(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

        return running.enter_context(serving(Fixed))

    with contextlib.ExitStack() as running:
        yield start


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_endpoint_answers_with_or_without_v1_and_without_naming_a_model(
    serve: Callable[..., str], capsys: Capture, suffix: str
) -> None:
    assert ops(["verify", "--url", serve() + suffix, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (service,) = told["services"]
    assert told["ok"] is True
    assert service["answer"]["model"] == "ds"
    assert service["answer"]["first_token_seconds"] > 0
    assert service["reason"] is None


def test_key_from_the_environment_opens_the_endpoint_and_is_not_shown(
    serve: Callable[..., str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve("--api-key", "right-key")
    asked = ["verify", "--url", url, "--model", "ds", "--api-key-env", "MY_KEY"]
    monkeypatch.setenv("MY_KEY", "right-key")
    assert ops(asked) == 0
    monkeypatch.setenv("MY_KEY", "wrong-key")
    assert ops(asked) == 1
    assert ops(["verify", "--url", url]) == 1
    said = capsys.readouterr()
    assert "the API key is wrong" in said.err
    assert "the endpoint wants an API key and none was found" in said.err
    assert "right-key" not in said.out + said.err
    assert "wrong-key" not in said.out + said.err


@pytest.mark.parametrize("release", ["0.7.3", "0.11.2"])
def test_unknown_model_is_said_in_the_servers_words(serve: Callable[..., str], capsys: Capture, release: str) -> None:
    assert ops(["verify", "--url", serve(release=release), "--model", "other"]) == 1
    assert "404 Not Found: The model `other` does not exist." in capsys.readouterr().err


def test_answer_that_takes_too_long_is_a_timeout(serve: Callable[..., str], capsys: Capture) -> None:
    assert ops(["verify", "--url", serve(token_seconds=0.2), "--timeout", "0.5"]) == 1
    assert "no answer within 0.5 s" in capsys.readouterr().err


def test_closed_port_is_said(capsys: Capture) -> None:
    assert ops(["verify", "--url", "http://127.0.0.1:9"]) == 1
    assert "nobody listens at http://127.0.0.1:9" in capsys.readouterr().err


def event(delta: dict[str, str]) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n".encode()


DONE = b"data: [DONE]\n\n"
NAME, BESIDE = "deepseek-r1-671b", {"rollout": {"strategy": "blueGreen"}}


@pytest.mark.parametrize(
    ("status", "kind", "body", "reason"),
    [
        (200, "text/event-stream", event({"content": ""}) + DONE, "empty answer"),
        (200, "text/event-stream", event({"content": "Half"}), "the stream ended before the answer did"),
        (200, "text/event-stream", b'data: {"error": {"message": "engine died"}}\n\n', "engine died"),
        (200, "text/html", b"<html>hello</html>", "the stream ended before the answer did"),
        (502, "text/html", b"<html>bad gateway</html>", "502 Bad Gateway: <html>bad gateway</html>"),
        (503, "application/json", b"{}", "503 Service Unavailable: no reason given"),
    ],
)
def test_bad_answer_is_exit_1_with_its_reason(
    bad_server: Callable[[int, str, bytes], str], capsys: Capture, status: int, kind: str, body: bytes, reason: str
) -> None:
    assert ops(["verify", "--url", bad_server(status, kind, body), "--model", "m"]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_of_a_reasoning_model_are_an_answer(
    bad_server: Callable[[int, str, bytes], str], capsys: Capture, name: str
) -> None:
    url = bad_server(200, "text/event-stream", event({name: "Let me think"}) + DONE)
    assert ops(["verify", "--url", url, "--model", "m"]) == 0
    assert "Let me think" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "why"),
    [({}, "the reasoning parser does not work"), ({"reasoningParser": "none"}, None), ({"version": "0.6.6"}, None)],
)
def test_a_stacks_reasoning_parser_that_splits_nothing_is_found_where_there_is_one(bad_server, engine, why):
    class Forwarded:
        """Stands in for a cluster whose service answers so."""

        def secret(self, name: str, key: str) -> None:
            return None

        def leader(self, service: str) -> str:
            return service

        def forwarded(self, leader: str) -> contextlib.nullcontext[str]:
            return contextlib.nullcontext(bad_server(200, "text/event-stream", event({"content": "<think> a"}) + DONE))

    raw = read(ROOT / "Pulumi.local.yaml").raw
    raw["services"]["ds"]["engine"] |= engine
    cluster: Any = Forwarded()
    with contextlib.nullcontext() if why is None else pytest.raises(NoAnswer, match=why):
        _ask_service(cluster, parse(raw), "ds", 5, None)


@pytest.mark.parametrize(
    ("changes", "live", "front"),
    [
        ({}, None, NAME),
        ({"gateway": "none"}, None, f"{NAME}-leader"),
        (BESIDE, Live("green", "a1"), f"{NAME}-green"),
        (BESIDE, Live(None, ""), NAME),
        (BESIDE, None, NAME),
    ],
)
def test_a_service_is_asked_where_its_requests_go(changes, live, front, monkeypatch):
    monkeypatch.setattr(switchover, "live", lambda *_: ({NAME: live} if live else {}, {}))
    raw = read(ROOT / "Pulumi.volcengine.yaml").raw
    raw["services"][NAME] |= changes
    if changes.get("gateway"):
        del raw["services"][NAME]["routing"], raw["monitoring"]
    assert _front(parse(raw), NAME) == front


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name a STACK"),
        (["--url", "ftp://host"], "is not an http or https URL"),
        (["--url", "http://host:port"], "is not an http or https URL"),
        (["--url", "http://host", "local"], "--url asks one endpoint"),
        (["--url", "http://host", "--api-key-env", "NO_SUCH_VARIABLE"], "is not set"),
        (["--url", "http://host", "--timeout", "0"], "is not a number above 0"),
        (["local", "--model", "m"], "go with --url"),
        (["nosuch"], "stack nosuch"),
    ],
)
def test_wrong_request_is_exit_2_and_one_line(capsys: Capture, words: list[str], why: str) -> None:
    assert ops(["verify", *words]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


def test_key_that_no_header_can_carry_is_said_without_being_shown(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "two\nlines")
    assert ops(["verify", "--url", "http://127.0.0.1:9", "--api-key-env", "MY_KEY"]) == 1
    said = capsys.readouterr().err
    assert "such as a line break" in said
    assert "two" not in said
