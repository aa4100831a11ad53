"""The planner compared with start-up logs that people published. tests/data/vllm-logs.csv names each log's source.

A row says what it is used for (weights, kv, verdict) and, where the log leaves something out, how that was found; rows
that cannot be used say why. `pytest -s` prints the error of every row.
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass

import pytest

from local.paths import ROOT
from planning import engine, gpus, models
from planning.choose import fit
from planning.layout import Layout
from planning.memory import Fit, Request, kv_bytes

ROWS = list(csv.DictReader((ROOT / "tests" / "data" / "vllm-logs.csv").open()))


@dataclass(frozen=True)
class Compared:
    """One row's errors, as fractions of the logged value; None for a value that the row is not used for."""

    row: dict[str, str]
    fit: Fit
    weights: float | None
    kv: float | None


def _number(text: str) -> int | None:
    return int(text) if text else None


def _request(row: dict[str, str]) -> Request:
    tensor, pipeline = int(row["tensor"]), int(row["pipeline"])
    return Request(
        models.find(row["model"]),
        gpus.find(row["gpu"]),
        Layout(1, tensor * pipeline, tensor, pipeline),
        engine.find(row["version"] or None),
        float(row["utilization"]) if row["utilization"] else None,
        eager=bool(row["eager"]),
        batched_tokens=_number(row["batched_tokens"]),
        sequences=_number(row["sequences"]),
    )


def _compare(row: dict[str, str]) -> Compared:
    found = fit(_request(row), _number(row["max_model_len"]))
    weights = kv = None
    if "weights" in row["uses"]:
        weights = max(stage.weights_gib for stage in found.stages) / float(row["weights_gib"]) - 1
    if "kv" in row["uses"] and row["kv_gib"]:
        logged = float(row["kv_gib"])
        kv = (min(stage.kv for stage in found.stages) - logged) / abs(logged)
    elif "kv" in row["uses"]:
        kv = found.kv_tokens / int(row["kv_tokens"]) - 1
    return Compared(row, found, weights, kv)


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    rows = [_compare(row) for row in ROWS if row["uses"]]
    print(f"\n{'row':6}{'model':36}{'weights':>16}{'kv':>18}  verdict")
    for one in rows:
        row, stage = one.row, one.fit.stages[-1]
        weights = "" if one.weights is None else f"{stage.weights_gib:.2f} {one.weights:+.1%}"
        kv = "" if one.kv is None else f"{stage.kv:.2f} {one.kv:+.1%}"
        verdict = f"{'fits' if one.fit.fits else 'does not fit'}, {row['outcome']}" if "verdict" in row["uses"] else ""
        print(f"{row['id']:6}{row['model'][:35]:36}{weights:>16}{kv:>18}  {verdict}")
    for row in ROWS:
        if not row["uses"]:
            print(f"{row['id']:6}{row['model'][:35]:36}not used: {row['why']}")
    for name in ("weights", "kv"):
        errors = [abs(e) for e in (getattr(one, name) for one in rows) if e is not None]
        print(f"{name}: {len(errors)} rows, median {statistics.median(errors):.1%}, worst {max(errors):.1%}")
    return rows


def test_weights_per_gpu_agree_with_logs(compared: list[Compared]) -> None:
    errors = [abs(one.weights) for one in compared if one.weights is not None]
    assert len(errors) >= 25
    assert statistics.median(errors) <= 0.03
    assert max(errors) <= 0.05


def test_kv_cache_agrees_with_logs(compared: list[Compared]) -> None:
    errors = [abs(one.kv) for one in compared if one.kv is not None]
    assert len(errors) >= 15
    assert statistics.median(errors) <= 0.10
    assert max(errors) <= 0.25


def test_no_logged_out_of_memory_is_called_fitting(compared: list[Compared]) -> None:
    lost = [one for one in compared if "verdict" in one.row["uses"] and one.row["outcome"] == "out of memory"]
    assert len(lost) >= 5
    assert [one.row["id"] for one in lost if one.fit.fits] == []


def test_no_layout_that_ran_is_called_impossible(compared: list[Compared]) -> None:
    ran = [one for one in compared if "verdict" in one.row["uses"] and one.row["outcome"] == "ran"]
    assert len(ran) >= 10
    assert [one.row["id"] for one in ran if not one.fit.fits] == []


def test_every_row_left_out_says_why() -> None:
    assert [row["id"] for row in ROWS if not row["uses"] and not row["why"]] == []


def test_padding_of_the_latent_cache_costs_what_the_published_comparison_shows() -> None:
    """4739 blocks with the padding, 5266 without: https://github.com/vllm-project/vllm/pull/14842."""
    padded, plain = (
        kv_bytes(Request(models.find("DeepSeek-R1"), gpus.find("H200-141"), Layout(1, 8, 8, 1), engine.find(version)))
        for version in ("0.7.2", "0.8.0")
    )
    assert padded / plain == pytest.approx(5266 / 4739, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "layers", "logged"),
    [
        ("Qwen3-8B", 36, 50.32 * 1024**3 / 366400),  # qd09
        ("Qwen3-Coder-30B-A3B-Instruct-FP8", 48, 24.0 * 1024**3 / 262144),  # qm06, the whole model
    ],
)
def test_kv_bytes_of_a_token_agree_with_logs(model: str, layers: int, logged: float) -> None:
    request = Request(models.find(model), gpus.find("H100-80"), Layout(1, 1, 1, 1), engine.find("0.12.0"))
    assert kv_bytes(request) * layers == pytest.approx(logged, rel=2e-3)
