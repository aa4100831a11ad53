"""GPUs as the driver reports them: the memory that CUDA can use, which is less than the label says."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from planning.catalog import entries, overruled
from planning.problems import PlanError, Problem


@dataclass(frozen=True)
class Speeds:
    """What a GPU does at most. Bytes a second of its memory and, one way, of its link to the others of its node;
    operations a second, without sparsity, by kind of number (bf16, fp8, int8, fp4)."""

    memory: float
    link: float
    peaks: tuple[tuple[str, float], ...]

    def peak(self, kind: str) -> float:
        """Operations a second; those of bf16, which every kind is turned into where there is nothing faster."""
        peaks = dict(self.peaks)
        return peaks.get(kind, peaks["bf16"])


@dataclass(frozen=True)
class Gpu:
    """One GPU. `usable_gib` is the total that CUDA reports; `link` (nvlink, pcie) joins the GPUs of a node; `speeds` is
    None where they are unknown."""

    name: str
    usable_gib: float
    link: str
    source: str
    host_gib_per_second: float = 25.0
    speeds: Speeds | None = None

    @property
    def family(self) -> str:
        """`hopper`, `blackwell` or `other`, which kernels distinguish, read from the name; empty if unknown."""
        words = re.split(r"[^A-Z0-9]+", self.name.upper())
        families = entries("vllm")["gpuFamilies"]
        named = (key for key, entry in families.items() if any(_names(name, words) for name in entry["value"]))
        return next(named, "")


def find(name: str, more: Mapping[str, Mapping[str, Any]] | None = None) -> Gpu:
    """The GPU called `name`: a name or an alias of the catalog (`H20-96`), or `NAME:GIB` with the usable memory.

    `more` adds GPUs to the catalog or overrides its facts, under the catalog's keys. Raises PlanError.
    """
    product, colon, memory = name.partition(":")
    catalog = {
        alias.lower(): key
        for key, entry in entries("gpus")["gpus"].items()
        for alias in (key, *entry["value"]["alsoNamed"])
    }
    if not colon and (described := overruled("gpus", product, more or {})):
        return _from_facts(described[0], described[1], catalog.get(described[0].lower(), described[0]))
    key = catalog.get(product.lower())
    if colon:
        usable = _gib(name, memory)
        # Once the memory is given, the name only tells the link, which is the same for all sizes of a product. An
        # unknown product counts as NVLink, whose communicators need more memory.
        same = key or next((k for k in catalog.values() if _product(k) == _product(product)), None)
        usual: dict[str, Any] = {"link": "nvlink", "hostGibPerSecond": 25.0}
        like = entries("gpus")["gpus"][same]["value"] if same else usual
        speeds = _speeds(_listed_speeds(same)) if same else None
        return Gpu(product, usable, like["link"], "usable memory as given", like["hostGibPerSecond"], speeds)
    facts = entries("gpus")["gpus"][key]["value"] if key else None
    if key is None or facts is None:
        plannable = {name: entry["value"]["usableGib"] is not None for name, entry in entries("gpus")["gpus"].items()}
        near = difflib.get_close_matches(product.lower(), catalog, n=3, cutoff=0.5)
        names = [name for name in dict.fromkeys(catalog[n] for n in near) if plannable[name]]
        known = ", ".join(names or [name for name, has_memory in plannable.items() if has_memory])
        instead = f"write one of {known}, or NAME:GIB with the usable memory that the driver reports"
        raise PlanError(Problem("GPU", name, "is not in the catalog", instead))
    source = entries("gpus")["gpus"][key]["source"]
    if facts["usableGib"] is None:
        why = f"its usable memory is not in the catalog ({source})"
        raise PlanError(Problem("GPU", name, why, f"write {key}:GIB with what the driver reports"))
    return Gpu(key, facts["usableGib"], facts["link"], source, facts["hostGibPerSecond"], _speeds(_listed_speeds(key)))


def _from_facts(name: str, facts: Mapping[str, Any], listed: str) -> Gpu:
    """A GPU of the stack file, `listed` its name in the catalog. Raises PlanError with the facts that are missing."""
    if missing := [key for key in ("usableGib", "link") if facts.get(key) is None]:
        why = f"the plan also needs {', '.join(missing)}"
        raise PlanError(Problem(f"catalog.gpus.{name}", "", why, "add them"))
    given = facts.get("speeds")
    speeds = {**(_listed_speeds(listed) or {}), **(given or {})}
    missing = [key for key in ("memoryGbPerSecond", "linkGbPerSecond", "tflops") if speeds.get(key) is None]
    missing += ["tflops.bf16"] if not missing and speeds["tflops"].get("bf16") is None else []
    if given is not None and missing:
        why = f"facts missing to plan tokens a second: {', '.join(missing)}"
        raise PlanError(Problem(f"catalog.gpus.{name}.speeds", "", why, "add them, or leave speeds out"))
    return Gpu(
        name,
        facts["usableGib"],
        facts["link"],
        "the stack file",
        facts.get("hostGibPerSecond", 25.0),
        None if missing else _speeds(speeds),
    )


def _listed_speeds(name: str) -> Mapping[str, Any] | None:
    entry = entries("gpus")["speeds"].get(name)
    return entry and entry["value"]


def _speeds(facts: Mapping[str, Any] | None) -> Speeds | None:
    if facts is None:
        return None
    peaks = tuple((kind, tera * 1e12) for kind, tera in facts["tflops"].items() if tera)
    return Speeds(facts["memoryGbPerSecond"] * 1e9, facts["linkGbPerSecond"] * 1e9, peaks)


def _names(product: str, words: Iterable[str]) -> bool:
    """Whether a device's name contains the product or a variant of it: RTX4090, L40S, H20-3E, but not H200 for H20."""
    return any(re.fullmatch(rf"{product}(?:[A-Z].*)?" if product[-1].isdigit() else f"{product}.*", w) for w in words)


def _product(name: str) -> str:
    """`NVIDIA H100 80GB HBM3` and `H100-80` are both `h100`."""
    words = re.sub(r"nvidia|geforce|tesla|blackwell|server edition|hbm\d*e?|pcie|sxm\d?|\b\d+ ?gb\b", " ", name.lower())
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-\d+$", "", words.strip(" -")))


def _gib(name: str, memory: str) -> float:
    try:
        value = float(memory)
    except ValueError:
        value = 0.0
    if not (0 < value < math.inf):
        why = f"{memory or 'nothing'} is not a memory size"
        raise PlanError(Problem("GPU", name, why, "write GiB as in L40S:44.42"))
    return value
