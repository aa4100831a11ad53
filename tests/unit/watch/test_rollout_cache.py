"""What is reported about a cache: what it waits for, and the problems that Fluid reports."""

from __future__ import annotations

from typing import Any

import pytest

from watch.rollout import RolloutStatus
from watch.rollout_cache import describe_load, describe_runtime


def runtime(master: str, ready: int) -> dict[str, Any]:
    return {"spec": {"replicas": 7}, "status": {"masterPhase": master, "workerNumberReady": ready}}


@pytest.mark.parametrize(
    ("live", "status"),
    [
        ({"spec": {"replicas": 7}}, "the cache's master is not ready"),
        (runtime("NotReady", 0), "the cache's master is not ready"),
        (runtime("Ready", 3), "cache workers ready: 3 of 7"),
    ],
)
def test_a_runtime_is_told_by_its_workers(live, status):
    assert describe_runtime(live, [], []) == RolloutStatus(status)


def test_workers_without_a_node_are_one_line_and_fluids_warnings_follow():
    condition = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/3 nodes are available: memory."}
    pods = [
        {"metadata": {"name": f"m-jindofs-worker-{i}"}, "spec": {}, "status": {"conditions": [condition]}}
        for i in range(3)
    ]
    standing = describe_runtime(runtime("Ready", 0), pods, ["ErrorProcessRuntime: quota is over the limit"])
    assert standing.problems == (
        "no node for m-jindofs-worker-0: 0/3 nodes are available: memory.",
        "Fluid says: ErrorProcessRuntime: quota is over the limit",
    )


DATASET = {"status": {"phase": "Bound", "ufsTotal": "641.30GiB", "cacheStates": {"cached": "120.31GiB"}}}


@pytest.mark.parametrize(
    ("phase", "dataset", "status"),
    [
        (None, None, "the Dataset is not there, the load begins when it is Bound"),
        (None, {"status": {"phase": "NotBound"}}, "the Dataset is NotBound, the load begins when it is Bound"),
        ("Pending", {"status": {"phase": "Bound"}}, "load Pending: 0.00B of [Calculating] cached"),
        ("Executing", DATASET, "load Executing: 120.31GiB of 641.30GiB cached"),
    ],
)
def test_a_load_is_told_by_its_phase_and_bytes(phase, dataset, status):
    live = {"status": {"phase": phase}} if phase else {}
    assert describe_load(live, dataset, [], {}, []) == RolloutStatus(status)


def test_a_failed_load_is_told_with_its_loaders_last_words_and_the_events_that_mean_something():
    state = {"state": {"terminated": {"exitCode": 255}}, "image": "i"}
    loader = {"metadata": {"name": "l"}, "spec": {"nodeName": "n"}, "status": {"containerStatuses": [state]}}
    conditions = [{"status": "True", "reason": "BackoffLimitExceeded", "message": "limit reached"}]
    warnings = ["DataOperationFailed: DataLoad m failed", "RuntimeNotReady: Bounded accelerate runtime not ready"]
    live = {"status": {"phase": "Failed", "conditions": conditions}}
    assert describe_load(live, DATASET, [loader], {"l": "x\nno such bucket\n"}, warnings).problems == (
        "l: its container ended with exit code 255, so Fluid tries once more; its last words: no such bucket",
        "Fluid calls the load Failed (BackoffLimitExceeded: limit reached)",
        "Fluid says: DataOperationFailed: DataLoad m failed",
    )
