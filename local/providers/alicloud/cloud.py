"""The cloud: `cloud.json` with everything but objects, and `buckets/NAME/` with the objects of each bucket as files.

Several plugins, and whoever serves the buckets, use it at once: a lock lets one at a time change it.
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
from local.providers.reporting import Refusal

ACCOUNT = "1000000000000001"
"""The rehearsal's own account. A bucket in `cloud.json` with another owner is somebody else's."""
_TABLES = ("buckets", "users", "policies", "attachments", "keys")
# What a fault in the control plane's faults.json makes of any request for its object.
_DENIED = "denied"

Table = dict[str, dict[str, Any]]


class CloudError(Refusal):
    """A request that the cloud refused, told as the SDK of its service (`oss`, `ram`) does."""

    def __init__(self, status: int, code: str, message: str, service: str) -> None:
        told = f"[SDK alibaba-cloud-sdk-go ERROR]:\nSDKError:\n   StatusCode: {status}\n   Code: {code}\n"
        told += f"   Message: {message}"
        if service == "oss":
            told = "[SDK aliyun-oss-go-sdk ERROR]:\noss: service returned error: "
            told += f'StatusCode={status}, ErrorCode={code}, ErrorMessage="{message}"'
        super().__init__(told)


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

    def objects(self, bucket: str) -> Path:
        """The folder of a bucket's objects."""
        return self.folder / "buckets" / bucket

    def permit(self, service: str, kind: str, name: str) -> None:
        """Raises CloudError where the control plane's faults forbid what concerns this object."""
        if faults.of(self.folder.parent, kind, name) != _DENIED:
            return
        if service == "oss":
            raise CloudError(403, "AccessDenied", "You have no right to access this object.", service)
        raise CloudError(403, "NoPermission", "You are not authorized to do this action.", service)


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
