"""What the engine is told of its plan: layout, context and loader."""

from __future__ import annotations

from typing import Any

import pytest

from config.judge import parse
from config.plans import plan_services
from planning import flags
from stacks import engine_arguments
from tests.unit.config.test_plans import DP16, ONE_NODE, SMALL_STEPS, SPANNING, laid_out, on


def test_the_context_that_the_plan_found_is_the_one_that_the_engine_is_told():
    config = parse(on("H20-96", layout=ONE_NODE))
    planned = plan_services(config)["ds"]
    arguments = engine_arguments.arguments(
        "ds", planned, engine_arguments.from_volume(config.weights, planned.service.model)
    )
    assert arguments[arguments.index("--max-model-len") + 1] == str(planned.max_model_len) != "163840"


OF_DATA = ["--data-parallel-size", "16"]


@pytest.mark.parametrize(
    ("layout", "launcher", "said", "unsaid"),
    [
        (DP16, "native", [*OF_DATA, "--enable-expert-parallel"], "--distributed-executor-backend"),
        (
            DP16,
            "ray",
            [*OF_DATA, *"--data-parallel-backend ray --data-parallel-size-local 8 --enable-expert-parallel".split()],
            "--headless",
        ),
        (
            DP16 | {"data": 4, "tensor": 4, "decodeContext": 4},
            "ray",
            "--data-parallel-size-local 2 --enable-expert-parallel --decode-context-parallel-size 4".split(),
            "--data-parallel-rank",
        ),
        (
            DP16 | SPANNING,
            "native",
            ["--data-parallel-size", "2", "--enable-expert-parallel", "--distributed-executor-backend", "mp"],
            "--data-parallel-size-local",
        ),
        (
            {"nodes": 1, "data": 8, "tensor": 1, "pipeline": 1, "expertParallel": True},
            "native",
            ["--data-parallel-size", "8"],
            "--data-parallel-size-local",
        ),
        ({"nodes": 2, "tensor": 8, "pipeline": 2}, "native", ["--pipeline-parallel-size", "2"], "--data-parallel-size"),
    ],
)
def test_a_layout_is_said_in_flags_that_the_release_takes(layout, launcher, said, unsaid):
    config = parse(laid_out(layout, *SMALL_STEPS, launcher=launcher, unproven=True))
    planned = plan_services(config)["ds"]
    arguments = engine_arguments.arguments("ds", planned, engine_arguments.from_volume(config.weights, "DeepSeek-R1"))
    assert " ".join(said) in " ".join(map(str, arguments)) and unsaid not in arguments
    assert flags.problems([str(each) for each in arguments], "0.33.0") == []


def test_several_processes_on_a_port_are_expected_with_data_ranks_or_where_they_are_asked_for():
    def several(layout: Any, *given: str) -> bool:
        raw = laid_out(layout, *SMALL_STEPS, *given, launcher="ray", unproven=True)
        return engine_arguments.several_servers(plan_services(parse(raw))["ds"])

    assert several(DP16) and several(ONE_NODE, "--api-server-count", "2")
    assert not several(ONE_NODE) and not several(DP16, "-asc", "1")


@pytest.mark.parametrize("loader", ["fastsafetensors", "auto"])
def test_a_loader_becomes_an_argument_and_a_part_of_the_plan(loader: str):
    engine = {"image": "vllm/vllm-openai:v0.33.0", "version": "0.33.0", "launcher": "native"}
    raw = on("H200-141", engine=engine, layout=ONE_NODE)
    raw["weights"] |= {"loader": loader, "gbitPerSecond": 400}
    planned = plan_services(parse(raw))["ds"]
    args = engine_arguments.arguments("ds", planned, engine_arguments.Source("/weights"))
    given = args[args.index("--load-format") + 1] if "--load-format" in args else "auto"
    assert given == loader
    assert any("loads 9.08 GB/s" in step.source for step in planned.plan.startup.steps) == (loader != "auto")
