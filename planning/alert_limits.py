"""From which numbers on somebody is told: every alert's threshold, derived from the plan and its time limits.

Knows neither metrics nor rules (`components.monitoring.alerts`). What a stack file says takes the place of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planning import timeouts
from planning.memory import batch
from planning.planner import Plan
from planning.startup import FILL, TO_NODES, WARM
from planning.throughput import FULL

# So many scrapes in a row must say the same: one may be late or lost.
SCRAPES = 10
# The shortest rate that one lost scrape does not spoil.
RATE_SCRAPES = 4
# A rollout makes a pod a second time, a controller that gets over a failure too. The next one is a loop.
LOOP_STARTS = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of one service. Times in seconds, rates in bytes a second; None where nothing is to be watched.

    `start_seconds` is when the kubelet gives a start up; within `form_seconds` all pods of a replica run;
    `LOOP_STARTS` starts within `loop_seconds` are a loop. Below `fill_rate` the sync of the weights misses its time
    limit, below `copy_rate` a pod's copy its own; the cache is to be loaded within `load_seconds`.
    Above the share `kv_used` the KV cache of a replica has no room for one more request, and `at_once` is how many
    requests a replica works on at once.
    """

    start_seconds: int
    form_seconds: int
    loop_seconds: int
    no_answer_seconds: int
    idle_seconds: int
    fill_rate: float | None
    copy_rate: float | None
    load_seconds: int | None
    kv_used: float | None
    at_once: float


def limits(plan: Plan, startup_seconds: int, drain_seconds: int, copy_seconds: int) -> Limits:
    """The thresholds of a plan. `startup_seconds` is a cold start, `copy_seconds` of it the copy of the weights to the
    pods before the engine starts."""
    nodes = plan.request.layout.nodes
    times = timeouts.from_startup(startup_seconds - copy_seconds, drain_seconds, copy_seconds, nodes)
    start = times.startup_failures * timeouts.STARTUP_PERIOD_SECONDS
    start += 0 if nodes > 1 else math.ceil(copy_seconds * timeouts.STARTUP_SLACK)
    path, fill = plan.startup, plan.startup.seconds(FILL)
    copied = sum(step.bytes for step in path.steps if step.name == TO_NODES) / nodes
    full = plan.throughput.point(FULL)
    share = None if full is None else 1 - (full.input + full.output) / max(plan.fit.kv_tokens, 1)
    return Limits(
        start_seconds=start,
        form_seconds=times.join_seconds,
        loop_seconds=LOOP_STARTS * start,
        no_answer_seconds=timeouts.LIVENESS_PERIOD_SECONDS * timeouts.LIVENESS_FAILURES,
        # In this time the pods could have gone and come back.
        idle_seconds=times.replace_seconds,
        fill_rate=plan.file_bytes / timeouts.of_step(fill) if fill else None,
        copy_rate=copied / (copy_seconds * timeouts.STARTUP_SLACK) if copy_seconds else None,
        load_seconds=timeouts.of_step(path.seconds(WARM)) if path.seconds(WARM) else None,
        kv_used=share if share is not None and share > 0 else None,
        at_once=_at_once(plan) if full is None else full.at_once,
    )


def _at_once(plan: Plan) -> float:
    """Requests that a replica works on at once: what its cache holds, or where nobody knows that, what it accepts."""
    if plan.request.model.unknown:
        return batch(plan.request, plan.fit.max_model_len)[1] * plan.request.layout.data
    return plan.fit.max_concurrency
