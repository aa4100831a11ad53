"""Every time limit of the program, derived from two numbers: the seconds of a cold start and of a drain.

No other place names a timeout. The factors are policy, not facts, and are stated here once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A start may take one and a half times as long as planned (slow node, throttled bucket) before the kubelet gives up.
STARTUP_SLACK = 1.5
# `pulumi up` waits for two starts: LeaderWorkerSet recreates a failed group, and the second attempt may succeed.
READY_SLACK = 2.0
# A group joins before it reads weights. That takes a fraction of the start, but at least as long as image pulls vary.
JOIN_SHARE = 0.5
JOIN_FLOOR_SECONDS = 60

STARTUP_PERIOD_SECONDS = 10
READINESS_PERIOD_SECONDS = 5
# /health answers 503 only if the engine is dead, and a restart costs a whole cold start: be slow to restart.
LIVENESS_PERIOD_SECONDS = 30
LIVENESS_FAILURES = 10
# For a controller that replaces a group that is not ready: «not ready» must then mean «dead».
STEADY_READINESS_FAILURES = LIVENESS_PERIOD_SECONDS * LIVENESS_FAILURES // READINESS_PERIOD_SECONDS
PROBE_TIMEOUT_SECONDS = 10
# vLLM cuts off its answers at SIGTERM or soon after, so the preStop hook waits for them (`modelserve_guard`). First
# the pod keeps answering until nodes and proxies know that it is no longer an endpoint.
SETTLE_SECONDS = 5
# After the hook, Ray and CUDA release their devices.
STOP_SECONDS = 30
# Deleting a group waits for its pods' grace period, then for the garbage collector.
DELETE_SLACK_SECONDS = 540
# A sync or a warm-up may take twice as long as planned, because hubs and buckets throttle. The floor is the time that a
# cloud needs to start a pod and pull its image.
STEP_SLACK = 2.0
STEP_FLOOR_SECONDS = 600
# One request to the API server, from a pod with a small image. Also the shortest life of a token that Kubernetes gives.
SCALE_SECONDS = 600
# A first request may still compile kernels, and a gateway takes a while to know a new route.
CHECK_SECONDS = 300
# Cache pods have a small image and load nothing at the start.
CACHE_READY_SECONDS = 900


def of_step(seconds: float) -> int:
    """The limit, in seconds, for a step before the pods (fill the bucket, warm the cache) that is to take `seconds`."""
    return max(STEP_FLOOR_SECONDS, math.ceil(seconds * STEP_SLACK))


def longest_drain(grace_seconds: int) -> int:
    """How many seconds a pod may wait for its answers if it is killed `grace_seconds` after its deletion."""
    return grace_seconds - SETTLE_SECONDS - STOP_SECONDS


def grace_seconds(drain_seconds: int) -> int:
    """Seconds from the deletion of a pod to its kill; by then it has given its answers."""
    return SETTLE_SECONDS + drain_seconds + STOP_SECONDS


@dataclass(frozen=True)
class Timeouts:
    """Time limits of one service, in seconds, except `startup_failures` (a number of probe periods)."""

    startup_failures: int
    ready_seconds: int
    join_seconds: int
    drain_seconds: int

    @property
    def grace_seconds(self) -> int:
        """Seconds from a pod's deletion to its kill; by then it has given its answers."""
        return grace_seconds(self.drain_seconds)

    @property
    def replace_seconds(self) -> int:
        """Seconds until the old pods have ended and the new ones have started."""
        return self.grace_seconds + self.ready_seconds

    @property
    def delete_seconds(self) -> int:
        """Seconds until the old pods and their dependents are gone."""
        return self.grace_seconds + DELETE_SLACK_SECONDS


def from_startup(startup_seconds: int, drain_seconds: int, weights_seconds: int = 0, nodes: int = 1) -> Timeouts:
    """Limits for a cold start of `startup_seconds` (> 0, from pod creation to the first answer) and for a shutdown that
    waits `drain_seconds` for running answers.

    `weights_seconds` is the additional time of init containers. The kubelet starts to count after them. With several
    `nodes`, the first to have its weights waits for the last, so there it also counts towards start and joining.
    """
    waiting_seconds = weights_seconds if nodes > 1 else 0
    return Timeouts(
        startup_failures=math.ceil((startup_seconds + waiting_seconds) * STARTUP_SLACK / STARTUP_PERIOD_SECONDS),
        ready_seconds=math.ceil((startup_seconds + weights_seconds) * READY_SLACK),
        join_seconds=max(JOIN_FLOOR_SECONDS, math.ceil(startup_seconds * JOIN_SHARE))
        + math.ceil(waiting_seconds * STARTUP_SLACK),
        drain_seconds=drain_seconds,
    )
