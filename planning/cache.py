"""How large a weight cache must be, and what a node's memory and disk must hold. Takes bytes, gives whole workers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planning.catalog import fact
from planning.problems import PlanError, Problem
from planning.units import GIB


@dataclass(frozen=True)
class CacheSize:
    """What the user sets of a cache; the plan decides what is None. `high` and `low` are shares of the quota. The
    workers are pods of `cloud`."""

    workers: int | None = None
    limit_gib: int | None = None
    quota_gib: int | None = None
    vcpu: int | None = None
    high: float | None = None
    low: float | None = None
    cloud: str = "acs"


@dataclass(frozen=True)
class CachePlan:
    """Workers of a distributed cache. One worker may hold `quota_gib`; all together hold `usable_gib` before they
    evict. They start to evict at `high` of the quota and stop at `low`. `doubts` rest on an estimate."""

    workers: int
    quota_gib: int
    limit_gib: int
    usable_gib: float
    gbit_per_second: float
    vcpu: int
    high: float
    low: float
    reasons: tuple[str, ...]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostPlan:
    """One node's memory and disk, in GiB. `page_cache_holds`: whether the page cache holds all that the node reads;
    None where the node's memory is unknown."""

    read_gib: float
    shm_gib: int
    ephemeral_gib: float
    page_cache_holds: bool | None
    reasons: tuple[str, ...]


def cache(
    file_bytes: int,
    size: CacheSize = CacheSize(),
    *,
    replicas: int = 1,
    read_gbit_per_second: float = 0,
    estimated: bool = False,
) -> CachePlan:
    """Enough workers to hold `file_bytes` `replicas` times and to read at the wanted rate, and one more, so that
    nothing is lost with one worker. Values in `size` are checked, not chosen. Raises PlanError if they are too small,
    unless `file_bytes` is an estimate (`estimated`), which may be too high.
    """
    (limit, quota), vcpu = _memory(size), size.vcpu or fact("clouds", size.cloud, "cacheWorker")["vcpu"]
    high = size.high or fact("startup", "cache", "highWatermark")
    low = size.low or min(fact("startup", "cache", "lowWatermark"), high * fact("startup", "cache", "lowOfHigh"))
    if wrong := cache_problems(size):
        raise PlanError(*wrong)
    rate = _gbit_per_second(size.cloud, vcpu)
    needed = file_bytes * replicas * fact("startup", "cache", "headroom") / GIB
    for_bytes = math.ceil(needed / (quota * high))
    for_rate = math.ceil(read_gbit_per_second / rate)
    least = max(for_bytes, for_rate)
    doubts: tuple[str, ...] = ()
    if size.workers is not None and size.workers < least:
        why = (
            f"{size.workers} x {quota} GiB x {high:g} = {size.workers * quota * high:.0f} GiB, "
            f"but the cache must hold {needed:.0f} GiB"
        )
        if not estimated:
            raise PlanError(Problem("cache.workers", str(size.workers), why, f"write {least + 1}, or auto"))
        doubts = (f"cache.workers {size.workers}: {why}, by an estimate",)
    count = size.workers or least + 1
    reasons = (
        f"{needed:.0f} GiB / ({quota} GiB x {high:g}) = {for_bytes} workers, and one to spare",
        f"{count} workers x {rate:g} Gbit/s = {count * rate:g} Gbit/s",
    )
    return CachePlan(count, quota, limit, count * quota * high, count * rate, vcpu, high, low, reasons, doubts)


def cache_problems(size: CacheSize) -> list[Problem]:
    """What is wrong with a worker's memory, whatever the worker has to hold."""
    limit, quota = _memory(size)
    wrong = quota_problem(quota, limit)
    if wrong is None:
        return []
    key, gib = ("cache.memory", limit) if size.quota_gib is None else ("cache.quota", quota)
    return [Problem(key, f"{gib}Gi", f"a quota of {quota} GiB {wrong[0]}", "write another number of Gi")]


def _memory(size: CacheSize) -> tuple[int, int]:
    """A worker's memory, and how much of it weights may take, in GiB."""
    limit = size.limit_gib or fact("clouds", size.cloud, "cacheWorker")["memoryGib"]
    return limit, size.quota_gib or int(limit * fact("startup", "cache", "quotaOfLimit"))


def quota_problem(quota_gib: int, limit_gib: int) -> tuple[str, str] | None:
    """Why JindoCache refuses this quota in a worker with this much memory, and what to write instead."""
    if quota_gib < 1:
        return "holds nothing", "give 1 GiB or more"
    if quota_gib > limit_gib:
        # JindoCache checks the quota against the limit; its controller rewrites a request that is below the quota.
        return f"is over the limit of {limit_gib} GiB", "give less, or more memory"
    if quota_gib % 1024 == 0:
        return "JindoCache reads a whole number of TiB (`1Ti`) as bytes", "give another number of GiB"
    return None


def _gbit_per_second(cloud: str, vcpu: int) -> float:
    """Network rate of a pod with so many vCPU. A pod between two known sizes gets the rate of the smaller one; a pod
    below the smallest gets a proportional share."""
    rates = {int(size): rate for size, rate in fact("clouds", cloud, "networkGbitPerSecond").items()}
    below = [size for size in rates if size <= vcpu]
    smallest = min(rates)
    return rates[max(below)] if below else rates[smallest] * vcpu / smallest


def host(
    read_bytes: float, *, memory_gib: float | None = None, image_gib: float = 0, downloads: bool = False
) -> HostPlan:
    """What a node needs that reads `read_bytes` of weights. `downloads`: it copies the files to its own disk first."""
    read, shm = read_bytes / GIB, fact("startup", "host", "shmGib")
    reasons, holds = [], None
    if memory_gib is not None:
        room = (memory_gib - shm) * fact("startup", "host", "prefetchShareOfMemory")
        holds = read <= room
        reasons.append(
            f"the node reads {read:.0f} GiB; {memory_gib:g} GiB of memory minus {shm} for /dev/shm leave "
            f"{room:.0f} GiB of page cache" + ("" if holds else ": ranks will read files again")
        )
    ephemeral = image_gib + (read if downloads else 0)
    return HostPlan(read, shm, ephemeral, holds, tuple(reasons))
