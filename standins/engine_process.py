"""What runs in one pod: its simulated engine and its preStop hook, as real processes with the pod's environment.

`engines.py` decides when they run.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from local.paths import ROOT

# In the rehearsal, a pod stops being an endpoint as soon as it is told to terminate.
_SETTLE_SECONDS = "0.5"


class EngineProcess:
    """A running engine. `port` is its HTTP port; `alive` is a port that is open as long as the engine lives."""

    def __init__(self, folder: Path, launch: Path, release: str, words: Sequence[str], env: Mapping[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as alive:
            alive.listen(4096)
            self.port: int = listener.getsockname()[1]
            self.alive: int = alive.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "standins.vllm_server", "--release", release, "--folder", str(folder),
                 "--listener", str(listener.fileno()), "--alive", str(alive.fileno()), "--", *words],
                env=_environment(folder, launch, env),
                pass_fds=(listener.fileno(), alive.fileno()),
                stdin=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip

    def term(self, seconds: float) -> None:
        """Sends SIGTERM, and kills the process after `seconds` seconds."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kills it at once."""
        self._process.kill()
        self._process.wait()

    @property
    def gone(self) -> bool:
        """Whether it has exited."""
        return self._process.poll() is not None


def run_hook(
    command: Sequence[str],
    folder: Path,
    launch: Path,
    env: Mapping[str, str],
    leader: EngineProcess | None,
    seconds: float,
) -> None:
    """Runs a preStop hook for at most `seconds` seconds. `leader` is the engine that the pod has joined, or runs."""
    mounted = [word.replace("/etc/modelserve", str(launch)) for word in command]
    program = sys.executable if mounted[0] == "python3" else mounted[0]
    changes = {"MODELSERVE_SETTLE_SECONDS": _SETTLE_SECONDS}
    folder.mkdir(parents=True, exist_ok=True)
    if leader:
        (folder / "leader").write_text("127.0.0.1\n")
        changes |= {"MODELSERVE_PORT": str(leader.port), "MODELSERVE_JOIN_PORT": str(leader.alive)}
    ran = subprocess.Popen([program, *mounted[1:]], env=_environment(folder, launch, {**env, **changes}))
    end = time.monotonic() + seconds
    try:
        ran.wait(max(end - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        ran.kill()
        ran.wait()


def _environment(folder: Path, launch: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The pod's environment, with this machine's values and paths where the pod's do not apply."""
    own = {
        "PYTHONPATH": f"{launch}:{ROOT}",
        "MODELSERVE_DRAIN_FILE": str(folder / "drain"),
        "MODELSERVE_OPEN_FOLDER": str(folder / "open"),
        "MODELSERVE_LEADER_FILE": str(folder / "leader"),
    }
    here = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**env, **here, **own}
