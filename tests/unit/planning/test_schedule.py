"""The hours of a schedule: what its cron lines make of a week, what of it bills, which time zones exist."""

from __future__ import annotations

import zoneinfo

import pytest

from planning.cost import HOURS_A_MONTH, Prices, cost
from planning.schedule import DAYS, Schedule, Window, overlaps, zone_problem

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri")
WEEKS = {
    "office hours": ([Window(WEEKDAYS, "08:00", "20:00")], 60),
    "two parts of a day": ([Window(("mon",), "08:00", "12:00"), Window(("mon",), "13:30", "18:00")], 8.5),
    "into the next day": ([Window(("sat",), "22:00", "02:00")], 4),
    "to midnight, then on": ([Window(("mon",), "08:00", "24:00"), Window(("tue",), "00:00", "06:00")], 22),
    "whole days": ([Window(WEEKDAYS, "00:00", "24:00")], 120),
    "one end is another's beginning": ([Window(("mon",), "08:00", "12:00"), Window(("tue",), "12:00", "13:00")], 5),
}


def played(schedule: Schedule, on: bool) -> list[bool]:
    """Whether it is on in each minute of a week's second run, by cron lines alone, on a clock that begins Sunday."""
    asked: dict[tuple[int, int], bool] = {}
    for edge in schedule.edges():
        minute, hour, _, _, days = edge.cron.split()
        for day in days.split(","):
            at = int(day), int(hour) * 60 + int(minute)
            assert at not in asked, "two CronJobs at one moment"
            asked[at] = edge.on
    for _ in range(2):
        seen = []
        for now in range(7 * 1440):
            on = asked.get(divmod(now, 1440), on)
            seen.append(on)
    return seen


@pytest.mark.parametrize(("windows", "hours"), WEEKS.values(), ids=WEEKS)
@pytest.mark.parametrize("before", [True, False])
def test_the_cron_lines_keep_the_hours_whatever_was_before(windows, hours, before):
    schedule = Schedule("UTC", tuple(windows))
    wanted = {
        (DAYS.index(day) * 1440 + minute) % (7 * 1440)
        for window in windows
        for day in window.days
        for minute in range(_minute(window.begin), _minute(window.end) + 1440 * (window.end <= window.begin))
    }
    assert {minute for minute, on in enumerate(played(schedule, before)) if on} == wanted
    assert schedule.share * 168 == pytest.approx(hours)


def _minute(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:])


@pytest.mark.parametrize(("windows", "hours"), WEEKS.values(), ids=WEEKS)
def test_a_service_that_was_started_by_hand_ends_within_a_day(windows, hours):
    schedule = Schedule("UTC", tuple(windows))
    offs = {(day, edge.time) for edge in schedule.edges() if not edge.on for day in edge.days}
    begun = next(now for now, on in enumerate(played(schedule, False)) if not on)
    assert any((begun + later) // 1440 % 7 == day for day, _ in offs for later in range(1441))


def test_the_hours_are_told_in_few_words():
    windows = (Window(WEEKDAYS, "08:00", "20:00"), Window(("sun", "sat"), "10:00", "12:00"))
    assert str(Schedule("Asia/Shanghai", windows)) == (
        "mon-fri 08:00 to 20:00; sat-sun 10:00 to 12:00 (Asia/Shanghai), 64 of 168 hours a week"
    )


@pytest.mark.parametrize(
    ("windows", "found"),
    [
        ([Window(("mon",), "08:00", "12:00"), Window(("mon",), "12:00", "13:00")], []),
        ([Window(("mon",), "08:00", "12:00"), Window(("mon", "tue"), "11:59", "13:00")], [(1, 0)]),
        ([Window(("mon", "mon"), "08:00", "12:00")], [(0, 0)]),
        ([Window(("sun",), "22:00", "03:00"), Window(("mon",), "02:00", "04:00")], [(1, 0)]),
        ([Window(("sat",), "22:00", "03:00"), Window(("sun",), "02:00", "04:00")], [(1, 0)]),  # over the week's end
    ],
)
def test_windows_that_share_a_minute_overlap(windows, found):
    assert list(overlaps(windows)) == found


def test_a_zone_that_is_misspelt_is_refused_with_the_one_that_is_meant(monkeypatch):
    assert zone_problem("Asia/Shanghai") is None
    assert zone_problem("asia/shanghai")[1] == "write Asia/Shanghai"
    assert zone_problem("Asia/Shangai")[1] == "write Asia/Shanghai"
    assert zone_problem("Beijing time")[1] == "write one such as Asia/Shanghai"
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    assert zone_problem("Asia/Shangai") is None, "a machine without zones cannot judge"


def test_a_schedule_saves_the_gpus_of_its_other_hours_and_not_the_cache():
    prices = Prices("CNY", per_gpu_hour=10, per_cache_worker_hour=2, as_of="2026-11-01")
    found = cost(prices, 8, cache_workers=7, share=0.25)
    assert found.per_month == (80 + 14) * HOURS_A_MONTH
    assert found.scheduled_per_month == (20 + 14) * HOURS_A_MONTH
    assert cost(prices, 8).scheduled_per_month is None
    assert cost(Prices(), 8, share=0.25).scheduled_per_month is None
