"""The tensors of a model's files, as the headers of safetensors files list them, and what they sum up to.

A header that contradicts itself, or its file, is refused: sizes are never taken from it then. Reads no file itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from planning.catalog import fact
from planning.problems import PlanError, Problem

_PREFIX = 8  # bytes of the header's length
_INSTEAD = "fetch the file again, or take another revision"
EMBEDDINGS, NORM, DRAFT, OTHER = "embeddings", "norm", "draft", "other"


@dataclass(frozen=True)
class Tensor:
    """One tensor: `bytes` in the file, and its number of `elements`."""

    name: str
    bytes: int
    elements: int


@dataclass
class Tensors:
    """Bytes by kind of tensor in each layer, and outside the layers. Of each layer, `whole` is the part that every
    tensor rank holds in full, `kv` the projections of keys and values, of which it holds at least one head's."""

    layers: dict[int, dict[str, int]] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)
    kv: dict[int, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.kinds().values())

    def kinds(self) -> dict[str, int]:
        """Bytes by kind over all layers, most first."""
        sums: dict[str, int] = {}
        for part in (*self.layers.values(), self.outside):
            for kind, size in part.items():
                sums[kind] = sums.get(kind, 0) + size
        return dict(sorted(sums.items(), key=lambda each: -each[1]))


def header_bytes(name: str, first: bytes, size: int) -> int:
    """How many of the first bytes of a file of `size` bytes hold its header. Raises PlanError if that cannot be."""
    if size < _PREFIX or len(first) < _PREFIX:
        raise _wrong(name, f"has {min(size, len(first))} bytes, which hold no header")
    length = int.from_bytes(first[:_PREFIX], "little")
    most = fact("config_json", "tensors", "headerBytes")
    if length > most or _PREFIX + length > size:
        why = f"says that its header has {length} bytes"
        raise _wrong(
            name, f"{why}, and the file has {size}" if _PREFIX + length > size else f"{why}, of {most} at most"
        )
    return _PREFIX + length


def read_header(name: str, first: bytes, size: int) -> list[Tensor]:
    """The tensors of a file of `size` bytes that begins with `first` (at least `header_bytes` of it). Raises PlanError
    where the header is no header, or does not describe exactly these bytes."""
    end = header_bytes(name, first, size)
    try:
        header = json.loads(first[_PREFIX:end])
    except (ValueError, RecursionError):
        header = None
    if len(first) < end or not isinstance(header, dict):
        raise _wrong(name, "has a header that is no JSON object")
    entries, spans = [], []
    for tensor, told in header.items():
        if tensor == "__metadata__":
            continue
        span, elements = _described(name, tensor, told)
        spans.append((*span, tensor))
        entries.append(Tensor(tensor, span[1] - span[0], elements))
    at = 0
    for start, stop, tensor in sorted(spans):
        if start != at:
            why = "overlaps the one before it" if start < at else f"leaves {start - at} bytes before it to nobody"
            raise _wrong(name, f"has a header in which {tensor} {why}")
        at = stop
    if at != size - end:
        raise _wrong(name, f"has a header for {at} bytes of tensors, and the file has {size - end}")
    return entries


def _described(name: str, tensor: str, told: Any) -> tuple[tuple[int, int], int]:
    """Where a tensor's bytes are, and its number of elements."""
    bits = fact("config_json", "tensors", "bits")
    try:
        shape, (start, stop), width = told["shape"], told["data_offsets"], bits[told["dtype"]]
        sound = all(type(each) is int and each >= 0 for each in (*shape, start, stop))
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise _wrong(name, f"has a header that describes {tensor} in no known way")
    elements = math.prod(shape)
    if elements * width != 8 * (stop - start):
        raise _wrong(name, f"has a header that gives {tensor} {stop - start} bytes for {elements} x {width} bits")
    return (start, stop), elements


def listed(index: Any, files: Mapping[str, Iterable[Tensor]]) -> list[str]:
    """What is wrong between an index (model.safetensors.index.json) and the tensors of the files."""
    where = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(where, Mapping) or not all(isinstance(file, str) for file in where.values()):
        return ["has no map weight_map of tensors to files"]
    absent = sorted({*where.values()} - {*files})
    there = {(tensor.name, file) for file, tensors in files.items() for tensor in tensors}
    lost = [name for name, file in where.items() if file in files and (name, file) not in there]
    wrong = [f"names files that are not there: {_few(absent)}"] if absent else []
    return wrong + ([f"names tensors that are not in their file: {_few(lost)}"] if lost else [])


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def counted(tensors: Iterable[Tensor], layers: int | None) -> Tensors:
    """The tensors by layer and kind. Layers from `layers` on are the draft's, where the number is known."""
    counts = Tensors()
    kinds = [(re.compile(pattern), kind) for kind, pattern in fact("config_json", "tensors", "kinds").items()]
    of_layers = [
        (re.compile(fact("config_json", "tensors", name)), sums)
        for name, sums in (("replicated", counts.whole), ("keysAndValues", counts.kv))
    ]
    for tensor in tensors:
        layer, kind = _place(tensor.name, kinds, layers)
        part = counts.outside if layer is None else counts.layers.setdefault(layer, {})
        part[kind] = part.get(kind, 0) + tensor.bytes
        for pattern, sums in of_layers:
            if layer is not None and pattern.search(tensor.name):
                sums[layer] = sums.get(layer, 0) + tensor.bytes
    return counts


def _place(name: str, kinds: list[tuple[re.Pattern[str], str]], layers: int | None) -> tuple[int | None, str]:
    kind = next((kind for pattern, kind in kinds if pattern.search(name)), OTHER)
    number = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    if kind in (OTHER, DRAFT) or number is None:
        return None, kind
    if layers is not None and int(number[1]) >= layers:
        return None, DRAFT
    return int(number[1]), kind


def _wrong(name: str, why: str) -> PlanError:
    return PlanError(Problem("model", name, why, _INSTEAD))
