"""The whole program on a rehearsal with the plain pulumi CLI: real engine, API server, scheduler and LWS manager."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from local.__main__ import main
from local.api import ApiError
from local.control_plane import ControlPlane
from tests.rehearsal.pulumi_stack import API_KEY, STARTUP_SECONDS, Cluster, Stack, one_node


def test_a_group_comes_up_answers_is_left_alone_takes_each_change_as_it_should_and_goes_though_runs_are_killed(
    stack: Stack, cluster: Cluster
):
    preview = stack.preview()
    assert "+ 9 to create" in preview and cluster.ours() == []
    for line in ("ds: fits: DeepSeek-R1 on 2 x 8 H20-96, TP8 PP2; ", "ds: answers 0 min 30 s ", "ds: costs unknown"):
        assert line in preview
    assert stack.kill_at("LeaderWorkerSet/ds", "up")
    # The second: a kill in the middle of writing the state, which `recover` repairs too.
    assert re.search("currently locked by 1 lock|failed to load checkpoint: EOF", said := stack.up(ok=False)), said
    first = stack.go_on("up")
    assert 'ds: "http://ds-leader.default.svc.cluster.local:8000/v1"' in first
    assert cluster.ready() and len(cluster.pods()) == 2
    assert "ds" in stack.ops("verify", stack.name)
    the_api_key_is_in_a_secret_alone(stack, cluster)
    assert "9 unchanged" in stack.up("--expect-no-changes")
    assert "9 unchanged" in stack.refresh("--expect-no-changes")

    a_killed_worker_brings_the_group_back_without_pulumi(cluster)
    an_object_that_vanished_is_found_by_refresh_and_made_again(stack, cluster)
    a_new_image_rolls_the_group_in_place(stack, cluster)
    a_new_api_key_restarts_the_group_with_it(stack, cluster)
    a_new_layout_is_shown_and_done_as_a_replacement_that_frees_the_gpus_first(stack, cluster)
    stack.through_a_kill("LeaderWorkerSet/ds", "destroy")
    assert cluster.ours() == [] and not stack.has_resources()


def the_api_key_is_in_a_secret_alone(stack: Stack, cluster: Cluster) -> None:
    secret = next(r for r in stack.state()["deployment"]["resources"] if r["type"] == "kubernetes:core/v1:Secret")
    assert "ciphertext" in str(secret["inputs"]["data"]) and "ciphertext" in str(secret["outputs"]["data"])
    assert not any(API_KEY in str(pod) for pod in cluster.core.list_namespaced_pod("default").items)


def a_killed_worker_brings_the_group_back_without_pulumi(cluster: Cluster) -> None:
    before = cluster.pods()
    assert main(["kill", "ds-0-1", "--name", cluster.plane.name]) == 0
    cluster.wait(
        "every pod is new and ready",
        lambda: (
            len(cluster.pods()) == 2 and cluster.ready() and not set(cluster.pods().values()) & set(before.values())
        ),
    )


def an_object_that_vanished_is_found_by_refresh_and_made_again(stack: Stack, cluster: Cluster) -> None:
    cluster.core.delete_namespaced_service("ds-leader", "default")
    assert "9 unchanged" in stack.up()
    assert "- 1 deleted" in stack.refresh()
    assert "+ 1 created" in stack.up()
    assert "Service/ds-leader" in cluster.ours()


def a_new_image_rolls_the_group_in_place(stack: Stack, cluster: Cluster) -> None:
    before, uid = cluster.pods(), cluster.group()["metadata"]["uid"]
    stack.services["ds"]["engine"]["image"] = "vllm/vllm-openai:v0.7.2"
    assert "~ 1 to update" in stack.preview()
    stack.up()
    assert cluster.group()["metadata"]["uid"] == uid
    after = cluster.pods()
    assert after.keys() == before.keys() and not set(after.values()) & set(before.values())
    pods = cluster.core.list_namespaced_pod("default", label_selector="leaderworkerset.sigs.k8s.io/name=ds").items
    assert {pod.spec.containers[0].image for pod in pods} == {"vllm/vllm-openai:v0.7.2"} and cluster.ready()


def a_new_api_key_restarts_the_group_with_it(stack: Stack, cluster: Cluster) -> None:
    before = cluster.pods()
    stack.set_api_key("sk-other")
    stack.up()
    assert not set(cluster.pods().values()) & set(before.values())
    stack.ops("verify", stack.name)


def a_new_layout_is_shown_and_done_as_a_replacement_that_frees_the_gpus_first(stack: Stack, cluster: Cluster) -> None:
    uid = cluster.group()["metadata"]["uid"]
    stack.services["ds"]["layout"] = {"nodes": 2, "gpusPerNode": 8, "tensor": 16, "pipeline": 1}
    assert "+-1 to replace" in stack.preview()
    said = stack.up()
    assert said.index("deleted original") < said.index("creating replacement")
    assert cluster.group()["metadata"]["uid"] != uid and cluster.ready()


def test_services_come_and_go_beside_one_that_stays_and_an_up_ends_with_an_answer_of_each_that_changed(
    stack: Stack, cluster: Cluster
):
    def asked(name: str) -> str:
        """The uid of the Job that asked a service from inside the cluster; it got an answer."""
        job = cluster.object("Job", f"{name}-verify")
        assert job and job["status"]["succeeded"] == 1
        return job["metadata"]["uid"]

    stack.services["ds"] = one_node(stack.services["ds"]) | {"verifyAfterUp": True}
    stack.up()
    pods, first = cluster.pods(), asked("ds")
    stack.services["second"] = copy.deepcopy(stack.services["ds"])
    stack.up("--refresh")
    assert all("second" in name for name in stack.steps()) and cluster.ready("second") and asked("second")
    del stack.services["second"]
    stack.up()
    assert not any("second" in name for name in cluster.ours())
    assert cluster.pods() == pods and len(pods) == 1 and asked("ds") == first
    stack.services["ds"]["podLabels"] = {"changed": "yes"}
    stack.up()
    assert asked("ds") != first and not set(cluster.pods().values()) & set(pods.values())


def test_a_start_that_cannot_be_is_told_in_time_with_its_cause_and_the_next_up_heals_it(stack: Stack, cluster: Cluster):
    layout = stack.services["ds"]["layout"]
    # No machine is too slow to see in half the time that there are no nodes.
    stack.services["ds"]["startupSeconds"] = STARTUP_SECONDS // 2
    stack.services["ds"] |= {"layout": {"nodes": 4, "gpusPerNode": 8, "tensor": 8, "pipeline": 4}}
    said = stack.up(ok=False)
    assert "error: ds is not ready: no node for ds-0-" in said
    assert "32 nvidia.com/gpu are wanted (8 in each pod), the cluster has 16, of which 0 free" in said
    assert "timed out waiting for the condition" in said and "Traceback" not in said

    slow = {"rehearsal.modelserve.dev/ready-after": "20s"}
    stack.services["ds"] |= {"layout": layout, "podAnnotations": slow, "startupSeconds": STARTUP_SECONDS}
    said = stack.up()
    assert "waiting: ds-0: " in said and "weights loading: " in said and cluster.ready()


@pytest.mark.soak
def test_an_image_that_cannot_be_pulled_is_told_before_the_wait_is_over(stack: Stack, cluster: Cluster):
    stack.services["ds"] |= {"podAnnotations": {"rehearsal.modelserve.dev/fail": "image-pull"}}
    said = stack.up(ok=False)
    assert said.index("warning: ds-0: ") < said.index("timed out waiting for the condition")
    assert re.search("error: ds is not ready: ds-0: (ImagePullBackOff|ErrImagePull)", said)


@pytest.mark.soak
def test_somebody_elses_object_of_the_same_name_is_not_taken_over(stack: Stack, cluster: Cluster):
    port = {"name": "theirs", "port": 8000, "targetPort": 1}
    cluster.core.create_namespaced_service(
        "default", {"metadata": {"name": "ds-leader", "labels": {"whose": "theirs"}}, "spec": {"ports": [port]}}
    )
    try:
        assert "Service default/ds-leader: exists already" in (said := stack.up(ok=False)), said
        registered = {each["type"] for each in stack.state()["deployment"]["resources"]}
        # The default provider of Pulumi's own functions, by which the program reads the stack's last outputs.
        assert registered == {"pulumi:pulumi:Stack", "pulumi:providers:pulumi"}
        theirs = cluster.core.read_namespaced_service("ds-leader", "default")
        assert theirs.metadata.labels == {"whose": "theirs"} and theirs.spec.ports[0].name == "theirs"
    finally:
        cluster.core.delete_namespaced_service("ds-leader", "default")
    stack.up()


def test_what_is_wrong_is_refused_in_preview_line_by_line_before_anything_is_registered(stack: Stack, cluster: Cluster):
    encrypted = stack.config["modelserve:apiKey"]
    stack.services["ds"]["layout"]["tensor"] = 4
    stack.services["ds"]["resources"]["memory"] = "512G"
    stack.config |= {"modelserve:servces": {}, "modelserve:apiKey": API_KEY}
    said = stack.preview(ok=False)
    for key in ("services.ds.layout.tensor: 4: ", "services.ds.resources.memory: 512G: ", "servces: {}: unknown key"):
        assert f"modelserve:{key}" in said
    assert "modelserve:apiKey: (plain text)" in said and API_KEY not in said
    assert "Traceback" not in said and "kubernetes:" not in said

    stack.services["ds"]["layout"]["tensor"] = 8
    stack.services["ds"]["resources"]["memory"] = "512Gi"
    stack.config = {key: value for key, value in stack.config.items() if key != "modelserve:servces"}
    stack.config |= {"modelserve:apiKey": encrypted}
    stack.config["modelserve:cloud"]["gpu"] = "L20-48"
    said = stack.up(ok=False)
    assert "modelserve:services.ds.layout: 2 x 8 GPUs as TP8 PP2: KV does not fit: " in said
    assert "nearest layouts that fit: 3 x 8 GPUs as " in said and cluster.ours() == []


def test_rendered_objects_pass_the_api_servers_strict_validation(stack: Stack, control_plane: ControlPlane):
    stack.services["one"] = one_node(stack.services["ds"])
    stack.write()
    objects = list(yaml.safe_load_all(stack.ops("render", stack.name)))
    assert len(objects) == 10
    paths = {
        "ConfigMap": "/api/v1/{}/configmaps",
        "Secret": "/api/v1/{}/secrets",
        "Service": "/api/v1/{}/services",
        "NetworkPolicy": "/apis/networking.k8s.io/v1/{}/networkpolicies",
        "LeaderWorkerSet": "/apis/leaderworkerset.x-k8s.io/v1/{}/leaderworkersets",
    }

    def create(manifest: dict[str, Any]) -> None:
        path = paths[manifest["kind"]].format("namespaces/default")
        control_plane.api.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", manifest)

    for manifest in objects:
        create(manifest)
    objects[-1]["spec"]["leaderWorkerTemplate"]["sice"] = 2
    with pytest.raises(ApiError, match="unknown field"):
        create(objects[-1])


FAILED_STARTS = {
    "no-cache": "in EngineCore, while sizing the KV cache: ValueError: No available memory for the cache blocks.",
    "capture": "in Worker_TP0, while capturing CUDA graphs: torch.AcceleratorError: CUDA error: out of memory",
    "workspace": "in Worker_TP0, while capturing CUDA graphs: torch.OutOfMemoryError: CUDA out of memory. Tried to",
    "sampler": "in Worker_TP0, while warming up the sampler: torch.OutOfMemoryError: CUDA out of memory. Tried to",
    "nccl": "in Worker_TP0, while joining the other GPUs: RuntimeError: NCCL error: unhandled system error",
}


def test_a_start_that_fails_is_told_with_the_cause_and_not_with_what_the_engines_parent_says(
    stack: Stack, cluster: Cluster
):
    service = one_node(stack.services["ds"])
    service["layout"] = {"nodes": 1, "gpusPerNode": 2, "tensor": 2, "pipeline": 1}
    service |= {"model": "Qwen3-8B", "maxModelLen": 4096}
    service["engine"] |= {"image": "vllm/vllm-openai:v0.25.1", "version": "0.25.1"}
    del stack.services["ds"]
    for how in FAILED_STARTS:
        fate = {"fail": "crash", "crash": how, "ready-after": "4s"}
        annotations = {f"rehearsal.modelserve.dev/{key}": value for key, value in fate.items()}
        stack.services[how] = copy.deepcopy(service) | {"podAnnotations": annotations}
    said = stack.up(ok=False)
    for how, cause in FAILED_STARTS.items():
        (error,) = set(re.findall(f"error: {how} is not ready: (.*)", said))
        assert cause in error, said
        assert not any(other in error for other in FAILED_STARTS.values() if other != cause)
    assert "See root cause above" not in said and "vLLM also says: Available KV cache memory: -8.06 GiB" in said


@pytest.mark.soak
def test_an_up_whose_check_fails_ends_with_the_reason_and_the_next_checks_again_without_a_restart(
    stack: Stack, cluster: Cluster
):
    stack.services["ds"] = one_node(stack.services["ds"]) | {"verifyAfterUp": True}
    stack.fault("Job/ds-verify", "failed")
    said = stack.up(ok=False)

    assert "its last words: modelserve: verify: failed: the rehearsal was told to let this fail" in said
    pods = cluster.pods()
    stack.fault("Job/ds-verify", None)
    stack.up()
    assert cluster.pods() == pods
