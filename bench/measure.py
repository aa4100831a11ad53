"""Runs a command with all its child processes, and measures what each of Pulumi's processes costs."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_LOOK_SECONDS = 0.05
# The role of a Pulumi process, by a word of its command line; the first match counts.
_ROLES = {
    "pulumi-resource-": "plugin",
    "standins.providers.": "plugin",
    "executor.py": "program",
    "pulumi-language-python-exec": "program",
    "pulumi-language-python": "language host",
    "language/host.py": "language host",
}


class BenchError(Exception):
    """A measured command failed; the text ends with its last output."""


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds of wall clock, CPU seconds of the whole tree, MiB of its largest process.

    `parts` are the CPU seconds of the engine, the plugins, the language host and the program, which add up to `cpu`.
    """

    wall: float
    cpu: float
    memory: float
    parts: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.memory, other.memory))


def cost(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Cost:
    """Run `command` once. Raises BenchError if it fails. CPU includes all descendants that were waited for.

    Their parts are sampled every 50 ms while they run; the engine gets what belongs to no child.
    """
    seen: dict[int, tuple[str, float]] = {}
    with tempfile.TemporaryFile("w+") as said:
        begun = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=dict(env), stdout=said, stderr=subprocess.STDOUT)
        tree = psutil.Process(process.pid)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            for child in tree.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    seconds = sum(child.cpu_times()[:2])
                    # A zombie no longer has a command line.
                    known = seen.get(child.pid, ("", 0))[0]
                    ran = known if child.status() == psutil.STATUS_ZOMBIE else " ".join(child.cmdline())
                    seen[child.pid] = ran, seconds
            time.sleep(_LOOK_SECONDS)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            said.seek(0)
            raise BenchError(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()[-2000:]}")
    used = ended[2]
    cpu = used.ru_utime + used.ru_stime
    return Cost(wall, cpu, used.ru_maxrss / 1024, parts(cpu, seen.values()))


def parts(cpu: float, children: Iterable[tuple[str, float]]) -> dict[str, float]:
    """CPU seconds by role, from (command line, CPU seconds) of each process; the engine gets the rest of `cpu`."""
    found = dict.fromkeys(_ROLES.values(), 0.0)
    for command, seconds in children:
        if role := next((role for word, role in _ROLES.items() if word in command), None):
            found[role] += seconds
    return {"engine": cpu - sum(found.values()), **found}


def paired(one: Callable[[], Cost], other: Callable[[], Cost], pairs: int) -> list[tuple[Cost, Cost]]:
    """Runs both in turn, `pairs` times after a warm-up pair, so that a drift of the machine affects both equally."""
    return [(one(), other()) for _ in range(pairs + 1)][1:]


def spread(pairs: Sequence[tuple[Cost, Cost]], of: str) -> tuple[float, float, float]:
    """Lowest, median and highest of one/other; `of` is `wall` or `cpu`."""
    ratios = [getattr(one, of) / getattr(other, of) for one, other in pairs]
    return min(ratios), statistics.median(ratios), max(ratios)


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """b of the least-squares fit cost = a·size^b: 1 is linear. All costs must be positive."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in costs]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)
