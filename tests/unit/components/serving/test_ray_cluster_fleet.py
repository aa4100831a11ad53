"""The fleet: what its manifests promise, and the options with which its resources are registered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from components.serving import engine_pods, ray_cluster_fleet
from components.serving.ray_cluster_fleet import (
    ENGINE_LABEL,
    RayClusterFleet,
    RayClusterFleetArgs,
    head_selector,
    member_selector,
)
from planning import timeouts
from planning.fleet import name_limit
from planning.problems import Refused
from tests.support.pods import ADDITIONS, PODS, container_of, env_of, having, leaves
from tests.support.recorder import Recorder
from tests.support.schemas import problems

ARGS = RayClusterFleetArgs(
    pods=replace(
        PODS,
        image="aibrix/vllm-openai:v0.7.3.self.post1",
        engine_args=["/models/deepseek-r1", "--tensor-parallel-size", "16"],
        tensor=16,
        pipeline=1,
    ),
    replicas=1,
    aibrix_version="0.7.0",
    strategy="Recreate",
    max_surge=0,
)
EVERYTHING = {**ADDITIONS, "replicas": 3, "weights_seconds": 900, "strategy": "RollingUpdate"}
MODEL_LABEL, PORT_LABEL = "model.aibrix.ai/name", "model.aibrix.ai/port"
ONE_NODE = {"nodes": 1, "tensor": 8}
BOTH = pytest.mark.parametrize("head", [True, False], ids=["head", "worker"])


def fleet(name: str = "ds", **changes: Any) -> dict[str, Any]:
    return ray_cluster_fleet.fleet(name, having(ARGS, **changes))


def cluster(**changes: Any) -> dict[str, Any]:
    return fleet(**changes)["spec"]["template"]["spec"]


def pod(head: bool, **changes: Any) -> dict[str, Any]:
    """The pod template in the fleet."""
    spec = cluster(**changes)
    return (spec["headGroupSpec"] if head else spec["workerGroupSpecs"][0])["template"]


def container(head: bool, **changes: Any) -> dict[str, Any]:
    return container_of(pod(head, **changes))


def env(head: bool, **changes: Any) -> dict[str, Any]:
    return env_of(pod(head, **changes))


# --- the API


@pytest.mark.parametrize(
    "changes",
    [
        {},
        ONE_NODE,
        EVERYTHING,
        {"replicas": 0},
        {"scaled_to": 4},
        {"aibrix_version": "0.2.1", "image": "other:1"},
        {"readiness_probe": False},
    ],
    ids=["as the article", "one node", "everything", "none", "autoscaled", "old", "no readiness"],
)
def test_every_object_passes_strict_validation_against_its_real_schema(changes):
    assert problems(fleet(**changes)) == []
    assert problems(engine_pods.launch_config("ds", having(ARGS, **changes).pods)) == []


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


def test_the_fleet_itself_does_not_name_the_model_or_aibrix_would_take_its_route_away_with_it():
    labels = fleet(port=9000)["metadata"]["labels"]
    assert not [key for key in labels if key.startswith("model.aibrix.ai/")]
    assert labels["modelserve.dev/stack"] == "test"


def test_two_fleets_of_a_model_have_nothing_in_common_by_which_aibrix_could_take_one_for_the_other():
    blue, green = (fleet(colour=colour) for colour in ("blue", "green"))
    assert (blue["metadata"]["name"], green["metadata"]["name"]) == ("ds-blue", "ds-green")
    for one, other in ((blue, green), (green, blue)):
        wanted = one["spec"]["selector"]["matchLabels"].items()
        assert wanted <= one["spec"]["template"]["metadata"]["labels"].items()
        assert not wanted <= other["spec"]["template"]["metadata"]["labels"].items()
        heads = ray_cluster_fleet.head_selector("ds", one["metadata"]["name"]).items() - {("ray.io/node-type", "head")}
        groups = (each["spec"]["template"]["spec"]["headGroupSpec"]["template"] for each in (one, other))
        assert [heads <= each["metadata"]["labels"].items() for each in groups] == [True, False]


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


def test_a_users_label_cannot_take_a_head_out_of_its_model():
    assert pod(True, pod_labels={MODEL_LABEL: "b", PORT_LABEL: "1"}) == pod(True)


def test_a_label_by_which_kuberay_finds_its_head_is_refused():
    with pytest.raises(Refused, match=r"pod_labels app\.kubernetes\.io/name: KubeRay's Service finds its head by it"):
        having(ARGS, pod_labels={"app.kubernetes.io/name": "aibrix"})


# --- names


def test_the_longest_name_leaves_whole_what_kuberay_builds_from_it():
    ray_cluster = f"{'n' * name_limit()}-{'h' * 10}-{'r' * 5}"
    built = (f"{ray_cluster}-head-svc", f"{ray_cluster}-{ray_cluster_fleet.WORKERS}", ray_cluster)
    assert max(map(len, built)) == 50
    assert fleet("n" * name_limit())["metadata"]["name"] == "n" * name_limit()


def test_a_longer_name_is_refused_with_the_limit():
    name = "n" * 25
    with pytest.raises(Refused, match=rf"^name {name}: has 25 characters, .* more than 24; take a shorter one$"):
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
def test_ray_is_told_its_gpus(head):
    spec = cluster()
    group = spec["headGroupSpec"] if head else spec["workerGroupSpecs"][0]
    assert group["rayStartParams"]["num-gpus"] == "8"


def test_kuberay_leaves_our_command_as_it_is():
    assert fleet()["spec"]["template"]["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}


def test_rays_version_is_said_only_of_an_image_that_the_catalog_knows():
    assert cluster()["rayVersion"] == "2.40.0"
    assert cluster(image="mirror.example.com/a/vllm-openai:v0.7.3.self.post1")["rayVersion"] == "2.40.0"
    assert "rayVersion" not in cluster(image="vllm/vllm-openai:v0.7.3")


@pytest.mark.parametrize(("port", "whose"), [(6379, "gcs-server"), (8265, "dashboard"), (8080, "metrics")])
def test_a_port_that_ray_has_in_the_same_pod_is_refused(port, whose):
    with pytest.raises(Refused, match=rf"port {port}: Ray's {whose} listens there in the same pod"):
        having(ARGS, port=port)


# --- who does what


def test_the_engines_arguments_ports_and_api_key_are_the_heads_alone():
    head, worker = (container(is_head, api_key_secret="ds-api-key") for is_head in (True, False))
    assert head["args"] == [*ARGS.pods.engine_args, "--middleware", "modelserve_guard.Guard"]
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
    args = having(ARGS, startup_seconds=seconds, weights_seconds=weights)
    probe = ray_cluster_fleet.pod_template("ds", args, head=True)["spec"]["containers"][0]["startupProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    assert seconds + weights < patience <= args.pods.limits.ready_seconds
    assert weights < args.pods.limits.join_seconds < patience
    assert ray_cluster_fleet.fleet("ds", args)["spec"]["progressDeadlineSeconds"] == args.pods.limits.replace_seconds


def test_of_one_node_the_kubelet_does_not_count_the_weights_but_pulumi_does():
    before, after = (having(ARGS, **ONE_NODE, weights_seconds=seconds).pods.limits for seconds in (0, 900))
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
    grace = timeouts.SETTLE_SECONDS + 904 + timeouts.STOP_SECONDS
    assert found == {grace, *([901, *named.values()] if head else [named["LIVENESS_PERIOD_SECONDS"]])}
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


def test_an_autoscaled_fleet_cannot_begin_empty():
    with pytest.raises(Refused, match="replicas 0: nobody would be there"):
        having(ARGS, scaled_to=4, replicas=0)


def test_a_deletion_is_waited_for_until_the_pods_are_gone():
    assert fleet()["metadata"]["annotations"]["pulumi.com/deletionPropagationPolicy"] == "foreground"


def test_a_change_wins_over_an_autoscaler_that_wrote_replicas_once():
    assert fleet()["metadata"]["annotations"]["pulumi.com/patchForce"] == "true"


# --- registration


def register(*names: str, args: RayClusterFleetArgs = ARGS) -> None:
    for name in names:
        RayClusterFleet(name, args)


def made(engine: Recorder) -> Any:
    """The request for the custom resource; the component's type ends in the same kind."""
    return engine.seen["kubernetes:orchestration.aibrix.ai/v1alpha1:RayClusterFleet", "ds"]


@pytest.mark.parametrize(("strategy", "rounds"), [("Recreate", 1), ("RollingUpdate", 3)])
def test_the_fleet_waits_as_long_as_the_plan_says_and_for_one_replica_after_the_other(
    engine: Recorder, strategy, rounds
):
    args = having(ARGS, replicas=3, strategy=strategy, weights_seconds=900)
    engine.run(lambda: register("ds", args=args))
    given = made(engine).customTimeouts
    assert (given.create, given.update, given.delete) == (
        f"{args.pods.limits.ready_seconds}s",
        f"{args.pods.limits.replace_seconds * rounds}s",
        f"{args.pods.limits.delete_seconds}s",
    )


def test_fleets_of_several_models_share_no_name_in_one_stack(engine: Recorder):
    engine.run(lambda: register("ds", "ds-2", "ds-launch"))  # the recorder refuses a duplicate logical name
    objects = [(found["kind"], found["metadata"]["name"]) for found in engine.objects()]
    assert len(set(objects)) == len(objects) == 6
