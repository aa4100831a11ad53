"""What a stack costs, from the user's prices. The program knows no price: what the user leaves out stays None."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from planning.problems import Problem
from planning.units import GIB

HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Prices:
    """The stack file's prices in `currency` (any name): one GPU for an hour, one GiB of bucket for a month."""

    currency: str | None = None
    per_gpu_hour: float | None = None
    per_cache_worker_hour: float | None = None
    per_gib_month: float | None = None
    as_of: str | None = None


@dataclass(frozen=True)
class Cost:
    """Costs in `currency`; None is unknown. `kept_per_hour` is for the weights, which stay and bill after a destroy.
    `scheduled_per_month` is None without a schedule too."""

    per_hour: float | None
    most_per_hour: float | None
    kept_per_hour: float | None
    cold_start: float | None
    per_month: float | None
    scheduled_per_month: float | None
    currency: str | None
    as_of: str | None


def problems(prices: Prices) -> list[Problem]:
    """Why prices cannot be used: no date, no currency, or a price below zero."""
    wrong: list[Problem] = []
    prices_by_key = {
        "perGpuHour": prices.per_gpu_hour,
        "perCacheWorkerHour": prices.per_cache_worker_hour,
        "perGibMonth": prices.per_gib_month,
    }
    stated = {key: price for key, price in prices_by_key.items() if price is not None}
    for name, value in stated.items():
        if not 0 <= value < math.inf:
            why = "is below zero" if value < 0 else "is not a price"
            wrong.append(Problem(f"prices.{name}", f"{value:g}", why, "write what it costs, or leave it out"))
    if stated and not prices.as_of:
        why = "is missing; prices change, so they need a date"
        wrong.append(Problem("prices.asOf", "", why, "write the day you read them, such as 2026-11-01"))
    if stated and not prices.currency:
        wrong.append(Problem("prices.currency", "", "is missing", "write one such as CNY"))
    if prices.as_of:
        try:
            datetime.date.fromisoformat(prices.as_of)
        except ValueError:
            wrong.append(Problem("prices.asOf", prices.as_of, "is not a day", "write it as 2026-11-01"))
    return wrong


def cost(
    prices: Prices,
    gpus: int,
    *,
    replicas: int = 1,
    most_replicas: int | None = None,
    cache_workers: int = 0,
    kept_bytes: int | None = None,
    start_seconds: float = 0,
    share: float | None = None,
) -> Cost:
    """The cost of `replicas` with `gpus` GPUs each, and of a cache, whose size does not depend on the replicas. `share`
    is the part of the time in which a schedule runs the replicas; the cache stays."""
    workers = 0.0 if not cache_workers else _times(prices.per_cache_worker_hour, cache_workers)

    def hourly(copies: float) -> float | None:
        engines = _times(prices.per_gpu_hour, gpus * copies)
        return None if engines is None or workers is None else engines + workers

    kept = None if kept_bytes is None else _times(prices.per_gib_month, kept_bytes / GIB / HOURS_A_MONTH)
    return Cost(
        hourly(replicas),
        hourly(most_replicas or replicas),
        kept,
        _times(prices.per_gpu_hour, gpus * start_seconds / 3600),
        _times(hourly(replicas), HOURS_A_MONTH),
        None if share is None else _times(hourly(replicas * share), HOURS_A_MONTH),
        prices.currency,
        prices.as_of,
    )


def _times(price: float | None, amount: float) -> float | None:
    return None if price is None else price * amount
