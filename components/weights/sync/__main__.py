"""`python3 -m sync`: settings by environment, progress as lines, the outcome as exit code.

0 when the target holds the model whole, 1 for what no repetition heals, 2 for what another run may.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from .bucket import Bucket, key_environment, remote_environment
from .folder import OWN, Folder
from .hubs import Hub
from .manifest import LeftOut
from .node import OnNode, check_disk
from .origin import Origin
from .retries import Fatal, GaveUp, Patience
from .role import Lender
from .tool import Rclone
from .transfer import Limits, Source, Sync, Target

_HOPELESS, _ANOTHER_TIME = 1, 2


def say(line: str) -> None:
    """One line of the log."""
    sys.stdout.write(f"modelserve: sync: {line}\n")  # one piece: other threads write too
    sys.stdout.flush()


class Settings:
    """The variables `MODELSERVE_*`."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def get(self, name: str, default: str | None = None) -> str:
        """The value. Raises Fatal when it is not set."""
        value = self._variables.get(f"MODELSERVE_{name}") or default
        if value is None:
            raise Fatal(f"MODELSERVE_{name} is not set")
        return value

    def rclone(self) -> Rclone:
        """The tool, told about the bucket where there is one."""
        key_id, secret, token = self.get("KEY_ID", ""), self.get("KEY_SECRET", ""), self.get("HUB_TOKEN", "")
        rest = {name: value for name, value in self._variables.items() if not name.startswith("MODELSERVE_")}
        endpoint = self.get("ENDPOINT", "")
        if not endpoint:
            return Rclone(self.get("RCLONE"), rest, [token])
        remote = remote_environment(endpoint)
        if role := self.get("ROLE", ""):
            asked = (self.get("STS"), role, self.get("PROVIDER"), Path(self.get("TOKEN_FILE")))
            return Rclone(self.get("RCLONE"), rest | remote, [token], Lender(*asked).lent)
        remote |= key_environment(key_id, secret)
        return Rclone(self.get("RCLONE"), rest | remote, [key_id, secret, token])


def sync(settings: Settings) -> Sync:
    """The run that the settings ask for. Raises Fatal naming one that is missing.

    To a folder where MODELSERVE_FOLDER names one, else to the bucket; from the bucket where MODELSERVE_FROM says so,
    else from the hub.
    """
    get, rclone = settings.get, settings.rclone()
    source: Source
    target: Target
    if get("FROM", "hub") == "bucket":
        bucket = Bucket(rclone, get("BUCKET"), get("PREFIX"), "list and read")
        source = Origin(bucket, get("ENDPOINT"), get("BUCKET"), get("PREFIX"), get("MANIFEST", "1") == "1")
    else:
        source = Hub(get("HUB_KIND"), get("HUB_URL"), get("REPOSITORY"), get("REVISION"), get("HUB_TOKEN", ""))
    if folder := get("FOLDER", ""):
        target = Folder(Path(folder), get("CALLED", "the volume"))
        scratch, room = Path(folder, OWN), None
    else:
        target = Bucket(rclone, get("BUCKET"), get("PREFIX"))
        scratch, room = Path(get("SCRATCH")), int(float(get("SCRATCH_GIB")) * 2**30)
    return Sync(
        source=source,
        target=target,
        rclone=rclone,
        patience=Patience(int(get("ATTEMPTS", "8")), float(get("PAUSE_SECONDS", "2")), say),
        scratch=scratch,
        limits=Limits(
            scratch_bytes=room,
            parallel=int(get("PARALLEL", "8")),
            progress_seconds=float(get("PROGRESS_SECONDS", "10")),
        ),
        say=say,
        left_out=LeftOut(tuple(get("WEIGHTS", "").split()), tuple(get("LEAVES", "").split())),
    )


def task(settings: Settings) -> Sync | OnNode:
    """What to run: a sync, or at a node's disk (MODELSERVE_MOUNT) what `OnNode` says. Raises Fatal, also for a disk
    that is none."""
    get = settings.get
    mount, origin = get("MOUNT", ""), get("FROM", "hub")
    if not mount:
        return sync(settings)
    # Looked at before anything is made there: a folder on the wrong disk stays as it was.
    check_disk(Path("/proc/self/mountinfo").read_text(), mount, get("NODE"), get("HOST_PATH"))
    return OnNode(Path(get("FOLDER")), origin, sync(settings) if origin == "bucket" else None, say)


def main() -> int:
    """Runs the sync; gives the exit code."""
    try:
        run = task(Settings(os.environ))

        def end(number: int, _: Any) -> NoReturn:
            run.stop()
            os.write(1, b"modelserve: sync: told to end; what has arrived stays\n")
            os._exit(128 + number)

        # The first process of a container is not ended by a signal that it does not handle.
        signal.signal(signal.SIGTERM, end)
        run.run()
    except Fatal as error:
        say(f"failed: {error}")
        return _HOPELESS
    except GaveUp as error:
        say(f"failed for now: {error}")
        return _ANOTHER_TIME
    return 0


if __name__ == "__main__":
    sys.exit(main())
