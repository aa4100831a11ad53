"""What is reported about a sync: its progress, and why it fails."""

from __future__ import annotations

from typing import Any

import pytest

from watch.rollout import RolloutStatus
from watch.rollout_job import describe

JOB: dict[str, Any] = {"metadata": {"name": "r1-sync"}}


def pod(name: str = "r1-sync-a", at: str = "1", node: str | None = "n", phase: str = "Running", **container: Any):
    return {
        "metadata": {"name": name, "creationTimestamp": at},
        "spec": {"nodeName": node},
        "status": {"phase": phase, "containerStatuses": [{"image": "img", "state": {}, **container}]},
    }


@pytest.mark.parametrize(
    ("pods", "logs", "status"),
    [
        ([], {}, "the Job's pod is not created"),
        ([pod(node=None, phase="Pending")], {}, "r1-sync-a: not scheduled"),
        (
            [pod(phase="Pending", state={"waiting": {"reason": "ContainerCreating"}})],
            {},
            "r1-sync-a: ContainerCreating",
        ),
        ([pod()], {"r1-sync-a": "hello\n"}, "r1-sync-a: its newest line: hello"),
        (
            [pod()],
            {"r1-sync-a": "modelserve: sync: 3 of 163 files\nmodelserve: sync: 4 of 163 files, 12.1 GiB\nother\n"},
            "4 of 163 files, 12.1 GiB",
        ),
        ([pod()], {"r1-sync-a": "modelserve: verify: not yet: nobody listens\n"}, "not yet: nobody listens"),
        (
            [pod("new", "2"), pod("old", "1")],
            {"new": "modelserve: sync: 1 of 2\n", "old": "modelserve: sync: 2 of 2\n"},
            "1 of 2",
        ),
    ],
)
def test_the_status_is_the_newest_pods_newest_word(pods, logs, status):
    assert describe(JOB, pods, logs, {}) == RolloutStatus(status)


def test_a_pod_that_ended_badly_is_told_with_its_last_words_and_the_job_first():
    conditions = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit reached"}]
    failed = pod(phase="Failed", state={"terminated": {"exitCode": 1}})
    standing = describe(
        JOB | {"status": {"conditions": conditions}}, [failed], {}, {"r1-sync-a": "x\n403 AccessDenied\n"}
    )
    assert standing.problems == (
        "Job r1-sync has failed: BackoffLimitExceeded: limit reached",
        "r1-sync-a: its container ended with exit code 1, so it is tried again, up to the Job's limit; "
        "its last words: 403 AccessDenied",
    )


def test_an_image_that_cannot_be_pulled_and_a_pod_without_a_node_are_problems():
    pulling = pod(phase="Pending", state={"waiting": {"reason": "ErrImagePull", "message": "no such image"}})
    assert describe(JOB, [pulling], {}, {}).problems == ("r1-sync-a: ErrImagePull: no such image",)
    refused = {
        "type": "PodScheduled",
        "reason": "Unschedulable",
        "message": "0/3 nodes: Insufficient cpu. preemption: x",
    }
    unplaced = pod(node=None, phase="Pending")
    unplaced["status"]["conditions"] = [refused]
    assert describe(JOB, [unplaced], {}, {}).problems == ("no node for r1-sync-a: 0/3 nodes: Insufficient cpu.",)
