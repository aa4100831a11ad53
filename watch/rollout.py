"""How far something has come that `pulumi up` waits for, and the reader that looks at the cluster for it.

Not here: what the single kinds are waiting for (`rollout_group`, `rollout_job`, `rollout_cache`) and when to look
(`progress`).
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from watch import engine_log
from watch.client import FOLLOWED_SECONDS, api_client, errors

_LOG_LINES = 200
# vLLM's processes print a traceback of up to a hundred lines each, twice, a blank line between any two: that of sixteen
# workers and their parents must not push out the first.
_ENDED_LOG_LINES = 8000
_CLOSE_SECONDS = 5
# The exit code of who died of a signal is the signal's number above this; Linux has 64 of them.
_SIGNALS = 128
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


def running(log: str | None) -> str:
    """What a container that runs is doing, by its log."""
    if log is None:
        return "started, its log cannot be read"
    return engine_log.stage(log) or "started, nothing in its log yet"


def _terminated(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")


def failures(pod: Mapping[str, Any], ends: Mapping[str, str], then: str) -> list[str]:
    """What is wrong with a pod's containers. `ends` are the logs of runs that ended, by pod's name; `then` says what
    follows when one has ended badly."""
    found = []
    for what, status in _statuses(pod):
        held_up = (status.get("state") or {}).get("waiting") or {}
        if held_up.get("reason") not in {None, *_HEALTHY_WAITING}:
            found.append(f"{pod_name(pod)}: {held_up['reason']}: {held_up.get('message') or status['image']}")
        over = _terminated(status)
        if over and over.get("exitCode"):
            found.append(f"{pod_name(pod)}: its {what} {_end(over, ends.get(pod_name(pod), ''), then)}")
    return found


def _statuses(pod: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The states of a pod's containers with what each is called, in the order in which they run."""
    status = pod["status"]
    return [
        *((f"init container {each['name']}", each) for each in status.get("initContainerStatuses") or []),
        *(("container", each) for each in status.get("containerStatuses") or []),
    ]


def given_up(logs: Mapping[str, str | None]) -> list[str]:
    """What is wrong with pods whose container has not ended yet, but will."""
    return [
        f"{name}: it has failed; {engine_log.told(cause)}"
        for name, log in logs.items()
        if log and engine_log.stage(log) == engine_log.FAILED and (cause := engine_log.cause(log))
    ]


def gone(ends: Mapping[str, str]) -> list[str]:
    """What was wrong with pods that are gone, as far as they have said it, by pod's name."""
    causes = ((name, engine_log.cause(log)) for name, log in ends.items())
    return [f"{name}: it failed before; {engine_log.told(cause)}" for name, cause in causes if cause]


def _end(over: Mapping[str, Any], log: str, then: str) -> str:
    """How a container ended, and why as far as the log of that run has it."""
    code = over["exitCode"]
    killed = _SIGNALS < code <= _SIGNALS + 64
    memory = ", out of memory: it used more than its limit" if over.get("reason") == "OOMKilled" else ""
    how = f" (killed by signal {code - _SIGNALS}{memory})" if killed else ""
    cause = engine_log.cause(log)
    why = engine_log.told(cause) if cause else ""
    if not why and killed and log.strip():
        why = f"when it was killed: {engine_log.stage(log)}"
    if not why and (last := engine_log.last_words(log)):
        why = f"its last words: {last}"
    return f"ended with exit code {code}{how}, so {then}" + (f"; {why}" if why else "")


def _main(pod: Mapping[str, Any]) -> str:
    """The container that a pod is for: others may have been put beside it, such as Fluid's."""
    containers = pod["spec"]["containers"]
    return next((each for each in containers if "/gpu" in str(each.get("resources"))), containers[0])["name"]


def _run(pod: Mapping[str, Any]) -> tuple[str, str]:
    """What tells the run of a pod's container that is from all others: the pod, and since when; "" where none is."""
    for status in pod["status"].get("containerStatuses") or []:
        if status["name"] == _main(pod):
            return pod["metadata"]["uid"], ((status.get("state") or {}).get("running") or {}).get("startedAt") or ""
    return pod["metadata"]["uid"], ""


def unplaced(pod: Mapping[str, Any]) -> str | None:
    """What the scheduler says against a pod, or None."""
    for condition in pod["status"].get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            # What follows «preemption» is about evicting other pods, which is not what the reader can change.
            return condition.get("message", "").partition(" no new claims")[0].partition(" preemption:")[0]
    return None


@dataclass
class _Followed:
    """What one run of a pod's container has said, and by which selector the pod was found."""

    selector: str
    pod: str
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_ENDED_LOG_LINES))
    over: bool = False
    answer: Any = None
    thread: threading.Thread | None = None

    def text(self) -> str:
        """All that is kept of it."""
        return "".join(self.lines.copy())


class Reader:
    """Reads one namespace. What cannot be read for a moment is None or empty: a lost look must not end a watch."""

    def __init__(self, context: str, namespace: str, kubeconfig: str | None) -> None:
        from kubernetes import client

        api = api_client(context, kubeconfig)
        self._namespace = namespace
        self._errors = errors()
        # A log that is followed may also be closed beneath its reader.
        self._cut: tuple[type[Exception], ...] = (*self._errors, OSError, ValueError)
        self._core, self._batch, self._custom = (
            client.CoreV1Api(api),
            client.BatchV1Api(api),
            client.CustomObjectsApi(api),
        )
        self._plain = api.sanitize_for_serialization
        # Of runs that are over: what they said does not change, and is long.
        self._ends: dict[tuple[str, str], str] = {}
        self._followed: dict[tuple[str, str], _Followed] = {}
        self._closed = False
        atexit.register(self._close)

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

    def log(self, pod: Mapping[str, Any]) -> str | None:
        """The last lines of a pod that runs, None where they cannot be read."""
        followed = self._followed.get(_run(pod))
        return (
            followed.text() if followed and followed.lines else self._log(pod, _main(pod), _LOG_LINES, previous=False)
        )

    def follow(self, selector: str, pods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Keeps what the pods that a selector has found say while they run, from now on and to their end. Gives what
        those have said that it finds no more, by name.

        LeaderWorkerSet deletes a pod as soon as its container has ended, within a second of vLLM's last words, and its
        log goes with it: who only asks from time to time comes too late.
        """
        for pod in pods:
            run = _run(pod)
            if run[1] and (run not in self._followed or self._followed[run].over):
                followed = self._followed[run] = _Followed(selector, pod_name(pod))
                followed.thread = threading.Thread(target=self._read, args=(pod, followed), daemon=True)
                followed.thread.start()
        there = {pod["metadata"]["uid"] for pod in pods}
        return {
            each.pod: each.text()
            for (uid, _), each in self._followed.items()
            if each.selector == selector and uid not in there
        }

    def _read(self, pod: Mapping[str, Any], followed: _Followed) -> None:
        try:
            followed.answer = self._core.read_namespaced_pod_log(
                followed.pod, self._namespace, container=_main(pod), follow=True, tail_lines=_ENDED_LOG_LINES,
                _preload_content=False, _request_timeout=FOLLOWED_SECONDS,
            )  # fmt: skip
            for line in followed.answer if not self._closed else ():
                followed.lines.append(line.decode(errors="replace"))
        except self._cut:
            pass  # who runs still is followed anew
        followed.over = True

    def _close(self) -> None:
        """Ends all reading: an interpreter that ends while a thread waits inside a read aborts."""
        self._closed = True
        for each in self._followed.values():
            if each.answer is not None and not each.over:
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    each.answer.shutdown()
            if each.thread:
                each.thread.join(_CLOSE_SECONDS)

    def end(self, pod: Mapping[str, Any]) -> str:
        """The last lines of a pod's first container that ended badly, "" where they cannot be read or none has."""
        for _, status in _statuses(pod):
            if (over := _terminated(status)) and over.get("exitCode"):
                run = pod["metadata"]["uid"], over.get("startedAt") or ""
                if run not in self._ends:
                    again = "running" in (status.get("state") or {})
                    text = self._log(pod, status["name"], _ENDED_LOG_LINES, previous=again)
                    if not text:
                        return self._followed[run].text() if run in self._followed else ""
                    self._ends[run] = text
                return self._ends[run]
        return ""

    def _log(self, pod: Mapping[str, Any], container: str, lines: int, *, previous: bool) -> str | None:
        name = pod_name(pod)
        try:
            # The library gives None, not "", for a log without a line.
            return (
                self._core.read_namespaced_pod_log(
                    name, self._namespace, container=container, tail_lines=lines, previous=previous
                )
                or ""
            )
        except self._errors:
            return None

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
