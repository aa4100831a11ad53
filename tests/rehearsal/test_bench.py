"""The bench, on few services and one pair of each ratio."""

from __future__ import annotations

import subprocess
import sys

import pytest

from local.paths import ROOT


@pytest.mark.soak
def test_the_bench_measures_every_ratio_and_says_what_the_program_spends_its_share_on():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--pairs", "1", "--sizes", "1", "2", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ratios = [line.split(":")[0] for line in done.stdout.splitlines() if "goal ≤" in line]
    assert len(ratios) == 10
    steps = done.stdout.partition("of our program's own, CPU ms")[2].splitlines()[1:8]
    spent = {line[:30].strip(): line[30:].split() for line in steps}
    assert {"imports", "config", "plan", "builder", "registration"} <= spent.keys(), steps
