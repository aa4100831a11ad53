"""GPUs as the driver reports them: the memory that CUDA can give, which is less than the label says."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from planning.catalog import entries
from planning.errors import PlanError


@dataclass(frozen=True)
class Gpu:
    """One GPU. `usable_gib` is CUDA's total; `link` joins the GPUs of a node (nvlink, pcie)."""

    name: str
    usable_gib: float
    link: str
    source: str
    host_gib_per_second: float = 25.0


def find(name: str) -> Gpu:
    """`H20-96` of the catalog, an alias of one, or `NAME:GIB` with the usable memory. Raises PlanError."""
    product, colon, memory = name.partition(":")
    catalog = {alias.lower(): key for key, entry in entries("gpus")["gpus"].items()
               for alias in (key, *entry["value"]["aliases"])}
    key = catalog.get(product.lower())
    facts = entries("gpus")["gpus"][key]["value"] if key else None
    if colon:
        usable = _gib(name, memory)
        # A product that nobody has described is taken as NVLink, whose communicators need more memory.
        link, host = (facts["link"], facts["hostGibPerSecond"]) if facts else ("nvlink", 25.0)
        return Gpu(product, usable, link, "usable memory as given", host)
    if key is None or facts is None:
        near = difflib.get_close_matches(product.lower(), catalog, n=3, cutoff=0.5)
        known = ", ".join(dict.fromkeys(catalog[n] for n in near)) or ", ".join(entries("gpus")["gpus"])
        raise PlanError(f"GPU {name}: unknown to the catalog; write one of {known}, or NAME:GIB with the usable memory "
                        "that the driver reports")
    if facts["usableGib"] is None:
        raise PlanError(f"GPU {name}: its usable memory is not in the catalog ({entries('gpus')['gpus'][key]['source']}); "
                        f"write {key}:GIB with what the driver reports")
    return Gpu(key, facts["usableGib"], facts["link"], entries("gpus")["gpus"][key]["source"], facts["hostGibPerSecond"])


def _gib(name: str, memory: str) -> float:
    try:
        value = float(memory)
    except ValueError:
        value = 0.0
    if not (0 < value < math.inf):
        raise PlanError(f"GPU {name}: {memory or 'nothing'} is not a memory size; write GiB as in L40S:44.42")
    return value
