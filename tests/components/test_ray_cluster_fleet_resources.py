"""The fleet's resources: with which options they are registered, and what they wait for before they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.ray_cluster_fleet import RayClusterFleet, RayClusterFleetArgs
from stacks.progress import Progress
from tests.components.test_ray_cluster_fleet import ARGS, LAYOUT
from tests.components.test_ray_lws_group import UNKNOWN
from tests.support.recorder import Recorder, inputs


def register(*names: str, opts: pulumi.ResourceOptions | None = None, args: RayClusterFleetArgs = ARGS) -> None:
    for name in names:
        RayClusterFleet(name, args, opts, Progress("here", "default", None).group_hooks())


def made(engine: Recorder, name: str = "ds") -> Any:
    """The request for the custom resource, whose kind is the component's name too."""
    return engine.seen["kubernetes:orchestration.aibrix.ai/v1alpha1:RayClusterFleet", name]


def component(engine: Recorder, name: str = "ds") -> Any:
    return engine.seen["modelserve:serving:RayClusterFleet", name]


@pytest.mark.parametrize(("strategy", "rounds"), [("Recreate", 1), ("RollingUpdate", 3)])
def test_the_fleet_waits_as_long_as_the_plan_says_and_for_one_replica_after_the_other(
    engine: Recorder, strategy, rounds
):
    args = replace(ARGS, replicas=3, strategy=strategy, weights_seconds=900)
    engine.run(lambda: register("ds", args=args))
    given = made(engine).customTimeouts
    assert (given.create, given.update, given.delete) == (
        f"{args.limits.ready_seconds}s",
        f"{args.limits.ready_seconds * rounds}s",
        f"{args.limits.delete_seconds}s",
    )


def test_a_changed_layout_replaces_the_fleet_and_frees_its_gpus_first(engine: Recorder):
    engine.run(lambda: register("ds"))
    request = made(engine)
    assert list(request.replaceOnChanges) == [f'metadata.annotations["{LAYOUT}"]']
    assert LAYOUT in inputs(request)["metadata"]["annotations"]
    assert request.deleteBeforeReplace and request.deleteBeforeReplaceDefined


@pytest.mark.parametrize(("autoscaled", "ignored"), [(True, ["spec.replicas"]), (False, [])])
def test_replicas_are_the_autoscalers_alone_where_there_is_one(engine: Recorder, autoscaled, ignored):
    engine.run(lambda: register("ds", args=replace(ARGS, autoscaled=autoscaled)))
    assert list(made(engine).ignoreChanges) == ignored


def test_the_fleet_comes_after_its_launch_script(engine: Recorder):
    engine.run(lambda: register("ds"))
    assert list(made(engine).dependencies) == [engine.urn(engine.one("ConfigMap"))]


def test_every_object_belongs_to_the_component_and_nothing_is_left_unfinished(engine: Recorder):
    engine.run(lambda: register("ds"))
    owner = engine.urn(component(engine))
    assert {engine.one("ConfigMap").parent, made(engine).parent} == {owner}
    assert "ready" in engine.finished[owner].outputs


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
                delete_before_replace=False,
            ),
        )

    engine.run(program)
    bucket = engine.urn(engine.one("Bucket"))
    assert list(component(engine).dependencies) == [bucket]
    for request in (engine.one("ConfigMap"), made(engine)):
        assert bucket not in request.dependencies
        assert not request.ignoreChanges and not request.retainOnDelete
        assert "*" not in request.replaceOnChanges and request.customTimeouts.create != "1s"


def test_the_fleet_is_replaced_with_what_its_pods_mount(engine: Recorder):
    def program() -> None:
        claim = pulumi.CustomResource("cloud:index:Claim", "claim", {})
        RayClusterFleet("ds", ARGS, mounts=[claim])

    engine.run(program)
    assert list(made(engine).replace_with) == [engine.urn(engine.one("Claim"))]


def test_a_claim_that_is_not_known_yet_holds_the_fleet_back_and_reaches_every_volume(engine: Recorder):
    def program() -> None:
        sync = pulumi.CustomResource("cloud:index:Sync", "sync", {})
        claim = {"claimName": sync.id.apply(lambda _: "claim"), "readOnly": True}
        register("ds", args=replace(ARGS, volumes=[{"name": "weights", "persistentVolumeClaim": claim}]))

    engine.run(program)
    assert engine.urn(engine.one("Sync")) in made(engine).dependencies
    (found,) = (each for each in engine.objects() if each["kind"] == "RayClusterFleet")
    spec = found["spec"]["template"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (volume,) = (volume for volume in group["template"]["spec"]["volumes"] if volume["name"] == "weights")
        assert volume["persistentVolumeClaim"]["claimName"] == (UNKNOWN if engine.preview else "claim")


def test_fleets_of_several_models_share_no_name_in_one_stack(engine: Recorder):
    engine.run(lambda: register("ds", "ds-2", "ds-launch"))  # the recorder refuses a logical name taken twice
    objects = [(found["kind"], found["metadata"]["name"]) for found in engine.objects()]
    assert len(set(objects)) == len(objects) == 6
