"""`python -m bench.fit_throughput`: fits the efficiencies in `planning/catalog/throughput.json` to published points.

tests/data/throughput.csv has the rows, tests/data/throughput.md says where they are from. A checksum of what was
measured decides whether a row is fitted or held out, so that repeats of one measurement fall on the same side. The fit
minimises the sum of absolute relative errors, which one slow run does not move. Prints the catalog's two sections.
"""

from __future__ import annotations

import csv
import json
import statistics
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from local.paths import ROOT
from planning import engine, gpus, models
from planning.layout import Layout
from planning.memory import Request
from planning.settings import Overrides
from planning.throughput import Efficiency, Floors, kind_of, roofline

ROWS = ROOT / "tests" / "data" / "throughput.csv"
_SOURCE = "fitted by bench/fit_throughput.py on rows of aiconfigurator-core 0.12.0 (tests/data/throughput.md): {what}"
_DATE = "2026-11-29"


@dataclass(frozen=True)
class Row:
    """One measurement: mean seconds for requests of `input` tokens, with `at_once` of them in the replica."""

    id: str
    engine: str
    version: str
    model: str
    request: Request
    input: int
    output: int
    at_once: int
    first: float | None
    each: float
    held_out: bool
    carried_over: bool

    @property
    def kind(self) -> tuple[str, str, str]:
        """The efficiency that it belongs to."""
        return self.engine, self.request.gpu.family, kind_of(self.request.model)

    @property
    def floors(self) -> Floors:
        """Its roofline."""
        return roofline(self.request, self.at_once, self.input, self.output)


@cache
def rows() -> tuple[Row, ...]:
    """Every measurement in the file."""
    with ROWS.open() as file:
        return tuple(map(_row, csv.DictReader(file)))


def _row(said: Mapping[str, str]) -> Row:
    nodes, tensor, pipeline, data = (int(said[key]) for key in ("nodes", "tensor", "pipeline", "data"))
    layout = Layout(nodes, tensor * pipeline * data // nodes, tensor, pipeline, data, bool(said["experts"]))
    model = replace(models.find(said["model"]), name=said["measured_model"], quantisation=said["quantisation"])
    what = ("engine", "measured_model", "gpu", "tensor", "data", "experts", "input", "output", "concurrency")
    return Row(
        said["id"],
        said["engine"],
        said["version"],
        said["measured_model"],
        Request(model, gpus.find(said["gpu"]), layout, engine.find(None), overrides=_overrides(said["engine"])),
        int(said["input"]),
        int(said["output"]),
        int(said["concurrency"]),
        float(said["ttft_ms"]) / 1e3 if said["ttft_ms"] else None,
        float(said["tpot_ms"]) / 1e3,
        bool(zlib.crc32(" ".join(said[key] for key in what).encode()) % 2),
        said["why"].endswith("carried over"),
    )


def _overrides(name: str) -> Overrides:
    """Other engines than vLLM send tokens to their experts alone."""
    return Overrides() if name == "vllm" else Overrides(all2all="own")


def fitted(some: Iterable[Row]) -> Efficiency:
    """The efficiency that fits these rows best."""
    known = [row for row in some if row.first is not None]
    each = _least(
        [
            [
                row.floors.layers,
                row.floors.step,
                row.floors.prefill * row.floors.others / row.floors.stages / row.output,
            ]
            for row in known
        ],
        [row.each for row in known],
        [0.0, 1.0, 1.0],  # nothing is faster than its roofline
    )
    first = _least(
        [[1.0, row.floors.prefill, row.floors.prefill * row.floors.others / row.floors.stages] for row in known],
        [row.first or 0.0 for row in known],
        [0.0, 1.0, 0.0],
    )
    return Efficiency(each[0], 1 / each[1], 1 / each[2], first[0], 1 / first[1], first[2])


def _least(terms: Sequence[Sequence[float]], wanted: Sequence[float], least: Sequence[float]) -> list[float]:
    """Factors of the terms, each with a lower bound, that minimise the sum of absolute relative errors: iteratively
    reweighted least squares, each step solved one factor at a time."""
    scale = [max(row[at] / value for row, value in zip(terms, wanted, strict=True)) for at in range(len(least))]
    table = [
        [term / value / by for term, by in zip(row, scale, strict=True)]
        for row, value in zip(terms, wanted, strict=True)
    ]
    bounds = [bound * by for bound, by in zip(least, scale, strict=True)]
    factors, weights, places = list(bounds), [1.0] * len(table), range(len(least))
    for _ in range(40):
        sums = [sum(w * row[at] for w, row in zip(weights, table, strict=True)) for at in places]
        products = [
            [sum(w * row[at] * row[i] for w, row in zip(weights, table, strict=True)) for i in places] for at in places
        ]
        for _ in range(500):
            for at in places:
                rest = sums[at] - sum(products[at][i] * factors[i] for i in places if i != at)
                factors[at] = max(bounds[at], rest / products[at][at])
        errors = [abs(1 - sum(f * t for f, t in zip(factors, row, strict=True))) for row in table]
        weights = [1 / max(error, 0.01) for error in errors]
    return [factor / by for factor, by in zip(factors, scale, strict=True)]


def errors(some: Iterable[Row], efficiency: Efficiency) -> tuple[list[float], list[float]]:
    """Measured over planned, minus one: of seconds per token, and of seconds to the first token."""
    some = list(some)
    each = [row.each / efficiency.each_seconds(row.floors, row.output) - 1 for row in some]
    first = [row.first / efficiency.first_token_seconds(row.floors) - 1 for row in some if row.first is not None]
    return each, first


def median(found: Sequence[float]) -> float:
    """The median size of the errors."""
    return statistics.median(map(abs, found))


def kinds() -> dict[tuple[str, str, str], list[Row]]:
    """The rows that efficiencies are fitted on, by engine, family of GPUs and kind of model."""
    rows_of = defaultdict(list)
    for row in rows():
        if not row.carried_over:
            rows_of[row.kind].append(row)
    return dict(rows_of)


def entry(some: Sequence[Row]) -> dict[str, Any]:
    """The catalog's entry."""
    fit_on, held = [row for row in some if not row.held_out], [row for row in some if row.held_out]
    fit = fitted(fit_on)
    each, first = errors(held, fit)
    name, family, kind = some[0].kind
    measured = sorted({row.model for row in some})
    cards = sorted({row.request.gpu.name for row in some})
    value = {
        "engine": name,
        "family": family,
        "kind": kind,
        "models": measured,
        "gpus": cards,
        "layerMicroseconds": _digits(fit.layer_seconds * 1e6),
        "step": _digits(fit.step),
        "prefill": _digits(fit.prefill),
        "firstMilliseconds": _digits(fit.first_seconds * 1e3),
        "first": _digits(fit.first),
        "waiting": _digits(fit.waiting),
        "rows": len(fit_on),
        "heldOut": len(held),
        "tpotError": _digits(median(each)),
        "ttftError": _digits(median(first)),
        "tpotError90": _digits(_ninth(each)),
        "ttftError90": _digits(_ninth(first)),
        "oldest": min((row.version for row in some if row.version), key=engine.release_key),
        "mostAtOnce": max(row.at_once // row.request.layout.data for row in some),
    }
    what = f"{', '.join(measured)} by {name} on {', '.join(cards)}"
    return {"value": value, "source": _SOURCE.format(what=what), "date": _DATE}


def _ninth(found: Sequence[float]) -> float:
    return statistics.quantiles(map(abs, found), n=10)[-1]


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def carried_over() -> dict[str, Any]:
    """The share by which measurements exceed an estimate carried over from elsewhere (model, GPU, nodes, release)."""
    by_kind = kinds()
    models_apart = [
        errors(left, fitted(row for row in some if row.model != name and not row.held_out))
        for kind, some in by_kind.items()
        if kind[0] == "vllm"
        for name in sorted({row.model for row in some})
        if (left := [row for row in some if row.model == name]) != some
    ]
    hopper, other = by_kind["vllm", "hopper", "mla"], by_kind["vllm", "blackwell", "mla"]
    found = fitted(row for row in hopper if not row.held_out)
    published = {row.id: errors([row], found) for row in rows() if row.carried_over}
    families = errors(other, found)
    far = [each for name, each in published.items() if name.startswith("pai")]
    tpot, ttft = max(each[0][0] for each in far), max(first for each in far for first in each[1])
    machines = (
        "DeepSeek-R1 on two machines (http://news.fishai.com.cn/news/3570052, 71 ms a token with 10 requests, 123 with "
        "63) by the fit of one with H200, taken as H20 and two stages"
    )
    return {
        "model": _carried(
            max(statistics.median(each) for each, _ in models_apart),
            max(statistics.median(first) for _, first in models_apart),
            "the model that the others of its kind foretell worst (vLLM), the median of its rows",
        ),
        "gpu": _carried(
            max(statistics.median(families[0]), published["h20-v32"][0][0]),
            statistics.median(families[1]),
            "DeepSeek-V3.2 on 8 x H20 (https://github.com/vllm-project/recipes, 99.7 ms a token) by the fit of H200; "
            "first tokens by that on B200",
        ),
        "nodes": _carried(tpot, ttft, machines),
        "release": _carried(
            tpot, ttft, f"{machines}; they are of early 2025, and no older release was measured otherwise"
        ),
    }


def _carried(tpot: float, ttft: float, source: str) -> dict[str, Any]:
    value = {"tpot": _digits(max(0.0, tpot)), "ttft": _digits(max(0.0, ttft))}
    return {"value": value, "source": f"bench/fit_throughput.py: {source}", "date": _DATE}


def main() -> None:
    """Prints both sections."""
    sections = {
        "efficiency": {" ".join(kind): entry(some) for kind, some in sorted(kinds().items())},
        "carriedOver": carried_over(),
    }
    print(json.dumps(sections, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
