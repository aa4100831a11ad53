"""`cache.compile`: what cannot be kept so, in which words, and what a kept start takes."""

from __future__ import annotations

from typing import Any

import pytest

from config.judge import parse
from config.plans import plan_services
from stacks.plan_summary import briefly
from tests.support import volcengine
from tests.support.stack_files import StackFile, problems
from tests.unit.config.test_loader import with_loader

NODE, CLAIM = {"nodePath": "/mnt/nvme0/kernels"}, {"claim": "kernels"}
ACS = StackFile("acs-next")
SERVICE = volcengine.SERVICE
SCALED = {f"{SERVICE}/autoscaling": {"maximum": 3, "target": 0.5}}


def local(kept: object, **more: Any) -> dict[str, Any]:
    return with_loader(None, "0.33.0", **{"cache/compile": kept, **more})


def vke(kept: object, **more: Any) -> dict[str, Any]:
    return volcengine.stack_file(**{"cache": {"compile": kept}, **more})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (local({}), "cache.compile.claim: is missing, and so is nodePath; write one of them"),
        (
            local(NODE | CLAIM),
            "cache.compile.claim: kernels: nodePath /mnt/nvme0/kernels is another place for the",
        ),
        (local({"nodePath": "/usr/kernels"}), "cache.compile.nodePath: /usr/kernels: /usr is on the system disk"),
        (local({"nodePath": "kernels"}), "cache.compile.nodePath: kernels: is not an absolute path"),
        (local({"claim": "weights"}), "cache.compile.claim: weights: no pod of an engine may write to the weights"),
        (
            ACS.changed(cache__compile=NODE),
            "cache.compile.nodePath: /mnt/nvme0/kernels: pods of acs have no node whose disk they could use;",
        ),
        (
            local(CLAIM, **{"services/ds/engine/env": {"VLLM_CACHE_ROOT": "/x"}}),
            "services.ds.engine.env.VLLM_CACHE_ROOT: cache.compile sets it; leave one of them out",
        ),
        (
            local(NODE, **{"services/ds/pod": {"securityContext": {"runAsNonRoot": True}}}),
            "cache.compile.nodePath: /mnt/nvme0/kernels: root owns the folder, and the pods of services.ds run as",
        ),
        (
            vke(CLAIM, **SCALED),
            "cache.compile: replicas of services.deepseek-r1-671b, a fleet, would write the same files at the same "
            "time; write nodePath, and whole nodes; or workload: lws",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(raw: dict[str, Any], said: str):
    found = ACS.lines(raw, secrets=["apiKey"])
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize(
    "raw",
    [
        local(NODE),
        local(CLAIM, **{"services/ds/replicas": 3, "services/ds/pod": {"securityContext": {"runAsUser": 5}}}),
        local(NODE, **{"services/ds/pod": {"securityContext": {"runAsUser": 0}}}),
        ACS.changed(cache__compile=CLAIM),
        vke(CLAIM),
        vke(NODE, **SCALED),
    ],
)
def test_what_can_be_kept_is_accepted(raw: dict[str, Any]):
    assert problems(raw, secrets=["apiKey"]) == []


def test_a_first_start_is_cold_and_the_next_one_is_planned_with_what_it_left():
    cold, kept = (plan_services(parse(local(each)))["ds"] for each in (None, CLAIM))
    path = kept.plan.startup
    assert cold.plan.startup.again_seconds is None and cold.startup_seconds == kept.startup_seconds
    assert {step.name for step in path.steps if step.again is not None} == {"compile", "DeepGEMM kernels"}
    # DeepSeek-V4-Pro on 8 B200, vLLM 0.23: 420 s until the API is ready, 104 s with the kernels of a warm replica
    # (https://github.com/ai-dynamo/modelexpress docs/BENCHMARKS.md). Here R1's layers are on two nodes, 31 each.
    saved = path.pod_seconds - path.again_seconds
    assert 0.75 * (420 - 104) < saved < 1.25 * (420 - 104)
    assert any("; with kept kernels " in line for line in briefly("ds", kept))
    assert not any("kept kernels" in line for line in briefly("ds", cold))


def test_an_engine_that_compiles_nothing_has_nothing_to_keep():
    raw = with_loader(None, "0.7.3", **{"cache/compile": CLAIM})
    assert any("cache.compile keeps nothing" in line for line in plan_services(parse(raw))["ds"].warnings)
