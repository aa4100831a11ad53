"""What Fluid's controllers write into a status, and when. Pure: callers pass the time; `standins/fluid.py` writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Thing = dict[str, Any]

_MASTER_SECONDS = 0.5
_WORKERS_SECONDS = 1.0
_BUCKETS = Path("cloud") / "buckets"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_size(amount: float) -> str:
    """Formats bytes as Fluid does, such as `641.30GiB`."""
    unit = 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.2f}{_UNITS[unit]}"


def seconds(text: str) -> float:
    """A duration such as `1m30s` in seconds; 0 for none."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text))


def capacity(runtime: Thing, *, usable: bool = False) -> float:
    """Bytes that the workers can hold; with `usable`, before they start to evict."""
    levels = (runtime["spec"].get("tieredstore") or {}).get("levels") or [{"quota": "1Gi"}]  # Fluid's own default
    level = levels[0]
    gib = float(re.findall(r"\d+", str(level["quota"]))[0])
    return workers(runtime) * gib * 1024**3 * (float(level.get("high", "0.95")) if usable else 1.0)


def workers(runtime: Thing) -> int:
    """Number of workers that a JindoRuntime asks for."""
    return runtime["spec"].get("replicas", 1)


def runtime_status(runtime: Thing, age: float, fault: str | None) -> Thing:
    """The phases of a JindoRuntime whose setup began `age` seconds ago: first the master, then worker by worker."""
    wanted = workers(runtime)
    master = age >= _MASTER_SECONDS and fault != "stuck"
    share = min(max(age - _MASTER_SECONDS, 0.0) / _WORKERS_SECONDS, 1.0) if master else 0.0
    ready = int(wanted * min(share, {"failed": 0.0, "partial": 0.5}.get(fault or "", 1.0)))
    phase = "Ready" if ready == wanted else "PartialReady" if ready else "NotReady"
    return {
        "valueFile": f"{runtime['metadata']['name']}-jindofs-values",
        "masterPhase": "Ready" if master else "NotReady",
        "workerPhase": phase,
        "fusePhase": "Ready" if master else "NotReady",
        "desiredMasterNumberScheduled": 1,
        "currentMasterNumberScheduled": 1,
        "masterNumberReady": int(master),
        "desiredWorkerNumberScheduled": wanted,
        "currentWorkerNumberScheduled": wanted,
        "workerNumberReady": ready,
        "workerNumberAvailable": ready,
        "desiredFuseNumberScheduled": 0,
        "currentFuseNumberScheduled": 0,
        "fuseNumberReady": 0,
    }


def bound(dataset: Thing, runtime: Thing, *, failed: bool, now: str) -> Thing:
    """A Dataset's status when its runtime is up or has failed."""
    condition = {
        "type": "Ready",
        "status": "False" if failed else "True",
        "reason": "DatasetReady",
        "message": f"The ddc runtime is {'not ' if failed else ''}ready.",
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }
    if failed:
        return {"phase": "Failed", "conditions": [condition]}
    namespace, name = runtime["metadata"]["namespace"], runtime["metadata"]["name"]
    by = {"name": name, "namespace": namespace, "category": "Accelerate", "type": "jindo", "masterReplicas": 1}
    return {
        "phase": "Bound",
        "conditions": [condition],
        "runtimes": [by],
        "mounts": dataset["spec"]["mounts"],
        "ufsTotal": "[Calculating]",
        "fileNum": "[Calculating]",
    }


def cache_states(runtime: Thing, cached: float, total: int) -> dict[str, str]:
    """What the runtime reports about its cache and the bucket."""
    share = min(cached / total, 1.0) if total else 0.0
    return {
        "cacheCapacity": bytes_size(capacity(runtime)),
        "cached": bytes_size(cached),
        "cachedPercentage": f"{100 * share:.1f}%",
    }


def bucket_bytes(folder: Path, dataset: Thing) -> int:
    """Bytes under a Dataset's mount point, whatever size anybody planned with. Holes in sparse files count."""
    bucket, _, prefix = dataset["spec"]["mounts"][0]["mountPoint"].partition("://")[2].partition("/")
    return sum(file.stat().st_size for file in (folder / _BUCKETS / bucket / prefix).rglob("*") if file.is_file())


@dataclass
class Loading:
    """A running load: its start, its duration, and how many bytes the cache can take in."""

    begun: float
    seconds: float
    bytes: float

    def progress(self, now: float, fault: str | None) -> tuple[float, bool]:
        """The share that is loaded at time `now`, and whether the load has ended, successfully or not.

        Both come of one `now`: a load that ends between two readings would stay short for ever.
        """
        most = {"failed": 0.25, "partial": 0.5, "stuck": 0.25}.get(fault or "", 1.0)
        lasted = now - self.begun
        ended = lasted >= self.seconds
        return (most if ended else min(max(lasted, 0.0) / self.seconds, most)), ended and fault != "stuck"


def load_ended(*, failed: bool, lasted: float, now: str) -> Thing:
    """A DataLoad's status at its end; the condition is that of its Job."""
    reason, message = (
        ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        if failed
        else ("CompletionsReached", "Reached expected number of succeeded pods")
    )
    condition = {
        "type": "Failed" if failed else "Complete",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastProbeTime": now,
        "lastTransitionTime": now,
    }
    return {"phase": condition["type"], "duration": f"{lasted:.0f}s", "conditions": [condition]}
