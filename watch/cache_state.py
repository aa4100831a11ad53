"""Whether a model's cache holds what its bucket holds, as far as Fluid's status says: what a complete load lacks, and
whether the next `up` must load anew.

The bucket's own bytes decide. What the plan counts with is an estimate for most models, and refused for ever what was
whole: it only raises a doubt. A DataLoad runs once, and Pulumi sees no change where one failed or what it loaded was
lost. So the program asks the cluster at its start, and counts the attempt up where another is needed. `attempt`,
`shortfall` and `doubt` are pure; `CacheLook` reads. Not here: waiting for a load (`progress`), and the resources
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
# Cache states are a sync period old at most, as is what they are computed from; one more for a controller that is busy.
_SYNC_PERIODS = 3

# Only a new runtime counts again (metadata.go of fluid v1.0.8), so this has to be among the ways out.
_COUNTED_ONCE = "; where the bucket has changed since its cache was made, `pulumi up --replace` the JindoRuntime's URN"

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """A size as Fluid writes it (`641.30GiB`), and the bytes that it can stand for."""

    text: str
    least: float
    most: float


def read_size(text: str | None) -> Size | None:
    """The size that Fluid's `text` is; None for what is no size, such as `[Calculating]`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]i)?B", text or "")
    if not found or text is None:
        return None
    unit, amount = _UNITS[f"{found[2] or ''}B"], float(found[1])
    return Size(text, max(amount - _ROUNDED, 0.0) * unit, (amount + _ROUNDED) * unit)


@dataclass(frozen=True)
class Sizes:
    """What is cached, what the bucket holds and what the workers can hold; None where Fluid does not say."""

    cached: Size | None
    there: Size | None
    room: Size | None

    @classmethod
    def of(cls, dataset: Object | None) -> Sizes:
        """Those of a Dataset."""
        status = (dataset or {}).get("status") or {}
        states = status.get("cacheStates") or {}
        return cls(*map(read_size, (states.get("cached"), status.get("ufsTotal"), states.get("cacheCapacity"))))

    @property
    def known(self) -> bool:
        """Whether the cache can be told whole from short."""
        return self.cached is not None and (self.there is not None or self.cached.most < 1)


def shortfall(dataset: Object | None) -> str | None:
    """What a complete load's cache lacks of the bucket's bytes, in one line; None for nothing, or unknown."""
    sizes = Sizes.of(dataset)
    cached, there, room = sizes.cached, sizes.there, sizes.room
    said = "Fluid calls the load complete, but"
    if there is not None and max(there.most, cached.most if cached else 0) < 1:
        return f"{said} the bucket held {there.text} there: look at what was synced, and at the prefix{_COUNTED_ONCE}"
    if cached is None or cached.most >= (1 if there is None else there.least):
        return None
    lacking = f"{said} {cached.text} of the bucket's {there.text if there else 'unknown bytes'} are cached"
    if there is not None and room is not None and room.most < there.least:
        return f"{lacking}, for the workers hold {room.text}: write more cache.workers"
    name = (dataset or {}).get("metadata", {}).get("name")
    look = f"look at `kubectl describe dataset {name}` and at its workers; the next `up` loads anew"
    return f"{lacking}: {look}{_COUNTED_ONCE}"


def doubt(dataset: Object | None, file_bytes: int) -> str | None:
    """What is strange about the bucket, in one line: it holds less than the `file_bytes` that the plan counts with."""
    there = Sizes.of(dataset).there
    if there is None or there.most >= file_bytes:
        return None
    return (
        f"the bucket holds {there.text}, the plan counts with {file_bytes / GIB:.2f}GiB: look at what was synced, or "
        "write the model's fileBytes in modelserve:catalog.models if that is all of it"
    )


def attempt(load: Object | None, dataset: Object | None, settled: bool = True) -> int:
    """Which attempt the DataLoad is to be: the live one, or the next where that one failed or its cache lacks files.

    `settled` false: it ended so lately that the cache's state may still be the one before.
    """
    if load is None:
        return 1
    annotations, phase = load["metadata"].get("annotations") or {}, (load.get("status") or {}).get("phase")
    live = int(found) if (found := annotations.get(ATTEMPT, "1")).isdigit() else 1
    lost = settled and phase == "Complete" and shortfall(dataset) is not None
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

    def attempt(self, name: str) -> int:
        """Which attempt the load of the cache called `name` is to be; 1 where the cluster does not say."""
        load = self._read("dataloads", name)
        since = ended_since(load, datetime.now(timezone.utc))
        settled = since is None or since >= self._patience
        return attempt(load, self._read("datasets", name) if load else None, settled)

    def shortfall(self, name: str, file_bytes: int) -> Callable[[], Awaitable[str | None]]:
        """Asks what the complete load of `name` lacks, again until it lacks nothing or patience ends.

        Warns where that stays unknown, and where the bucket holds less than the plan's `file_bytes`.
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
