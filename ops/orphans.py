"""Pulumi's plugins of a killed run: they outlive Pulumi by minutes, and finish the operations that they began."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import psutil

_NAME = "pulumi-resource-"
_CONNECT_SECONDS = 2.0
_END_SECONDS = 5.0


def plugins(folder: Path) -> list[psutil.Process]:
    """Plugins on this machine that were started for the program in `folder` and whose Pulumi process is gone.

    A plugin's first argument is the address of its Pulumi process (pulumi/pulumi, sdk/go/common/resource/plugin).
    """
    orphans = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            at = next((i for i, word in enumerate(command) if Path(word).name.startswith(_NAME)), None)
            if at is None or Path(process.cwd()) != folder.resolve():
                continue
        except psutil.Error:
            continue  # it has ended, or belongs to somebody else
        engine = next((word for word in command[at + 1 :] if not word.startswith("-")), "")
        if not _answers(engine):
            orphans.append(process)
    return orphans


def alive(processes: list[psutil.Process]) -> bool:
    """Whether one of them still runs."""
    return any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def end(processes: list[psutil.Process]) -> None:
    """Ends them, so that they change nothing while the cluster is read."""
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
