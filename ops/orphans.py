"""The plugins of a run that was killed: they outlive their engine by minutes, and finish what they were at."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import psutil

_NAME = "pulumi-resource-"
_CONNECT_SECONDS = 2.0
_END_SECONDS = 5.0


def plugins(folder: Path) -> list[psutil.Process]:
    """Plugins on this machine that were started for the program in `folder`, and whose engine is no more.

    A plugin's first argument is its engine's address (pulumi/pulumi, sdk/go/common/resource/plugin).
    """
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            at = next((i for i, word in enumerate(command) if Path(word).name.startswith(_NAME)), None)
            if at is None or Path(process.cwd()) != folder.resolve():
                continue
        except psutil.Error:
            continue  # it ended meanwhile, or is somebody else's
        engine = next((word for word in command[at + 1 :] if not word.startswith("-")), "")
        if not _answers(engine):
            found.append(process)
    return found


def alive(processes: list[psutil.Process]) -> bool:
    """Whether one of them is still there."""
    return any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def end(processes: list[psutil.Process]) -> None:
    """End them, so that nothing is done behind the back of whoever reads the cluster now."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=_END_SECONDS)[1]:
        process.kill()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
