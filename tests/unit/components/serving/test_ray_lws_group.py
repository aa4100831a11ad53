"""The group: what its manifests promise, and the options with which its resources are registered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.serving import ray_lws_group
from components.serving.inference_service import InferenceService, InferenceServiceArgs
from components.serving.ray_lws_group import RayLwsGroup, RayLwsGroupArgs, group_selector, leader_selector
from planning import timeouts
from planning.problems import Refused
from tests.support.pods import PODS, changed, container_of, env_of, having, leaves
from tests.support.recorder import Recorder
from watch.progress import Progress

ARGS = RayLwsGroupArgs(
    pods=PODS,
    replicas=1,
    launcher="ray",
    lws_version=None,
    object_name="ds",
    leader_labels={},
    startup_policy="LeaderCreated",
    restart_policy="RecreateGroupOnPodRestart",
)
SERVED = [*PODS.engine_args, "--middleware", "modelserve_guard.Guard"]
BOTH = pytest.mark.parametrize("leader", [True, False], ids=["leader", "worker"])


def group(**changes: Any) -> dict[str, Any]:
    return ray_lws_group.leader_worker_set("ds", having(ARGS, **changes))


def pod(leader: bool, **changes: Any) -> dict[str, Any]:
    return ray_lws_group.pod_template("ds", having(ARGS, **changes), leader=leader)


def container(leader: bool, **changes: Any) -> dict[str, Any]:
    return container_of(pod(leader, **changes))


def env(leader: bool, **changes: Any) -> dict[str, Any]:
    return env_of(pod(leader, **changes))


@BOTH
def test_a_pod_knows_its_place_by_the_label_that_every_release_sets(leader):
    index = {"fieldRef": {"fieldPath": "metadata.labels['leaderworkerset.sigs.k8s.io/worker-index']"}}
    assert env(leader)["MODELSERVE_POD_INDEX"] == index


def test_the_engines_arguments_port_probes_and_api_key_are_the_leaders_alone():
    leader, worker = (container(is_leader, api_key_secret="ds-api-key") for is_leader in (True, False))
    assert leader["args"] == SERVED
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
    assert leader["args"] == worker["args"] == SERVED
    assert leader.keys() - worker.keys() == {"ports", "startupProbe", "livenessProbe", "readinessProbe"}
    assert "ds-api-key" not in json.dumps(worker)


@BOTH
@pytest.mark.parametrize(("launcher", "port"), [("ray", "6379"), ("native", "29501")])
def test_a_pod_knows_what_joins_its_group_and_on_which_port(leader, launcher, port):
    given = env(leader, launcher=launcher)
    assert (given["MODELSERVE_LAUNCHER"], given["MODELSERVE_JOIN_PORT"]) == (launcher, port)


# --- time


@pytest.mark.parametrize("seconds", [1, 59, 1200, 1201, 36000])
def test_the_kubelet_waits_longer_than_a_planned_start_and_pulumi_longer_than_the_kubelet(seconds):
    probe = container(True, startup_seconds=seconds)["startupProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    assert seconds < patience
    assert int(env(False, startup_seconds=seconds)["MODELSERVE_JOIN_SECONDS"]) >= 60
    if seconds >= 120:
        assert patience <= having(ARGS, startup_seconds=seconds).pods.limits.ready_seconds


def test_startup_seconds_moves_the_startup_probe_and_rays_deadline_and_nothing_else():
    template = "/spec/leaderWorkerTemplate"
    assert changed(group(), group(startup_seconds=2400)) == {
        f"{template}/leaderTemplate/spec/containers/vllm/startupProbe/failureThreshold",
        f"{template}/leaderTemplate/spec/containers/vllm/env/MODELSERVE_JOIN_SECONDS/value",
        f"{template}/workerTemplate/spec/containers/vllm/env/MODELSERVE_JOIN_SECONDS/value",
    }


def test_every_time_in_a_pod_is_read_from_the_one_place_that_names_times(monkeypatch):
    monkeypatch.setattr(timeouts, "from_startup", lambda *_: timeouts.Timeouts(901, 902, 903, 904))
    named = {
        name: 1000 + i
        for i, name in enumerate(
            (
                "STARTUP_PERIOD_SECONDS",
                "READINESS_PERIOD_SECONDS",
                "LIVENESS_PERIOD_SECONDS",
                "LIVENESS_FAILURES",
                "PROBE_TIMEOUT_SECONDS",
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
    grace = timeouts.SETTLE_SECONDS + 904 + timeouts.STOP_SECONDS
    assert found == {901, grace, *named.values()}
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


@pytest.mark.parametrize("version", ["0.5.0", "v0.8.0"])
def test_a_policy_that_the_clusters_release_lacks_is_refused_with_the_first_that_has_it(version):
    with pytest.raises(Refused, match=rf"LeaderWorkerSet {version} does not know it, 0\.9\.0 is the first that does"):
        having(ARGS, restart_policy="RecreateGroupAfterStart", lws_version=version)


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


def test_the_set_itself_does_not_name_the_model_or_aibrix_would_take_its_route_away_with_it():
    assert not [key for key in group()["metadata"]["labels"] if key.startswith("model.aibrix.ai/")]


def test_another_name_of_the_set_frees_the_services_name_and_changes_nothing_else():
    assert changed(group(), group(object_name="ds-group")) == {"/metadata/name"}


# --- registration


def register(*names: str, opts: pulumi.ResourceOptions | None = None, args: RayLwsGroupArgs = ARGS) -> None:
    for name in names:
        RayLwsGroup(name, replace(args, object_name=name), opts, Progress("here", "default", None).group_hooks())


def test_the_group_waits_exactly_as_long_as_the_plan_says(engine: Recorder):
    engine.run(lambda: register("ds", args=having(ARGS, replicas=3)))
    limits = PODS.limits
    given = engine.one("LeaderWorkerSet").customTimeouts
    assert (given.create, given.update, given.delete) == (
        f"{limits.ready_seconds}s",
        f"{limits.replace_seconds * 3}s",
        f"{limits.delete_seconds}s",
    )


def test_protecting_the_component_protects_its_objects_and_else_nothing_is_protected(engine: Recorder):
    def program() -> None:
        register("kept", opts=pulumi.ResourceOptions(protect=True))
        register("free")

    engine.run(program)
    for kind, suffix in (("ConfigMap", "-launch"), ("LeaderWorkerSet", "")):
        assert engine.one(kind, f"kept{suffix}").protect
        assert not engine.one(kind, f"free{suffix}").protect


def _refuse() -> str:
    raise RuntimeError("the files are not whole")


def test_weights_that_fail_end_the_program_before_the_group_is_asked_for(engine: Recorder):
    def program() -> None:
        sync = pulumi.CustomResource("cloud:index:Sync", "sync", {})
        volume = {"name": "weights", "persistentVolumeClaim": {"claimName": sync.id.apply(lambda _: _refuse())}}
        register("ds", args=having(ARGS, volumes=[volume]))

    with pytest.raises(RuntimeError, match="the files are not whole"):
        engine.run(program)
    assert not [token for token, _ in engine.seen if token.endswith(":LeaderWorkerSet")]


@pytest.mark.preview_too
def test_progress_is_told_of_a_wait_only_where_there_is_one(engine: Recorder):
    engine.run(lambda: register("ds"))
    hooks = engine.one("LeaderWorkerSet").hooks
    bound = [hooks.before_create, hooks.before_update, hooks.after_create, hooks.after_update, hooks.on_error]
    assert [bool(names) for names in bound] == [not engine.preview] * 5
    assert {name for names in bound for name in names} == set(engine.hooks)
    assert not engine.one("ConfigMap").hooks.before_create


def test_groups_and_endpoints_of_several_models_share_no_name_in_one_stack(engine: Recorder):
    # The same model twice, and one name that is a prefix of another.
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
                    leaders=leader_selector(name),
                    members=group_selector(name),
                    port=8000,
                    api_key=key,
                    load_balancer=None,
                    clients=None,
                    annotations={},
                ),
            )

    engine.run(program)  # the recorder refuses a duplicate logical name
    objects = [(found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]) for found in engine.objects()]
    assert len(objects) == 5 * len(names)
    assert len(set(objects)) == len(objects)
