"""A group without Ray on a real control plane, from a short program: its pods, its logs, and what delays it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.rehearsal.pulumi_stack import STARTUP_SECONDS, Cluster, Stack
from tests.support.pods import PODS

# A ConfigMap stands for the weights: all that matters is that its name is known only after its creation.
PROGRAM = """
import json
from dataclasses import fields
from pathlib import Path

import pulumi

from components.cluster.kubernetes import kubernetes_object, kubernetes_provider, labels
from components.cluster.pod_extras import NOTHING
from components.serving.engine_pods import EnginePodsArgs
from components.serving.ray_lws_group import RayLwsGroup, RayLwsGroupArgs
from watch.progress import Progress

given = json.loads(Path(__file__).with_name("group.json").read_text())
stack, cluster = pulumi.get_stack(), pulumi.ResourceOptions(provider=kubernetes_provider("cluster", "rehearsal", None))
made = {"name": given["weights"], "namespace": "default", "labels": labels(stack, "weights")}
weights = kubernetes_object("weights", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": made}, cluster)
volume = {"name": "weights", "configMap": {"name": weights.id.apply(lambda id: id.partition("/")[2])}}
pods = EnginePodsArgs(stack=stack, volumes=[volume], extras=NOTHING, **given["pods"])
args = RayLwsGroupArgs(pods=pods, **given["group"])
RayLwsGroup("ds", args, cluster, Progress("rehearsal", "default", None).group_hooks())
"""
GUARD = ["--middleware", "modelserve_guard.Guard"]
GROUP = {
    "replicas": 1,
    "launcher": "native",
    "lws_version": "0.9.0",
    "object_name": "ds",
    "leader_labels": {},
    "startup_policy": "LeaderCreated",
    "restart_policy": "RecreateGroupOnPodRestart",
}
OF_THE_PROGRAM = ("stack", "volumes", "extras")
GIVEN: dict[str, Any] = {field.name: getattr(PODS, field.name) for field in fields(PODS)} | {
    "image": "vllm/vllm-openai:v0.19.0",
    "drain_seconds": 10,
    "engine_args": "/weights/R1 --served-model-name ds --distributed-executor-backend mp -tp 8 -pp 2".split(),
    "startup_seconds": STARTUP_SECONDS,
}


@pytest.fixture
def native(stack: Stack) -> Stack:
    """A stack whose program is the one above."""
    program = stack.folder / "__main__.py"
    program.unlink()
    program.write_text(PROGRAM)
    write(stack)
    return stack


def write(stack: Stack, weights: str = "first", **changes: Any) -> None:
    pods = {name: value for name, value in (GIVEN | changes).items() if name not in OF_THE_PROGRAM}
    Path(stack.folder / "group.json").write_text(json.dumps({"weights": weights, "pods": pods, "group": GROUP}))


def log(cluster: Cluster, pod: str) -> str:
    return cluster.core.read_namespaced_pod_log(pod, "default") or ""


@pytest.mark.soak
def test_every_pod_runs_vllm_with_its_rank_and_the_workers_serve_nothing(native: Stack, cluster: Cluster):
    assert "LeaderWorkerSet" in native.preview(), "a plan is there before the weights are"
    native.up()
    leader, worker = log(cluster, "ds-0"), log(cluster, "ds-0-1")
    assert "modelserve: native: leading 2 nodes at ds-0.ds.default:29501, starting vLLM" in leader
    assert "world_size=16 rank=0" in leader and "(Worker_PP0_TP0 pid=" in leader
    assert "Application startup complete." in leader
    assert "modelserve: native: joining ds-0.ds.default with 8 GPUs" in worker
    assert "headless multiproc executor, with head node address ds-0.ds.default:29501" in worker
    assert "Uvicorn" not in worker and "ray" not in leader + worker
    for name in cluster.pods():
        container = cluster.core.read_namespaced_pod(name, "default").spec.containers[0]
        assert container.args[: -len(GUARD)] == GIVEN["engine_args"] and container.args[-len(GUARD) :] == GUARD
        assert "LWS_LEADER_ADDRESS" in {each.name for each in container.env}, "its webhook ran"


@pytest.mark.soak
def test_new_weights_roll_the_group_and_never_replace_it(native: Stack, cluster: Cluster):
    native.up()
    before = cluster.group()["metadata"]["uid"]
    native.preview("--expect-no-changes")
    write(native, weights="second")
    assert "[diff: ~spec]" in native.preview("--diff=false")
    native.up()
    after = cluster.group()
    assert after["metadata"]["uid"] == before
    (volume,) = (
        volume
        for volume in after["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["volumes"]
        if volume["name"] == "weights"
    )
    assert volume["configMap"]["name"] == "second"


@pytest.mark.soak
def test_a_release_that_cannot_join_nodes_fails_the_up_with_its_parsers_words(native: Stack, cluster: Cluster):
    write(native, image="vllm/vllm-openai:v0.10.2")
    said = native.up(ok=False)
    assert "vllm: error: unrecognized arguments: --nnodes 2 --node-rank 0" in said
