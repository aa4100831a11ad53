"""When a service runs by its schedule: a week's hours, the cron lines that keep them, and the share of time that bills.

A week has no daylight saving time here: the cluster reads the cron lines in the schedule's time zone, and of the one
hour that a change takes or gives the plan counts nothing.
"""

from __future__ import annotations

import difflib
import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
"""In the order of cron's numbers."""
CLOCK = r"(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)"
_DAY = 24 * 60
_WEEK = 7 * _DAY


def zone_problem(name: str) -> tuple[str, str] | None:
    """Why this is no time zone, and what to write instead; None also on a machine that knows no zones."""
    known = zoneinfo.available_timezones()
    if not known or name in known:
        return None
    same = [each for each in known if each.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, known, n=1, cutoff=0.8) or ["one such as Asia/Shanghai"]
    return "is no time zone of the IANA database", f"write {near[0]}"


@dataclass(frozen=True)
class Window:
    """On these days from one time of day to another, `08:00` to `20:00`; an end that is not later is the next day's."""

    days: tuple[str, ...]
    begin: str
    end: str

    def minutes(self) -> list[int]:
        """Minutes of the week, which begins on Sunday."""
        begin, end = minute(self.begin), minute(self.end)
        long = end - begin if end > begin else end - begin + _DAY
        starts = (DAYS.index(day) * _DAY + begin for day in self.days)
        return [(start + passed) % _WEEK for start in starts for passed in range(long)]


@dataclass(frozen=True)
class Edge:
    """At `time` (`0800`) on `days` (cron's numbers), the service is `on` from then on, or off."""

    time: str
    days: tuple[int, ...]
    on: bool

    @property
    def cron(self) -> str:
        """The line for cron."""
        return f"{int(self.time[2:])} {int(self.time[:2])} * * {','.join(map(str, self.days))}"


@dataclass(frozen=True)
class Schedule:
    """A week in the IANA time zone `timezone`. Windows do not overlap."""

    timezone: str
    windows: tuple[Window, ...]

    @property
    def share(self) -> float:
        """The part of the week in which it is on."""
        return len(_covered(self.windows)) / _WEEK

    def edges(self) -> Iterator[Edge]:
        """What is to be at each time of day at which anything changes, for all seven days.

        A missed change is made up for a day later, and a service that was started by hand, or by its first `up`, ends
        within a day.
        """
        covered = _covered(self.windows)
        times = sorted({minute(time) % _DAY for window in self.windows for time in (window.begin, window.end)})
        for time in times:
            for on in (True, False):
                days = tuple(day for day in range(7) if (day * _DAY + time in covered) is on)
                if days:
                    yield Edge(f"{time // 60:02d}{time % 60:02d}", days, on)

    def __str__(self) -> str:
        hours = "; ".join(f"{_told(window.days)} {window.begin} to {window.end}" for window in self.windows)
        return f"{hours} ({self.timezone}), {self.share * 168:.4g} of 168 hours a week"


def minute(time: str) -> int:
    """The minute of the day of a `CLOCK`."""
    hours, minutes = time.split(":")
    return int(hours) * 60 + int(minutes)


def overlaps(windows: Sequence[Window]) -> Iterator[tuple[int, int]]:
    """Which window overlaps which earlier one, or itself."""
    held: dict[int, int] = {}
    for index, window in enumerate(windows):
        pairs = set()
        for each in window.minutes():
            pairs |= {held[each]} if each in held else set()
            held.setdefault(each, index)
        yield from ((index, other) for other in sorted(pairs))


def _covered(windows: Sequence[Window]) -> set[int]:
    return {each for window in windows for each in window.minutes()}


def _told(days: Sequence[str]) -> str:
    """`mon-fri`, `sat, sun`: as days follow each other from Monday on."""
    week = (*DAYS[1:], DAYS[0])
    numbers = sorted({week.index(day) for day in days})
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(week[run[0]] if len(run) == 1 else f"{week[run[0]]}-{week[run[-1]]}" for run in runs)
