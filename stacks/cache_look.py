"""Whether a model's cache holds the model, as far as Fluid's status says: what a complete load lacks, and whether the
next `up` must load anew.

A DataLoad runs once, and Pulumi sees no change where one failed or what it loaded was lost. So the program asks the
cluster at its start, and counts the attempt up where another is needed. `attempt` and `shortfall` are pure; `CacheLook`
reads. Not here: waiting for a load (`progress`), and the resources (`components.fluid_cache`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import pulumi

from components.fluid_cache import API_VERSION, ATTEMPT
from planning.catalog import fact
from planning.units import GIB
from stacks.cluster import api_client

_UNITS = {unit: 1024**power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))}
# Fluid writes two decimals.
_ROUNDED = 0.005
_TIMEOUT_SECONDS = (3, 10)
_PERIOD_SECONDS = 2.0
# Cache states are a sync period old at most, as is what they are computed from; one more for a controller that is busy.
_SYNC_PERIODS = 3

Object = Mapping[str, Any]


def most_bytes(size: str | None) -> float | None:
    """The most bytes that a size as Fluid writes it (`641.30GiB`) can stand for; None for what is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]i)?B", size or "")
    return (float(found[1]) + _ROUNDED) * _UNITS[f"{found[2] or ''}B"] if found else None


def shortfall(dataset: Object | None, file_bytes: int) -> str | None:
    """What a complete load's cache lacks of the model's `file_bytes`, in one line; None for nothing, or unknown."""
    status = (dataset or {}).get("status") or {}
    states, name = status.get("cacheStates") or {}, (dataset or {}).get("metadata", {}).get("name")
    cached, there, room = (
        most_bytes(size) for size in (states.get("cached"), status.get("ufsTotal"), states.get("cacheCapacity"))
    )
    if cached is None or cached >= file_bytes:
        return None
    lacking = (
        f"Fluid calls the load complete, but {states['cached']} of the model's {file_bytes / GIB:.2f}GiB are cached"
    )
    if there is not None and there < file_bytes:
        return f"{lacking}, for the bucket holds {status['ufsTotal']} there: look at what was synced, and at the prefix"
    if room is not None and room < file_bytes:
        return f"{lacking}, for the workers hold {states['cacheCapacity']}: write more cache.workers"
    return f"{lacking}: look at `kubectl describe dataset {name}` and at its workers; the next `up` loads anew"


def attempt(load: Object | None, dataset: Object | None, file_bytes: int, settled: bool = True) -> int:
    """Which attempt the DataLoad is to be: the live one, or the next where that one failed or its cache lacks files.

    `settled` false: it ended so lately that the cache's state may still be the one before.
    """
    if load is None:
        return 1
    annotations, phase = load["metadata"].get("annotations") or {}, (load.get("status") or {}).get("phase")
    live = int(found) if (found := annotations.get(ATTEMPT, "1")).isdigit() else 1
    lost = settled and phase == "Complete" and shortfall(dataset, file_bytes) is not None
    return live + 1 if phase == "Failed" or lost else live


def ended_since(load: Object | None, now: datetime) -> float | None:
    """Seconds since the load ended, None where it does not say."""
    ends = [
        condition.get("lastTransitionTime")
        for condition in ((load or {}).get("status") or {}).get("conditions") or []
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed")
    ]
    if not ends or not ends[-1]:
        return None
    # Python 3.10 does not read the Z.
    return (now - datetime.fromisoformat(ends[-1].replace("Z", "+00:00"))).total_seconds()


class CacheLook:
    """Reads the caches of one namespace. A load that looks short has `patience_seconds` to look whole."""

    def __init__(
        self, context: str, namespace: str, kubeconfig: str | None, patience_seconds: float | None = None
    ) -> None:
        self._context, self._namespace, self._kubeconfig = context, namespace, kubeconfig
        sync = fact("fluid", "fluid", "syncSeconds")
        self._patience = _SYNC_PERIODS * sync if patience_seconds is None else patience_seconds
        self._client: Any = None

    def attempt(self, name: str, file_bytes: int) -> int:
        """Which attempt the load of the cache called `name` is to be; 1 where the cluster does not say."""
        load = self._read("dataloads", name)
        since = ended_since(load, datetime.now(timezone.utc))
        settled = since is None or since >= self._patience
        return attempt(load, self._read("datasets", name) if load else None, file_bytes, settled)

    def shortfall(self, name: str, file_bytes: int) -> Callable[[], Awaitable[str | None]]:
        """Asks what the complete load of `name` lacks, again until it lacks nothing or patience ends."""

        async def ask() -> str | None:
            waited = 0.0
            while True:
                dataset = await asyncio.to_thread(self._read, "datasets", name)
                lacking = shortfall(dataset, file_bytes)
                if dataset is None:
                    pulumi.log.warn(f"{name}: whether the cache holds the whole model is unknown: no answer")
                if lacking is None or waited >= self._patience:
                    return lacking
                await asyncio.sleep(_PERIOD_SECONDS)
                waited += _PERIOD_SECONDS

        return ask

    def _read(self, plural: str, name: str) -> Object | None:
        import urllib3
        from kubernetes import client, config

        group, _, version = API_VERSION.partition("/")
        try:
            if self._client is None:
                self._client = client.CustomObjectsApi(api_client(self._context, self._kubeconfig))
            return self._client.get_namespaced_custom_object(
                group, version, self._namespace, plural, name, _request_timeout=_TIMEOUT_SECONDS
            )
        except (client.ApiException, config.ConfigException, urllib3.exceptions.HTTPError):
            return None
