"""A stack on Alibaba Cloud, from the stack file that `ops new` makes, on a rehearsal: from first `up` to `destroy`."""

from __future__ import annotations

from typing import Any

import pytest

from planning.catalog import fact
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.pulumi_stack import Cluster, Stack

BUCKET = "modelserve-llm-weights"
MODEL = "deepseek-r1"
PARTS = [f"{kind}/{MODEL}" for kind in ("DataLoad", "JindoRuntime", "Dataset")]
RELEASES = [f"Release/addons-{name}" for name in ("lws", "fluid")]


def pods(cluster: Cluster) -> list[Any]:
    """The group's pods."""
    return cluster.core.list_namespaced_pod("default", label_selector="leaderworkerset.sigs.k8s.io/name=ds").items


def claims(cluster: Cluster) -> set[str]:
    """The claims that the group's pods mount."""
    return {
        volume.persistent_volume_claim.claim_name
        for pod in pods(cluster)
        for volume in pod.spec.volumes
        if volume.persistent_volume_claim
    }


def test_the_stack_goes_up_answers_stays_changes_and_goes_though_runs_are_killed(
    acs: Stack, cluster: Cluster, cloud: Cloud
):
    acs.set_secret("hubToken", "hub-canary-77d0")
    charts = acs.config["modelserve:addons"]["charts"]
    acs.renew("cluster.context=rehearsal", f"weights.bucket.name={BUCKET}", f"addons.charts={charts}")
    said = acs.through_a_kill(RELEASES[0], "up")
    assert 'ds: "http://ds-leader.default.svc.cluster.local:8000/v1"' in said and f'bucket   : "{BUCKET}"' in said
    assert cluster.ready() and len(cluster.pods()) == 2 and claims(cluster) == {MODEL}
    assert acs.in_order(f"Job/{MODEL}-sync", f"DataLoad/{MODEL}-load", "LeaderWorkerSet/ds")
    assert all(acs.in_order(release, f"Dataset/{MODEL}-dataset", "LeaderWorkerSet/ds") for release in RELEASES)
    weights = cloud.written(BUCKET)
    assert any(name.endswith("DeepSeek-R1/modelserve-manifest.json") for name in weights)
    acs.up("--refresh", "--expect-no-changes")
    assert "ds" in acs.ops("verify", acs.name)
    assert "kind: LeaderWorkerSet" in acs.ops("render", acs.name)

    the_image_is_changed(acs, cluster)

    acs.through_a_kill(RELEASES[1], "destroy", "--exclude-protected")
    assert acs.in_order(
        "LeaderWorkerSet/ds",
        f"DataLoad/{MODEL}-load",
        f"JindoRuntime/{MODEL}-runtime",
        f"Dataset/{MODEL}-dataset",
        f"Secret/{MODEL}-cache-key",
        "AccessKey/weights-reader",
    )
    assert acs.in_order(f"Job/{MODEL}-sync", f"Secret/{MODEL}-sync-keys", "AccessKey/weights-writer")
    assert all(acs.in_order(f"Dataset/{MODEL}-dataset", release) for release in RELEASES)
    cluster.wait_for_end()
    assert cloud.left() == {"buckets": [BUCKET]} and cloud.written(BUCKET) == weights


@pytest.mark.soak
def test_the_stack_moves_to_rdma_another_layout_and_cache_and_comes_back_to_the_weights_it_left(
    acs: Stack, cluster: Cluster, cloud: Cloud
):
    acs.up()
    weights = cloud.written(BUCKET)
    replicas_go_and_come(acs, cluster)
    rdma_is_switched_on(acs, cluster)
    the_layout_is_changed(acs, cluster)
    the_cache_is_switched_off_and_on(acs, cluster)
    the_service_is_paused_without_its_cache(acs, cluster)
    acs.destroy("--exclude-protected")
    acs.up()
    assert "nothing to do: all 9 files" in cluster.sync_log() and cloud.written(BUCKET) == weights
    assert cluster.ready() and all(acs.steps()[release].operation == "create" for release in RELEASES)


def the_layout_is_changed(acs: Stack, cluster: Cluster) -> None:
    uid = cluster.group()["metadata"]["uid"]
    acs.services["ds"]["layout"] |= {"tensor": 16, "pipeline": 1}
    acs.up()
    assert cluster.group()["metadata"]["uid"] != uid and cluster.ready()


def rdma_is_switched_on(acs: Stack, cluster: Cluster) -> None:
    before, uid = cluster.pods(), cluster.group()["metadata"]["uid"]
    acs.config["modelserve:cloud"]["rdma"] = True
    acs.up()
    assert cluster.group()["metadata"]["uid"] == uid and not set(cluster.pods().values()) & set(before.values())
    for pod in pods(cluster):
        assert pod.metadata.labels[fact("clouds", "acs", "labels")["rdma"]] == "rdma"
        env = {each.name: each.value for each in pod.spec.containers[0].env}
        assert fact("clouds", "acs", "rdmaNetwork").items() <= env.items() and len(pods(cluster)) == 2


def the_cache_is_switched_off_and_on(acs: Stack, cluster: Cluster) -> None:
    uid = cluster.group()["metadata"]["uid"]
    acs.config["modelserve:cache"] = {"engine": "none"}
    acs.up()
    assert acs.in_order(f"PersistentVolumeClaim/{MODEL}-volume-claim", "LeaderWorkerSet/ds", f"DataLoad/{MODEL}-load")
    assert acs.in_order(
        *(
            f"{kind}/{MODEL}-{part}"
            for kind, part in (
                ("DataLoad", "load"),
                ("JindoRuntime", "runtime"),
                ("Dataset", "dataset"),
                ("Secret", "cache-key"),
            )
        ),
    )
    assert not set(PARTS) & set(cluster.ours()) and cluster.ready()
    (claim,) = claims(cluster)
    volume = cluster.object("PersistentVolume", cluster.object("PersistentVolumeClaim", claim)["spec"]["volumeName"])
    assert volume["spec"]["csi"]["volumeAttributes"]["path"] == "/models/DeepSeek-R1"

    acs.config["modelserve:cache"] = {"engine": "fluid", "workers": "auto"}
    acs.up()
    assert acs.in_order(f"DataLoad/{MODEL}-load", "LeaderWorkerSet/ds", f"PersistentVolumeClaim/{MODEL}-volume-claim")
    assert claims(cluster) == {MODEL} and cluster.ready() and cluster.object("PersistentVolumeClaim", claim) is None
    assert cluster.group()["metadata"]["uid"] == uid


def the_service_is_paused_without_its_cache(acs: Stack, cluster: Cluster) -> None:
    uid = cluster.group()["metadata"]["uid"]
    acs.services["ds"]["replicas"] = 0
    acs.config["modelserve:cache"]["whilePaused"] = "drop"
    acs.up()
    assert acs.in_order("LeaderWorkerSet/ds", f"JindoRuntime/{MODEL}-runtime", f"Secret/{MODEL}-cache-key")
    assert not set(PARTS) & set(cluster.ours()) and cluster.object("Service", "ds-leader")
    acs.services["ds"]["replicas"] = 1
    acs.up()
    assert acs.in_order(f"DataLoad/{MODEL}-load", "LeaderWorkerSet/ds") and cluster.ready()
    assert cluster.group()["metadata"]["uid"] == uid, "resumed, not replaced"


def the_image_is_changed(acs: Stack, cluster: Cluster) -> None:
    before, load = cluster.pods(), cluster.object("DataLoad", MODEL)
    acs.services["ds"]["engine"]["image"] = "vllm/vllm-openai:v0.7.2"
    acs.up()
    assert list(acs.steps()) == ["LeaderWorkerSet/ds"] and not set(cluster.pods().values()) & set(before.values())
    assert {pod.spec.containers[0].image for pod in pods(cluster)} == {"vllm/vllm-openai:v0.7.2"}
    # LeaderWorkerSet takes workers for available by a status that may be older than their StatefulSet's template
    # (lws v0.9.0, statefulset_utils.go, StatefulsetReady). A real leader waits for its workers, a fake one does not.
    cluster.wait("every pod is ready", cluster.ready)
    assert cluster.object("DataLoad", MODEL)["metadata"]["uid"] == load["metadata"]["uid"]


def replicas_go_and_come(acs: Stack, cluster: Cluster) -> None:
    acs.services["ds"]["replicas"] = 0
    acs.up()
    cluster.wait("no pod is left", lambda: cluster.pods() == {})
    acs.services["ds"]["replicas"] = 1
    acs.up()
    assert cluster.ready() and len(cluster.pods()) == 2
