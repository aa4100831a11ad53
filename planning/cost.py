"""What a stack costs, from prices that the user gives. No price is known here: what is not given stays None."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from planning.problems import Problem
from planning.units import GIB

HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Prices:
    """Prices of the stack file: `currency` (any name), of one GPU an hour, of one GiB of bucket a month."""

    currency: str | None = None
    per_gpu_hour: float | None = None
    per_cache_worker_hour: float | None = None
    per_gib_month: float | None = None
    as_of: str | None = None


@dataclass(frozen=True)
class Cost:
    """Costs in `currency`; None is unknown. `kept_per_hour` goes on after a destroy: the weights in the bucket."""

    per_hour: float | None
    most_per_hour: float | None
    kept_per_hour: float | None
    cold_start: float | None
    currency: str | None
    as_of: str | None


def problems(prices: Prices) -> list[Problem]:
    """Why prices cannot be used: one without a date or currency, one below zero."""
    found: list[Problem] = []
    given = {
        "perGpuHour": prices.per_gpu_hour,
        "perCacheWorkerHour": prices.per_cache_worker_hour,
        "perGibMonth": prices.per_gib_month,
    }
    stated = {name: value for name, value in given.items() if value is not None}
    for name, value in stated.items():
        if not 0 <= value < math.inf:
            why = "is below zero" if value < 0 else "is no price"
            found.append(Problem(f"prices.{name}", f"{value:g}", why, "write what it costs, or leave it out"))
    if stated and not prices.as_of:
        why = "is missing, and a price without its date cannot be judged"
        found.append(Problem("prices.asOf", "", why, "write the day it was read, such as 2026-11-01"))
    if stated and not prices.currency:
        found.append(Problem("prices.currency", "", "is missing", "write one such as CNY"))
    if prices.as_of:
        try:
            datetime.date.fromisoformat(prices.as_of)
        except ValueError:
            found.append(Problem("prices.asOf", prices.as_of, "is not a day", "write it as 2026-11-01"))
    return found


def cost(
    prices: Prices,
    gpus: int,
    *,
    replicas: int = 1,
    most_replicas: int | None = None,
    cache_workers: int = 0,
    kept_bytes: int | None = None,
    start_seconds: float = 0,
) -> Cost:
    """The cost of `replicas` of `gpus` GPUs each, with a cache beside them that does not scale."""
    workers = 0.0 if not cache_workers else _times(prices.per_cache_worker_hour, cache_workers)

    def hourly(copies: int) -> float | None:
        engines = _times(prices.per_gpu_hour, gpus * copies)
        return None if engines is None or workers is None else engines + workers

    kept = None if kept_bytes is None else _times(prices.per_gib_month, kept_bytes / GIB / HOURS_A_MONTH)
    return Cost(
        hourly(replicas),
        hourly(most_replicas or replicas),
        kept,
        _times(prices.per_gpu_hour, gpus * start_seconds / 3600),
        prices.currency,
        prices.as_of,
    )


def _times(price: float | None, amount: float) -> float | None:
    return None if price is None else price * amount
