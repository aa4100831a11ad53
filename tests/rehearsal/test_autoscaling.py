"""A LeaderWorkerSet whose replicas an autoscaler sets: KEDA's kind is there, and the test is its operator; Kubernetes'
own autoscaler is the real one, without an adapter for Prometheus. A fleet's is in test_volcengine_ways."""

from __future__ import annotations

import contextlib
import threading

import pytest

from components.serving import group_autoscaler
from local.api import ApiError
from local.paths import ROOT
from tests.rehearsal.pulumi_stack import Cluster, Stack, one_node
from tests.unit.components.serving import test_group_autoscaler

pytestmark = pytest.mark.soak
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scaledobjects.keda.sh"
GROUP = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets/ds"
SCALED = "/apis/keda.sh/v1alpha1/namespaces/default/scaledobjects/ds"
HPA = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/ds"


def scale(cluster: Cluster, replicas: int) -> None:
    """What the autoscaler does, and until its replicas are ready."""
    api = cluster.plane.api
    api.merge(f"{GROUP}/scale", {"spec": {"replicas": replicas}})
    cluster.wait(f"{replicas} replicas are ready", lambda: api.get(GROUP)["status"].get("readyReplicas") == replicas)


def test_an_update_leaves_a_group_the_replicas_that_an_autoscaler_gave_it(stack: Stack, cluster: Cluster):
    api = cluster.plane.api
    stack.services["ds"] = one_node(stack.services["ds"])
    stack.config["modelserve:monitoring"] = {"enabled": True}
    scaled = {"engine": "keda", "prometheus": "http://prometheus.monitoring:9090", "maximum": 2}
    stack.services["ds"]["autoscaling"] = scaled
    assert "autoscaling.engine: keda: the cluster has no ScaledObject" in stack.up(ok=False)
    api.apply_crds([ROOT / "tests" / "data" / "keda" / "keda.sh_scaledobjects.yaml"])
    stop = threading.Event()

    def operate() -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(ApiError):  # not there yet
                api.merge(f"{SCALED}/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

    operator = threading.Thread(target=operate, daemon=True)
    operator.start()
    try:
        stack.up()
        assert stack.in_order("LeaderWorkerSet/ds", "ScaledObject/ds-autoscaler")
        scale(cluster, 2)
        stack.up("--expect-no-changes")
        stack.services["ds"]["podLabels"] = {"team": "search"}
        stack.up()
        assert list(stack.steps()) == ["LeaderWorkerSet/ds"] and api.get(GROUP)["spec"]["replicas"] == 2

        scale(cluster, 1)
        del stack.services["ds"]["autoscaling"]
        stack.up()
        assert stack.steps()["ScaledObject/ds-autoscaler"].operation == "delete"
        assert api.get(GROUP)["spec"]["replicas"] == 1
        stack.up("--expect-no-changes")
    finally:
        stop.set()
        operator.join()
        api.delete(CRD)

    args = test_group_autoscaler.arguments("hpa", stack=stack.name, namespace="default", target_name="ds", minimum=1)
    api.apply(HPA, group_autoscaler.autoscaler("ds", args))
    try:
        cluster.wait("Kubernetes says what it lacks", lambda: "FailedGetPodsMetric" in reasons(cluster).values())
        # It has found the group and its pods.
        assert reasons(cluster)["AbleToScale"] == "SucceededGetScale"
        assert api.get(GROUP)["spec"]["replicas"] == 1
    finally:
        api.delete(HPA)


def reasons(cluster: Cluster) -> dict[str, str]:
    told = cluster.plane.api.get(HPA).get("status", {}).get("conditions") or []
    return {each["type"]: each["reason"] for each in told}
