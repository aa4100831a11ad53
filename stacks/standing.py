"""How far something has come that `pulumi up` waits for, and the reader that looks at the cluster for it.

Not here: what the single kinds are waiting for (`standing_group`, `standing_job`, `standing_cache`) and when to look
(`progress`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stacks.cluster import api_client

_LOG_LINES = 20
_HEALTHY_WAITING = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class Standing:
    """Where a start stands: `status` in one line, `problems` each in one line, worst first."""

    status: str
    problems: tuple[str, ...] = ()


def lost(standing: Standing, trouble: str | None) -> str:
    """Why a wait was lost. What failed may be in its next try by now, without a word of what ended the one before:
    `trouble` is what went wrong last."""
    return "; ".join(standing.problems) or standing.status + (f"; before that: {trouble}" if trouble else "")


def pod_name(pod: Mapping[str, Any]) -> str:
    """A pod's name."""
    return pod["metadata"]["name"]


def waiting(pod: Mapping[str, Any]) -> str | None:
    """Why a container of the pod has not started, in one word."""
    for status in pod["status"].get("containerStatuses") or []:
        if reason := ((status.get("state") or {}).get("waiting") or {}).get("reason"):
            return reason
    return None


def failures(pod: Mapping[str, Any], logs: Mapping[str, str], then: str) -> list[str]:
    """What is wrong with a pod's containers. `then` says what follows when one has ended badly."""
    found = []
    for status in pod["status"].get("containerStatuses") or []:
        held_up = (status.get("state") or {}).get("waiting") or {}
        ended = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
        if held_up.get("reason") not in {None, *_HEALTHY_WAITING}:
            found.append(f"{pod_name(pod)}: {held_up['reason']}: {held_up.get('message') or status['image']}")
        if ended and ended.get("exitCode"):
            last = [line for line in logs.get(pod_name(pod), "").splitlines() if line.strip()]
            found.append(
                f"{pod_name(pod)}: its container ended with exit code {ended['exitCode']}, so {then}"
                + (f"; its last words: {last[-1].strip()}" if last else "")
            )
    return found


def unplaced(pod: Mapping[str, Any]) -> str | None:
    """What the scheduler says against a pod, or None."""
    for condition in pod["status"].get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            # What follows «preemption» is about evicting other pods, which is not what the reader can change.
            return condition.get("message", "").partition(" no new claims")[0].partition(" preemption:")[0]
    return None


class Reader:
    """Reads one namespace. What cannot be read for a moment is None or empty: a lost look must not end a watch."""

    def __init__(self, context: str, namespace: str, kubeconfig: str | None) -> None:
        import urllib3
        from kubernetes import client

        api = api_client(context, kubeconfig)
        self._namespace = namespace
        # The second: nobody answers for a moment.
        self._errors = (client.ApiException, urllib3.exceptions.HTTPError)
        self._core, self._batch, self._custom = (
            client.CoreV1Api(api),
            client.BatchV1Api(api),
            client.CustomObjectsApi(api),
        )
        self._plain = api.sanitize_for_serialization

    def custom(self, version: str, plural: str, name: str) -> dict[str, Any] | None:
        """A custom resource; `version` is its group and version."""
        group, _, version = version.partition("/")
        try:
            return self._custom.get_namespaced_custom_object(group, version, self._namespace, plural, name)
        except self._errors:
            return None

    def job(self, name: str) -> dict[str, Any] | None:
        """A Job."""
        try:
            return self._plain(self._batch.read_namespaced_job(name, self._namespace))
        except self._errors:
            return None

    def pods(self, selector: str) -> list[dict[str, Any]] | None:
        """The pods that a label selector finds."""
        try:
            return self._plain(self._core.list_namespaced_pod(self._namespace, label_selector=selector).items)
        except self._errors:
            return None

    def room(self, others: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The nodes, and the pods of any namespace that `others` selects. Empty for who may not see them."""
        try:
            pods = self._plain(self._core.list_pod_for_all_namespaces(label_selector=others).items)
            return self._plain(self._core.list_node().items), pods
        except self._errors:
            return [], []

    def log(self, pod: str) -> str:
        """The last lines of a pod."""
        try:
            # The library gives None, not "", for a log without a line.
            return self._core.read_namespaced_pod_log(pod, self._namespace, tail_lines=_LOG_LINES) or ""
        except self._errors:
            return ""

    def warnings(self, uid: str) -> list[str]:
        """The warning events about an object, newest first, each `reason: message`."""
        try:
            found = self._core.list_namespaced_event(
                self._namespace, field_selector=f"involvedObject.uid={uid},type=Warning"
            ).items
        except self._errors:
            return []
        newest = sorted(self._plain(found), key=lambda event: event.get("lastTimestamp") or "", reverse=True)
        return [f"{event['reason']}: {event['message']}" for event in newest]
