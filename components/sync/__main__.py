"""`python3 -m sync`: settings by environment, progress as lines, the outcome as exit code.

0 when the bucket holds the model whole, 1 for what no repetition heals, 2 for what another run may.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from .bucket import Bucket, remote_environment
from .hubs import Hub
from .retries import Fatal, GaveUp, Patience
from .tool import Rclone
from .transfer import Limits, Sync

_HOPELESS, _ANOTHER_TIME = 1, 2


def say(line: str) -> None:
    """One line of the log."""
    sys.stdout.write(f"modelserve: sync: {line}\n")  # one piece: other threads write too
    sys.stdout.flush()


def from_environment(variables: Mapping[str, str]) -> Sync:
    """The run that the variables ask for. Raises Fatal naming one that is missing."""

    def get(name: str, default: str | None = None) -> str:
        value = variables.get(f"MODELSERVE_{name}") or default
        if value is None:
            raise Fatal(f"MODELSERVE_{name} is not set")
        return value

    key_id, secret, token = get("KEY_ID"), get("KEY_SECRET"), get("HUB_TOKEN", "")
    rest = {name: value for name, value in variables.items() if not name.startswith("MODELSERVE_")}
    remote = remote_environment(get("ENDPOINT"), key_id, secret)
    rclone = Rclone(get("RCLONE"), rest | remote, [key_id, secret, token])
    return Sync(
        hub=Hub(get("HUB_KIND"), get("HUB_URL"), get("REPOSITORY"), get("REVISION"), token),
        bucket=Bucket(rclone, get("BUCKET"), get("PREFIX")),
        rclone=rclone,
        patience=Patience(int(get("ATTEMPTS", "8")), float(get("PAUSE_SECONDS", "2")), say),
        scratch=Path(get("SCRATCH")),
        limits=Limits(
            scratch_bytes=int(float(get("SCRATCH_GIB")) * 2**30),
            parallel=int(get("PARALLEL", "8")),
            progress_seconds=float(get("PROGRESS_SECONDS", "10")),
        ),
        say=say,
    )


def main() -> int:
    """Runs the sync; gives the exit code."""
    try:
        sync = from_environment(os.environ)

        def end(number: int, _: Any) -> NoReturn:
            sync.rclone.stop()
            os.write(1, b"modelserve: sync: told to end; what has arrived stays\n")
            os._exit(128 + number)

        # The first process of a container is not ended by a signal that it does not handle.
        signal.signal(signal.SIGTERM, end)
        sync.run()
    except Fatal as error:
        say(f"failed: {error}")
        return _HOPELESS
    except GaveUp as error:
        say(f"failed for now: {error}")
        return _ANOTHER_TIME
    return 0


if __name__ == "__main__":
    sys.exit(main())
