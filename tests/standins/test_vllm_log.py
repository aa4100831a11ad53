"""The log of a simulated start, parsed by the program's own reader, which was written from other logs."""

from __future__ import annotations

import itertools
import re

import pytest

from standins.vllm_arguments import Arguments
from standins.vllm_log import CAPTURE, KILLED, NCCL, NO_CACHE, SAMPLER, WORKSPACE, Writer
from watch.engine_log import cause, stage

CAUSES = {
    NO_CACHE: "ValueError: No available memory for the cache blocks",
    CAPTURE: "torch.AcceleratorError: CUDA error: out of memory",
    WORKSPACE: "torch.OutOfMemoryError: CUDA out of memory",
    SAMPLER: "torch.OutOfMemoryError: CUDA out of memory",
    NCCL: "RuntimeError: NCCL error: unhandled system error",
}
RELEASES = ("0.7.3", "0.8.5", "0.10.1", "0.11.2", "0.25.1")
PARALLEL = ("", "-tp 8", "-tp 8 --distributed-executor-backend ray", "-tp 8 -pp 2", "-dp 16 -ep")


def writer(release: str, words: str = "") -> Writer:
    return Writer(Arguments.parse(["/weights/m", *words.split()]), release)


def text(lines: list[str]) -> str:
    return "\n".join(lines).replace("{now}", "11-28 08:01:29")


@pytest.mark.parametrize(("release", "words"), list(itertools.product(RELEASES, PARALLEL)))
def test_each_failure_of_each_release_ends_with_a_parent_that_knows_nothing_and_has_its_cause_far_above(release, words):
    made = writer(release, words)
    for how, says in CAUSES.items():
        log = text(made.crash(how, made.engine()))
        assert "root cause" in log.splitlines()[-1] and says not in "\n".join(log.splitlines()[-10:])
        found = cause(log)
        assert found and found.says.startswith(says) and found.phase
    killed = text(made.crash(KILLED, made.engine()))
    assert cause(killed) is None and re.fullmatch(r"weights loading: [1-9]\d %", stage(killed))


def test_a_start_goes_from_stage_to_stage_and_never_back():
    for release in RELEASES:
        lines = [line for _, line in writer(release, "-tp 8").engine()]
        stages = [re.sub(r"\d+ %", "", stage(text(lines[: end + 1]))) for end in range(len(lines))]
        assert [each for each, _ in itertools.groupby(stages)] == list(dict.fromkeys(stages)), release
        assert stages[-1].startswith("probe") and not any("newest line" in each for each in stages)
        assert ("compiling" in stages) is (release != "0.7.3"), release


def test_engines_are_named_by_their_rank_and_pods_without_http_by_how_many_they_run():
    words = "-dp 16 --data-parallel-size-local 8 -tp 2 -ep"
    leader = text([line for _, line in writer("0.33.0", words).engine()])
    assert (
        "(EngineCore_DP0 pid=" in leader and "(Worker_DP0_TP0_EP0 pid=" in leader and "world_size=32 rank=0" in leader
    )
    assert "Defaulting api_server_count to data_parallel_size (16)." in leader and "DP Coordinator" in leader
    assert "api_server_count" not in text([line for _, line in writer("0.14.1", words).engine()])
    other = text([line for _, line in writer("0.33.0", f"{words} -dpr 8").headless("ds-0.ds", "29550")])
    assert "Launching 8 data parallel engine(s) in headless mode, with head node address tcp://ds-0.ds:29550." in other
    assert "(Worker_DP8_TP0_EP16 pid=" in other and "Uvicorn" not in other


def test_a_pod_that_helps_an_engine_of_another_starts_workers_alone():
    lines = [line for _, line in writer("0.33.0", "-dp 2 -tp 16 -n 4 -r 3").headless("ds-0.ds", "29501")]
    assert "headless multiproc executor" in text(lines) and "engine(s) in headless mode" not in text(lines)


def test_routes_are_told_before_the_server_is_started():
    lines = text([line for _, line in writer("0.25.1").engine()])
    assert lines.index("Route: /v1/models") < lines.index("Started server process")


@pytest.mark.parametrize(
    ("words", "bar"),
    [
        ("", "Loading safetensors checkpoint shards"),
        ("--load-format runai_streamer", "Loading safetensors using Runai Model Streamer"),
        ("--load-format fastsafetensors", "Loading safetensors using Fastsafetensor loader"),
        ("--load-format instanttensor", "Loading safetensors using InstantTensor loader"),
        ('--model-loader-extra-config {"enable_multithread_load":true}', "Multi-thread loading shards"),
    ],
)
def test_each_loader_has_its_own_bar(words: str, bar: str):
    log = text([line for _, line in writer("0.25.1", words).engine()])
    assert f"\n{bar}: 100% Completed" in log and log.count(": 100% Completed") == 1


def test_an_eager_engine_neither_compiles_nor_captures():
    log = text([line for _, line in writer("0.25.1", "--enforce-eager").engine()])
    assert "torch.compile" not in log and "Graph capturing" not in log and "init engine" in log
