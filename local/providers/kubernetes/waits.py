"""Waiting until an object is ready, or gone, by polling: again after a tenth of the time waited, at most a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from local.providers.kubernetes import waitfor
from local.providers.kubernetes.client import Api, ApiError, Manifest, Unreachable
from local.providers.kubernetes.diff import annotation
from local.providers.kubernetes.waitfor import Look, generation_lag

Say = Callable[[str, str], None]

DEFAULT_SECONDS = 600.0
_SERVICE_SETTLE_SECONDS = 10.0
_TIMED_OUT = "timed out waiting for the condition"
# Kinds whose deletion `pulumi.com/skipAwait` does not wait for; all others wait all the same.
_SKIP_DELETE_WAIT = {"Namespace", "Pod", "ReplicationController", "Deployment", "StatefulSet", "DaemonSet", "Job"}


class NotReady(Exception):
    """The object is there, but did not become ready. The first of `reasons` says how the wait ended."""

    def __init__(self, live: Manifest, *reasons: str) -> None:
        super().__init__(*reasons)
        self.live = live
        self.reasons = reasons


@dataclass
class Wait:
    """One wait. `seconds` is the operation's custom timeout, 0 for none; `update` tells an update from a create."""

    api: Api
    cancelled: threading.Event
    say: Say
    seconds: float = 0
    update: bool = False
    endpoints: Any = None
    settled_since: float = field(default_factory=time.monotonic)

    def limit(self, manifest: Manifest) -> float:
        """Seconds to wait: custom timeout, else annotation, else ten minutes."""
        try:
            noted = float(annotation(manifest, "timeoutSeconds") or 0)
        except ValueError:
            noted = 0
        return self.seconds or noted or DEFAULT_SECONDS

    def until_ready(self, manifest: Manifest, live: Manifest) -> Manifest:
        """The live object once it is ready. Raises NotReady, and WaitForError for an annotation that cannot be used."""
        if annotation(manifest, "skipAwait") == "true":
            self.say("info", "Skipping await logic")
            return live
        wanted = annotation(manifest, "waitFor")
        if wanted is not None:
            steps = waitfor.parse(wanted)
            deadline = time.monotonic() + self.limit(manifest)
            for step in steps:
                live = self._poll(live, step.look, deadline, lambda look: (look.problems or (_TIMED_OUT,))[:1])
            return live
        awaiter = _awaiter(live)
        if awaiter is None or (self.update and awaiter.create_only):
            return live
        deadline = time.monotonic() + (awaiter.fixed_seconds or self.limit(manifest))
        name = live["metadata"]["name"]
        late = f"'{name}' timed out waiting to be Ready"
        if awaiter.fixed_seconds:
            late = f"Timeout occurred polling for '{name}'"
        return self._poll(
            live,
            lambda now: awaiter.look(self, now),
            deadline,
            lambda look: (late, *look.problems),
            awaiter.late_is_fine,
        )

    def _poll(
        self,
        live: Manifest,
        check: Callable[[Manifest], Look],
        deadline: float,
        reasons: Callable[[Look], tuple[str, ...]],
        late_is_fine: Callable[[Manifest], bool] = lambda live: False,
    ) -> Manifest:
        started, told = time.monotonic(), set[tuple[str, str]]()
        while True:
            look = check(live)
            for line in look.status:
                if line not in told:
                    self.say(*line)
            told = set(look.status)
            if look.ready:
                return live
            if self.cancelled.is_set():
                raise NotReady(live, "context canceled")
            if time.monotonic() >= deadline:
                if late_is_fine(live):
                    return live
                raise NotReady(live, *reasons(look))
            self._pause(started, deadline)
            try:
                live = self.api.get(live)
            except (ApiError, Unreachable):
                # Gone or out of reach for a moment: the official plugin waits on in both cases, to the timeout.
                continue

    def _pause(self, started: float, deadline: float) -> None:
        now = time.monotonic()
        self.cancelled.wait(max(0.0, min(max(0.05, (now - started) / 10), 1.0, deadline - now)))

    def until_gone(self, manifest: Manifest, live: Manifest) -> None:
        """Waits for the object that is being deleted. Raises NotReady."""
        if annotation(manifest, "skipAwait") == "true" and live["kind"] in _SKIP_DELETE_WAIT:
            return
        started = time.monotonic()
        deadline = started + self.limit(manifest)
        uid = live["metadata"]["uid"]
        while True:
            try:
                live = self.api.get(live)
            except ApiError as error:
                if error.code == 404:
                    return
                raise
            if live["metadata"]["uid"] != uid:
                return
            if self.cancelled.is_set():
                raise NotReady(live, "context canceled")
            if time.monotonic() >= deadline:
                finalizers = ", ".join(live["metadata"].get("finalizers", []))
                self.say("warning!", f"finalizers might be preventing deletion ({finalizers})")
                raise NotReady(live, _TIMED_OUT)
            self._pause(started, deadline)

    def problems_now(self, live: Manifest) -> list[str]:
        """What a refresh says about an object of a built-in kind that is not ready."""
        awaiter = _awaiter(live)
        if awaiter is None or awaiter.create_only or awaiter.look is _service:
            return []
        if annotation(live, "skipAwait") == "true":
            return []
        look = awaiter.look(self, live)
        failed = f"Resource '{live['metadata']['name']}' was created but failed to initialize"
        return [] if look.ready else [failed, *look.problems]


def _shown(live: Manifest) -> str:
    namespace = live["metadata"].get("namespace", "default")
    return live["metadata"]["name"] if namespace == "default" else f"{namespace}/{live['metadata']['name']}"


def _conditions(live: Manifest) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in (live.get("status") or {}).get("conditions") or []}


def _is_true(live: Manifest, kind: str) -> bool:
    return _conditions(live).get(kind, {}).get("status") == "True"


def _current(live: Manifest) -> bool:
    observed = (live.get("status") or {}).get("observedGeneration")
    return observed is not None and not generation_lag(live, observed)


def _ready(line: str = "", severity: str = "info") -> Look:
    return Look(True, ((severity, line),) if line else ())


def _waiting(line: str = "", *problems: str) -> Look:
    return Look(False, (("info", line),) if line else (), problems)


def _deployment(wait: Wait, live: Manifest) -> Look:
    status, wanted = live.get("status") or {}, live["spec"].get("replicas", 1)
    if wanted == 0:
        return _ready(f'Replicas scaled to 0 for Deployment "{live["metadata"]["name"]}"', "warning")
    available, progressing = (_conditions(live).get(kind, {}) for kind in ("Available", "Progressing"))
    done = progressing.get("reason") == "NewReplicaSetAvailable" or not progressing
    updated = status.get("updatedReplicas", 0) >= wanted
    if _current(live) and available.get("status") == "True" and updated and done:
        return _ready("Deployment initialization complete")
    pods = f"{status.get('availableReplicas', 0)}/{wanted}"
    lines = [("info", f"Waiting for app ReplicaSet to be available ({pods} Pods available)")]
    if available.get("status") == "False":
        lines.insert(0, ("warning", f"[{available.get('reason')}] {available.get('message')}"))
    problem = "Minimum number of live Pods was not attained"
    if wait.update:
        problem = "Minimum number of Pods to consider the application live was not attained"
    return Look(False, tuple(lines), (problem,))


def _stateful_set(wait: Wait, live: Manifest) -> Look:
    status, wanted = live.get("status") or {}, live["spec"].get("replicas", 1)
    ready = status.get("readyReplicas", 0)
    current, update = status.get("currentRevision", ""), status.get("updateRevision", "")
    if _current(live) and ready == wanted and current == update:
        return _ready("StatefulSet initialization complete")
    step = (
        "[1/3] Waiting for StatefulSet update to roll out"
        if wait.update
        else ("[1/2] Waiting for StatefulSet to create Pods")
    )
    return _waiting(
        f"{step} ({ready}/{wanted} Pods ready)",
        f"{ready} out of {wanted} replicas succeeded readiness checks",
        f'StatefulSet controller failed to advance from revision "{current}" to revision "{update}"',
    )


def _job(wait: Wait, live: Manifest) -> Look:
    status = live.get("status") or {}
    if _is_true(live, "Complete"):
        return _ready()
    if "startTime" not in status:
        return _waiting(f'Waiting for Job "{_shown(live)}" to start')
    counts = " | ".join(f"{name}: {status.get(name.lower(), 0)}" for name in ("Active", "Succeeded", "Failed"))
    return _waiting(f'Waiting for Job "{_shown(live)}" to succeed ({counts})')


def _pod(wait: Wait, live: Manifest) -> Look:
    if _is_true(live, "Ready") or (live.get("status") or {}).get("phase") == "Succeeded":
        return _ready()
    for condition, goal in (("PodScheduled", "scheduled"), ("Initialized", "initialized")):
        if not _is_true(live, condition):
            return _waiting(f'Waiting for Pod "{_shown(live)}" to be {goal}')
    return _waiting(f'Waiting for Pod "{_shown(live)}" to be ready')


def _claim(wait: Wait, live: Manifest) -> Look:
    phase, name = (live.get("status") or {}).get("phase"), live["spec"].get("storageClassName")
    if phase != "Pending" or not name:
        return Look(phase == "Bound")
    try:
        storage_class = wait.api.request("GET", f"/apis/storage.k8s.io/v1/storageclasses/{name}")
    except ApiError:
        return _waiting()
    return Look(storage_class.get("volumeBindingMode") == "WaitForFirstConsumer")


def _volume(wait: Wait, live: Manifest) -> Look:
    available = (live.get("status") or {}).get("phase") in ("Available", "Bound")
    return _ready("✅ PV marked available") if available else _waiting()


def _has_address(live: Manifest) -> bool:
    addresses = ((live.get("status") or {}).get("loadBalancer") or {}).get("ingress")
    return live["spec"].get("type") != "LoadBalancer" or bool(addresses)


def _service(wait: Wait, live: Manifest) -> Look:
    spec, line = live["spec"], "[1/3] Finding Pods to direct traffic to"
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None" or not spec.get("selector"):
        return _ready(line)
    try:
        endpoints = wait.api.get({"apiVersion": "v1", "kind": "Endpoints", "metadata": live["metadata"]})
    except ApiError:
        endpoints = {"metadata": {}}
    version = endpoints["metadata"].get("resourceVersion")
    if version != wait.endpoints:
        wait.endpoints, wait.settled_since = version, time.monotonic()
    if time.monotonic() - wait.settled_since >= _SERVICE_SETTLE_SECONDS and _has_address(live):
        return _ready("Service initialization complete")
    problem = "Service was not allocated an IP address; does your cloud provider support this?"
    return _waiting(line) if _has_address(live) else _waiting(line, problem)


@dataclass(frozen=True)
class _Awaiter:
    look: Callable[[Wait, Manifest], Look]
    fixed_seconds: float = 0
    create_only: bool = False
    late_is_fine: Callable[[Manifest], bool] = lambda live: False


_AWAITERS = {
    "apps/Deployment": _Awaiter(_deployment),
    "apps/StatefulSet": _Awaiter(_stateful_set),
    "batch/Job": _Awaiter(_job),
    "/Pod": _Awaiter(_pod),
    "/Service": _Awaiter(_service, late_is_fine=_has_address),
    "/PersistentVolumeClaim": _Awaiter(_claim, fixed_seconds=300, create_only=True),
    "/PersistentVolume": _Awaiter(_volume, fixed_seconds=300, create_only=True),
}


def _awaiter(live: Manifest) -> _Awaiter | None:
    return _AWAITERS.get(f"{live['apiVersion'].rpartition('/')[0]}/{live['kind']}")
