"""Whether a model's cache holds everything in its bucket, by Fluid's status: what a complete load lacks, and whether
the next `up` must load again.

The bytes in the bucket decide. The plan's figure is an estimate for most models and would refuse complete caches, so it
only causes a warning. A DataLoad runs once, and Pulumi sees no change if it failed or if what it loaded was lost. So
the program asks the cluster when it starts, and raises the attempt if another load is needed. `attempt`, `shortfall`
and `doubt` are pure; `CacheReader` reads the cluster. Not here: waiting for a load (`progress`), and the resources
(`components.weights.fluid_cache`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pulumi

from components.weights.fluid_cache import API_VERSION, ATTEMPT
from planning.catalog import fact
from planning.units import GIB
from watch import client

_UNITS = {unit: 1024**power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))}
# Fluid writes two decimals.
_ROUNDED = 0.005
_PERIOD_SECONDS = 2.0
# A cache state is at most one sync period old, and so is its input; the third period is for a busy controller.
_SYNC_PERIODS = 3

# Only a new runtime counts the bucket's bytes again (metadata.go of fluid v1.0.8), so the message offers this too.
_COUNTED_ONCE = "; if the bucket has changed since its cache was created, `pulumi up --replace` the JindoRuntime's URN"

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """A size as Fluid writes it (`641.30GiB`), and the range of bytes that it can mean."""

    text: str
    least: float
    most: float


def read_size(text: str | None) -> Size | None:
    """The size in Fluid's `text`; None for a text that is not a size, such as `[Calculating]`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]i)?B", text or "")
    if not match or text is None:
        return None
    unit, amount = _UNITS[f"{match[2] or ''}B"], float(match[1])
    return Size(text, max(amount - _ROUNDED, 0.0) * unit, (amount + _ROUNDED) * unit)


@dataclass(frozen=True)
class Sizes:
    """What is cached, what the bucket holds and what the workers can hold; None if Fluid does not say."""

    cached: Size | None
    there: Size | None
    room: Size | None

    @classmethod
    def of(cls, dataset: Object | None) -> Sizes:
        """The sizes in a Dataset's status."""
        status = (dataset or {}).get("status") or {}
        states = status.get("cacheStates") or {}
        return cls(*map(read_size, (states.get("cached"), status.get("ufsTotal"), states.get("cacheCapacity"))))

    @property
    def known(self) -> bool:
        """Whether Fluid says enough to tell a complete cache from an incomplete one."""
        return self.cached is not None and (self.there is not None or self.cached.most < 1)


def shortfall(dataset: Object | None) -> str | None:
    """What a complete load's cache lacks of the bucket's bytes, in one line; None if nothing is missing or unknown."""
    sizes = Sizes.of(dataset)
    cached, there, room = sizes.cached, sizes.there, sizes.room
    but = "Fluid calls the load complete, but"
    if there is not None and max(there.most, cached.most if cached else 0) < 1:
        return f"{but} the bucket held {there.text} there: look at what was synced, and at the prefix{_COUNTED_ONCE}"
    if cached is None or cached.most >= (1 if there is None else there.least):
        return None
    lacking = f"{but} {cached.text} of the bucket's {there.text if there else 'unknown bytes'} are cached"
    if there is not None and room is not None and room.most < there.least:
        return f"{lacking}, because the workers hold {room.text}: write more cache.workers"
    name = (dataset or {}).get("metadata", {}).get("name")
    look = f"look at `kubectl describe dataset {name}` and at its workers; the next `up` loads again"
    return f"{lacking}: {look}{_COUNTED_ONCE}"


def doubt(dataset: Object | None, file_bytes: int) -> str | None:
    """A warning in one line if the bucket holds less than the plan's `file_bytes`; else None."""
    there = Sizes.of(dataset).there
    if there is None or there.most >= file_bytes:
        return None
    return (
        f"the bucket holds {there.text}, the plan counts with {file_bytes / GIB:.2f}GiB: look at what was synced, or "
        "write the model's fileBytes in modelserve:catalog.models if that is all of it"
    )


def attempt(load: Object | None, dataset: Object | None, settled: bool = True) -> int:
    """The DataLoad's attempt: the live one, or the next if the live one failed or its cache lacks files.

    `settled` false means that it ended so recently that the cache's state may be the previous one.
    """
    if load is None:
        return 1
    annotations, phase = load["metadata"].get("annotations") or {}, (load.get("status") or {}).get("phase")
    live = int(number) if (number := annotations.get(ATTEMPT, "1")).isdigit() else 1
    lost = settled and phase == "Complete" and shortfall(dataset) is not None
    return live + 1 if phase == "Failed" or lost else live


def ended_since(load: Object | None, now: datetime) -> float | None:
    """Seconds since the load ended; None if it does not say."""
    ends = [
        condition.get("lastTransitionTime")
        for condition in ((load or {}).get("status") or {}).get("conditions") or []
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed")
    ]
    if not ends or not ends[-1]:
        return None
    # Python 3.10 does not parse the Z.
    return (now - datetime.fromisoformat(ends[-1].replace("Z", "+00:00"))).total_seconds()


class CacheReader:
    """Reads the caches of one namespace. A load that looks incomplete has `patience_seconds` to look complete."""

    def __init__(
        self, context: str, namespace: str, kubeconfig: str | None, patience_seconds: float | None = None
    ) -> None:
        self._context, self._namespace, self._kubeconfig = context, namespace, kubeconfig
        sync = fact("fluid", "fluid", "syncSeconds")
        self._patience = _SYNC_PERIODS * sync if patience_seconds is None else patience_seconds
        self._client: Any = None

    def attempt(self, name: str) -> int:
        """The attempt of the load of the cache called `name`; 1 if the cluster does not say."""
        load = self._read("dataloads", name)
        since = ended_since(load, datetime.now(timezone.utc))
        settled = since is None or since >= self._patience
        return attempt(load, self._read("datasets", name) if load else None, settled)

    def shortfall(self, name: str, file_bytes: int) -> Callable[[], Awaitable[str | None]]:
        """Asks what the complete load of `name` lacks, until it lacks nothing or patience runs out.

        Warns if the answer stays unknown, and if the bucket holds less than the plan's `file_bytes`.
        """

        async def ask() -> str | None:
            waited = 0.0
            while True:
                dataset = await asyncio.to_thread(self._read, "datasets", name)
                lacking, known = shortfall(dataset), Sizes.of(dataset).known
                if dataset is None or (known and lacking is None) or waited >= self._patience:
                    break
                await asyncio.sleep(_PERIOD_SECONDS)
                waited += _PERIOD_SECONDS
            if lacking is None and not known:
                why = "no answer" if dataset is None else "Fluid does not say what the bucket holds"
                pulumi.log.warn(f"{name}: whether the cache holds the whole model is unknown: {why}")
            elif lacking is None and (strange := doubt(dataset, file_bytes)):
                pulumi.log.warn(f"{name}: {strange}")
            return lacking

        return ask

    def _read(self, plural: str, name: str) -> Object | None:
        from kubernetes.client import CustomObjectsApi

        group, _, version = API_VERSION.partition("/")
        try:
            if self._client is None:
                self._client = CustomObjectsApi(client.api_client(self._context, self._kubeconfig))
            return self._client.get_namespaced_custom_object(group, version, self._namespace, plural, name)
        except client.errors():
            return None
