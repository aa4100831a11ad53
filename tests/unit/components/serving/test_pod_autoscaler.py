"""The autoscaler: each AIBrix release finds the fields that it reads, with values that it knows."""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pytest

from components.serving import pod_autoscaler
from components.serving.pod_autoscaler import PodAutoscaler, PodAutoscalerArgs
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs
from tests.support.schemas import problems

VERSIONS = pytest.mark.parametrize("version", ["0.2.1", "0.4.1", "0.5.0", "0.7.0", "0.8.0"])


def arguments(**changes: Any) -> PodAutoscalerArgs:
    given: dict[str, Any] = {
        "stack": "test",
        "namespace": "models",
        "aibrix_version": "0.7.0",
        "engine_version": "0.7.3",
        "target_name": "ds",
        "minimum": 1,
        "maximum": 4,
        "target": 0.5,
        "cold_start_seconds": 1900,
        "cooldown_seconds": None,
        "strategy": None,
        "port": 8000,
    }
    return PodAutoscalerArgs(**given | changes)


def made(**changes: Any) -> dict[str, Any]:
    return pod_autoscaler.pod_autoscaler("ds", arguments(**changes))


def settings(**changes: Any) -> dict[str, str]:
    """The annotations that AIBrix reads."""
    annotations = made(**changes)["metadata"]["annotations"]
    return {key: value for key, value in annotations.items() if "aibrix.ai/" in key}


@VERSIONS
def test_the_object_passes_strict_validation_against_its_real_schema(version):
    assert problems(made(aibrix_version=version)) == []


@VERSIONS
def test_the_target_is_a_fraction_of_the_gauge_as_text_and_never_a_percentage(version):
    (source,) = made(aibrix_version=version, target=0.55, port=9000)["spec"]["metricsSources"]
    assert source["targetValue"] == "0.55"
    assert (source["metricSourceType"], source["protocolType"], source["port"], source["path"]) == (
        "pod",
        "http",
        "9000",
        "/metrics",
    )


@pytest.mark.parametrize(("engine", "metric"), [("0.7.3", "gpu_cache_usage_perc"), ("0.11.0", "kv_cache_usage_perc")])
def test_the_metric_is_the_one_that_the_engine_exports(engine, metric):
    (source,) = made(engine_version=engine)["spec"]["metricsSources"]
    assert source["targetMetric"] == metric


def test_a_metric_that_aibrix_would_read_as_zero_is_refused():
    with pytest.raises(Refused, match=r"vLLM 0\.11\.0 exports kv_cache_usage_perc, but AIBrix 0\.5\.0 reads only gpu"):
        arguments(aibrix_version="0.5.0", engine_version="0.11.0")


@pytest.mark.parametrize(
    ("version", "strategy", "annotations"),
    [
        ("0.2.1", "KPA", {"kpa.autoscaling.aibrix.ai/scale-down-delay": "1900s"}),
        ("0.4.1", "KPA", {"kpa.autoscaling.aibrix.ai/scale-down-delay": "1900s"}),
        ("0.5.0", "APA", {"autoscaling.aibrix.ai/scale-down-cooldown-window": "1900s"}),
        ("0.7.0", "APA", {"autoscaling.aibrix.ai/scale-down-cooldown-window": "1900s"}),
    ],
)
def test_the_strategy_can_act_and_waits_a_cold_start_under_the_key_that_the_release_reads(
    version, strategy, annotations
):
    assert made(aibrix_version=version)["spec"]["scalingStrategy"] == strategy
    assert settings(aibrix_version=version) == annotations


def test_a_longer_cooldown_is_said_in_the_releases_words():
    assert settings(cooldown_seconds=3600) == {"autoscaling.aibrix.ai/scale-down-cooldown-window": "3600s"}
    assert settings(aibrix_version="0.2.1", strategy="APA") == {}


def test_bounds_and_target_are_the_stacks():
    spec = made(minimum=2, maximum=3)["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 3)
    assert spec["scaleTargetRef"] == {
        "apiVersion": "orchestration.aibrix.ai/v1alpha1",
        "kind": "RayClusterFleet",
        "name": "ds",
    }


@pytest.mark.parametrize(
    ("version", "conditions"),
    [("0.2.1", ["AbleToScale"]), ("0.7.0", ["ValidSpec", "AbleToScale"])],
)
def test_ready_is_what_the_release_says_of_a_good_autoscaler_also_while_it_scales(version, conditions):
    wait = json.loads(made(aibrix_version=version)["metadata"]["annotations"]["pulumi.com/waitFor"])
    assert wait == [f"condition={kind}" for kind in conditions]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": 50}, "target 50: is out of range"),
        ({"target": 0}, "target 0: is out of range"),
        ({"target": 1.0}, "target 1.0: is out of range"),
        ({"minimum": 0}, "minimum 0: without a replica"),
        ({"minimum": 5}, "maximum 4: is below the minimum of 5; write 5 or more"),
        ({"cooldown_seconds": 1899}, "cooldown_seconds 1899: a replica needs 1900 s to start"),
        ({"strategy": "HPA"}, "strategy HPA: with it AIBrix 0.7.0 rounds the target down"),
        ({"strategy": "KPA"}, "strategy KPA: with it AIBrix 0.7.0 divides the average by the target"),
        ({"strategy": "VPA"}, "strategy VPA: is not one of AIBrix's scaling strategies; write APA"),
        (
            {"aibrix_version": "0.2.1", "strategy": "APA", "cooldown_seconds": 1900},
            "cooldown_seconds 1900: strategy APA of AIBrix 0.2.1 has no cooldown; leave it out, or write strategy KPA",
        ),
    ],
)
def test_an_autoscaler_that_would_never_act_or_act_wrongly_is_refused_in_one_line(change, said):
    with pytest.raises(Refused) as refusal:
        arguments(**change)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_object_belongs_to_the_component_which_says_when_it_is_ready(engine: Recorder):
    engine.run(lambda: PodAutoscaler("ds", arguments()))
    component = engine.one("PodAutoscaler", "ds")
    request = engine.one("PodAutoscaler", "ds-autoscaler")
    assert request.parent == engine.urn(component)
    assert inputs(request)["metadata"]["name"] == "ds"
    assert "ready" in engine.finished[engine.urn(component)].outputs


def test_two_autoscalers_share_no_name(engine: Recorder):
    def program() -> None:
        for name in ("ds", "ds-autoscaler"):
            PodAutoscaler(name, arguments(target_name=name))

    engine.run(program)
    names = [found["metadata"]["name"] for found in engine.objects()]
    assert len(names) == len(set(names)) == 2


def test_no_option_of_the_component_leaks_into_its_object(engine: Recorder):
    def leaking() -> None:
        other = pulumi.CustomResource("cloud:index:Bucket", "other", {})
        PodAutoscaler("ds", arguments(), pulumi.ResourceOptions(depends_on=[other], ignore_changes=["spec"]))

    engine.run(leaking)
    request = engine.one("PodAutoscaler", "ds-autoscaler")
    assert not request.dependencies and not request.ignoreChanges
