"""Runs one simulated engine as its own process, which handles SIGTERM the way the release it plays does.

`python -m standins.vllm_server --release R --listener FD --alive FD --folder D -- ARGUMENTS OF VLLM SERVE`, with the
pod's environment. `listener` is the listening HTTP socket. `alive` is a socket that stays open as long as the process
lives, like the ports of Ray and of the process group. `folder` holds the pod's log. The process exits with its parent:
that closes the process's standard input.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from planning.catalog import fact
from planning.engine import release_key
from standins.members import Log
from standins.vllm import Engine, Server
from standins.vllm_arguments import Arguments

_SWITCHES = ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING")
TOKEN_SECONDS = "REHEARSAL_TOKEN_SECONDS"


def at_term(release: str, pipeline: int, shutdown_timeout: int) -> str:
    """What SIGTERM does to running answers: `cut`, `abort` (they end early but look complete) or `finish`."""
    steps = fact("vllm", "end", "atTerm")
    step = [each for each in steps if release_key(each["since"]) <= release_key(release)][-1]
    how = step["one" if pipeline == 1 else "several"]
    return "finish" if how == "abort" and shutdown_timeout else how


class _Engine(Server):
    def __init__(self, engine: Engine, log: Log) -> None:
        super().__init__(engine, lambda line: log.write([f"INFO:     {line}"]))
        self._engine = engine
        self.config.timeout_graceful_shutdown = engine.arguments.shutdown_timeout or None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles SIGTERM: accepts no new connections from now on, whatever happens to the open ones."""
        arguments = self._engine.arguments
        how = at_term(self._engine.release, arguments.pipeline_parallel, arguments.shutdown_timeout)
        if how == "cut":
            os._exit(0)
        self._engine.aborting = how == "abort"
        super().handle_exit(sig, frame)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main(argv: Sequence[str]) -> None:
    """Serves until told to exit."""
    parser = argparse.ArgumentParser(prog="python -m standins.vllm_server", description=__doc__)
    for name in ("listener", "alive"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args(argv)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    key = os.environ.get("VLLM_API_KEY")
    engine = Engine(
        Arguments.parse(options.words),
        options.release,
        (key,) if key else (),
        float(os.environ.get(TOKEN_SECONDS, "0.01")),
        [name for name in _SWITCHES if os.environ.get(name) in ("1", "true", "True")],
    )
    _Engine(engine, Log(options.folder)).run(sockets=[socket.socket(fileno=options.listener)])


if __name__ == "__main__":
    main(sys.argv[1:])
