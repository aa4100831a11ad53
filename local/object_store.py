"""The object store of a control plane: `rclone serve s3` with one folder per bucket.

Owns the process and the folder `cloud/buckets`, but not the buckets in it: the stand-in for the cloud's plugin creates
and deletes those.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from local import processes


def buckets(folder: Path) -> Path:
    """The folder of a control plane's buckets, each a folder of objects."""
    return folder / "cloud" / "buckets"


def launch(folder: Path, rclone: Path, port: int, keys: Mapping[str, str] | None = None) -> str:
    """Starts the store for a control plane's folder. Returns its URL.

    `keys` maps access key ids, of at least three letters, to their secrets; without it every key is accepted.
    """
    where = buckets(folder)
    where.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [rclone, "serve", "s3", "--config=", f"--addr=127.0.0.1:{port}"]
    # Others create and delete buckets while it runs. Not 0: its timers would then fire without a pause.
    command += ["--dir-cache-time=10ms", "--poll-interval=0"]
    # Not in the argument list, which every process can read.
    pairs = ",".join(f'"{key},{secret}"' for key, secret in (keys or {}).items())
    processes.launch(folder, "object-store", [*command, where], {"RCLONE_AUTH_KEY": pairs} if pairs else {})
    return f"http://127.0.0.1:{port}"
