"""Which arguments a vLLM release knows: what it dropped or has not yet is told apart, what is newer is not judged."""

from __future__ import annotations

import pytest

from planning.catalog import fact
from planning.flags import problem
from stacks import engine
from stacks.config import parse
from stacks.plans import plan_services
from tests.stacks.test_config import GOOD, changed


@pytest.mark.parametrize(
    ("argument", "version", "why"),
    [
        ("--swap-space", "0.18.0", "dropped it: 0.17.1 was the last with it"),
        ("--swap-space=4", "0.18.1", "dropped it"),
        ("--swap_space", "0.33.0", "dropped it"),
        ("--enable-reasoning", "0.10.0", "dropped it: 0.9.2 was the last with it"),
        ("--nnodes", "0.10.2", "does not know it yet: it came by 0.11.1"),
        ("--no-such-thing", "0.7.3", "has no such argument"),
    ],
)
def test_an_argument_that_the_release_would_refuse_is_found(argument, version, why):
    assert why in problem(argument, version)[0]


@pytest.mark.parametrize(
    ("argument", "version"),
    [
        ("--swap-space", "0.17.1"),
        ("--enforce-eager", "0.6.6"),
        ("-tp", "0.7.3"),
        ("8", "0.7.3"),
        ("-1", "0.7.3"),
        ("deepseek_r1", "0.7.3"),
        ("--reasoning-parser=deepseek_r1", "0.9.0"),
        ("--kv-transfer-config.kv_role", "0.11.0"),
        ("--no-enable-prefix-caching", "0.10.0"),
        ("--enforce-eager", "0.8.3"),
        ("--whatever-comes", "0.99.0"),
    ],
)
def test_what_the_release_knows_or_nobody_can_judge_is_left_alone(argument, version):
    assert problem(argument, version) is None


@pytest.mark.parametrize("version", fact("vllm", "releases", "known"))
def test_no_release_gets_an_argument_of_ours_that_it_lacks(version):
    changes = {"version": version, "imageHasRay": True}
    config = parse(changed("services/ds/engine", GOOD["services"]["ds"]["engine"] | changes))
    planned = plan_services(config, refuse_misfits=False)["ds"]
    arguments = engine.arguments("ds", planned, config.weights)
    assert "--max-model-len" in arguments
    assert [problem(argument, version) for argument in arguments] == [None] * len(arguments)
