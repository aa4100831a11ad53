"""Which processes belong to a folder, and that exactly these are ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import processes
from tests.support.patience import PATIENCE_SECONDS

_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end(tmp_path, grace_seconds=0.1)


def sleeper(folder: Path, code: str = "import time; time.sleep(60)") -> list[str | Path]:
    return [sys.executable, "-c", code, folder]


def test_a_launched_process_is_found_by_name_as_long_as_it_runs(folder: Path) -> None:
    process = processes.launch(folder, "one", sleeper(folder))
    assert processes.alive(folder) == {"one": process.pid}
    process.kill()
    process.wait()
    assert processes.alive(folder) == {} and processes.recorded(folder) == {"one": process.pid}


def test_what_it_writes_is_in_its_log(folder: Path) -> None:
    assert processes.run(folder, "one", sleeper(folder, "print('said')"), {}, seconds=30) == 0
    assert (folder / "logs" / "one.log").read_text() == "said\n"


def test_a_process_that_was_waited_for_is_no_longer_recorded(folder: Path) -> None:
    assert processes.run(folder, "one", sleeper(folder, "raise SystemExit(3)"), {}, seconds=30) == 3
    assert processes.recorded(folder) == {}


def test_a_process_that_ignores_the_request_is_killed(folder: Path) -> None:
    process = processes.launch(folder, "stubborn", sleeper(folder, _STUBBORN))
    while "on" not in (folder / "logs" / "stubborn.log").read_text():
        time.sleep(0.01)
    processes.end(folder, grace_seconds=0.1)
    assert process.wait(PATIENCE_SECONDS) == -9


def test_an_id_that_the_system_gave_to_somebody_else_is_not_touched(folder: Path) -> None:
    code = "import time; print('on', flush=True); time.sleep(60)"
    stranger = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert stranger.stdout and stranger.stdout.readline() == b"on\n"
    try:
        (folder / "pids").mkdir()
        (folder / "pids" / "etcd.pid").write_text(str(stranger.pid))
        processes.end(folder, grace_seconds=0.1)
        assert processes.alive(folder) == {} and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()
