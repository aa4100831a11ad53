"""The status of something that `pulumi up` waits for, and the reader of the cluster that finds it out.

Not here: what each kind waits for (`rollout_group`, `rollout_job`, `rollout_cache`) and when to look (`progress`).
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
from watch.client import Reads, api_client, errors

_LOG_LINES = 200
# Each of vLLM's processes prints a traceback of up to a hundred lines twice, with blank lines between them. The
# tracebacks of sixteen workers and their parents must not push out the first one.
_ENDED_LOG_LINES = 8000
_CLOSE_SECONDS = 5
# A process killed by signal n exits with 128 + n; Linux has 64 signals.
_SIGNALS = 128
_HEALTHY_WAITING = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class RolloutStatus:
    """The state of a start: `status` in one line, and `problems` of one line each, worst first."""

    status: str
    problems: tuple[str, ...] = ()


def lost(standing: RolloutStatus, trouble: str | None) -> str:
    """Why a wait failed. The current attempt may have no error yet, so `trouble`, the last error seen, is included."""
    return "; ".join(standing.problems) or standing.status + (f"; before that: {trouble}" if trouble else "")


def pod_name(pod: Mapping[str, Any]) -> str:
    """A pod's name."""
    return pod["metadata"]["name"]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod says that it is ready; one that is being deleted may still say so."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def waiting(pod: Mapping[str, Any]) -> str | None:
    """Why a container of the pod has not started, in one word."""
    for status in pod["status"].get("containerStatuses") or []:
        if reason := ((status.get("state") or {}).get("waiting") or {}).get("reason"):
            return reason
    return None


def running(log: str | None) -> str:
    """What a running container is doing, by its log."""
    if log is None:
        return "started, its log cannot be read"
    return engine_log.stage(log) or "started, nothing in its log yet"


def _terminated(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")


def failures(pod: Mapping[str, Any], ends: Mapping[str, str], then: str) -> list[str]:
    """What is wrong with a pod's containers. `ends` has the logs of ended runs by pod name; `then` says what happens
    after a failed run."""
    problems = []
    for what, status in _statuses(pod):
        held_up = (status.get("state") or {}).get("waiting") or {}
        if held_up.get("reason") not in {None, *_HEALTHY_WAITING}:
            problems.append(f"{pod_name(pod)}: {held_up['reason']}: {held_up.get('message') or status['image']}")
        over = _terminated(status)
        if over and over.get("exitCode"):
            problems.append(f"{pod_name(pod)}: its {what} {_end(over, ends.get(pod_name(pod), ''), then)}")
    return problems


def _statuses(pod: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The statuses of a pod's containers in the order in which they run, each with a name for messages."""
    status = pod["status"]
    return [
        *((f"init container {each['name']}", each) for each in status.get("initContainerStatuses") or []),
        *(("container", each) for each in status.get("containerStatuses") or []),
    ]


def given_up(logs: Mapping[str, str | None]) -> list[str]:
    """What is wrong with pods whose engine has failed, but whose container has not ended yet."""
    return [
        f"{name}: it has failed; {engine_log.told(cause)}"
        for name, log in logs.items()
        if log and engine_log.stage(log) == engine_log.FAILED and (cause := engine_log.cause(log))
    ]


def gone(ends: Mapping[str, str]) -> list[str]:
    """What was wrong with deleted pods, as far as their logs say. `ends` has the logs by pod name."""
    causes = ((name, engine_log.cause(log)) for name, log in ends.items())
    return [f"{name}: it failed before; {engine_log.told(cause)}" for name, cause in causes if cause]


def _end(over: Mapping[str, Any], log: str, then: str) -> str:
    """How a container ended, and why, if that run's log says so."""
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
    """The pod's main container: others may have been added, such as Fluid's."""
    containers = pod["spec"]["containers"]
    return next((each for each in containers if "/gpu" in str(each.get("resources"))), containers[0])["name"]


def _run(pod: Mapping[str, Any]) -> tuple[str, str]:
    """Identifies the current run of a pod's container: the pod's uid and the start time, "" if it does not run."""
    for status in pod["status"].get("containerStatuses") or []:
        if status["name"] == _main(pod):
            return pod["metadata"]["uid"], ((status.get("state") or {}).get("running") or {}).get("startedAt") or ""
    return pod["metadata"]["uid"], ""


def unplaced(pod: Mapping[str, Any]) -> str | None:
    """Why the scheduler cannot place a pod, or None."""
    for condition in pod["status"].get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            # Cut the part from «preemption» on: it is about evicting other pods, which the reader cannot change.
            return condition.get("message", "").partition(" no new claims")[0].partition(" preemption:")[0]
    return None


@dataclass
class _Followed:
    """The log of one run of a pod's container, and the selector that found the pod."""

    selector: str
    pod: str
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_ENDED_LOG_LINES))
    over: bool = False
    answer: Any = None
    thread: threading.Thread | None = None

    def text(self) -> str:
        """All lines that are kept."""
        return "".join(self.lines.copy())


class Reader:
    """Reads one namespace. Returns None or an empty result if a read fails: that must not end a watch."""

    def __init__(self, context: str, namespace: str, kubeconfig: str | None) -> None:
        self._reads = Reads(api_client(context, kubeconfig))
        self._namespace = f"namespaces/{namespace}"
        self._errors = errors()
        # A followed log may also be closed while it is read.
        self._cut: tuple[type[Exception], ...] = (*self._errors, OSError, ValueError)
        # Logs of ended runs, kept because they are long and do not change.
        self._ends: dict[tuple[str, str], str] = {}
        self._followed: dict[tuple[str, str], _Followed] = {}
        self._closed = False
        atexit.register(self._close)

    def custom(self, version: str, plural: str, name: str) -> dict[str, Any] | None:
        """A custom resource; `version` is its group and version."""
        try:
            return self._reads.json(f"/apis/{version}/{self._namespace}/{plural}/{name}")
        except self._errors:
            return None

    def job(self, name: str) -> dict[str, Any] | None:
        """A Job."""
        return self.custom("batch/v1", "jobs", name)

    def pods(self, selector: str) -> list[dict[str, Any]] | None:
        """The pods that a label selector finds."""
        try:
            return self._reads.items(f"/api/v1/{self._namespace}/pods", labelSelector=selector)
        except self._errors:
            return None

    def room(self, others: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The nodes, and the pods of all namespaces that `others` selects. Empty without the right to list them."""
        try:
            pods = self._reads.items("/api/v1/pods", labelSelector=others)
            return self._reads.items("/api/v1/nodes"), pods
        except self._errors:
            return [], []

    def log(self, pod: Mapping[str, Any]) -> str | None:
        """The last lines of a running pod; None if they cannot be read."""
        followed = self._followed.get(_run(pod))
        return (
            followed.text() if followed and followed.lines else self._log(pod, _main(pod), _LOG_LINES, previous=False)
        )

    def follow(self, selector: str, pods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Follows the logs of these pods, which the selector found, until they end. Returns by name the logs of pods
        that it no longer finds.

        LeaderWorkerSet deletes a pod as soon as its container ends, within a second of vLLM's last line, and the log
        with it: reading it only from time to time would come too late.
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
            followed.answer = self._reads.lines(
                self._log_of(pod), container=_main(pod), follow=True, tailLines=_ENDED_LOG_LINES
            )
            for line in followed.answer if not self._closed else ():
                followed.lines.append(line.decode(errors="replace"))
        except self._cut:
            pass  # a pod that still runs is followed again
        followed.over = True

    def _close(self) -> None:
        """Ends all reading: the interpreter aborts if it exits while a thread waits in a read."""
        self._closed = True
        for each in self._followed.values():
            if each.answer is not None and not each.over:
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    each.answer.shutdown()
            if each.thread:
                each.thread.join(_CLOSE_SECONDS)

    def end(self, pod: Mapping[str, Any]) -> str:
        """The last lines of a pod's first failed container; "" if none failed or they cannot be read."""
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
        try:
            return self._reads.text(self._log_of(pod), container=container, tailLines=lines, previous=previous)
        except self._errors:
            return None

    def _log_of(self, pod: Mapping[str, Any]) -> str:
        return f"/api/v1/{self._namespace}/pods/{pod_name(pod)}/log"

    def warnings(self, uid: str) -> list[str]:
        """The warning events about an object, newest first, each `reason: message`."""
        try:
            events = self._reads.items(
                f"/api/v1/{self._namespace}/events", fieldSelector=f"involvedObject.uid={uid},type=Warning"
            )
        except self._errors:
            return []
        newest = sorted(events, key=lambda event: event.get("lastTimestamp") or "", reverse=True)
        return [f"{event['reason']}: {event['message']}" for event in newest]
