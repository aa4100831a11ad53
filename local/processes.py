"""Processes that outlive the one that started them. A file records the id of each.

A process belongs to a folder if one of the folder's `pids/*.pid` has its id and its command line names the folder. So
we never touch another process that the system has given the same id since.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def launch(
    folder: Path, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts `command` detached. Its output goes to logs/NAME.log, its id to pids/NAME.pid."""
    for part in ("logs", "pids"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with (folder / "logs" / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=dict(os.environ) | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = folder / "pids" / f"{name}.pid"
    record.with_suffix(".new").write_text(str(process.pid))
    record.with_suffix(".new").rename(record)
    # At first a new process has no command line, and `alive` would think that it has ended.
    while not _command_line(process.pid) and not _over(process.pid):
        time.sleep(0.001)
    return process


def run(folder: Path, name: str, command: Sequence[str | Path], environment: Mapping[str, str], seconds: float) -> int:
    """Like `launch`, but waits for the end and returns the exit code. Raises subprocess.TimeoutExpired.

    The record exists while the process runs, so that `end` finds it even if its starter was killed.
    """
    code = launch(folder, name, command, environment).wait(seconds)
    (folder / "pids" / f"{name}.pid").unlink()
    return code


def recorded(folder: Path) -> dict[str, int]:
    """Name → id of every process started for this folder, alive or not."""
    ids = {}
    for file in sorted((folder / "pids").glob("*.pid")):
        text = file.read_text().strip()
        if text.isdigit():
            ids[file.stem] = int(text)
    return ids


def alive(folder: Path) -> dict[str, int]:
    """Name → id of this folder's running processes."""
    return {name: pid for name, pid in recorded(folder).items() if str(folder) in _command_line(pid)}


def end(folder: Path, grace_seconds: float = 0.5) -> None:
    """Ends this folder's processes: asks them, then kills those that still run after `grace_seconds`."""
    asked: set[int] = set()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in alive(folder).values():
            asked.add(pid)
            _signal(pid, sign)
        deadline = time.monotonic() + grace_seconds
        while not all(map(_over, asked)) and (sign == signal.SIGKILL or time.monotonic() < deadline):
            time.sleep(0.02)


def _signal(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        # Each leads its own session, so this reaches its children too.
        os.killpg(pid, sign)


def _over(pid: int) -> bool:
    """Whether a process has ended. One that is ending has no command line any more, but still holds its ports."""
    if Path("/proc/self").exists():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            # The first thread may already be a zombie while others still hold the ports.
            return state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
        except OSError:
            return True
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.strip()[:1] in ("", "Z")


def _command_line(pid: int) -> str:
    """The command line of a running process; empty for one that has ended or is a zombie."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    answer = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.strip()
