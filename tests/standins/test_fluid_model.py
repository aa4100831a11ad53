"""What Fluid's status says at each point, as its controllers would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from standins.fluid_model import (
    Loading,
    bucket_bytes,
    bytes_size,
    cache_states,
    capacity,
    load_ended,
    runtime_status,
    seconds,
)

GIB = 1024**3


def runtime(workers: int = 4, quota: str = "100Gi", high: str = "0.95") -> dict[str, Any]:
    levels = [{"quota": quota, "high": high}]
    return {"metadata": {"name": "m"}, "spec": {"replicas": workers, "tieredstore": {"levels": levels}}}


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.00B"), (1023, "1023.00B"), (688586727753, "641.30GiB"), (2 * 1024**4, "2.00TiB")]
)
def test_sizes_are_written_as_fluid_writes_them(amount, text):
    assert bytes_size(amount) == text


@pytest.mark.parametrize(("text", "value"), [("", 0), ("20s", 20), ("1m30s", 90), ("500ms", 0.5)])
def test_durations_are_read_as_in_the_annotation(text, value):
    assert seconds(text) == value


def phases(age: float, fault: str | None = None) -> tuple[str, str, int]:
    status = runtime_status(runtime(), age, fault)
    return status["masterPhase"], status["workerPhase"], status["workerNumberReady"]


def test_the_master_comes_first_and_then_worker_by_worker():
    assert phases(0) == ("NotReady", "NotReady", 0)
    assert phases(0.5) == ("Ready", "NotReady", 0)
    assert phases(1.0) == ("Ready", "PartialReady", 2)
    assert phases(60) == ("Ready", "Ready", 4)


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("failed", ("Ready", "NotReady", 0)),
        ("partial", ("Ready", "PartialReady", 2)),
        ("stuck", ("NotReady", "NotReady", 0)),
    ],
)
def test_a_faulty_runtime_never_gets_ready(fault, end):
    assert phases(3600, fault) == end


def test_a_cache_holds_its_workers_quotas_and_evicts_above_the_mark():
    assert capacity(runtime()) == 400 * GIB and capacity(runtime(), usable=True) == 380 * GIB
    assert capacity({"spec": {"replicas": 1}}) == GIB  # Fluid's default where no level is named
    assert cache_states(runtime(), 100 * GIB, 400 * GIB) == {
        "cacheCapacity": "400.00GiB",
        "cached": "100.00GiB",
        "cachedPercentage": "25.0%",
    }


def test_a_load_grows_to_the_whole_or_to_where_its_fault_stops_it():
    loading = Loading(begun=100, seconds=10, bytes=GIB)
    assert [loading.progress(now, None) for now in (100, 105, 109.99, 110, 120)] == [
        (0.0, False),
        (0.5, False),
        (pytest.approx(0.999), False),
        (1.0, True),
        (1.0, True),
    ]
    assert [loading.progress(999, fault) for fault in ("failed", "partial", "stuck")] == [
        (0.25, True),
        (0.5, True),
        (0.25, False),
    ]


def test_a_load_ends_with_the_condition_of_its_job():
    for failed, phase in ((False, "Complete"), (True, "Failed")):
        status = load_ended(failed=failed, lasted=10, now="now")
        assert status["phase"] == phase == status["conditions"][0]["type"] and status["duration"] == "10s"


def test_a_bucket_holds_what_lies_under_the_mount_point_and_nothing_else(tmp_path: Path):
    dataset = {"spec": {"mounts": [{"mountPoint": "oss://b/models/m/"}]}}
    assert bucket_bytes(tmp_path, dataset) == 0
    for path, size in (("models/other/file", 7), ("models/m/file", 5), ("models/m/in/large", 20 * GIB)):
        file = tmp_path / "cloud" / "buckets" / "b" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.truncate(size)
    assert bucket_bytes(tmp_path, dataset) == 20 * GIB + 5
