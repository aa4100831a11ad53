"""A rehearsal's cloud, as tests inspect and change it from outside the program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local import faults


@dataclass
class Cloud:
    """The cloud as seen from outside the program. `environment` is that of the engine's runs."""

    plane: Path
    environment: dict[str, str]

    @property
    def file(self) -> Path:
        return self.plane / "cloud" / "cloud.json"

    def tables(self) -> dict[str, dict[str, Any]]:
        """Everything but objects; empty before the first request."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def left(self) -> dict[str, list[str]]:
        """The names of the existing entries, by table."""
        return {name: sorted(table) for name, table in self.tables().items() if table}

    def change(self, **tables: dict[str, Any]) -> None:
        """Replaces the existing tables with these."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({**self.tables(), **tables}))

    def put_bucket(self, name: str, entry: dict[str, Any]) -> None:
        """Adds a bucket that the program did not create."""
        self.change(buckets={**self.tables().get("buckets", {}), name: entry})
        self.objects(name).mkdir(parents=True, exist_ok=True)

    def objects(self, bucket: str) -> Path:
        return self.plane / "cloud" / "buckets" / bucket

    def lay(self, bucket: str, path: str, size: int) -> None:
        """Adds an object of `size` bytes, stored as a sparse file."""
        file = self.objects(bucket) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.truncate(size)

    def written(self, bucket: str) -> dict[str, int]:
        """A bucket's objects, each with the time it was written."""
        root = self.objects(bucket)
        return {str(file.relative_to(root)): file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file()}

    def fail(self, kind: str, name: str, how: str | None = "denied") -> None:
        faults.put(self.plane, kind, name, how)


# A private bucket without settings, by the cloud whose account has it.
BUCKETS = {
    "acs": {
        "owner": "1000000000000001",
        "region": "cn-hangzhou",
        "creationDate": "2026-01-01",
        "storageClass": "Standard",
        "acl": "private",
        "blockPublicAccess": False,
        "settings": {},
    },
    "volcengine": {
        "owner": "2100000001",
        "region": "cn-beijing",
        "creationDate": "2026-01-01T00:00:00.000Z",
        "azRedundancy": "single-az",
        "settings": {"publicAcl": "private", "storageClass": "STANDARD", "bucketType": "fns", "projectName": "default"},
    },
}
