"""Interrupted runs: what they leave behind, and that the documented recovery takes one command."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.rehearsal.pulumi_stack import Cluster, Stack

SOAK = pytest.mark.soak
# What stays in the state together with a protected bucket.
KEPT = {"Stack", "alicloud", "volcengine", "ModelBucket", "Bucket"}
SLOW = {"rehearsal.modelserve.dev/ready-after": "6s"}


def has(cluster: Cluster, name: str) -> Callable[[], bool]:
    return lambda: cluster.object(*name.split("/")) is not None


def test_a_living_run_is_left_alone_and_after_ctrl_c_the_next_up_goes_on_waiting(stack: Stack, cluster: Cluster):
    stack.services["ds"]["podAnnotations"] = SLOW
    run = stack.begin("up")
    cluster.wait("the run is under way", has(cluster, "Secret/ds-api-key"))
    run.send_signal(signal.SIGSTOP)  # it cannot end meanwhile
    try:
        said = stack.ops("recover", stack.name, code=2)
    finally:
        run.send_signal(signal.SIGCONT)
    assert "is locked by" in said and "may be alive" in said

    cluster.wait("the group is there", has(cluster, "Pod/ds-0"))
    said = stack.interrupt(run, signal.SIGINT)
    assert "context canceled" in said and "Traceback" not in said
    uid = cluster.group()["metadata"]["uid"]
    stack.up()
    assert cluster.ready() and cluster.group()["metadata"]["uid"] == uid
    assert f"{stack.name}: nothing is pending" in stack.ops("recover", stack.name)


def goes_on(stack: Stack) -> None:
    """After a killed `up`: the next one creates what is missing, and leaves nothing to change."""
    stack.go_on("up")
    stack.up("--refresh", "--expect-no-changes")


def ends(stack: Stack, cluster: Cluster) -> None:
    """After any killed run: `destroy` leaves nothing but a kept bucket."""
    stack.destroy("--exclude-protected")
    cluster.wait_for_end()
    left = {each["type"].rpartition(":")[2] for each in stack.state()["deployment"].get("resources", [])}
    assert left <= KEPT


@SOAK
@pytest.mark.parametrize("start", ["stack", "acs", "volcengine"])
def test_runs_killed_at_every_step_are_put_right_by_recover(
    request: pytest.FixtureRequest, cluster: Cluster, start: str
):
    """Kill each run at the first step that no earlier run began or ended, until one run completes."""
    stack = request.getfixturevalue(start)
    engine = next(iter(stack.services.values()))["engine"]

    def through(*command: str) -> int:
        killed, seen = 0, set[str]()
        before: set[str] = set()
        while stack.kill_at_news(seen, *command):
            killed += 1
            stack.recover()
            if command == ("up",):
                made = {name for name, step in stack.steps().items() if step.operation == "create"}
                assert not made & before, "made what was there"
                before = set(cluster.ours())
        print(f"{start}: {' '.join(command)} killed {killed} times, at {len(seen)} moments")
        return killed

    assert through("up") > 0
    stack.up("--refresh", "--expect-no-changes")
    engine["image"] += "-next"
    assert through("up") > 0
    stack.up("--refresh", "--expect-no-changes")
    assert through("destroy", "--exclude-protected") > 0
    ends(stack, cluster)


@SOAK
def test_keys_whose_creation_was_killed_leave_room_for_the_next(volcengine: Stack, cluster: Cluster):
    """A user can have at most two keys, and nobody knows the secret of a lost one."""
    for _ in range(4):
        volcengine.fault("AccessKey/weights-reader", "late")  # otherwise a fast machine has the key before the kill
        assert volcengine.kill_at("AccessKey/weights-reader", "up")
        volcengine.fault("AccessKey/weights-reader", None)
        volcengine.recover()
    volcengine.up()
    ends(volcengine, cluster)


@SOAK
@pytest.mark.parametrize("start", ["stack", "acs", "volcengine"])
def test_runs_killed_at_any_step_can_be_destroyed_or_go_on(
    request: pytest.FixtureRequest, cluster: Cluster, dice: random.Random, budget: float, start: str
):
    """Kills runs at points of the event log, in an order that the seed decides, each time from a fresh start, until the
    time budget is used up."""
    end = time.monotonic() + budget
    stack = request.getfixturevalue(start)
    engine = next(iter(stack.services.values()))["engine"]
    images = itertools.cycle((f"{engine['image']}-next", engine["image"]))

    def moments_of(what: str) -> list[tuple[str, int]]:
        return [(what, moment) for moment in range(1, 2 * len(stack.steps()) + 1)]

    stack.up()
    moments = moments_of("up")
    engine["image"] = next(images)
    stack.up()
    moments += moments_of("update")
    ends(stack, cluster)
    moments += moments_of("destroy")
    dice.shuffle(moments)
    for done, (what, moment) in enumerate(moments):
        if time.monotonic() > end:
            print(f"{done} of {len(moments)} moments")
            break
        print(f"{what} killed at moment {moment}")
        if what != "up":
            stack.up()
        if what == "update":
            engine["image"] = next(images)
        if not stack.kill_at(moment, *(["destroy", "--exclude-protected"] if what == "destroy" else ["up"])):
            continue
        if what != "destroy" and dice.random() < 0.5:
            goes_on(stack)
        else:
            stack.recover()
        ends(stack, cluster)


@SOAK
def test_an_update_that_was_interrupted_and_taken_back_is_taken_back_in_the_cluster_too(stack: Stack, cluster: Cluster):
    stack.services["ds"]["podAnnotations"] = SLOW
    stack.up()
    image = stack.services["ds"]["engine"]["image"]
    before = cluster.group()["metadata"]["generation"]
    stack.services["ds"]["engine"]["image"] = "vllm/vllm-openai:v0.7.2"
    run = stack.begin("up")
    cluster.wait("the change has arrived", lambda: cluster.group()["metadata"]["generation"] > before)
    stack.interrupt(run, signal.SIGINT)
    stack.services["ds"]["engine"]["image"] = image
    stack.write()
    said = stack.ops("recover", stack.name)
    assert "LeaderWorkerSet default/ds: is not what the state says; the next up writes it again" in said
    stack.up()
    template = cluster.group()["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    assert template["spec"]["containers"][0]["image"] == image
    stack.refresh("--expect-no-changes")


@SOAK
def test_recover_finds_what_was_cut_off_after_pulumis_own_cancel_too(stack: Stack, cluster: Cluster):
    stack.services["ds"]["podAnnotations"] = SLOW
    run = stack.begin("up")
    cluster.wait("the group is there", has(cluster, "LeaderWorkerSet/ds"))
    stack.interrupt(run, signal.SIGKILL)
    stack.run("cancel", "--yes")
    assert "LeaderWorkerSet default/ds: was made; taken into the state" in stack.recover()
    ends(stack, cluster)


@SOAK
def test_recover_leaves_alone_what_is_not_ours(stack: Stack, cluster: Cluster):
    run = stack.begin("up")
    cluster.wait("the group is there", has(cluster, "LeaderWorkerSet/ds"))
    stack.interrupt(run, signal.SIGKILL)
    cluster.custom.patch_namespaced_custom_object(
        "leaderworkerset.x-k8s.io",
        "v1",
        "default",
        "leaderworkersets",
        "ds",
        {"metadata": {"labels": {"modelserve.dev/stack": "another"}}},
    )
    try:
        assert "LeaderWorkerSet default/ds: is there but not this stack's" in stack.ops("recover", stack.name, code=1)
        assert stack.pending() == [] and cluster.group()["metadata"]["labels"]["modelserve.dev/stack"] == "another"
    finally:
        cluster.custom.delete_namespaced_custom_object(
            "leaderworkerset.x-k8s.io", "v1", "default", "leaderworkersets", "ds"
        )
