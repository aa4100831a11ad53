"""Compares a stack's resources with the cluster: does each exist, is it ours, is it what the state says."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from components.cluster.kubernetes import release_description, stack_of
from watch.helm_releases import Release, Releases
from watch.outcomes import RELEASE, Found, Resource, UnreadError, Verdict, about

if TYPE_CHECKING:
    from kubernetes.dynamic import DynamicClient

# An object that is being deleted may take as long as the grace period of its pods.
_GONE_SECONDS = 60.0
_POLL_SECONDS = 0.5
_MANAGER = "pulumi-kubernetes-"
# Metadata that the API server changes at every write, also in a dry run.
_COUNTED = ("generation", "managedFields", "resourceVersion")


class StackObjects:
    """The cluster of a stack, asked about resources in the stack's state and those that a run was creating."""

    since: str | None = None
    """When the run began."""

    def __init__(self, stack: str, client: DynamicClient) -> None:
        self._client = client
        self._releases = Releases(self._client)
        self._stack = stack

    def await_helm(self, resources: list[Resource], go_on: Callable[[], bool]) -> None:
        """Waits until Helm, in a plugin that still runs, has finished with these: a killed Helm leaves a release that
        it refuses to touch again."""
        for resource in resources:
            if resource["type"] != RELEASE:
                continue
            end = time.monotonic() + (resource["inputs"].get("timeout") or 0)
            while go_on() and time.monotonic() < end and (release := self._release(resource)) and release.is_pending:
                time.sleep(_POLL_SECONDS)

    def look(self, resource: Resource) -> Found | None:
        """What exists of a resource. Raises UnreadError if the cluster does not say."""
        named = about(resource)
        namespace = named.get("namespace")
        id = f"{namespace}/{named['name']}" if namespace else named["name"]
        if resource["type"] == RELEASE:
            release = self._release(resource)
            if release is None:
                return None
            # The state has the id of what it knows already: of an upgrade that was cut off Helm says nothing of ours.
            ours = bool(resource.get("id")) or release.is_of(release_description(self._stack), self.since)
            if ours and release.is_pending:
                self._releases.fail(release)
            return Found(ours, id)
        end = time.monotonic() + _GONE_SECONDS
        while (live := self._object(resource["inputs"])) and live["metadata"].get("deletionTimestamp"):
            if time.monotonic() > end:
                return Found(self._is_ours(live), id, going=True)
            time.sleep(_POLL_SECONDS)
        return Found(self._is_ours(live), id, manager=_manager(live, resource["urn"])) if live else None

    def compare(self, resource: Resource) -> Verdict | None:
        """GONE, DIFFERS, or None if the object is as the resource says; the resource's secrets must be plain.

        A dry run asks the API server what the resource's inputs would become now, so defaults and webhooks are on both
        sides of the comparison.
        """
        if resource["type"] == RELEASE:
            release = self._release(resource)
            if release is None:
                return Verdict.GONE
            if release.has(resource["inputs"]):
                return None
            if release.is_pending:
                self._releases.fail(release)
            return Verdict.DIFFERS
        manifest = resource["inputs"]
        live = self._object(manifest)
        if live is None:
            return Verdict.GONE
        if live["metadata"].get("deletionTimestamp"):
            return None
        wanted = self._as_written(manifest, (resource.get("outputs") or {}).get("__fieldManager"))
        ignored = resource.get("ignoreChanges") or []
        return None if wanted is None or _content(wanted, ignored) == _content(live, ignored) else Verdict.DIFFERS

    def _as_written(self, manifest: dict[str, Any], manager: str | None) -> dict[str, Any] | None:
        """The object that writing the manifest would create; None if the cluster refuses it."""
        from kubernetes.client import ApiException

        metadata = manifest["metadata"]
        kind = self._client.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        try:
            return kind.server_side_apply(
                body=manifest,
                name=metadata["name"],
                namespace=metadata.get("namespace"),
                field_manager=manager or "pulumi-kubernetes",
                force_conflicts=True,
                dry_run="All",
            ).to_dict()
        except ApiException:
            return None

    def _is_ours(self, live: dict[str, Any]) -> bool:
        return stack_of(live["metadata"].get("labels")) == self._stack

    def _release(self, resource: Resource) -> Release | None:
        inputs = resource["inputs"]
        return self._releases.newest(inputs["namespace"], inputs["name"])

    def _object(self, manifest: dict[str, Any]) -> dict[str, Any] | None:
        from kubernetes.client import ApiException
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        metadata = manifest["metadata"]
        try:
            kind = self._client.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
            return kind.get(name=metadata["name"], namespace=metadata.get("namespace")).to_dict()
        except ResourceNotFoundError:
            return None
        except ApiException as error:
            if error.status == 404:
                return None
            raise UnreadError(f"the cluster answers {error.status} {error.reason}") from None


def _manager(live: dict[str, Any], urn: str) -> str:
    """The field manager by which the plugin wrote the object last, or one for it to keep to from now on: the plugin
    takes a random name, once for each resource (pulumi-kubernetes, provider.go, fieldManagerName)."""
    entries = live["metadata"].get("managedFields") or []
    names = {entry.get("time", ""): entry["manager"] for entry in entries if entry["manager"].startswith(_MANAGER)}
    return names[max(names)] if names else f"{_MANAGER}{hashlib.sha256(urn.encode()).hexdigest()[:8]}"


def _content(live: dict[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    """The parts of an object that somebody wrote: without the API server's counters, and without `ignored` paths."""
    metadata = {key: value for key, value in live["metadata"].items() if key not in _COUNTED}
    content = {key: value for key, value in live.items() if key != "status"} | {"metadata": metadata}
    for path in ignored:
        *parents, last = path.split(".")
        parent: Any = content
        for name in parents:
            parent = parent.get(name) if isinstance(parent, dict) else None
        if isinstance(parent, dict):
            parent.pop(last, None)
    return content
