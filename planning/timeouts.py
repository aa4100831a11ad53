"""Every time limit of the program, derived from two numbers: the seconds of a cold start and of a drain.

No other place names a timeout. The factors are policy, not facts, and are stated here once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A start may take half as long again as planned (a slow node, a throttled bucket) before the kubelet gives up on it.
STARTUP_SLACK = 1.5
# `pulumi up` waits for two starts: one that fails is made anew by LeaderWorkerSet, and may still win.
READY_SLACK = 2.0
# A group has to join before the weights are read. It is a fraction of the start, but never less than image-pull jitter.
JOIN_SHARE = 0.5
JOIN_FLOOR_SECONDS = 60

STARTUP_PERIOD_SECONDS = 10
READINESS_PERIOD_SECONDS = 5
# /health answers 503 only when the engine is dead, and a restart costs a whole cold start: be slow to conclude that.
LIVENESS_PERIOD_SECONDS = 30
LIVENESS_FAILURES = 10
# For who puts a whole new group beside one that is not ready: then not ready must mean as much as dead.
STEADY_READINESS_FAILURES = LIVENESS_PERIOD_SECONDS * LIVENESS_FAILURES // READINESS_PERIOD_SECONDS
PROBE_TIMEOUT_SECONDS = 10
# vLLM cuts its answers at SIGTERM, or soon after, so a pod's preStop hook waits for them (`modelserve_guard`). First
# the pod goes on answering until nodes and proxies have learned that it is no endpoint any more.
SETTLE_SECONDS = 5
# What is left after the hook: Ray and CUDA let go of their devices.
STOP_SECONDS = 30
# Deleting a group waits for its pods' grace period, then for the garbage collector.
DELETE_SLACK_SECONDS = 540
# A sync or a warm-up may take twice what it is planned to: hubs and buckets throttle. Never less than a pod and its
# image need on a cloud that starts one for it.
STEP_SLACK = 2.0
STEP_FLOOR_SECONDS = 600
# Pods of a cache come up with a small image and load nothing.
CACHE_READY_SECONDS = 900


def of_step(seconds: float) -> int:
    """The limit, in seconds, of a step before the pods (fill the bucket, warm the cache) planned to take `seconds`."""
    return max(STEP_FLOOR_SECONDS, math.ceil(seconds * STEP_SLACK))


def longest_drain(grace_seconds: int) -> int:
    """How long a pod may wait for its answers that is killed so many seconds after its deletion."""
    return grace_seconds - SETTLE_SECONDS - STOP_SECONDS


@dataclass(frozen=True)
class Timeouts:
    """Time limits of one service, all in seconds but `startup_failures` (a count of probe periods)."""

    startup_failures: int
    ready_seconds: int
    join_seconds: int
    drain_seconds: int

    @property
    def grace_seconds(self) -> int:
        """From a pod's deletion to its kill: by then its answers are given."""
        return SETTLE_SECONDS + self.drain_seconds + STOP_SECONDS

    @property
    def replace_seconds(self) -> int:
        """The old pods' end, then the start of the new ones."""
        return self.grace_seconds + self.ready_seconds

    @property
    def delete_seconds(self) -> int:
        """The old pods' end, and what goes with them."""
        return self.grace_seconds + DELETE_SLACK_SECONDS


def from_startup(startup_seconds: int, drain_seconds: int, weights_seconds: int = 0, nodes: int = 1) -> Timeouts:
    """Limits for a cold start of `startup_seconds` (> 0), from pod creation to the first answer, and for an end that
    waits `drain_seconds` for running answers.

    `weights_seconds` is what init containers may take beside that. The kubelet begins to count after them, but of
    several `nodes` the first to have its weights waits for the last: there it counts as part of start and joining.
    """
    apart = weights_seconds if nodes > 1 else 0
    return Timeouts(
        startup_failures=math.ceil((startup_seconds + apart) * STARTUP_SLACK / STARTUP_PERIOD_SECONDS),
        ready_seconds=math.ceil((startup_seconds + weights_seconds) * READY_SLACK),
        join_seconds=max(JOIN_FLOOR_SECONDS, math.ceil(startup_seconds * JOIN_SHARE))
        + math.ceil(apart * STARTUP_SLACK),
        drain_seconds=drain_seconds,
    )
