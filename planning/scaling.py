"""Autoscaling: what is wrong whoever scales, and what Kubernetes' own autoscaler makes of the settings.

Kubernetes' HorizontalPodAutoscaler scales a LeaderWorkerSet, by itself (`hpa`) or with KEDA's metrics (`keda`). What
AIBrix's does is in `planning.aibrix_features`. Rules return (field, why, what to write instead), a field being the
argument's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planning.catalog import fact
from planning.metrics import exported

KINDS = ("PodAutoscaler", "HorizontalPodAutoscaler", "ScaledObject")
"""The kinds of object that set the number of replicas of their `scaleTargetRef`."""
Wrong = list[tuple[str, str, str]]


def kv_gauge(engine_version: str | None) -> str:
    """The gauge of used KV cache, 0 to 1, that this vLLM exports; the newer name where it has both."""
    known = exported(engine_version)
    return next(name for name in ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc") if name in known)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What an autoscaler is told. `target` is the used fraction of each replica's KV cache to aim at. Times are in
    seconds; without `cold_start_seconds` the cooldown is not compared with it."""

    minimum: int
    maximum: int
    target: float
    cold_start_seconds: int | None
    cooldown_seconds: int | None = None
    strategy: str | None = None
    schedules: Sequence[Any] = ()


def bounds_problems(told: Scaling) -> Wrong:
    """What is wrong with a number of replicas and a target, whoever scales."""
    problems: Wrong = []
    if not 0 < told.target < 1:
        why = "is out of range: the metric is the used part of the KV cache, 0 to 1"
        problems.append(("target", why, "write a fraction such as 0.5"))
    if told.minimum < 1:
        why = "without a replica there is no metric that could scale it up again, nor a queue that holds its requests"
        problems.append(("minimum", why, "write 1 or more"))
    if told.maximum < told.minimum:
        problems.append(("maximum", f"is below the minimum of {told.minimum}", f"write {told.minimum} or more"))
    return problems


def short_cooldown(cold_start_seconds: int, least: int) -> tuple[str, str, str]:
    """The problem of a cooldown below `least`."""
    why = f"a replica needs {cold_start_seconds} s to start, and would be removed before it answers"
    return "cooldown_seconds", why, f"write {least} or more, or leave it out"


def problems(told: Scaling) -> Wrong:
    """Everything wrong with an autoscaler of Kubernetes' own."""
    wrong = bounds_problems(told)
    wrong += [
        (field, "only AIBrix has it", "leave it out") for field in ("strategy", "schedules") if getattr(told, field)
    ]
    longest = fact("kubernetes", "autoscaling", "longestWindowSeconds")
    cooldown, start = told.cooldown_seconds, told.cold_start_seconds
    if cooldown is not None and cooldown > longest:
        wrong.append(("cooldown_seconds", f"Kubernetes looks back {longest} s at most", f"write at most {longest}"))
    elif cooldown is not None and start is not None and cooldown < (least := min(start, longest)):
        wrong.append(short_cooldown(start, least))
    return wrong


def window_seconds(cold_start_seconds: int, cooldown_seconds: int | None) -> int:
    """Seconds that a replica stays without need: Kubernetes takes the most that it wanted within them."""
    longest: int = fact("kubernetes", "autoscaling", "longestWindowSeconds")
    return min(cold_start_seconds if cooldown_seconds is None else cooldown_seconds, longest)


def cautions(*, cold_start_seconds: int, cooldown_seconds: int | None) -> tuple[str, ...]:
    """What a person should know before paying for the most replicas, one sentence each."""
    waits = window_seconds(cold_start_seconds, cooldown_seconds)
    if waits >= cold_start_seconds:
        return ()
    return (f"Kubernetes takes a replica away after {waits} s without need, before a next one could start",)
