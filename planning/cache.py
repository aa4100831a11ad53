"""How large a weight cache must be, and what a node's memory and disk must hold. Bytes in, whole workers out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planning.catalog import fact
from planning.errors import PlanError

GIB = 1024**3


@dataclass(frozen=True)
class CachePlan:
    """Workers of a distributed cache. `quota_gib` is what one may hold, `usable_gib` what all do before evicting."""

    workers: int
    quota_gib: int
    limit_gib: int
    usable_gib: float
    gbit_per_second: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class HostPlan:
    """One node's memory and disk, in GiB. `page_cache_holds` is None where the node's memory is not known."""

    read_gib: float
    shm_gib: int
    ephemeral_gib: float
    page_cache_holds: bool | None
    reasons: tuple[str, ...]


def cache(
    file_bytes: int,
    *,
    replicas: int = 1,
    read_gbit_per_second: float = 0,
    workers: int | None = None,
    limit_gib: int | None = None,
) -> CachePlan:
    """Workers that hold `file_bytes` `replicas` times and read at the wanted rate, one more so that losing one loses
    nothing. `workers` and `limit_gib` given by the user are checked instead. Raises PlanError where they are too small.
    """
    shape = fact("clouds", "acs", "cacheWorker")
    limit = limit_gib or shape["memoryGib"]
    quota = int(limit * fact("startup", "cache", "quotaOfLimit"))
    high, headroom = fact("startup", "cache", "highWatermark"), fact("startup", "cache", "headroom")
    needed = file_bytes * replicas * headroom / GIB
    for_bytes = math.ceil(needed / (quota * high))
    for_rate = math.ceil(read_gbit_per_second / shape["gbitPerSecond"])
    least = max(for_bytes, for_rate)
    if workers is not None and workers < least:
        raise PlanError(
            f"cache.workers {workers}: {workers} x {quota} GiB x {high:g} = {workers * quota * high:.0f} "
            f"GiB, but {needed:.0f} GiB are to be held; write {least + 1}, or auto"
        )
    count = workers or least + 1
    reasons = (
        f"{needed:.0f} GiB / ({quota} GiB x {high:g}) = {for_bytes} workers, one more to lose",
        f"{count} workers x {shape['gbitPerSecond']} Gbit/s = {count * shape['gbitPerSecond']} Gbit/s",
    )
    return CachePlan(count, quota, limit, count * quota * high, count * shape["gbitPerSecond"], reasons)


def host(
    read_bytes: float, *, memory_gib: float | None = None, image_gib: float = 0, downloads: bool = False
) -> HostPlan:
    """What a node that reads `read_bytes` of weights needs. `downloads`: the files land on its own disk first."""
    read, shm = read_bytes / GIB, fact("startup", "host", "shmGib")
    reasons, holds = [], None
    if memory_gib is not None:
        room = (memory_gib - shm) * fact("startup", "host", "prefetchShareOfMemory")
        holds = read <= room
        reasons.append(
            f"the node reads {read:.0f} GiB; {memory_gib:g} GiB of memory less {shm} of /dev/shm leave "
            f"{room:.0f} GiB of page cache" + ("" if holds else ": ranks will read files again")
        )
    ephemeral = image_gib + (read if downloads else 0)
    return HostPlan(read, shm, ephemeral, holds, tuple(reasons))
