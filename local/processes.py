"""Processes that outlive the one that started them, each recorded by a file with its id.

A process belongs to a folder when its id stands in one of the folder's `pids/*.pid` and its command line names the
folder: an id that the system has since given to somebody else is thereby never touched.
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
    """Starts `command` detached, with its output in logs/NAME.log and its id in pids/NAME.pid."""
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
    # For an instant a new process has no command line yet, and `alive` would take it for an ended one.
    while not _command_line(process.pid) and not _over(process.pid):
        time.sleep(0.001)
    return process


def run(folder: Path, name: str, command: Sequence[str | Path], environment: Mapping[str, str], seconds: float) -> int:
    """Like `launch`, and waits for the end; gives the exit code. Raises subprocess.TimeoutExpired.

    Recorded as long as it runs, so that `end` finds it also when whoever waited was killed.
    """
    code = launch(folder, name, command, environment).wait(seconds)
    (folder / "pids" / f"{name}.pid").unlink()
    return code


def recorded(folder: Path) -> dict[str, int]:
    """Name → id of everything that was started for this folder, alive or not."""
    found = {}
    for file in sorted((folder / "pids").glob("*.pid")):
        text = file.read_text().strip()
        if text.isdigit():
            found[file.stem] = int(text)
    return found


def alive(folder: Path) -> dict[str, int]:
    """Name → id of this folder's processes that run."""
    return {name: pid for name, pid in recorded(folder).items() if str(folder) in _command_line(pid)}


def end(folder: Path, grace_seconds: float = 0.5) -> None:
    """Ends this folder's processes: asked first, killed when still there after `grace_seconds`."""
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
        # Each was started as the leader of a session of its own; its helpers go with it.
        os.killpg(pid, sign)


def _over(pid: int) -> bool:
    """Whether a process has ended. One on its way out has no command line any more, but still its ports."""
    if Path("/proc/self").exists():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            # The first thread is a zombie already while others still hold the ports.
            return state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
        except OSError:
            return True
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.strip()[:1] in ("", "Z")


def _command_line(pid: int) -> str:
    """The command line of a running process, empty when it does not run or is only waiting to be reaped."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    answer = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.strip()
