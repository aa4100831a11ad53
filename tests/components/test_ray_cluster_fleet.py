"""The fleet: what its manifests promise."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from components import ray_cluster_fleet, ray_lws_group
from components.credentials import SecretKey
from components.ray_cluster_fleet import (
    ENGINE_LABEL,
    MODEL_LABEL,
    PORT_LABEL,
    RayClusterFleetArgs,
    head_selector,
    member_selector,
)
from local.providers.kubernetes import waitfor
from planning import timeouts
from planning.fleet import name_limit
from tests.components.test_ray_lws_group import leaves
from tests.support.schemas import problems

ARGS = RayClusterFleetArgs(
    stack="test",
    namespace="default",
    aibrix_version="0.7.0",
    image="aibrix/vllm-openai:v0.7.3.self.post1",
    engine_args=["/models/deepseek-r1", "--tensor-parallel-size", "16"],
    nodes=2,
    gpus_per_node=8,
    tensor=16,
    pipeline=1,
    cpu=180,
    memory="1800Gi",
    shm="32Gi",
    startup_seconds=1200,
)
EVERYTHING: dict[str, Any] = {
    "weights_seconds": 900,
    "port": 9000,
    "replicas": 3,
    "strategy": "RollingUpdate",
    "ephemeral_storage": "800Gi",
    "extra_resources": {"vke.volcengine.com/rdma": "8"},
    "capabilities": ("IPC_LOCK",),
    "env": {"NCCL_IB_DISABLE": "0"},
    "secret_env": {"HF_TOKEN": SecretKey("hub", "token")},
    "volumes": [{"name": "models", "hostPath": {"path": "/mnt/nvme0/models", "type": "Directory"}}],
    "volume_mounts": [{"name": "models", "mountPath": "/models"}],
    "init_containers": [{"name": "init-model", "image": "aibrix/runtime:v0.7.0", "command": ["aibrix_download"]}],
    "pod_labels": {"team": "a"},
    "pod_annotations": {"k8s.volcengine.com/pod-networks": "[]"},
    "node_selector": {"pool": "h20"},
    "api_key_secret": "ds-api-key",
    "api_key_revision": "1",
}
LAYOUT = "modelserve.dev/layout"
ONE_NODE = {"nodes": 1, "tensor": 8}
BOTH = pytest.mark.parametrize("head", [True, False], ids=["head", "worker"])


def fleet(name: str = "ds", **changes: Any) -> dict[str, Any]:
    return ray_cluster_fleet.fleet(name, replace(ARGS, **changes))


def cluster(**changes: Any) -> dict[str, Any]:
    return fleet(**changes)["spec"]["template"]["spec"]


def pod(head: bool, **changes: Any) -> dict[str, Any]:
    """The pod template as it stands in the fleet."""
    spec = cluster(**changes)
    return (spec["headGroupSpec"] if head else spec["workerGroupSpecs"][0])["template"]


def container(head: bool, **changes: Any) -> dict[str, Any]:
    (only,) = pod(head, **changes)["spec"]["containers"]
    return only


def env(head: bool, **changes: Any) -> dict[str, Any]:
    entries = container(head, **changes)["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names), f"a variable twice: {names}"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def is_ready(status: dict[str, Any], generation: int = 1, **changes: Any) -> bool:
    """Whether the fleet's wait is over at such a status, by the provider's own rules."""
    live = fleet(**changes)
    live["metadata"]["generation"] = generation
    steps = waitfor.parse(live["metadata"]["annotations"]["pulumi.com/waitFor"])
    return all(step(live | {"status": status}).ready for step in steps)


def status(replicas: int, updated: int, ready: int, available: int, generation: int = 1) -> dict[str, int]:
    """A status as AIBrix writes it: without its zeros."""
    counters = {
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": available,
    }
    return {key: value for key, value in counters.items() if value} | {"observedGeneration": generation}


# --- the API


@pytest.mark.parametrize(
    "changes",
    [
        {},
        ONE_NODE,
        EVERYTHING,
        {"replicas": 0},
        {"autoscaled": True},
        {"aibrix_version": "0.2.1", "image": "other:1"},
        {"readiness_probe": False},
    ],
    ids=["as the article", "one node", "everything", "none", "autoscaled", "old", "no readiness"],
)
def test_every_object_passes_strict_validation_against_its_real_schema(changes):
    assert problems(fleet(**changes)) == []
    assert problems(ray_cluster_fleet.launch_config("ds", replace(ARGS, **changes))) == []


@pytest.mark.parametrize(
    "path",
    [
        "spec/strateg",
        "spec/template/spec/headGroupSpec/rayStartParam",
        "spec/template/spec/workerGroupSpecs/0/minReplica",
        "spec/template/spec/workerGroupSpecs/0/template/spec/containers/0/comand",
        "spec/template/spec/headGroupSpec/template/spec/containers/0/ports/0/containerPrt",
    ],
)
def test_the_validation_refuses_a_misspelt_field_at_any_depth(path):
    bad = copy.deepcopy(fleet())
    *way, last = path.split("/")
    place: Any = bad
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = "x"
    (found,) = problems(bad)
    assert f"('{last}' was unexpected)" in found


@pytest.mark.parametrize("strategy", ["Recreate", "RollingUpdate"])
def test_nothing_is_left_to_defaults_that_the_oldest_release_lacks(strategy):
    spec = fleet(strategy=strategy)["spec"]
    wanted = {"replicas", "selector", "strategy", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"}
    assert spec.keys() == wanted | {"paused", "template"}
    assert spec["replicas"] == 1 and spec["strategy"]["type"] == strategy


# --- who is who


def test_the_selector_is_the_templates_labels_and_never_changes_with_anything_but_the_name():
    for spec in (fleet()["spec"], fleet(**EVERYTHING)["spec"], fleet(stack="other")["spec"]):
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] == {MODEL_LABEL: "ds"}


def test_the_fleet_says_to_aibrix_which_route_to_make():
    labels = fleet(port=9000)["metadata"]["labels"]
    assert (labels[MODEL_LABEL], labels[PORT_LABEL]) == ("ds", "9000")
    assert labels["modelserve.dev/stack"] == "test"


def test_gateway_and_autoscaler_find_heads_and_no_worker():
    head, worker = (pod(is_head, port=9000)["metadata"]["labels"] for is_head in (True, False))
    assert (head[MODEL_LABEL], head[PORT_LABEL], head[ENGINE_LABEL]) == ("ds", "9000", "vllm")
    # The autoscaler of AIBrix 0.2.1 looks for pods by the fleet's own selector.
    assert fleet()["spec"]["selector"]["matchLabels"].items() <= head.items()
    assert not [label for label in worker if label.startswith("model.aibrix.ai/")]


@pytest.mark.parametrize(("version", "known"), [("0.2.1", False), ("0.3.0", False), ("0.4.0", True), ("0.7.0", True)])
def test_the_engine_is_named_where_the_release_reads_it(version, known):
    assert (ENGINE_LABEL in pod(True, aibrix_version=version)["metadata"]["labels"]) is known


def test_the_selectors_pick_the_pods_as_kuberay_labels_them():
    by_kuberay = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}
    head = pod(True)["metadata"]["labels"] | by_kuberay
    worker = pod(False)["metadata"]["labels"] | by_kuberay | {"ray.io/node-type": "worker"}
    assert head_selector("ds").items() <= head.items()
    assert not head_selector("ds").items() <= worker.items()
    assert member_selector("ds").items() <= head.items()
    assert member_selector("ds").items() <= worker.items()
    assert not member_selector("other").items() <= head.items()


@BOTH
def test_a_users_label_cannot_take_a_pod_out_of_its_stack_or_its_model(head):
    taken = {"modelserve.dev/stack": "b", "app.kubernetes.io/instance": "b", MODEL_LABEL: "b"} if head else {}
    assert pod(head, pod_labels=taken | {"team": "a"})["metadata"]["labels"] == pod(head)["metadata"]["labels"] | {
        "team": "a"
    }


def test_a_label_by_which_kuberay_finds_its_head_is_refused():
    with pytest.raises(ValueError, match=r"pod label app\.kubernetes\.io/name: KubeRay's Service finds its head by it"):
        replace(ARGS, pod_labels={"app.kubernetes.io/name": "aibrix"})


# --- names


def test_the_longest_name_leaves_whole_what_kuberay_builds_from_it():
    ray_cluster = f"{'n' * name_limit()}-{'h' * 10}-{'r' * 5}"
    built = (f"{ray_cluster}-head-svc", f"{ray_cluster}-{ray_cluster_fleet.WORKERS}", ray_cluster)
    assert max(map(len, built)) == 50
    assert fleet("n" * name_limit())["metadata"]["name"] == "n" * name_limit()


def test_a_longer_name_is_refused_with_the_limit():
    name = "n" * 25
    with pytest.raises(ValueError, match=rf"^{name}: 25 characters, but .* more than 24; take a shorter one$"):
        fleet(name)


# --- layout


@pytest.mark.parametrize("nodes", [2, 3])
def test_a_replica_has_one_head_and_the_other_nodes_as_workers(nodes):
    (group,) = cluster(nodes=nodes, tensor=8, pipeline=nodes)["workerGroupSpecs"]
    assert {group[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {nodes - 1}


def test_one_node_has_no_workers_and_no_port_of_ray():
    assert "workerGroupSpecs" not in cluster(**ONE_NODE)
    assert container(True, **ONE_NODE)["ports"] == [{"name": "service", "containerPort": 8000}]


@BOTH
def test_ray_is_told_its_gpus_whatever_their_resource_is_called(head):
    spec = cluster(gpu_resource="example.com/accelerator")
    group = spec["headGroupSpec"] if head else spec["workerGroupSpecs"][0]
    assert group["rayStartParams"]["num-gpus"] == "8"


def test_rays_version_is_said_only_of_an_image_that_the_catalog_knows():
    assert cluster()["rayVersion"] == "2.40.0"
    assert cluster(image="mirror.example.com/a/vllm-openai:v0.7.3.self.post1")["rayVersion"] == "2.40.0"
    assert "rayVersion" not in cluster(image="vllm/vllm-openai:v0.7.3")


@pytest.mark.parametrize("change", [{"tensor": 4}, {"nodes": 3}, {"pipeline": 3}, {"gpus_per_node": 7}])
def test_a_layout_that_does_not_fill_the_gpus_is_refused_with_its_numbers(change):
    with pytest.raises(ValueError, match=r"tensor \d+ x pipeline \d+ is not nodes \d+ x gpus_per_node \d+: change"):
        replace(ARGS, **change)


@pytest.mark.parametrize(("port", "whose"), [(6379, "gcs-server"), (8265, "dashboard"), (8080, "metrics")])
def test_a_port_that_ray_has_in_the_same_pod_is_refused(port, whose):
    with pytest.raises(ValueError, match=rf"port {port}: Ray's {whose} listens there in the same pod"):
        replace(ARGS, port=port)


@pytest.mark.parametrize("change", [{"nodes": 1, "tensor": 8}, {"tensor": 8, "pipeline": 2}])
def test_the_layout_annotation_changes_with_the_layout(change):
    assert fleet(**change)["metadata"]["annotations"][LAYOUT] != fleet()["metadata"]["annotations"][LAYOUT]


def test_the_layout_annotation_changes_with_nothing_but_the_layout():
    other = EVERYTHING | {
        "stack": "b",
        "namespace": "b",
        "aibrix_version": "0.2.1",
        "image": "b:1",
        "engine_args": [],
        "cpu": 1,
        "memory": "1Gi",
        "shm": "1Gi",
        "startup_seconds": 1,
        "autoscaled": True,
        "max_surge": 1,
        "gpu_resource": "b/b",
        "readiness_probe": False,
    }
    layout = {"nodes", "gpus_per_node", "tensor", "pipeline"}
    assert other.keys() == {field.name for field in fields(RayClusterFleetArgs)} - layout
    assert fleet(**other)["metadata"]["annotations"][LAYOUT] == fleet()["metadata"]["annotations"][LAYOUT]


# --- pods


@BOTH
def test_every_pod_requests_exactly_its_limits(head):
    resources = container(
        head,
        ephemeral_storage="800Gi",
        extra_resources={"vke.volcengine.com/rdma": "8"},
        gpu_resource="example.com/gpu",
    )["resources"]
    assert (
        resources["requests"]
        == resources["limits"]
        == {
            "cpu": "180",
            "memory": "1800Gi",
            "example.com/gpu": "8",
            "ephemeral-storage": "800Gi",
            "vke.volcengine.com/rdma": "8",
        }
    )


@BOTH
def test_shared_memory_is_a_volume_of_its_own_with_a_limit(head):
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}} in pod(head)["spec"]["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container(head)["volumeMounts"]


@BOTH
def test_capabilities_are_added_only_where_the_stack_says_so(head):
    assert container(head, capabilities=("IPC_LOCK",))["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}
    assert "securityContext" not in container(head)


@BOTH
def test_what_the_builder_adds_reaches_every_pod(head):
    made, of_it = pod(head, **EVERYTHING), container(head, **EVERYTHING)
    assert made["spec"]["initContainers"] == EVERYTHING["init_containers"]
    assert EVERYTHING["volumes"][0] in made["spec"]["volumes"]
    assert EVERYTHING["volume_mounts"][0] in of_it["volumeMounts"]
    assert made["spec"]["nodeSelector"] == {"pool": "h20"}
    assert made["metadata"]["annotations"] == {
        "k8s.volcengine.com/pod-networks": "[]",
        "modelserve.dev/api-key-revision": "1",
    }
    given = env(head, **EVERYTHING)
    assert given["NCCL_IB_DISABLE"] == "0"
    assert given["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}


@BOTH
def test_a_pod_without_additions_has_none(head):
    assert not {"initContainers", "nodeSelector"} & pod(head)["spec"].keys()
    assert "annotations" not in pod(head)["metadata"]


@BOTH
def test_no_service_of_the_namespace_can_set_a_variable_and_no_token_is_mounted(head):
    assert pod(head)["spec"]["enableServiceLinks"] is False
    assert pod(head)["spec"]["automountServiceAccountToken"] is False


def test_the_engines_arguments_ports_and_api_key_are_the_heads_alone():
    head, worker = (container(is_head, api_key_secret="ds-api-key") for is_head in (True, False))
    assert head["args"] == list(ARGS.engine_args)
    assert {port["name"]: port["containerPort"] for port in head["ports"]} == {
        "gcs-server": 6379,
        "dashboard": 8265,
        "client": 10001,
        "service": 8000,
    }
    assert env(True, api_key_secret="ds-api-key")["VLLM_API_KEY"] == {
        "secretKeyRef": {"name": "ds-api-key", "key": "apiKey"}
    }
    assert head.keys() - worker.keys() == {"args", "ports", "startupProbe"}
    assert "ds-api-key" not in json.dumps(worker)
    assert "VLLM_API_KEY" not in env(True)


def test_probes_ask_the_head_for_health_on_the_port_that_the_stack_chose():
    head = container(True, port=9000)
    assert {"name": "service", "containerPort": 9000} in head["ports"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert head[probe]["httpGet"] == {"path": "/health", "port": "service"}
    assert "readinessProbe" not in container(True, readiness_probe=False)


def test_a_head_is_not_ready_no_sooner_than_it_is_dead():
    probes = container(True)
    patience = {
        name: probes[name]["periodSeconds"] * probes[name]["failureThreshold"]
        for name in ("readinessProbe", "livenessProbe")
    }
    assert patience["readinessProbe"] == patience["livenessProbe"]


def test_kuberay_finds_no_probe_missing_that_it_would_fill_in():
    for head in (True, False):
        assert {"livenessProbe", "readinessProbe"} <= container(head).keys()


# --- time


@pytest.mark.parametrize("weights", [0, 900, 7200])
@pytest.mark.parametrize("seconds", [120, 1200, 36000])
def test_a_head_waits_for_workers_whose_weights_come_late_and_pulumi_longer_than_the_kubelet(seconds, weights):
    args = replace(ARGS, startup_seconds=seconds, weights_seconds=weights)
    probe = ray_cluster_fleet.pod_template("ds", args, head=True)["spec"]["containers"][0]["startupProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    assert seconds + weights < patience <= args.limits.ready_seconds
    assert weights < args.limits.join_seconds < patience
    assert ray_cluster_fleet.fleet("ds", args)["spec"]["progressDeadlineSeconds"] == args.limits.ready_seconds


def test_of_one_node_the_kubelet_does_not_count_the_weights_but_pulumi_does():
    before, after = (replace(ARGS, **ONE_NODE, weights_seconds=seconds).limits for seconds in (0, 900))
    assert (before.startup_failures, before.join_seconds) == (after.startup_failures, after.join_seconds)
    assert after.ready_seconds >= before.ready_seconds + 900


@BOTH
def test_every_time_in_a_pod_is_read_from_the_one_place_that_names_times(head, monkeypatch):
    monkeypatch.setattr(timeouts, "from_startup", lambda *_: timeouts.Timeouts(901, 902, 903, 904))
    named = {
        name: 1000 + i
        for i, name in enumerate(
            (
                "LIVENESS_PERIOD_SECONDS",
                "TERMINATION_GRACE_SECONDS",
                "STARTUP_PERIOD_SECONDS",
                "READINESS_PERIOD_SECONDS",
                "STEADY_READINESS_FAILURES",
                "LIVENESS_FAILURES",
                "PROBE_TIMEOUT_SECONDS",
            )
        )
    }
    for name, value in named.items():
        monkeypatch.setattr(timeouts, name, value)
    found = {value for path, value in leaves(pod(head)) if type(value) is int and "containerPort" not in path}
    assert found == ({901, *named.values()} if head else {1000, 1001})
    assert env(head)["MODELSERVE_JOIN_SECONDS"] == "903"


# --- rollout and readiness


def test_an_update_asks_for_a_second_set_of_gpus_only_where_it_is_told_that_there_is_one():
    assert fleet()["spec"]["strategy"] == {"type": "Recreate"}
    assert fleet(strategy="RollingUpdate", replicas=3)["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    surging = fleet(strategy="RollingUpdate", max_surge=1)["spec"]["strategy"]["rollingUpdate"]
    assert surging == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("wanted", [1, 3])
def test_ready_means_that_every_replica_is_of_the_new_generation_and_available(wanted):
    assert is_ready(status(wanted, wanted, wanted, wanted), replicas=wanted)
    for left in range(4):
        counters = [wanted - (place == left) for place in range(4)]
        assert not is_ready(status(*counters), replicas=wanted), counters
    assert not is_ready(status(wanted + 1, wanted, wanted, wanted), replicas=wanted), "an old one is still there"
    assert not is_ready(status(wanted, wanted, wanted, wanted), generation=2, replicas=wanted), "of an old status"
    assert not is_ready({}, replicas=wanted)


def test_a_fleet_that_calls_itself_available_with_nobody_there_is_not_ready():
    conditions = [{"type": "Available", "status": "True"}]
    assert not is_ready(status(1, 1, 0, 0) | {"conditions": conditions})


def test_a_fleet_of_none_is_ready_when_nobody_is_left():
    assert is_ready(status(0, 0, 0, 0), replicas=0)
    assert not is_ready(status(1, 0, 1, 1), replicas=0)
    assert not is_ready({}, replicas=0)


def test_an_autoscaled_fleet_is_ready_with_any_number_as_long_as_one_answers_and_none_is_old():
    assert is_ready(status(1, 1, 1, 1), autoscaled=True)
    assert is_ready(status(4, 4, 2, 2), autoscaled=True)
    assert not is_ready(status(1, 1, 0, 0), autoscaled=True)
    assert not is_ready(status(2, 1, 2, 2), autoscaled=True)
    assert not is_ready(status(0, 0, 0, 0), autoscaled=True)


def test_an_autoscaled_fleet_cannot_begin_empty():
    with pytest.raises(ValueError, match="replicas 0 with an autoscaler"):
        replace(ARGS, autoscaled=True, replicas=0)


def test_a_deletion_is_waited_for_until_the_pods_are_gone():
    assert fleet()["metadata"]["annotations"]["pulumi.com/deletionPropagationPolicy"] == "foreground"


def test_a_change_wins_over_an_autoscaler_that_wrote_replicas_once():
    assert fleet()["metadata"]["annotations"]["pulumi.com/patchForce"] == "true"


# --- the launch script's ConfigMap


@BOTH
def test_every_pod_runs_the_launch_script_out_of_its_configmap(head):
    config = ray_cluster_fleet.launch_config("ds", ARGS)
    assert config["data"] == {"launch.sh": Path(ray_lws_group.__file__).with_name("launch.sh").read_text()}
    assert {"name": "launch", "configMap": {"name": config["metadata"]["name"]}} in pod(head)["spec"]["volumes"]
    (mount,) = (mount for mount in container(head)["volumeMounts"] if mount["name"] == "launch")
    assert container(head)["command"] == ["bash", f"{mount['mountPath']}/launch.sh"]
    assert fleet()["spec"]["template"]["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}


def test_a_new_script_is_a_new_configmap_which_rolls_the_fleet(monkeypatch):
    before = cluster()
    monkeypatch.setattr(ray_lws_group, "launch_script", lambda: "exit 1\n")
    assert {part for part, spec in cluster().items() if spec != before[part]} == {"headGroupSpec", "workerGroupSpecs"}
