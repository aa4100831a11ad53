"""`ops verify --load`: what it says of engines that are good, slow, hung, another model's, or closed to the caller."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.paths import ROOT
from ops.__main__ import main as ops
from ops.load import MOST_REQUESTS, Load, Sample, measure, told
from ops.verify import _planned
from planning.throughput import Point, Range
from standins.vllm import Arguments, Engine
from tests.support.http_server import Handler, serving
from tests.support.patience import PATIENCE_SECONDS
from tests.support.simulator import Simulator

Capture = pytest.CaptureFixture[str]
SMALL = ["--load", "6", "--concurrency", "3", "--input", "20", "--output", "8"]


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts simulators and gives their addresses."""
    running: list[Simulator] = []

    def start(*words: str, token_seconds: float = 0.0) -> str:
        arguments = Arguments.parse(["/weights/m", "--served-model-name", "ds", *words])
        running.append(Simulator(Engine(arguments, "0.7.3", token_seconds=token_seconds)))
        return f"http://127.0.0.1:{running[-1].port}"

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def hung() -> Iterator[str]:
    """An engine that says 200 on /health and gives no second answer."""
    answered: list[str] = []

    class Hung(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if self.path.endswith("/models"):
                self.wfile.write(json.dumps({"data": [{"id": "ds"}]}).encode())

        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            if not answered:
                answered.append(self.path)
                event = {"choices": [{"delta": {"content": "a"}}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())
                return
            ended.wait(PATIENCE_SECONDS)

    ended = threading.Event()
    with serving(Hung) as url:
        yield url
        ended.set()


def asked(capsys: Capture, code: int, *words: str) -> dict[str, Any]:
    """The service of the JSON of a run that ends with this code."""
    assert ops(["verify", *words, "--json"]) == code
    (service,) = json.loads(capsys.readouterr().out)["services"]
    return service


def test_a_good_engine_is_measured_under_guidellms_names(serve: Callable[..., str], capsys: Capture):
    service = asked(capsys, 0, "--url", serve(token_seconds=0.001), *SMALL)
    (benchmark,) = service["load"]["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"] == {"successful": 6, "incomplete": 0, "errored": 0, "total": 6}
    assert metrics["output_token_count"]["successful"]["max"] <= 8
    assert metrics["prompt_token_count"]["successful"]["min"] >= 20
    for name in ("request_latency", "time_to_first_token_ms", "time_per_output_token_ms", "inter_token_latency_ms"):
        spread = metrics[name]["successful"]["percentiles"]
        assert 0 < spread["p50"] <= spread["p95"] <= spread["p99"], name
    latency, first = (metrics[name]["successful"]["mean"] for name in ("request_latency", "time_to_first_token_ms"))
    assert first / 1000 < latency, "one is in seconds, the other in milliseconds"
    assert metrics["output_tokens_per_second"]["successful"]["mean"] > 0


def test_a_slow_engine_fails_by_its_time_and_no_further_request_is_sent(serve: Callable[..., str], capsys: Capture):
    words = ["--load", "9", "--concurrency", "2", "--input", "8", "--output", "64", "--timeout", "1"]
    url = serve("--max-model-len", "200", token_seconds=0.5)
    service = asked(capsys, 1, "--url", url, *words)
    assert "no answer within 1 s" in service["reason"] and service["load"] is None


def test_a_hung_engine_that_is_healthy_is_found_in_the_time_of_one_answer(hung: str, capsys: Capture):
    service = asked(capsys, 1, "--url", hung, "--load", "50", "--concurrency", "2", "--timeout", "0.5")
    (benchmark,) = service["load"]["benchmarks"]
    silent, unsent = benchmark["errors"].values()
    assert benchmark["errors"].keys() == {
        "no answer within 0.5 s, although /health says that it is well: it hangs, or its queue is long",
        "not sent, because none of the first was answered",
    }
    # One of the two may begin its second request before the other's first has failed.
    assert silent in (2, 3) and silent + unsent == 50
    assert benchmark["metrics"]["request_latency"]["successful"] is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["--model", "other"], "The model `other` does not exist"), ([], "the endpoint wants an API key")],
)
def test_another_model_and_a_missing_key_end_before_the_load(
    serve: Callable[..., str], capsys: Capture, words: list[str], reason: str
):
    url = serve(*([] if words else ["--api-key", "k"]))
    service = asked(capsys, 1, "--url", url, *words, *SMALL)
    assert reason in service["reason"] and service["load"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--load", str(MOST_REQUESTS + 1)], f"--load {MOST_REQUESTS + 1}: is more than"),
        (
            ["--load", "3", "--concurrency", "4"],
            "--concurrency 4: of 3 requests, at most 1000 are sent at once; write at",
        ),
        (["--input", "4"], "--input is of a load; write --load N too"),
        (["--load", "0"], "is not a whole number above 0"),
    ],
)
def test_a_load_beyond_its_bound_is_refused(capsys: Capture, words: list[str], said: str):
    assert ops(["verify", "--url", "http://127.0.0.1:9", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_same_seed_sends_the_same_requests_and_no_two_begin_alike():
    load = Load(requests=50, concurrency=1, input=30, output=1, seed=7)
    texts = list(load.prompts())
    assert texts == list(load.prompts())
    assert texts != list(Load(requests=50, concurrency=1, input=30, output=1, seed=8).prompts())
    assert len({text[:40] for text in texts}) == 50
    assert {len(text.split()) for text in texts} == {30}


def test_the_plan_beside_it_is_that_of_one_replica_under_this_load(tmp_path: Path):
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text((ROOT / "Pulumi.local.yaml").read_text().replace("replicas: 1", "replicas: 4"))
    args = argparse.Namespace(stack=None, config=file, url=None)
    points = {
        many: _planned(args, "ds", Load(requests=9, concurrency=many, input=64, output=8, seed=0)) for many in (1, 8)
    }
    assert {many: (point.at_once, point.input, point.output) for many, point in points.items() if point} == {
        1: (1, 64, 8),
        8: (8, 64, 8),
    }
    args.url = "http://127.0.0.1:9"
    assert _planned(args, "ds", Load(requests=1, concurrency=1, input=1, output=1, seed=0)) is None


def test_the_picture_has_the_measured_times_beside_the_plans():
    load = Load(requests=100, concurrency=1, input=10, output=11, seed=0)
    times = iter(range(1, 101))

    def ask(prompt: str) -> Sample:
        first = next(times) / 1000
        return Sample(first, first + 0.1, 10, 11)

    plan = Point("load", 1, 10, 11, Range(0.01, 0.02, 0.03), Range(0.001, 0.002, 0.003), 8, 2.0, None, None)
    head, titles, first, token, _, rate = told("ds", measure(load, ask, ValueError), plan)
    assert "ds: 100 of 100 requests answered" in head and "1 at once, 10 tokens in, 11 tokens out" in head
    assert titles.split() == ["p50", "p95", "p99", "plan"]
    assert first.split()[:6] == ["first", "token,", "ms", "50", "95", "99"] and "20 (10 to 30)" in first
    assert token.split()[:6] == ["a", "token,", "ms", "10", "10", "10"] and "2 (1 to 3)" in token
    assert rate.endswith("22")
