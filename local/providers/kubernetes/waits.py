"""Waiting until an object is ready, or gone, by polling: again after a tenth of the time waited, at most a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from local.providers.kubernetes import waitfor
from local.providers.kubernetes.client import Api, ApiError, Manifest, Unreachable
from local.providers.kubernetes.diff import annotation
from local.providers.kubernetes.waitfor import Look, done, generation_lag, waiting
from local.providers.reporting import Refusal

Say = Callable[[str, str], None]

_DEFAULT_SECONDS = 600.0
_VOLUME_SECONDS = 300.0
_SERVICE_SETTLE_SECONDS = 10.0
_FAILED = "Resource '{name}' was created but failed to initialize"
_TIMED_OUT = "timed out waiting for the condition"
# Kinds whose deletion `pulumi.com/skipAwait` does not wait for; all others wait all the same.
_SKIP_DELETE_WAIT = {"Namespace", "Pod", "ReplicationController", "Deployment", "StatefulSet", "DaemonSet", "Job"}


class NotReady(Refusal):
    """The object is there, but did not become ready. The first of `reasons` says how the wait ended."""

    def __init__(self, live: Manifest, *reasons: str) -> None:
        super().__init__(reasons[0])
        self.live = live
        self._reasons = reasons

    @property
    def reasons(self) -> list[str]:
        return list(self._reasons)


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

    def until_ready(self, manifest: Manifest, live: Manifest) -> Manifest:
        """The live object once it is ready. Raises NotReady, and Refusal for an annotation that cannot be used."""
        if annotation(manifest, "skipAwait") == "true":
            self.say("info", "Skipping await logic")
            return live
        wanted, look_at = annotation(manifest, "waitFor"), _LOOKS.get(_kind(live))
        name, of_volume = live["metadata"]["name"], look_at in (_claim, _volume)
        deadline = time.monotonic() + (_VOLUME_SECONDS if of_volume else self._limit(manifest))
        if wanted is not None:
            for step in waitfor.parse(wanted):
                live, look = self._until(live, step, deadline)
                if not look.ready:
                    raise NotReady(live, _TIMED_OUT)
        elif look_at and not (of_volume and self.update):
            live, look = self._until(live, lambda now: look_at(self, now), deadline)
            if look.failed:
                raise NotReady(live, _FAILED.format(name=name), *look.problems)
            if not (look.ready or look.fine_when_late):
                late = f"'{name}' timed out waiting to be Ready"
                raise NotReady(live, f"Timeout occurred polling for '{name}'" if of_volume else late, *look.problems)
        return live

    def until_gone(self, manifest: Manifest, live: Manifest) -> None:
        """Waits for the object that is being deleted. Raises NotReady."""
        if annotation(manifest, "skipAwait") == "true" and live["kind"] in _SKIP_DELETE_WAIT:
            return
        for found in self._again(live, time.monotonic() + self._limit(manifest)):
            if found is None or found["metadata"]["uid"] != live["metadata"]["uid"]:
                return
            live = found
        finalizers = ", ".join(live["metadata"].get("finalizers", []))
        self.say("warning!", f"finalizers might be preventing deletion ({finalizers})")
        raise NotReady(live, _TIMED_OUT)

    def problems_now(self, live: Manifest) -> list[str]:
        """What a refresh says about an object of a built-in kind that is not ready."""
        look_at = _LOOKS.get(_kind(live))
        if look_at in (None, _service, _claim, _volume) or annotation(live, "skipAwait") == "true":
            return []
        look = look_at(self, live)
        return [] if look.ready else [_FAILED.format(name=live["metadata"]["name"]), *look.problems]

    def _limit(self, manifest: Manifest) -> float:
        """Seconds to wait: custom timeout, else annotation, else ten minutes."""
        return self.seconds or float(annotation(manifest, "timeoutSeconds") or _DEFAULT_SECONDS)

    def _until(self, live: Manifest, step: waitfor.Step, deadline: float) -> tuple[Manifest, Look]:
        """The first look that is ready, or the last one in time. What it shows is said once."""
        look = Look(False)
        for found in self._again(live, deadline):
            live, told = found or live, look.lines
            look = step(live)
            for line in look.lines:
                if line not in told:
                    self.say(*line)
            if look.ready or look.failed:
                break
        return live, look

    def _again(self, live: Manifest, deadline: float) -> Iterator[Manifest | None]:
        """The object until time is up, None while it is gone. Raises NotReady when the operation is cancelled.

        A server that is out of reach for a moment is no reason to give up.
        """
        found: Manifest | None = live
        started = time.monotonic()
        while True:
            now = time.monotonic()
            yield found
            if self.cancelled.is_set():
                raise NotReady(live, "context canceled")
            if now >= deadline:
                return
            self.cancelled.wait(max(0.0, min(max(0.05, (now - started) / 10), 1.0, deadline - now)))
            try:
                found = live = self.api.get(live)
            except ApiError as error:
                found = None if error.code == 404 else found
            except Unreachable:
                continue


def _kind(live: Manifest) -> str:
    return f"{live['apiVersion'].rpartition('/')[0]}/{live['kind']}"


def _shown(live: Manifest) -> str:
    namespace = live["metadata"].get("namespace", "default")
    return live["metadata"]["name"] if namespace == "default" else f"{namespace}/{live['metadata']['name']}"


def _condition(live: Manifest, kind: str) -> dict[str, Any]:
    return next((c for c in (live.get("status") or {}).get("conditions") or [] if c["type"] == kind), {})


def _is_true(live: Manifest, kind: str) -> bool:
    return _condition(live, kind).get("status") == "True"


def _replicas(live: Manifest) -> tuple[dict[str, Any], int, bool]:
    """Status, wanted replicas, and whether the status is that of the present generation."""
    status = live.get("status") or {}
    observed = status.get("observedGeneration")
    return status, live["spec"].get("replicas", 1), observed is not None and not generation_lag(live, observed)


def _deployment(wait: Wait, live: Manifest) -> Look:
    status, wanted, current = _replicas(live)
    if wanted == 0:
        return done(f'Replicas scaled to 0 for Deployment "{live["metadata"]["name"]}"', "warning")
    available = _condition(live, "Available")
    rolled_out = _condition(live, "Progressing").get("reason", "NewReplicaSetAvailable") == "NewReplicaSetAvailable"
    updated = status.get("updatedReplicas", 0) >= wanted
    if current and _is_true(live, "Available") and updated and rolled_out:
        return done("Deployment initialization complete")
    pods = f"{status.get('availableReplicas', 0)}/{wanted}"
    lines = [("info", f"Waiting for app ReplicaSet to be available ({pods} Pods available)")]
    if available.get("status") == "False":
        lines.insert(0, ("warning", f"[{available.get('reason')}] {available.get('message')}"))
    missing = "number of Pods to consider the application live" if wait.update else "number of live Pods"
    return Look(False, tuple(lines), (f"Minimum {missing} was not attained",))


def _stateful_set(wait: Wait, live: Manifest) -> Look:
    status, wanted, current = _replicas(live)
    ready = status.get("readyReplicas", 0)
    old, new = status.get("currentRevision", ""), status.get("updateRevision", "")
    if current and ready == wanted and old == new:
        return done("StatefulSet initialization complete")
    step = "[1/3] Waiting for StatefulSet update to roll out"
    return waiting(
        f"{step if wait.update else '[1/2] Waiting for StatefulSet to create Pods'} ({ready}/{wanted} Pods ready)",
        f"{ready} out of {wanted} replicas succeeded readiness checks",
        f'StatefulSet controller failed to advance from revision "{old}" to revision "{new}"',
    )


def succeeded(job: Manifest) -> bool:
    """Whether a Job is what the official plugin calls ready."""
    return _is_true(job, "Complete")


def _job(wait: Wait, live: Manifest) -> Look:
    status = live.get("status") or {}
    if succeeded(live):
        return done()
    failure = _condition(live, "Failed")
    if failure.get("status") == "True" and failure.get("reason") in ("BackoffLimitExceeded", "DeadlineExceeded"):
        why = f"[{failure['reason']}] {failure.get('message', '')}"
        return Look(False, problems=(*_pods_of_job(wait, live), why), failed=True)
    if "startTime" not in status:
        return waiting(f'Waiting for Job "{_shown(live)}" to start')
    counts = " | ".join(f"{name}: {status.get(name.lower(), 0)}" for name in ("Active", "Succeeded", "Failed"))
    return waiting(f'Waiting for Job "{_shown(live)}" to succeed ({counts})')


def _pods_of_job(wait: Wait, job: Manifest) -> list[str]:
    """What is wrong with the pods that a Job has left."""
    path = f"/api/v1/namespaces/{job['metadata']['namespace']}/pods"
    try:
        pods = wait.api.request("GET", path, labelSelector=f"job-name={job['metadata']['name']}")["items"]
    except ApiError:
        return []
    found = []
    for pod in pods:
        ready = _condition(pod, "Ready")
        words = [ready["message"]] if ready.get("reason") and ready.get("message") else []
        for container in pod["status"].get("containerStatuses", []):
            words += _container_words(container)
        if words:
            found.append(f"[Pod {_shown(pod)}]: " + "\n".join(words))
    return found


def _container_words(status: dict[str, Any]) -> list[str]:
    state, last = status.get("state") or {}, (status.get("lastState") or {}).get("terminated")
    waits, ended = state.get("waiting") or {}, state.get("terminated") or {}
    words = []
    if waits and waits.get("reason") != "ContainerCreating":
        words.append(f"[{waits.get('reason', '')}] {waits.get('message', '')}")
    if ended.get("message") and ended.get("reason"):
        words.append(f"[{ended['reason']}] {ended['message']}")
    elif ended.get("reason"):
        words.append(f'container "{status["name"]}" completed with exit code {ended["exitCode"]}')
    if last:
        how = f"{last.get('reason', '')}: exit code {last['exitCode']}"
        words.append(f'container "{status["name"]}" terminated at {last.get("finishedAt")} ({how})')
        words += [last["message"]] if last.get("message") else []
    return words


def _pod(wait: Wait, live: Manifest) -> Look:
    if _is_true(live, "Ready") or (live.get("status") or {}).get("phase") == "Succeeded":
        return done()
    goals = {"PodScheduled": "scheduled", "Initialized": "initialized"}
    goal = next((goal for condition, goal in goals.items() if not _is_true(live, condition)), "ready")
    return waiting(f'Waiting for Pod "{_shown(live)}" to be {goal}')


def _claim(wait: Wait, live: Manifest) -> Look:
    phase, name = (live.get("status") or {}).get("phase"), live["spec"].get("storageClassName")
    if phase != "Pending" or not name:
        return Look(phase == "Bound")
    try:
        storage_class = wait.api.request("GET", f"/apis/storage.k8s.io/v1/storageclasses/{name}")
    except ApiError:
        return Look(False)
    return Look(storage_class.get("volumeBindingMode") == "WaitForFirstConsumer")


def _volume(wait: Wait, live: Manifest) -> Look:
    phase = (live.get("status") or {}).get("phase")
    lines = {"Available": "✅ PV marked available", "Bound": "✅ PV has been bound"}
    return done(lines[phase]) if phase in lines else Look(False)


def _service(wait: Wait, live: Manifest) -> Look:
    spec, line = live["spec"], "[1/3] Finding Pods to direct traffic to"
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None" or not spec.get("selector"):
        return done(line)
    try:
        endpoints = wait.api.get({"apiVersion": "v1", "kind": "Endpoints", "metadata": live["metadata"]})
    except ApiError:
        endpoints = {"metadata": {}}
    version = endpoints["metadata"].get("resourceVersion")
    if version != wait.endpoints:
        wait.endpoints, wait.settled_since = version, time.monotonic()
    if spec.get("type") == "LoadBalancer" and not (live["status"].get("loadBalancer") or {}).get("ingress"):
        return waiting(line, "Service was not allocated an IP address; does your cloud provider support this?")
    if time.monotonic() - wait.settled_since >= _SERVICE_SETTLE_SECONDS:
        return done("Service initialization complete")
    return Look(False, (("info", line),), fine_when_late=True)


_LOOKS: dict[str, Callable[[Wait, Manifest], Look]] = {
    "apps/Deployment": _deployment,
    "apps/StatefulSet": _stateful_set,
    "batch/Job": _job,
    "/Pod": _pod,
    "/Service": _service,
    "/PersistentVolume": _volume,
    "/PersistentVolumeClaim": _claim,
}
