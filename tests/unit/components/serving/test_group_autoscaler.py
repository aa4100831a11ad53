"""What scales a LeaderWorkerSet: the objects that KEDA and Kubernetes find, against their real schemas."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from components.serving import group_autoscaler
from components.serving.group_autoscaler import GroupAutoscaler, GroupAutoscalerArgs, PrometheusAuth
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs
from tests.support.schemas import problems

ENGINES = pytest.mark.parametrize("who", ["keda", "hpa"])
KINDS = {"keda": "ScaledObject", "hpa": "HorizontalPodAutoscaler"}


def arguments(engine: str, **changes: Any) -> GroupAutoscalerArgs:
    given: dict[str, Any] = {
        "stack": "test",
        "namespace": "models",
        "engine": engine,
        "engine_version": "0.11.0",
        "target_name": "ds-group",
        "minimum": 1,
        "maximum": 4,
        "target": 0.55,
        "cold_start_seconds": 1900,
        "cooldown_seconds": None,
        "prometheus": "http://prometheus.monitoring:9090" if engine == "keda" else None,
    }
    return GroupAutoscalerArgs(**given | changes)


def made(engine: str, **changes: Any) -> dict[str, Any]:
    return group_autoscaler.autoscaler("ds", arguments(engine, **changes))


@ENGINES
def test_the_object_passes_strict_validation_against_its_real_schema(who):
    assert problems(made(who)) == []


@ENGINES
def test_it_scales_the_group_between_the_bounds_and_not_below_before_another_could_start(who):
    spec = made(who)["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "name": "ds-group",
    }
    # KEDA's own defaults would be 0 and 100.
    names = ("minReplicaCount", "maxReplicaCount") if who == "keda" else ("minReplicas", "maxReplicas")
    assert tuple(spec[name] for name in names) == (1, 4)
    holder = spec["advanced"]["horizontalPodAutoscalerConfig"] if who == "keda" else spec
    assert holder["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 1900}}


@pytest.mark.parametrize(("release", "gauge"), [("0.7.3", "gpu_cache_usage_perc"), ("0.11.0", "kv_cache_usage_perc")])
def test_both_read_the_gauge_of_the_release_as_a_fraction_of_this_service_alone(release, gauge):
    (trigger,) = made("keda", engine_version=release)["spec"]["triggers"]
    asked = trigger["metadata"]
    assert asked["query"] == f'avg(vllm:{gauge}{{stack="test", model="ds"}})' and asked["threshold"] == "0.55"
    # An average, and no answer is no zero.
    assert (trigger["metricType"], asked["ignoreNullValues"]) == ("Value", "false")
    (metric,) = made("hpa", engine_version=release)["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == f"vllm_{gauge}"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "550m"}


@pytest.mark.parametrize(
    ("who", "changes", "said"),
    [
        ("keda", {"prometheus": None}, "prometheus: KEDA has nobody to ask"),
        ("hpa", {"minimum": 0}, "minimum 0: without a replica there is no metric"),
        ("keda", {"minimum": 5}, "maximum 4: is below the minimum of 5"),
    ],
)
def test_what_could_never_scale_is_refused(who, changes, said):
    with pytest.raises(Refused, match=said):
        arguments(who, **changes)


@ENGINES
def test_pulumi_makes_one_object_below_the_component(engine: Recorder, who):
    engine.run(lambda: GroupAutoscaler("ds", arguments(who), pulumi.ResourceOptions()))
    request = engine.one(KINDS[who], "ds-autoscaler")
    assert inputs(request)["metadata"]["name"] == "ds-group" and request.parent.endswith("GroupAutoscaler::ds")


@pytest.mark.parametrize(
    ("mode", "shown"),
    [("bearer", [("bearerToken", "token")]), ("basic", [("username", "username"), ("password", "password")])],
)
def test_where_prometheus_asks_who_keda_is_the_trigger_leads_to_the_secret_and_repeats_nothing_of_it(
    engine: Recorder, mode, shown
):
    args = arguments("keda", prometheus_auth=PrometheusAuth(mode, "prometheus-key"))
    engine.run(lambda: GroupAutoscaler("ds", args, pulumi.ResourceOptions()))
    scaled, auth = inputs(engine.one("ScaledObject", "ds-autoscaler")), inputs(engine.one("TriggerAuthentication"))
    assert problems(scaled) == problems(auth) == []
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["authModes"] == mode
    assert trigger["authenticationRef"]["name"] == auth["metadata"]["name"]
    references = auth["spec"]["secretTargetRef"]
    assert [(each["parameter"], each["key"], each["name"]) for each in references] == [
        (parameter, key, "prometheus-key") for parameter, key in shown
    ]
    assert "auth" not in str(made("keda")).lower()
