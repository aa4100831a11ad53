"""`ops plan` as a script calls it: exit codes, the JSON's names, one line a refusal."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ops.__main__ import main

R1 = ["plan", "--model", "deepseek-r1", "--gpus-per-node", "8"]
TWO_NODES = [*R1, "--gpu", "H20-96", "--nodes", "2", "--tensor", "8", "--pipeline", "2"]


def test_the_json_has_the_names_that_scripts_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO_NODES, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True
    assert {
        "fits",
        "stages",
        "kv_tokens",
        "max_model_len",
        "max_concurrency",
        "reasons",
        "alternatives",
        "startup",
        "cost",
        "throughput",
    } <= set(plan)
    assert [stage["layers"] for stage in plan["stages"]] == [31, 30]
    assert {"weights_gib", "overhead_gib", "kv_gib", "budget_gib"} <= set(plan["stages"][0])
    for stage in plan["stages"]:
        parts = stage["weights_gib"] + stage["overhead_gib"] + stage["kv_gib"]
        assert parts == pytest.approx(stage["budget_gib"], abs=0.01)
    assert {"steps", "first_token_seconds", "floor_seconds"} <= set(plan["startup"])
    assert {"name", "seconds", "bytes", "source"} <= set(plan["startup"]["steps"][0])
    assert (plan["cost"]["per_hour"], plan["cost"]["currency"], plan["cost"]["as_of"]) == (None, None, None)


def test_a_layout_that_does_not_fit_exits_1_and_names_the_nearest_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*R1, "--gpu", "H800-80", "--nodes", "1", "--tensor", "8", "--pipeline", "1", "--json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is False
    assert plan["alternatives"][0] | {"kv_tokens": 0, "max_model_len": 0} == {
        "nodes": 2,
        "tensor": 8,
        "pipeline": 2,
        "data": 1,
        "expert_parallel": False,
        "kv_tokens": 0,
        "max_model_len": 0,
    }
    assert plan["alternatives"][0]["kv_tokens"] > 500_000


def test_the_table_says_verdict_stages_start_up_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    price = ["--price-per-gpu-hour", "10", "--currency", "CNY", "--price-as-of", "2026-11-01"]
    assert main([*TWO_NODES, *price]) == 0
    text = capsys.readouterr().out
    steps = ("engine processes", "DeepGEMM kernels")
    for words in ("vLLM 0.33.0: fits", "41.02", "first token after", *steps, "cost 160.00 CNY an hour"):
        assert words in text


LOAD = ["--input", "3000", "--output", "1000"]


def test_a_load_is_planned_with_the_replicas_that_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--rate", "4", "--ttft-seconds", "9", "--tpot-seconds", "0.05"]
    assert main([*TWO_NODES, *LOAD, *limits, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["throughput"]
    needed = found["load"]["replicas_needed"]
    assert [point["name"] for point in found["points"]] == ["alone", "full", "load"] and needed > 1
    assert main([*TWO_NODES, *LOAD, *limits]) == 0
    text = capsys.readouterr().out
    for words in (f"replicas needed for the load: {needed}", *found["warnings"], *found["reasons"]):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "1"], "load: --rate without the length of requests; write --input and --output"),
        ([*LOAD, "--tpot-seconds", "1"], "load: tpotSeconds limits no load; write rate"),
        ([*LOAD, "--rate", "1", "--concurrency", "1"], "load.rate 1: concurrency 1 follows from it; keep one of them"),
    ],
)
def test_a_load_that_cannot_be_planned_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TWO_NODES, *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "DeepSeek-R9", "--gpu", "H20-96"], "model DeepSeek-R9: is not in the catalog"),
        (["--model", "DeepSeek-R1", "--gpu", "H30-96"], "GPU H30-96: is not in the catalog"),
        (["--model", "DeepSeek-R1", "--gpu", "L40S:much"], "much is not a memory size"),
        (["--model", "DeepSeek-R1", "--gpu", "B200"], "its usable memory is not in the catalog"),
        (
            ["--model", "DeepSeek-R1", "--gpu", "H20-96", "--nodes", "4", "--tensor", "32", "--pipeline", "1"],
            "2048 / 32 = 64, not a multiple of 128",
        ),
        (["--model", "DeepSeek-R1", "--gpu", "H20-96", "--tensor", "8", "--nodes", "2"], "tensor 8 x pipeline 1"),
        (["--model", "DeepSeek-R1", "--gpu", "H20-96", "--max-model-len", "200000"], "has a context of 163840 tokens"),
        (["--model", "DeepSeek-R1", "--gpu", "H20-96", "--max-model-len", "long"], "is no whole number"),
        (["--model", "DeepSeek-R1", "--gpu", "H20-96", "--utilization", "1.0"], "is not between 0 and 1"),
        (["--model", "DeepSeek-R1", "--gpu", "H20-96", "--engine-version", "0.5.0"], "is older than every"),
        (["--model", "DeepSeek-R1", "--gpu", "H20-96", "--price-per-gpu-hour", "9"], "prices.asOf: is missing"),
        (["--model", "nowhere/config.json", "--gpu", "H20-96"], "cannot be read"),
    ],
)
def test_a_request_that_cannot_be_planned_exits_2_in_plain_lines(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--gpus-per-node", "8", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and not said.out
    assert "Traceback" not in said.err


def test_refused_layouts_name_the_nearest_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*R1, "--gpu", "H20-96", "--nodes", "4", "--tensor", "32", "--pipeline", "1", "--json"]) == 2
    said = capsys.readouterr()
    assert any(line.startswith("instead, 4 x 8 GPUs as TP8 PP4 fits") for line in said.err.splitlines())
    found = json.loads(said.out)
    assert found["refusals"] == found["reasons"] == said.err.splitlines() and found["fits"] is False
    assert {"nodes", "tensor", "pipeline", "kv_tokens"} <= found["alternatives"][0].keys()


def test_without_a_layout_the_cheapest_that_fits_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*R1, "--gpu", "H200-141", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["layout"]["nodes"], plan["layout"]["tensor"]) == (1, 8)


def test_planning_loads_neither_pulumi_nor_a_kubernetes_client() -> None:
    """What keeps an answer under half a second."""
    script = (
        "import sys; from ops.__main__ import main; "
        f"main({[*TWO_NODES, '--json']!r}); sys.exit(any(m in sys.modules for m in ('pulumi', 'kubernetes')))"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=False).returncode == 0
