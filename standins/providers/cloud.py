"""A cloud in a folder: `cloud.json` with all but objects, and `buckets/NAME/` with each bucket's objects as files.

Several plugins, and whoever serves the buckets, use it at once: a lock lets one at a time change it. A folder holds one
namespace, whichever clouds' plugins use it: what one cloud's account has is somebody else's to the other.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local import faults
from standins.providers.reporting import Refusal

_TABLES = ("buckets", "users", "policies", "attachments", "keys", "roles")
# What a fault in the control plane's faults.json makes of any request for its object.
_DENIED = "denied"

Table = dict[str, dict[str, Any]]


class CloudError(Refusal):
    """A request that the cloud refused, as its SDK tells it. `gone` is what the plugin takes for «it is not there».

    `status` is an HTTP status, or 0 where the plugin itself says so.
    """

    def __init__(self, text: str, *, status: int = 0, gone: bool = False) -> None:
        super().__init__(text)
        self.status, self.gone = status, gone


@dataclass
class Cloud:
    """One account's view of the cloud from one region; the tables are those of `cloud.json`, free to change."""

    region: str
    folder: Path
    buckets: Table
    users: Table
    policies: Table
    attachments: Table
    keys: Table
    roles: Table

    def objects(self, bucket: str) -> Path:
        """The folder of a bucket's objects."""
        return self.folder / "buckets" / bucket

    def is_empty(self, bucket: str) -> bool:
        """Whether a bucket has no object, and no upload under way."""
        return not any(path.is_file() for path in self.objects(bucket).rglob("*"))

    def forbids(self, kind: str, name: str) -> bool:
        """Whether the control plane's faults take away the permission for this object."""
        return faults.of(self.folder.parent, kind, name) == _DENIED


@contextmanager
def opened(folder: Path, region: str) -> Iterator[Cloud]:
    """The cloud for one request, made when there is none. What the request changes is kept unless it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / "cloud.json"
        before = file.read_text() if file.exists() else ""
        tables = {name: {} for name in _TABLES} | (json.loads(before) if before else {})
        yield Cloud(region, folder, **tables)
        after = json.dumps(tables, indent=2, sort_keys=True)
        if after != before:
            fresh = folder / "cloud.json.new"
            # It holds the keys' secrets, as the real cloud does.
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(after)
            fresh.replace(file)
