"""The group: what its manifests promise, and with which options its resources are registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components import engine_pods, ray_lws_group
from components.credentials import SecretKey
from components.inference_service import InferenceService, InferenceServiceArgs
from components.ray_lws_group import RayLwsGroup, RayLwsGroupArgs, group_selector, leader_selector
from planning import timeouts
from stacks.progress import Progress
from tests.support.recorder import Recorder, inputs

ARGS = RayLwsGroupArgs(
    stack="test",
    namespace="default",
    image="vllm/vllm-openai:v0.7.3",
    engine_args=["/weights/models/DeepSeek-R1", "--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"],
    nodes=2,
    gpus_per_node=8,
    tensor=8,
    pipeline=2,
    cpu=64,
    memory="512Gi",
    shm="32Gi",
    startup_seconds=1200,
)
LAYOUT = "modelserve.dev/layout"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # what travels for a value that is not known yet
BOTH = pytest.mark.parametrize("leader", [True, False], ids=["leader", "worker"])


def group(**changes: Any) -> dict[str, Any]:
    return ray_lws_group.leader_worker_set("ds", replace(ARGS, **changes))


def pod(leader: bool, **changes: Any) -> dict[str, Any]:
    return ray_lws_group.pod_template("ds", replace(ARGS, **changes), leader=leader)


def container(leader: bool, **changes: Any) -> dict[str, Any]:
    (only,) = pod(leader, **changes)["spec"]["containers"]
    return only


def env(leader: bool, **changes: Any) -> dict[str, Any]:
    entries = container(leader, **changes)["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names), f"a variable twice: {names}"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            name = below["name"] if isinstance(below, dict) and isinstance(value, list) else key
            yield from leaves(below, f"{path}/{name}")
    else:
        yield path, value


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    old, new = dict(leaves(before)), dict(leaves(after))
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}


@BOTH
def test_every_pod_requests_exactly_its_limits(leader):
    resources = container(leader, ephemeral_storage="30Gi", gpu_resource="example.com/gpu")["resources"]
    assert (
        resources["requests"]
        == resources["limits"]
        == {"cpu": "64", "memory": "512Gi", "example.com/gpu": "8", "ephemeral-storage": "30Gi"}
    )


@BOTH
def test_scratch_disk_is_asked_for_only_where_the_stack_says_so(leader):
    assert "ephemeral-storage" not in container(leader)["resources"]["limits"]


@BOTH
def test_shared_memory_is_a_volume_of_its_own_with_a_limit(leader):
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}} in pod(leader)["spec"]["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container(leader)["volumeMounts"]


@BOTH
def test_no_service_of_the_namespace_can_set_a_variable_and_no_token_is_mounted(leader):
    assert pod(leader)["spec"]["enableServiceLinks"] is False
    assert pod(leader)["spec"]["automountServiceAccountToken"] is False


@BOTH
def test_a_pod_knows_its_place_by_the_label_that_every_release_sets(leader):
    index = {"fieldRef": {"fieldPath": "metadata.labels['leaderworkerset.sigs.k8s.io/worker-index']"}}
    assert env(leader)["MODELSERVE_POD_INDEX"] == index
    assert env(leader)["VLLM_HOST_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}


@BOTH
def test_a_pod_knows_the_size_of_its_group(leader):
    assert env(leader)["MODELSERVE_NODES"] == "2"
    assert env(leader, gpus_per_node=4, tensor=4)["MODELSERVE_GPUS_PER_NODE"] == "4"


@BOTH
def test_the_users_variables_volumes_labels_and_annotations_reach_every_pod(leader):
    volume, mount = {"name": "weights", "emptyDir": {}}, {"name": "weights", "mountPath": "/weights"}
    changes = {
        "env": {"NCCL_DEBUG": "INFO"},
        "volumes": [volume],
        "volume_mounts": [mount],
        "pod_labels": {"team": "a"},
        "pod_annotations": {"note": "b"},
    }
    assert env(leader, **changes)["NCCL_DEBUG"] == "INFO"
    assert volume in pod(leader, **changes)["spec"]["volumes"]
    assert mount in container(leader, **changes)["volumeMounts"]
    assert pod(leader, **changes)["metadata"]["labels"]["team"] == "a"
    assert pod(leader, **changes)["metadata"]["annotations"] == {"note": "b"}


@BOTH
def test_a_users_label_cannot_take_a_pod_out_of_its_stack(leader):
    mine = pod(leader, pod_labels={"modelserve.dev/stack": "other", "app.kubernetes.io/managed-by": "me"})
    assert mine["metadata"]["labels"]["modelserve.dev/stack"] == "test"
    assert mine["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "modelserve"


def test_the_engines_arguments_port_probes_and_api_key_are_the_leaders_alone():
    leader, worker = (container(is_leader, api_key_secret="ds-api-key") for is_leader in (True, False))
    assert leader["args"] == list(ARGS.engine_args)
    assert leader["ports"] == [{"name": "http", "containerPort": 8000}]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= leader.keys()
    assert env(True, api_key_secret="ds-api-key")["VLLM_API_KEY"] == {
        "secretKeyRef": {"name": "ds-api-key", "key": "apiKey"}
    }
    assert leader.keys() - worker.keys() == {"args", "ports", "startupProbe", "livenessProbe", "readinessProbe"}
    assert "VLLM_API_KEY" not in env(False, api_key_secret="ds-api-key")
    assert "ds-api-key" not in json.dumps(worker)


def test_without_ray_every_pod_gets_the_engines_arguments_and_the_leader_alone_the_rest():
    leader, worker = (
        container(is_leader, launcher="native", api_key_secret="ds-api-key") for is_leader in (True, False)
    )
    assert leader["args"] == worker["args"] == list(ARGS.engine_args)
    assert leader.keys() - worker.keys() == {"ports", "startupProbe", "livenessProbe", "readinessProbe"}
    assert "ds-api-key" not in json.dumps(worker)


@BOTH
@pytest.mark.parametrize(("launcher", "port"), [("ray", "6379"), ("native", "29501")])
def test_a_pod_knows_what_joins_its_group_and_on_which_port(leader, launcher, port):
    given = env(leader, launcher=launcher)
    assert (given["MODELSERVE_LAUNCHER"], given["MODELSERVE_JOIN_PORT"]) == (launcher, port)


@BOTH
def test_nodes_are_selected_only_where_the_stack_says_so(leader):
    assert "nodeSelector" not in pod(leader)["spec"]
    assert pod(leader, node_selector={"pool": "a"})["spec"]["nodeSelector"] == {"pool": "a"}


def test_without_an_api_key_no_variable_names_one():
    assert "VLLM_API_KEY" not in env(True)


def test_probes_ask_health_on_the_port_that_the_stack_chose():
    leader = container(True, port=9000)
    assert leader["ports"][0]["containerPort"] == 9000
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert leader[probe]["httpGet"] == {"path": "/health", "port": leader["ports"][0]["name"]}


def test_the_readiness_probe_can_be_left_to_others():
    assert "readinessProbe" not in container(True, readiness_probe=False)


# --- time


@pytest.mark.parametrize("seconds", [1, 59, 1200, 1201, 36000])
def test_the_kubelet_waits_longer_than_a_planned_start_and_pulumi_longer_than_the_kubelet(seconds):
    probe = container(True, startup_seconds=seconds)["startupProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    assert seconds < patience
    assert int(env(False, startup_seconds=seconds)["MODELSERVE_JOIN_SECONDS"]) >= 60
    if seconds >= 120:
        assert patience <= replace(ARGS, startup_seconds=seconds).limits.ready_seconds


def test_startup_seconds_moves_the_startup_probe_and_rays_deadline_and_nothing_else():
    template = "/spec/leaderWorkerTemplate"
    assert changed(group(), group(startup_seconds=2400)) == {
        f"{template}/leaderTemplate/spec/containers/vllm/startupProbe/failureThreshold",
        f"{template}/leaderTemplate/spec/containers/vllm/env/MODELSERVE_JOIN_SECONDS/value",
        f"{template}/workerTemplate/spec/containers/vllm/env/MODELSERVE_JOIN_SECONDS/value",
    }


def test_every_time_in_a_pod_is_read_from_the_one_place_that_names_times(monkeypatch):
    monkeypatch.setattr(timeouts, "from_startup", lambda _: timeouts.Timeouts(901, 902, 903, 904))
    named = {
        name: 1000 + i
        for i, name in enumerate(
            (
                "STARTUP_PERIOD_SECONDS",
                "READINESS_PERIOD_SECONDS",
                "LIVENESS_PERIOD_SECONDS",
                "LIVENESS_FAILURES",
                "PROBE_TIMEOUT_SECONDS",
                "TERMINATION_GRACE_SECONDS",
            )
        )
    }
    for name, value in named.items():
        monkeypatch.setattr(timeouts, name, value)
    found = {
        value
        for path, value in leaves(pod(True))
        if isinstance(value, int) and not isinstance(value, bool) and "containerPort" not in path
    }
    assert found == {901, *named.values()}
    assert env(True)["MODELSERVE_JOIN_SECONDS"] == "903"


# --- the set


def test_an_update_or_a_first_rollout_never_asks_for_a_second_set_of_gpus():
    rolling = group(replicas=3)["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]
    assert rolling == {"maxUnavailable": 1, "maxSurge": 0}


def test_workers_start_beside_their_leader_and_the_group_dies_as_one():
    assert group()["spec"]["startupPolicy"] == "LeaderCreated"
    assert group()["spec"]["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"


def test_other_policies_are_passed_on():
    made = group(startup_policy="LeaderReady", restart_policy="None")["spec"]
    assert (made["startupPolicy"], made["leaderWorkerTemplate"]["restartPolicy"]) == ("LeaderReady", "None")


@pytest.mark.parametrize(("nodes", "pipeline"), [(1, 1), (2, 2), (4, 4)])
def test_a_group_has_one_pod_a_node(nodes, pipeline):
    assert group(nodes=nodes, pipeline=pipeline)["spec"]["leaderWorkerTemplate"]["size"] == nodes


@pytest.mark.parametrize("replicas", [1, 3])
def test_ready_means_that_every_replica_of_the_new_generation_is(replicas):
    wait = json.loads(group(replicas=replicas)["metadata"]["annotations"]["pulumi.com/waitFor"])
    assert sorted(wait) == [
        "condition=Available",
        f"jsonpath={{.status.readyReplicas}}={replicas}",
        f"jsonpath={{.status.updatedReplicas}}={replicas}",
    ]


def test_a_set_of_no_replicas_waits_for_no_number_that_its_status_leaves_out():
    assert json.loads(group(replicas=0)["metadata"]["annotations"]["pulumi.com/waitFor"]) == ["condition=Available"]


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 1, "pipeline": 1},
        {"gpus_per_node": 4, "tensor": 4},
        {"tensor": 16, "pipeline": 1},
        {"nodes": 4, "gpus_per_node": 4},
    ],
)
def test_the_layout_annotation_changes_with_the_layout(change):
    assert group(**change)["metadata"]["annotations"][LAYOUT] != group()["metadata"]["annotations"][LAYOUT]


def test_the_layout_annotation_changes_with_nothing_but_the_layout():
    other = {
        "stack": "b",
        "namespace": "b",
        "image": "b:1",
        "engine_args": [],
        "cpu": 1,
        "memory": "1Gi",
        "shm": "1Gi",
        "startup_seconds": 1,
        "port": 1,
        "replicas": 2,
        "ephemeral_storage": "1Gi",
        "launcher": "native",
        "lws_version": "0.5.0",
        "node_selector": {"b": "b"},
        "gpu_resource": "b/b",
        "object_name": "b",
        "object_labels": {"b": "b"},
        "leader_labels": {"b": "b"},
        "init_containers": [{"name": "b"}],
        "extra_resources": {"b/c": "1"},
        "capabilities": ["B"],
        "env": {"B": "b"},
        "secret_env": {"B": SecretKey("b", "b")},
        "volumes": [{"name": "b"}],
        "volume_mounts": [{"name": "b", "mountPath": "/b"}],
        "pod_labels": {"b": "b"},
        "pod_annotations": {"b": "b"},
        "api_key_secret": "b",
        "api_key_revision": "b",
        "startup_policy": "LeaderReady",
        "restart_policy": "None",
        "readiness_probe": False,
    }
    layout = {"nodes", "gpus_per_node", "tensor", "pipeline"}
    assert other.keys() == {field.name for field in fields(RayLwsGroupArgs)} - layout
    assert group(**other)["metadata"]["annotations"][LAYOUT] == group()["metadata"]["annotations"][LAYOUT]


@pytest.mark.parametrize("change", [{"tensor": 4}, {"nodes": 3}, {"pipeline": 3}, {"gpus_per_node": 7}])
def test_a_layout_that_does_not_fill_the_gpus_is_refused_with_its_numbers(change):
    with pytest.raises(ValueError, match=r"tensor \d+ x pipeline \d+ is not nodes \d+ x gpus_per_node \d+: change"):
        replace(ARGS, **change)


@pytest.mark.parametrize("version", ["0.5.0", "v0.8.0"])
def test_a_policy_that_the_clusters_release_lacks_is_refused_with_the_first_that_has_it(version):
    with pytest.raises(
        ValueError, match=rf"LeaderWorkerSet {version} does not know it, 0\.9\.0 is the first that does"
    ):
        replace(ARGS, restart_policy="RecreateGroupAfterStart", lws_version=version)


@pytest.mark.parametrize("version", ["0.9.0", "0.10.0", None])
def test_a_policy_that_the_release_has_or_nobody_can_judge_is_passed_on(version):
    made = group(restart_policy="RecreateGroupAfterStart", lws_version=version)["spec"]["leaderWorkerTemplate"]
    assert made["restartPolicy"] == "RecreateGroupAfterStart"


def test_the_oldest_release_in_use_gets_the_same_group():
    assert group(lws_version="0.5.0") == group(lws_version="0.10.0") == group()


# --- behind a gateway


def test_a_gateways_labels_are_the_leaders_alone_or_workers_would_be_taken_for_servers():
    labels = {"model.aibrix.ai/name": "ds", "modelserve.dev/stack": "other"}
    assert pod(True, leader_labels=labels)["metadata"]["labels"]["model.aibrix.ai/name"] == "ds"
    assert pod(True, leader_labels=labels)["metadata"]["labels"]["modelserve.dev/stack"] == "test"
    assert pod(False, leader_labels=labels) == pod(False)


def test_the_sets_own_labels_are_on_no_pod_and_cannot_take_it_out_of_its_stack():
    made = group(object_labels={"model.aibrix.ai/name": "ds", "modelserve.dev/stack": "other"})
    assert made["metadata"]["labels"]["model.aibrix.ai/name"] == "ds"
    assert made["metadata"]["labels"]["modelserve.dev/stack"] == "test"
    assert made["spec"] == group()["spec"]


def test_another_name_of_the_set_frees_the_services_name_and_changes_nothing_else():
    assert changed(group(), group(object_name="ds-group")) == {"/metadata/name"}


# --- weights and devices of a cloud


@BOTH
def test_weights_are_fetched_in_every_pod_before_its_engine_starts(leader):
    fetch = {"name": "fetch", "image": "fetch:1"}
    assert pod(leader, init_containers=[fetch])["spec"]["initContainers"] == [fetch]
    assert "initContainers" not in pod(leader)["spec"]


@BOTH
def test_devices_are_requested_as_they_are_limited_and_capabilities_are_only_added(leader):
    made = container(leader, extra_resources={"vke.volcengine.com/rdma": "8"}, capabilities=["IPC_LOCK"])
    assert made["resources"]["requests"] == made["resources"]["limits"]
    assert made["resources"]["limits"]["vke.volcengine.com/rdma"] == "8"
    assert made["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}
    assert "securityContext" not in container(leader)


# --- the launch script's ConfigMap


@BOTH
def test_every_pod_runs_the_launch_script_out_of_its_configmap(leader):
    config = engine_pods.launch_config("ds", ARGS)
    assert config["data"] == {"launch.sh": Path(engine_pods.__file__).with_name("launch.sh").read_text()}
    assert {"name": "launch", "configMap": {"name": config["metadata"]["name"]}} in pod(leader)["spec"]["volumes"]
    (mount,) = (mount for mount in container(leader)["volumeMounts"] if mount["name"] == "launch")
    assert container(leader)["command"] == ["bash", f"{mount['mountPath']}/launch.sh"]


def test_a_new_script_is_a_new_configmap_which_rolls_the_group(monkeypatch):
    before, group_before = engine_pods.launch_config("ds", ARGS)["metadata"]["name"], group()
    monkeypatch.setattr(engine_pods, "launch_script", lambda: "exit 1\n")
    after = engine_pods.launch_config("ds", ARGS)["metadata"]["name"]
    assert before != after
    assert {path.split("/")[3] for path in changed(group_before, group())} == {"leaderTemplate", "workerTemplate"}


# --- registration


def register(*names: str, opts: pulumi.ResourceOptions | None = None, args: RayLwsGroupArgs = ARGS) -> None:
    for name in names:
        RayLwsGroup(name, args, opts, Progress("here", "default", None).group_hooks())


def test_the_group_waits_exactly_as_long_as_the_plan_says(engine: Recorder):
    engine.run(lambda: register("ds"))
    limits = ARGS.limits
    given = engine.one("LeaderWorkerSet").customTimeouts
    assert (given.create, given.update, given.delete) == (
        f"{limits.ready_seconds}s",
        f"{limits.ready_seconds}s",
        f"{limits.delete_seconds}s",
    )


def test_a_changed_layout_replaces_the_group_and_frees_its_gpus_first(engine: Recorder):
    engine.run(lambda: register("ds"))
    request = engine.one("LeaderWorkerSet")
    assert list(request.replaceOnChanges) == [f'metadata.annotations["{LAYOUT}"]']
    assert LAYOUT in inputs(request)["metadata"]["annotations"]
    assert request.deleteBeforeReplace and request.deleteBeforeReplaceDefined


def test_the_group_comes_after_its_launch_script(engine: Recorder):
    engine.run(lambda: register("ds"))
    config = engine.one("ConfigMap")
    assert list(engine.one("LeaderWorkerSet").dependencies) == [engine.urn(config)]


def test_every_object_belongs_to_the_component_and_nothing_is_left_unfinished(engine: Recorder):
    engine.run(lambda: register("ds"))
    component = engine.urn(engine.one("RayLwsGroup"))
    assert {engine.one(kind).parent for kind in ("ConfigMap", "LeaderWorkerSet")} == {component}
    assert "ready" in engine.finished[component].outputs


def test_no_option_of_the_component_leaks_into_its_objects(engine: Recorder):
    def program() -> None:
        other = pulumi.CustomResource("cloud:index:Bucket", "other", {})
        register(
            "ds",
            opts=pulumi.ResourceOptions(
                depends_on=[other],
                ignore_changes=["spec"],
                replace_on_changes=["*"],
                retain_on_delete=True,
                custom_timeouts=pulumi.CustomTimeouts(create="1s"),
                additional_secret_outputs=["spec"],
                delete_before_replace=False,
            ),
        )

    engine.run(program)
    bucket = engine.urn(engine.one("Bucket"))
    assert list(engine.one("RayLwsGroup").dependencies) == [bucket]
    for kind in ("ConfigMap", "LeaderWorkerSet"):
        request = engine.one(kind)
        assert bucket not in request.dependencies
        assert not request.ignoreChanges and not request.additionalSecretOutputs and not request.retainOnDelete
        assert "*" not in request.replaceOnChanges and request.customTimeouts.create != "1s"


def test_protecting_the_component_protects_its_objects_and_else_nothing_is_protected(engine: Recorder):
    def program() -> None:
        register("kept", opts=pulumi.ResourceOptions(protect=True))
        register("free")

    engine.run(program)
    for kind, suffix in (("ConfigMap", "-launch"), ("LeaderWorkerSet", "")):
        assert engine.one(kind, f"kept{suffix}").protect
        assert not engine.one(kind, f"free{suffix}").protect


def weights(known: bool) -> pulumi.Output[str]:
    """What stands for weights that are being made ready: the id of a resource, which a preview does not know yet."""
    made = pulumi.CustomResource("cloud:index:Sync", "sync", {})
    return made.id.apply(lambda _: "claim") if known else made.id.apply(lambda _: _refuse())


def _refuse() -> str:
    raise RuntimeError("the files are not whole")


def test_a_claim_that_is_not_known_yet_holds_the_group_back_and_reaches_its_volume(engine: Recorder):
    def program() -> None:
        volume = {"name": "weights", "persistentVolumeClaim": {"claimName": weights(known=True), "readOnly": True}}
        register("ds", args=replace(ARGS, volumes=[volume]))

    engine.run(program)
    (made,) = (found for found in engine.objects() if found["kind"] == "LeaderWorkerSet")
    assert engine.urn(engine.one("Sync")) in engine.one("LeaderWorkerSet").dependencies
    for template in ("leaderTemplate", "workerTemplate"):
        volumes = made["spec"]["leaderWorkerTemplate"][template]["spec"]["volumes"]
        (volume,) = (volume for volume in volumes if volume["name"] == "weights")
        claim = volume["persistentVolumeClaim"]["claimName"]
        assert claim == (UNKNOWN if engine.preview else "claim")


@pytest.mark.parametrize("engine", ["up"], indirect=True)
def test_weights_that_fail_end_the_program_before_the_group_is_asked_for(engine: Recorder):
    def program() -> None:
        volume = {"name": "weights", "persistentVolumeClaim": {"claimName": weights(known=False)}}
        register("ds", args=replace(ARGS, volumes=[volume]))

    with pytest.raises(RuntimeError, match="the files are not whole"):
        engine.run(program)
    assert not [token for token, _ in engine.seen if token.endswith(":LeaderWorkerSet")]


def test_progress_is_told_of_a_wait_only_where_there_is_one(engine: Recorder):
    engine.run(lambda: register("ds"))
    hooks = engine.one("LeaderWorkerSet").hooks
    bound = [hooks.before_create, hooks.before_update, hooks.after_create, hooks.after_update, hooks.on_error]
    assert [bool(names) for names in bound] == [not engine.preview] * 5
    assert {name for names in bound for name in names} == set(engine.hooks)
    assert not engine.one("ConfigMap").hooks.before_create


def test_groups_and_endpoints_of_several_models_share_no_name_in_one_stack(engine: Recorder):
    # The same model twice, and one name that is the beginning of another.
    names = ["ds", "ds-2", "ds-launch"]

    def program() -> None:
        key = pulumi.Output.secret("k")
        for name in names:
            register(name)
            InferenceService(
                name,
                InferenceServiceArgs(
                    stack="test",
                    namespace="default",
                    service_name=f"{name}-leader",
                    api_key=key,
                    leaders=leader_selector(name),
                    members=group_selector(name),
                ),
            )

    engine.run(program)  # the recorder refuses a logical name taken twice
    objects = [(found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]) for found in engine.objects()]
    assert len(objects) == 5 * len(names)
    assert len(set(objects)) == len(objects)
