"""The object store of a control plane: `rclone serve s3` over one folder a bucket.

Owns the process and the folder `cloud/buckets`, not the buckets in it: whoever plays the cloud's bucket resource makes
and removes those.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from local import processes


def buckets(folder: Path) -> Path:
    """Where a control plane's buckets lie, each a folder of objects."""
    return folder / "cloud" / "buckets"


def launch(folder: Path, rclone: Path, port: int, keys: Mapping[str, str] | None = None) -> str:
    """Starts the store for a control plane's folder; gives its URL.

    `keys` maps access key ids, of three letters at least, to their secrets; without them every key is taken.
    """
    where = buckets(folder)
    where.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [rclone, "serve", "s3", "--config=", f"--addr=127.0.0.1:{port}"]
    # Buckets come and go beside the server. Not 0: its timers would then follow each other without a pause.
    command += ["--dir-cache-time=10ms", "--poll-interval=0"]
    # Not in the argument list: that is everybody's to read.
    pairs = ",".join(f'"{key},{secret}"' for key, secret in (keys or {}).items())
    processes.launch(folder, "object-store", [*command, where], {"RCLONE_AUTH_KEY": pairs} if pairs else {})
    return f"http://127.0.0.1:{port}"
