"""The rules of Kubernetes' own autoscaler, and the gauge that it goes by."""

from __future__ import annotations

from typing import Any

import pytest

from planning import scaling


def problems(**changes: Any) -> list[tuple[str, str, str]]:
    good: dict[str, Any] = {"minimum": 1, "maximum": 4, "target": 0.5, "cold_start_seconds": 1900}
    return scaling.problems(scaling.Scaling(**good | changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target": 50.0}, "target"),
        ({"minimum": 0}, "minimum"),
        ({"maximum": 0}, "maximum"),
        ({"strategy": "APA"}, "strategy"),
        ({"schedules": [{}]}, "schedules"),
        ({"cooldown_seconds": 1899}, "cooldown_seconds"),
        ({"cooldown_seconds": 3601}, "cooldown_seconds"),
        ({"cooldown_seconds": 3599, "cold_start_seconds": 5000}, "cooldown_seconds"),
        ({"cooldown_seconds": 3600, "cold_start_seconds": 5000}, None),
        ({"cooldown_seconds": 1900}, None),
        ({"cooldown_seconds": 1, "cold_start_seconds": None}, None),
        ({}, None),
    ],
)
def test_what_kubernetes_or_keda_could_not_do_is_refused_at_its_field(changes, field):
    assert [each for each, _, _ in problems(**changes)] == ([field] if field else [])


def test_a_group_is_not_scaled_to_zero_and_the_reason_is_the_missing_queue():
    ((_, why, instead),) = problems(minimum=0)
    assert "queue" in why and instead == "write 1 or more"


@pytest.mark.parametrize(
    ("cold_start", "cooldown", "waits", "warned"),
    [(1900, None, 1900, False), (5000, None, 3600, True), (5000, 3600, 3600, True), (1900, 2400, 2400, False)],
)
def test_a_replica_stays_as_long_as_the_next_needs_to_start_up_to_kubernetes_limit_which_is_told(
    cold_start, cooldown, waits, warned
):
    assert scaling.window_seconds(cold_start, cooldown) == waits
    told = scaling.cautions(cold_start_seconds=cold_start, cooldown_seconds=cooldown)
    assert len(told) == warned and all(f"after {waits} s" in each for each in told)


@pytest.mark.parametrize(("release", "gauge"), [("0.7.3", "gpu_cache"), ("0.10.1", "kv_cache"), (None, "kv_cache")])
def test_the_gauge_is_one_that_the_release_exports_and_the_newer_name_of_two(release, gauge):
    assert scaling.kv_gauge(release) == f"vllm:{gauge}_usage_perc"
