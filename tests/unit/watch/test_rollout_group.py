"""What is reported as the reason why a start waits, from what the cluster shows."""

from __future__ import annotations

from typing import Any

import pytest

from watch import rollout_fleet
from watch.rollout import RolloutStatus
from watch.rollout_group import View, describe


def pod(
    index: int,
    *,
    node: str | None = "n",
    phase: str = "Running",
    ready: bool = False,
    container: dict[str, Any] | None = None,
    conditions: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    name = "ds-0" if index == 0 else f"ds-0-{index}"
    conditions = (conditions or []) + [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name, "labels": {"leaderworkerset.sigs.k8s.io/worker-index": str(index)}},
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": {"cpu": "64", "nvidia.com/gpu": "8"}}}]},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [
                {"image": "img", "state": {"running": {}}, "lastState": {}, "restartCount": 0, **(container or {})}
            ],
        },
    }


def unplaced(index: int, message: str) -> dict[str, Any]:
    return pod(
        index,
        node=None,
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
    )


MESSAGE = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/1 nodes "
    "are available: 1 No preemption victims found for incoming pod."
)


def view(
    *pods: dict[str, Any],
    logs: dict[str, str | None] | None = None,
    ends: dict[str, str] | None = None,
    gone: dict[str, str] | None = None,
    nodes: int = 2,
    replicas: int = 1,
) -> View:
    return View(
        size=2,
        replicas=replicas,
        leader=("leaderworkerset.sigs.k8s.io/worker-index", "0"),
        pods=pods,
        others=[],
        logs=logs or {},
        ends=ends or {},
        gone=gone or {},
        nodes=[{"status": {"allocatable": {"nvidia.com/gpu": "8"}}}] * nodes,
    )


@pytest.mark.parametrize(
    ("pods", "logs", "status"),
    [
        ([], {}, "pods created: 0 of 2"),
        ([pod(0)], {}, "pods created: 1 of 2"),
        ([pod(0), pod(1, node=None)], {}, "pods scheduled: 1 of 2"),
        (
            [pod(0), pod(1, phase="Pending", container={"state": {"waiting": {"reason": "ContainerCreating"}}})],
            {},
            "pods started: 1 of 2 (ds-0-1: ContainerCreating)",
        ),
        ([pod(0), pod(1)], {"ds-0": ""}, "ds-0: started, nothing in its log yet"),
        ([pod(0), pod(1)], {"ds-0": None}, "ds-0: started, its log cannot be read"),
        ([pod(0), pod(1)], {"ds-0": "what nobody knows\n"}, "ds-0: its newest line: what nobody knows"),
        (
            [pod(0), pod(1)],
            {"ds-0": "modelserve: ray: 8 of 16 GPUs joined\n"},
            "ds-0: Ray forming: 8 of 16 GPUs joined",
        ),
        ([pod(0), pod(1)], {"ds-0": "modelserve: ray: formed, starting vLLM\n"}, "ds-0: weights loading: not begun"),
        (
            [pod(0), pod(1)],
            {"ds-0": "x\nLoading safetensors checkpoint shards:  42% Completed | 68/163\n"},
            "ds-0: weights loading: 42 %",
        ),
        (
            [pod(0), pod(1)],
            {"ds-0": "Loading safetensors checkpoint shards: 100% Completed | 163/163\nother\n"},
            "ds-0: weights loading: 100 %",
        ),
        ([pod(0, ready=True), pod(1, ready=True)], {}, "replicas ready: 1 of 1"),
    ],
)
def test_the_status_names_the_first_thing_that_is_missing(pods, logs, status):
    assert describe(view(*pods, logs=logs)) == RolloutStatus(status)


def test_a_cluster_too_small_is_told_with_the_gpus_wanted_there_and_free():
    standing = describe(view(pod(0), unplaced(1, MESSAGE), nodes=1))
    assert standing.status == "pods scheduled: 1 of 2"
    assert standing.problems == (
        "no node for ds-0-1: 16 nvidia.com/gpu are wanted (8 in each pod), the cluster has 8, of which 0 free; "
        "the scheduler says: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    )


def test_pods_that_lack_something_else_than_gpus_are_told_in_the_schedulers_words():
    said = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims"
    assert describe(view(unplaced(0, said))).problems == (f"no node for ds-0: the scheduler says: {said}",)


def test_gpus_that_other_workloads_hold_are_not_free():
    shown = View(
        size=2,
        replicas=1,
        leader=("leaderworkerset.sigs.k8s.io/worker-index", "0"),
        pods=[unplaced(0, "Insufficient nvidia.com/gpu"), unplaced(1, "no")],
        others=[pod(0)],
        logs={},
        ends={},
        gone={},
        nodes=[{"status": {"allocatable": {"nvidia.com/gpu": "8"}}}] * 2,
    )
    [line] = describe(shown).problems
    assert line.startswith("no node for ds-0, ds-0-1: 16 ") and "the cluster has 16, of which 8 free" in line


def test_an_image_that_cannot_be_pulled_is_a_problem_at_once():
    failing = pod(
        1,
        phase="Pending",
        container={"state": {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "img"'}}},
    )
    assert describe(view(pod(0), failing)).problems == ('ds-0-1: ImagePullBackOff: Back-off pulling image "img"',)


def died(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"lastState": {"terminated": {"exitCode": code, "reason": reason}}, "restartCount": 1}


FAILED = """Loading safetensors checkpoint shards:  42% Completed | 68/163
(EngineCore pid=2) ERROR 11-28 08:16:57 [core.py:1231] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-28 08:16:57 [core.py:1231]   File "/vllm/x.py", line 7, in load_model
(EngineCore pid=2) ERROR 11-28 08:16:57 [core.py:1231] torch.OutOfMemoryError: CUDA out of memory
Traceback (most recent call last):
  File "/vllm/y.py", line 9, in main
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
KILLED = "(killed by signal 9, out of memory: it used more than its limit), so its group starts anew; "


@pytest.mark.parametrize(
    ("end", "log", "says"),
    [
        (
            died(1),
            FAILED,
            "1, so its group starts anew; the cause, in EngineCore, while loading weights: "
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        (
            died(2),
            "modelserve: a\nmodelserve: b\n\n",
            "2, so its group starts anew; its last words: modelserve: b",
        ),
        (died(1), "", "1, so its group starts anew"),
        (died(137, "OOMKilled"), FAILED.partition("(")[0], f"137 {KILLED}when it was killed: weights loading: 42 %"),
        (died(137, "OOMKilled"), "an odd line\n", f"137 {KILLED}when it was killed: its newest line: an odd line"),
        (died(143), "", "143 (killed by signal 15), so its group starts anew"),
    ],
)
def test_a_container_that_died_is_told_with_the_truest_that_its_log_has(end: dict[str, Any], log: str, says: str):
    standing = describe(view(pod(0, container=end), pod(1), logs={"ds-0": "a new run"}, ends={"ds-0": log}))
    assert standing.problems == (f"ds-0: its container ended with exit code {says}",)


def test_a_pod_that_is_gone_is_told_with_its_cause_while_the_next_one_starts():
    standing = describe(
        view(pod(0), pod(1), logs={"ds-0": "Loading x:  7% Completed"}, gone={"ds-0": FAILED, "x": "y"})
    )
    assert standing.status == "ds-0: weights loading: 7 %"
    assert standing.problems == (
        "ds-0: it failed before; the cause, in EngineCore, while loading weights: torch.OutOfMemoryError: "
        "CUDA out of memory",
    )


def test_an_engine_whose_parent_has_given_up_is_told_as_failed_before_its_container_ends():
    standing = describe(view(pod(0), pod(1), logs={"ds-0": FAILED}))
    assert standing.status == "ds-0: it has failed"
    assert standing.problems[0].startswith(
        "ds-0: it has failed; the cause, in EngineCore, while loading weights: torch."
    )


def test_a_container_that_ended_well_is_no_problem():
    assert describe(view(pod(0, container={"lastState": {"terminated": {"exitCode": 0}}}), pod(1))).problems == ()


def test_an_init_container_that_failed_is_named_with_its_own_last_words():
    state = {"terminated": {"exitCode": 1, "startedAt": "1"}}
    copying = pod(0, phase="Pending", container={"state": {"waiting": {"reason": "PodInitializing"}}})
    copying["status"]["initContainerStatuses"] = [
        {"name": "look", "image": "img", "state": {"terminated": {"exitCode": 0}}},
        {"name": "weights", "image": "img", "state": state},
    ]
    told = describe(view(copying, pod(1), ends={"ds-0": "copying\nno such bucket: weights"})).problems
    assert told == (
        "ds-0: its init container weights ended with exit code 1, so its group starts anew; "
        "its last words: no such bucket: weights",
    )


@pytest.mark.parametrize(
    ("annotations", "own"),
    [({}, "app.kubernetes.io/instance"), ({"modelserve.dev/colour": "blue"}, "modelserve.dev/fleet")],
)
def test_a_fleet_of_a_colour_is_told_from_the_other_one_of_its_service(annotations, own, monkeypatch):
    fleet = {"metadata": {"annotations": annotations}, "spec": {"template": {"spec": {}}}}
    reader: Any = type("Reader", (), {"custom": lambda *_: fleet})()
    monkeypatch.setattr(rollout_fleet, "look_at_group", lambda _, ours, *__: ours)
    assert rollout_fleet.look(reader, "ds-blue") == (f"ray.io/cluster,{own}=ds-blue", f"{own}!=ds-blue")
