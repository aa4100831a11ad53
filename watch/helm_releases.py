"""Helm's own records of its releases, as far as a killed run leaves them wrong.

Helm keeps each revision in a Secret `sh.helm.release.v1.NAME.vN`: its JSON, zipped, twice in base64
(https://github.com/helm/helm/blob/v3.18.6/pkg/storage/driver/util.go, secrets.go).
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_PENDING = ("pending-install", "pending-upgrade", "pending-rollback", "uninstalling")


@dataclass(frozen=True)
class Release:
    """The newest revision of a release. `record` is the whole of what Helm keeps of it."""

    namespace: str
    secret: str
    record: dict[str, Any]

    @property
    def is_pending(self) -> bool:
        """Whether Helm is at it, or was when it was cut off: then it refuses to touch it again."""
        return self.record["info"]["status"] in _PENDING

    def is_of(self, description: str, since: str | None) -> bool:
        """Whether it is the release that was installed under `description`, or was first made after `since`.

        Only what came up has its description: a failed one has its error there.
        """
        info = self.record["info"]
        if info.get("description") == description:
            return True
        return since is not None and moment(info["first_deployed"]) >= moment(since)

    def has(self, inputs: Mapping[str, Any]) -> bool:
        """Whether it was installed, to its end, with what a Release's inputs say."""
        chart = self.record["chart"]["metadata"]
        version = inputs.get("version")
        return (
            self.record["info"]["status"] == "deployed"
            and (self.record.get("config") or {}) == (inputs.get("values") or {})
            and version in (None, chart["version"])
        )


def read(secret: Mapping[str, Any]) -> dict[str, Any]:
    """The record in a Secret of Helm's."""
    return json.loads(gzip.decompress(base64.b64decode(base64.b64decode(secret["data"]["release"]))))


class Releases:
    """The records in one cluster; `client` is a DynamicClient of the Kubernetes library."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def newest(self, namespace: str, name: str) -> Release | None:
        """The newest revision, None for a release that is not there."""
        found = self._secrets.get(namespace=namespace, label_selector=f"owner=helm,name={name}").to_dict()["items"]
        if not found:
            return None
        newest = max(found, key=lambda secret: int(secret["metadata"]["labels"]["version"]))
        return Release(namespace, newest["metadata"]["name"], read(newest))

    def fail(self, release: Release) -> None:
        """Write what Helm would have written had it been told to stop: then it installs, or removes, it again."""
        record = release.record | {"info": release.record["info"] | {"status": "failed"}}
        packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(record).encode()))).decode()
        change = {"metadata": {"labels": {"status": "failed"}}, "data": {"release": packed}}
        self._secrets.patch(
            body=change, name=release.secret, namespace=release.namespace, content_type="application/merge-patch+json"
        )

    @property
    def _secrets(self) -> Any:
        return self._client.resources.get(api_version="v1", kind="Secret")


def moment(written: str) -> datetime:
    """A time in RFC 3339, which Python 3.10 reads without Z and with six digits of a second at most."""
    whole, _, zone = written.replace("Z", "+00:00").partition(".")
    if not zone:
        return datetime.fromisoformat(whole)
    digits = len(zone) - len(zone.lstrip("0123456789"))
    return datetime.fromisoformat(f"{whole}.{zone[:digits][:6].ljust(6, '0')}{zone[digits:]}")
