"""What a vLLM release does with memory, as its source says. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from planning.catalog import fact
from planning.gpus import Gpu
from planning.problems import PlanError, Problem


@cache
def release_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a release, at most three, to sort releases by; () if there are none.

    A candidate, a nightly build and a repackaging (`0.9.0rc1`, `0.9.0.dev7+g1a2b`, `0.9.0.post1`) count as the release
    with the same numbers: they are built from its branch, and no catalog lists them.
    """
    head = re.match(r"v?(\d+(?:\.\d+){0,2})", version)
    return tuple(int(part) for part in head[1].split(".")) if head else ()


def newest() -> str:
    """The newest release the catalog knows."""
    return fact("vllm", "releases", "known")[-1]


@dataclass(frozen=True)
class Engine:
    """One release. A release between two known ones behaves like the older one."""

    version: str

    def __getitem__(self, name: str) -> Any:
        """The fact `name` of the catalog's `memory` section, as of this release."""
        return self.as_of(fact("vllm", "memory", name))

    def as_of(self, steps: Iterable[Mapping[str, Any]]) -> Any:
        """What the last of these steps says (`is`) that is not newer (`since`) than this release; None without one."""
        value = None
        for step in steps:
            if release_key(step["since"]) <= release_key(self.version):
                value = step["is"]
        return value

    def batch(self, gpu: Gpu, max_model_len: int, mla: bool) -> tuple[int, int]:
        """(max_num_batched_tokens, max_num_seqs) that `vllm serve` picks by default."""
        name = gpu.name.upper()  # vLLM looks for these words in the device's name
        rule = next(
            rule
            for rule in self["batch"]
            if gpu.usable_gib >= rule["fromGib"]
            and any(word in name for word in rule.get("only", ("",)))
            and not any(word in name for word in rule.get("not", ()))
        )
        if rule["tokens"] is not None:
            return rule["tokens"], rule["sequences"]
        chunked = max_model_len > self["chunkedPrefillAbove"] and not mla
        return (2048 if chunked else max(max_model_len, 2048)), rule["sequences"]

    def largest_graph(self, sequences: int, architecture: str = "") -> int:
        """The largest batch that vLLM captures as a CUDA graph, in tokens."""
        rule = self["graphSizes"]
        return rule["limits"].get(architecture) or min(rule["limit"], 2 * sequences)

    def graph_sizes(self, sequences: int, architecture: str = "", largest: int | None = None) -> int:
        """How many batch sizes vLLM captures as CUDA graphs, up to `largest` if the arguments say one."""
        limit = largest or self.largest_graph(sequences, architecture)
        sizes = [1, 2, 4, *range(8, 256, 8), *range(256, limit + 1, 8 if self["graphSizes"]["fine"] else 16)]
        return sum(size <= limit for size in sizes)

    def runners(self, architecture: str, moe: bool, quantised: bool, family: str) -> tuple[str, ...]:
        """The model runner that the release chooses by default, `V1` or `V2`.

        Both if the architecture is unknown, or if V2 has not been seen on such a GPU (`Gpu.family`).
        """
        rule = self["modelRunnerV2"]
        if rule is None or (quantised and not rule["quantised"]):
            return ("V1",)
        every = rule["everyMoe" if moe else "everyDense"]
        if architecture and not every and architecture not in rule["architectures"]:
            return ("V1",)
        sure = (every or architecture) and family in fact("vllm", "overhead", "runnerV2Seen")
        return ("V2",) if sure else ("V1", "V2")


def find(version: str | None) -> Engine:
    """The release `version`, by default the newest known. Raises PlanError if it is older than the catalog."""
    if version is None:
        return Engine(newest())
    if not re.fullmatch(r"v?\d+\.\d+(\.\d+)?([.+-]?\w.*)?", version):
        raise PlanError(Problem("engine version", version, "is not a release", f"write one such as {newest()}"))
    first = fact("vllm", "releases", "known")[0]
    if release_key(version) < release_key(first):
        why = "is older than every release in the catalog"
        raise PlanError(Problem("engine version", version, why, f"write {first} or later"))
    return Engine(version.removeprefix("v"))
