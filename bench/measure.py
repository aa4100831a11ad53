"""Runs a command as a whole process tree and says what it cost; pairs two commands so that drift hits both alike."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class BenchError(Exception):
    """A measured command failed; the text has its last words."""


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds of wall clock, CPU seconds of the whole tree, MiB of its largest process."""

    wall: float
    cpu: float
    memory: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.memory, other.memory))


def cost(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Cost:
    """Run `command` once. Raises BenchError where it fails. CPU counts the descendants that were waited for."""
    with tempfile.TemporaryFile("w+") as said:
        begun = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=dict(env), stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise BenchError(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()[-2000:]}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def ratios(one: Callable[[], float], other: Callable[[], float], pairs: int) -> tuple[float, float, float]:
    """Lowest, median and highest of one/other over `pairs` pairs, after a pair that is not counted."""
    found = [one() / other() for _ in range(pairs + 1)][1:]
    return min(found), statistics.median(found), max(found)


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """b of the least-squares fit cost = a·size^b: 1 is linear. All costs must be positive."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in costs]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)
