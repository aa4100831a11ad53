"""A cloud in a folder: `cloud.json` holds everything but objects; `buckets/NAME/` holds each bucket's objects as files.

Several plugins and the bucket server use it at the same time; a lock lets only one of them change it at a time. A
folder holds one namespace for all clouds' plugins: to one cloud, a name that another cloud's account uses is taken.
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

_TABLES = ("buckets", "users", "policies", "attachments", "keys", "roles", "rules", "balancers")
# The value in the control plane's faults.json that makes the cloud deny every request for an object.
_DENIED = "denied"

ANOTHERS_KEY, ANOTHER_ACCOUNT = "anothers", "9999999999999999"
"""The one access key that belongs to another account, and that account."""

Table = dict[str, dict[str, Any]]


class CloudError(Refusal):
    """A request that the cloud refused, as its SDK reports it. `gone`: the plugin reads it as «does not exist».

    `status` is an HTTP status, or 0 if the message is the plugin's own.
    """

    def __init__(self, text: str, *, status: int = 0, gone: bool = False) -> None:
        super().__init__(text)
        self.status, self.gone = status, gone


@dataclass
class Cloud:
    """One account's view of the cloud from one region. Its tables are those of `cloud.json`; callers may edit them.
    `key` is the access key of whoever asks."""

    region: str
    folder: Path
    key: str
    buckets: Table
    users: Table
    policies: Table
    attachments: Table
    keys: Table
    roles: Table
    rules: Table
    balancers: Table

    def caller(self, account: str) -> str:
        """The account of whoever asks: the rehearsal's own, but for the one key that is another account's."""
        return ANOTHER_ACCOUNT if self.key == ANOTHERS_KEY else account

    def objects(self, bucket: str) -> Path:
        """The folder that holds a bucket's objects."""
        return self.folder / "buckets" / bucket

    def is_empty(self, bucket: str) -> bool:
        """Whether a bucket has no objects and no upload in progress."""
        return not any(path.is_file() for path in self.objects(bucket).rglob("*"))

    def forbids(self, kind: str, name: str) -> bool:
        """Whether the control plane's faults take away the permission for this object."""
        return faults.of(self.folder.parent, kind, name) == _DENIED


@contextmanager
def opened(folder: Path, region: str, key: str = "") -> Iterator[Cloud]:
    """Opens the cloud for one request; creates it if needed. Saves the request's changes unless the request fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / "cloud.json"
        before = file.read_text() if file.exists() else ""
        tables = {name: {} for name in _TABLES} | (json.loads(before) if before else {})
        yield Cloud(region, folder, key, **tables)
        after = json.dumps(tables, indent=2, sort_keys=True)
        if after != before:
            fresh = folder / "cloud.json.new"
            # The file holds the keys' secrets, as the real cloud does.
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(after)
            fresh.replace(file)
