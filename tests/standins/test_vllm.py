"""The engine simulator over real HTTP on loopback."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from local.paths import ROOT
from standins.vllm import Engine, newest_release, release_of
from standins.vllm_arguments import Arguments, refusal
from tests.support.patience import PATIENCE_SECONDS
from tests.support.simulator import Simulator

Serve = Callable[..., str]
QUESTION = {"messages": [{"role": "user", "content": "Who are you?"}]}


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts simulators and returns their addresses."""
    running = []

    def start(*words: str, release: str = "0.7.3", api_keys: tuple[str, ...] = (), token_seconds: float = 0) -> str:
        arguments = Arguments.parse(["/weights/R1", "--served-model-name", "ds", *words])
        running.append(Simulator(Engine(arguments, release, api_keys, token_seconds)))
        return f"http://127.0.0.1:{running[-1].port}"

    yield start
    for each in running:
        each.stop()


def events(answer: requests.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]


def metric(url: str, name: str) -> float:
    lines = requests.get(f"{url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[-1])


def test_running_requests_fill_the_kv_cache_and_leave_it_empty(serve: Serve) -> None:
    url = serve("--max-model-len", "100", token_seconds=0.05)
    asked = QUESTION | {"stream": True, "messages": [{"role": "user", "content": "word " * 90}]}
    with requests.post(f"{url}/v1/chat/completions", json=asked, stream=True) as answer:
        lines = answer.iter_lines()
        next(lines)
        # Of two of the longest requests and a sixteenth.
        assert 90 / 206 <= metric(url, "vllm:gpu_cache_usage_perc{") <= 100 / 206
        assert list(lines)
    assert metric(url, "vllm:gpu_cache_usage_perc{") == 0


def test_argument_list_is_read_as_vllm_reads_it() -> None:
    words = "/weights/m --gpu-memory-utilization 0.9 --served-model-name a b --port=9000 -tp 8 --enforce-eager"
    arguments = Arguments.parse([*words.split(), "--pipeline_parallel_size", "2", "--max-model-len", "32k"])
    assert arguments == Arguments("/weights/m", ("a", "b"), 9000, 8, 2, 32_000, (), eager=True)
    engines = Arguments.parse("m -dp 16 --data-parallel-size-local 8 -dpr 8 -ep".split())
    assert engines == Arguments("m", ("m",), data_parallel=16, local_engines=8, first_engine=8, expert_parallel=True)
    spanning = [Arguments.parse(f"m -dp 2 -tp 16 --nnodes 4 --node-rank {node}".split()) for node in range(4)]
    assert [(each.first_engine, each.helps) for each in spanning] == [(0, False), (0, True), (1, False), (1, True)]
    assert {each.local_engines for each in spanning} == {1}
    assert Arguments.parse(["--model", "m", "--max-model-len", "32K"]).max_model_len == 32_768
    assert Arguments.parse(["/weights/m"]).served_names == ("/weights/m",)


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("vllm/vllm-openai:v0.7.3", "0.7.3"),
        ("registry:5000/team/vllm:0.11.2-cuda12", "0.11.2"),
        ("registry/vllm:pytorch2.6-vllm0.8.5", "0.8.5"),
        ("vllm/vllm-openai@sha256:0123456789", None),
        ("vllm/vllm-openai:nightly", None),
    ],
)
def test_release_is_read_from_the_images_tag(image: str, release: str | None) -> None:
    assert release_of(image) == release


@pytest.mark.parametrize(
    ("line", "release", "last"),
    [
        ("m --swap-space 4 --enforce-eager", "0.18.0", "vllm: error: unrecognized arguments: --swap-space 4"),
        ("m --nnodes 2 --headless", "0.8.5", "vllm: error: unrecognized arguments: --nnodes 2 --headless"),
        (
            "m --reasoning-parser deepseek_r2",
            "0.8.5",
            "vllm serve: error: argument --reasoning-parser: "
            "invalid choice: 'deepseek_r2' (choose from 'deepseek_r1', 'granite')",
        ),
        ("m --swap-space 4 --dtype half", "0.33.0", "vllm: error: unrecognized arguments: --swap-space 4"),
    ],
)
def test_arguments_that_a_release_does_not_take_end_it_with_its_parsers_words(
    line: str, release: str, last: str
) -> None:
    assert refusal(line.split(), release)[-1] == last
    assert refusal(line.split(), release, serves=False)[-1] == last


def test_a_reasoning_parser_that_nobody_registered_ends_only_the_engine_that_serves() -> None:
    words = "m --reasoning-parser deepseek_r2".split()
    assert refusal(words, "0.11.1")[-1].startswith(
        "KeyError: 'invalid reasoning parser: deepseek_r2 (chose from { deepse"
    )
    assert refusal(words, "0.11.1", serves=False) == []
    assert refusal([*words, "--reasoning-parser-plugin", "/p.py"], "0.11.1") == []


def test_arguments_that_a_release_takes_are_not_refused() -> None:
    line = "m --reasoning-parser deepseek_r1 --enforce-eager --max-num-seqs 8 --nnodes 2 --node-rank 1 --headless"
    assert refusal(line.split(), "0.11.1") == []


def test_health_version_and_models_answer(serve: Serve) -> None:
    url = serve("--max-model-len", "4096")
    assert requests.get(f"{url}/health").status_code == 200
    assert requests.get(f"{url}/version").json() == {"version": "0.7.3"}
    (model,) = requests.get(f"{url}/v1/models").json()["data"]
    assert (model["id"], model["root"], model["max_model_len"]) == ("ds", "/weights/R1", 4096)
    assert requests.get(f"{url}/nothing").status_code == 404
    assert requests.get(f"{url}/v1/completions").status_code == 405


def test_chat_completion_has_text_a_reason_and_counts_that_add_up(serve: Serve) -> None:
    body = requests.post(f"{serve()}/v1/chat/completions", json=QUESTION | {"model": "ds"}).json()
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert "ds" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert usage["completion_tokens"] > 10


def test_max_tokens_cuts_the_answer(serve: Serve) -> None:
    body = requests.post(f"{serve()}/v1/chat/completions", json=QUESTION | {"max_tokens": 3}).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3
    plain = requests.post(f"{serve()}/v1/completions", json={"model": "ds", "prompt": "Hi", "max_tokens": 2}).json()
    assert plain["choices"][0]["text"] == "This is"


def test_stream_carries_the_same_text_in_pieces_then_usage_then_done(serve: Serve) -> None:
    url = f"{serve()}/v1/chat/completions"
    whole = requests.post(url, json=QUESTION).json()
    asked = QUESTION | {"stream": True, "stream_options": {"include_usage": True}}
    answer = requests.post(url, json=asked)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *chunks, usage, done = events(answer)
    parts = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert done == "[DONE]"
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"] == whole["usage"]
    assert parts[0]["delta"]["role"] == "assistant"
    assert "".join(part["delta"]["content"] for part in parts) == whole["choices"][0]["message"]["content"]
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop"]
    assert len(parts) > 10


def test_stream_without_the_option_has_no_usage(serve: Serve) -> None:
    answer = requests.post(f"{serve()}/v1/chat/completions", json=QUESTION | {"stream": True})
    assert all("usage" not in json.loads(chunk) for chunk in events(answer)[:-1])


def test_unknown_model_is_404_in_the_shape_of_the_release(serve: Serve) -> None:
    asked = QUESTION | {"model": "other"}
    old = requests.post(f"{serve(release='0.7.3')}/v1/chat/completions", json=asked)
    new = requests.post(f"{serve(release='0.10.1')}/v1/chat/completions", json=asked)
    error = {"message": "The model `other` does not exist.", "type": "NotFoundError", "param": None, "code": 404}
    assert (old.status_code, old.json()) == (404, {"object": "error"} | error)
    assert (new.status_code, new.json()) == (404, {"error": error})


def test_request_longer_than_max_model_len_is_400_with_both_numbers(serve: Serve) -> None:
    url = f"{serve('--max-model-len', '50')}/v1/chat/completions"
    for asked in (QUESTION | {"max_tokens": 100}, {"messages": [{"role": "user", "content": "word " * 60}]}):
        answer = requests.post(url, json=asked)
        assert answer.status_code == 400
        assert answer.json()["type"] == "BadRequestError"
        assert "maximum context length is 50 tokens" in answer.json()["message"]


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"messages": []}', '{"messages": [{}], "max_tokens": 0}'])
def test_malformed_request_is_400_and_no_broken_connection(serve: Serve, body: str) -> None:
    answer = requests.post(f"{serve()}/v1/chat/completions", data=body)
    assert answer.status_code == 400
    assert answer.json()["message"]


def test_api_key_guards_v1_and_nothing_else(serve: Serve) -> None:
    url = serve("--api-key", "one", api_keys=("two",))
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer two"}, 200),
    ):
        assert requests.get(f"{url}/v1/models", headers=headers).status_code == status
    assert requests.post(f"{url}/v1/chat/completions", json=QUESTION).json() == {"error": "Unauthorized"}
    assert requests.get(f"{url}/v1/models", headers={"Authorization": "Bearer one"}).status_code == 200
    assert requests.get(f"{url}/health").status_code == 200
    assert requests.get(f"{url}/metrics").status_code == 200


RECORDED = json.loads((ROOT / "tests" / "data" / "vllm-http.json").read_text())["answers"]


def shape(value: Any) -> Any:
    """A body without the parts that differ from answer to answer: each value is replaced by its kind."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None if value is None else type(value).__name__


def without_numbers(error: dict[str, Any]) -> dict[str, Any]:
    """A refusal with only the engine's own text, without the dump of the request that FastAPI appends."""
    message, dumped, _ = error["message"].partition("1 validation error")
    return error | {"message": message or dumped}


@pytest.mark.parametrize("recorded", RECORDED, ids=[each["name"] for each in RECORDED])
def test_every_recorded_answer_is_given_in_its_status_and_shape(serve: Serve, recorded: dict[str, Any]) -> None:
    url = serve("--served-model-name", "tiny-served", "--max-model-len", "4096", "--api-key", "right", release="0.25.1")
    headers = {"Authorization": f"Bearer {recorded['key']}"} if recorded["key"] else {}
    text = recorded.get("text") or json.dumps(recorded["json"]).replace("LONG", "word " * 5000) if (
        "text" in recorded or "json" in recorded
    ) else None  # fmt: skip
    if text:
        headers["Content-Type"] = recorded.get("type", "application/json")
    answer = requests.request(recorded["method"], url + recorded["path"], headers=headers, data=text)
    assert (answer.status_code, answer.headers.get("Content-Type")) == (recorded["status"], recorded["contentType"])
    assert answer.headers.get("allow") == recorded.get("allow")
    if names := recorded.get("metrics"):
        assert {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")} == set(names)
    elif pieces := recorded.get("events"):
        given = [shape(json.loads(each)) for each in events(answer)[:-1]]
        assert [each for each, _ in itertools.groupby(given)] == [shape(each) for each in pieces]
    elif recorded["status"] < 400:
        assert not recorded.get("body") or shape(answer.json()) == shape(recorded["body"])
    elif isinstance(error := recorded["body"].get("error"), dict):
        assert without_numbers(answer.json()["error"]) == without_numbers(error)
    else:
        assert answer.json() == recorded["body"]


def test_metrics_count_requests_and_tokens(serve: Serve) -> None:
    url = serve()
    usage = requests.post(f"{url}/v1/chat/completions", json=QUESTION | {"max_tokens": 5}).json()["usage"]
    requests.post(f"{url}/v1/chat/completions", json=QUESTION | {"max_tokens": 7, "stream": True})
    assert metric(url, "vllm:generation_tokens_total{") == 12
    assert metric(url, "vllm:prompt_tokens_total{") == 2 * usage["prompt_tokens"]
    assert metric(url, 'vllm:request_success_total{finished_reason="length"') == 2
    assert metric(url, "vllm:time_to_first_token_seconds_count") == 2
    assert metric(url, "vllm:e2e_request_latency_seconds_sum") > 0
    assert metric(url, "vllm:num_requests_running{") == 0


def test_running_requests_are_visible_while_they_run(serve: Serve) -> None:
    url = serve(token_seconds=0.2)
    with requests.post(f"{url}/v1/chat/completions", json=QUESTION | {"stream": True}, stream=True) as answer:
        lines = answer.iter_lines()  # keep it: a dropped iterator closes the connection and ends the request
        next(lines)
        assert metric(url, "vllm:num_requests_running{") == 1


def test_client_that_goes_away_is_counted_as_abort(serve: Serve) -> None:
    url = serve(token_seconds=0.05)
    with requests.post(f"{url}/v1/chat/completions", json=QUESTION | {"stream": True}, stream=True) as answer:
        next(answer.iter_lines())
    end = time.monotonic() + PATIENCE_SECONDS
    while not metric(url, 'vllm:request_success_total{finished_reason="abort"'):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert metric(url, "vllm:num_requests_running{") == 0


@pytest.mark.parametrize(
    ("release", "present", "absent"),
    [
        ("0.7.3", "vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
        ("0.8.5", "vllm:gpu_prefix_cache_hits_total", "vllm:num_requests_swapped"),
        ("0.12.0", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        (newest_release(), "vllm:inter_token_latency_seconds_bucket", "vllm:time_per_output_token_seconds_bucket"),
    ],
)
def test_metric_names_are_those_of_the_release(serve: Serve, release: str, present: str, absent: str) -> None:
    text = requests.get(f"{serve(release=release)}/metrics").text
    assert present in text
    assert absent not in text


def test_requests_are_served_side_by_side(serve: Serve) -> None:
    url = f"{serve(token_seconds=0.02)}/v1/chat/completions"
    answers: list[requests.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(requests.post(url, json=QUESTION))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 8


def test_stop_closes_the_port_and_cuts_streams() -> None:
    simulator = Simulator(Engine(Arguments.parse(["m"]), "0.7.3", token_seconds=0.5))
    url = f"http://127.0.0.1:{simulator.port}/v1/chat/completions"
    with requests.post(url, json=QUESTION | {"stream": True}, stream=True) as answer:
        lines = answer.iter_lines()
        next(lines)
        simulator.stop()
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(lines)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", simulator.port))


def test_each_engine_behind_a_port_has_its_own_series_and_the_least_busy_one_answers(serve: Serve) -> None:
    url = serve("--data-parallel-size", "3", release="0.33.0", token_seconds=0.02)

    def busy() -> list[float]:
        lines = [line for line in requests.get(f"{url}/metrics").text.splitlines() if "_running{" in line]
        return [float(line.split()[-1]) for line in sorted(lines)]

    def ask() -> None:
        requests.post(f"{url}/v1/chat/completions", json=QUESTION)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    assert busy() == [0, 0, 0]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while sum(busy()) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert sorted(busy()) == [1, 1, 2]
    for thread in threads:
        thread.join()
    text = requests.get(f"{url}/metrics").text
    assert {f'vllm:generation_tokens_total{{engine="{each}",model_name="ds"}}' for each in range(3)} <= {
        line.split()[0] for line in text.splitlines()
    }
