"""Helm's records of its releases, and repairing those that a killed run leaves wrong.

Helm keeps each revision in a Secret `sh.helm.release.v1.NAME.vN`: gzipped JSON in base64, twice
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
    """The newest revision of a release. `record` is Helm's whole record of it."""

    namespace: str
    secret: str
    record: dict[str, Any]

    @property
    def is_pending(self) -> bool:
        """Whether Helm is working on it, or was when it was killed. Helm then refuses to touch the release again."""
        return self.record["info"]["status"] in _PENDING

    def is_of(self, description: str, since: str | None) -> bool:
        """Whether it was installed with `description`, or was first deployed after `since`.

        Only a successful release has its description; a failed one has its error there.
        """
        info = self.record["info"]
        if info.get("description") == description:
            return True
        return since is not None and moment(info["first_deployed"]) >= moment(since)

    def has(self, inputs: Mapping[str, Any]) -> bool:
        """Whether it was installed completely, with the values and version in a Release's inputs."""
        chart = self.record["chart"]["metadata"]
        version = inputs.get("version")
        return (
            self.record["info"]["status"] == "deployed"
            and (self.record.get("config") or {}) == (inputs.get("values") or {})
            and version in (None, chart["version"])
        )


def read(secret: Mapping[str, Any]) -> dict[str, Any]:
    """The record in one of Helm's Secrets."""
    return json.loads(gzip.decompress(base64.b64decode(base64.b64decode(secret["data"]["release"]))))


class Releases:
    """The records in one cluster; `client` is a DynamicClient of the Kubernetes library."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def newest(self, namespace: str, name: str) -> Release | None:
        """The newest revision; None if there is no such release."""
        secrets = self._secrets.get(namespace=namespace, label_selector=f"owner=helm,name={name}").to_dict()["items"]
        if not secrets:
            return None
        newest = max(secrets, key=lambda secret: int(secret["metadata"]["labels"]["version"]))
        return Release(namespace, newest["metadata"]["name"], read(newest))

    def fail(self, release: Release) -> None:
        """Marks the release as failed, as Helm does when told to stop: Helm can then install or remove it again."""
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
    """Parses a time in RFC 3339. Python 3.10 parses it only without Z and with at most six digits of a second."""
    whole, _, zone = written.replace("Z", "+00:00").partition(".")
    if not zone:
        return datetime.fromisoformat(whole)
    digits = len(zone) - len(zone.lstrip("0123456789"))
    return datetime.fromisoformat(f"{whole}.{zone[:digits][:6].ljust(6, '0')}{zone[digits:]}")
