"""Says what a model's start is waiting for, while `pulumi up` waits, and why a pod fails, at once.

The Kubernetes provider is silent on custom resources and ends only by timeout. So hooks of the LeaderWorkerSet's create
and update start a watch beside it: a status line whenever the answer to «what is missing?» changes, a warning the first
time something goes wrong, and, when the wait is lost, one error that says how it stood. It only looks: the wait itself
stays the provider's. `describe` is pure; `Progress` wires it to the engine.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.runtime.proto import engine_pb2
from pulumi.runtime.settings import get_engine

from stacks.cluster import api_client

# A start that is over sooner than this is not worth loading the Kubernetes library for.
_FIRST_LOOK_SECONDS = 3.0
_PERIOD_SECONDS = 2.0
_LOG_LINES = 20
_GROUP = "leaderworkerset.sigs.k8s.io/"
_HEALTHY_WAITING = {"ContainerCreating", "PodInitializing"}
_SHARDS = re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)%")


@dataclass(frozen=True)
class View:
    """What the cluster shows of one LeaderWorkerSet: its spec, its pods, the nodes' free GPUs, the leaders' logs.

    Pods and nodes are the API's JSON. `logs` maps a pod's name to its last lines.
    """

    spec: Mapping[str, Any]
    pods: Sequence[Mapping[str, Any]]
    nodes: Sequence[Mapping[str, Any]]
    others: Sequence[Mapping[str, Any]]
    logs: Mapping[str, str]


@dataclass(frozen=True)
class Standing:
    """Where a start stands: `status` in one line, `problems` each in one line, worst first."""

    status: str
    problems: tuple[str, ...] = ()


def describe(view: View) -> Standing:
    """What a start waits for, and what is wrong with it."""
    size, replicas = view.spec["leaderWorkerTemplate"]["size"], view.spec["replicas"]
    wanted = size * replicas
    pods = sorted(view.pods, key=lambda pod: pod["metadata"]["name"])
    placed = [pod for pod in pods if pod["spec"].get("nodeName")]
    running = [pod for pod in placed if pod["status"].get("phase") == "Running" and not _waiting(pod)]
    problems = (*_no_room(pods, view), *(text for pod in pods for text in _failures(pod, view)))
    if len(pods) < wanted:
        return Standing(f"pods created: {len(pods)} of {wanted}", problems)
    if len(placed) < wanted:
        return Standing(f"pods scheduled: {len(placed)} of {wanted}", problems)
    if len(running) < wanted:
        late = next(pod for pod in placed if pod not in running)
        return Standing(
            f"pods started: {len(running)} of {wanted} ({_name(late)}: {_waiting(late) or 'Pending'})", problems
        )
    leaders = [pod for pod in pods if pod["metadata"]["labels"].get(f"{_GROUP}worker-index") == "0"]
    late_leader = next((pod for pod in leaders if not _ready(pod)), None)
    if late_leader is None:
        return Standing(f"replicas ready: {replicas} of {replicas}", problems)
    return Standing(f"{_name(late_leader)}: {_stage(view.logs.get(_name(late_leader), ''))}", problems)


def _stage(log: str) -> str:
    """What a leader does, by its newest telling line."""
    for line in reversed(log.splitlines()):
        if shards := _SHARDS.search(line):
            done = shards[1] == "100"
            return "probe: weights are loaded, waiting for /health" if done else f"weights loading: {shards[1]} %"
        if "modelserve: ray: formed" in line or "modelserve: one node" in line:
            return "weights loading: not begun"
        if "modelserve: ray:" in line:
            return "Ray forming: " + line.partition("modelserve: ray:")[2].strip()
        if "startup complete" in line or "KV cache" in line or "graph captur" in line.lower():
            return "probe: waiting for /health"
    return "started, nothing in its log yet"


def _failures(pod: Mapping[str, Any], view: View) -> list[str]:
    found = []
    for status in pod["status"].get("containerStatuses") or []:
        waiting = (status.get("state") or {}).get("waiting") or {}
        ended = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
        if waiting.get("reason") not in {None, *_HEALTHY_WAITING}:
            found.append(f"{_name(pod)}: {waiting['reason']}: {waiting.get('message') or status['image']}")
        if ended and ended.get("exitCode"):
            last = [line for line in view.logs.get(_name(pod), "").splitlines() if line.strip()]
            found.append(
                f"{_name(pod)}: its container ended with exit code {ended['exitCode']}, so its group starts "
                + ("anew" if not last else f"anew; its last words: {last[-1].strip()}")
            )
    return found


def _no_room(pods: Sequence[Mapping[str, Any]], view: View) -> list[str]:
    """One line for all pods that the scheduler cannot place, with the GPUs wanted and there."""
    refused = [
        (_name(pod), pod, condition.get("message", ""))
        for pod in pods
        for condition in pod["status"].get("conditions") or []
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable"
    ]
    if not refused:
        return []
    _, first, message = refused[0]
    resource, per_pod = _gpus(first)
    wanted = per_pod * view.spec["leaderWorkerTemplate"]["size"] * view.spec["replicas"]
    there = sum(int(node["status"].get("allocatable", {}).get(resource, 0)) for node in view.nodes)
    taken = sum(_gpus(other)[1] for other in [*view.others, *view.pods] if other["spec"].get("nodeName"))
    # What follows «preemption» is about evicting other pods, which is not what the reader can change.
    scheduler = message.partition(" no new claims")[0].partition(" preemption:")[0]
    room = f", the cluster has {there}, of which {max(there - taken, 0)} free" if view.nodes else ""
    return [
        f"no node for {', '.join(name for name, *_ in refused)}: {wanted} {resource} are wanted ({per_pod} in each "
        f"pod){room}; the scheduler says: {scheduler}"
    ]


def _gpus(pod: Mapping[str, Any]) -> tuple[str, int]:
    """The extended GPU resource that a pod asks for, and how many; ("GPUs", 0) when none."""
    for container in pod["spec"]["containers"]:
        for resource, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if resource.endswith("/gpu"):
                return resource, int(amount)
    return "GPUs", 0


def _name(pod: Mapping[str, Any]) -> str:
    return pod["metadata"]["name"]


def _waiting(pod: Mapping[str, Any]) -> str | None:
    for status in pod["status"].get("containerStatuses") or []:
        if reason := ((status.get("state") or {}).get("waiting") or {}).get("reason"):
            return reason
    return None


def _ready(pod: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions") or []
    )


class Progress:
    """Watches the groups of one stack in its cluster and namespace. Loads and asks nothing before a wait is long."""

    def __init__(self, context: str, namespace: str, kubeconfig: str | None) -> None:
        self._context, self._namespace, self._kubeconfig = context, namespace, kubeconfig
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._last: dict[str, Standing] = {}
        self._binding: pulumi.ResourceHookBinding | None = None

    def hooks(self) -> pulumi.ResourceHookBinding | None:
        """The hooks that a group's resource takes, the same for all groups; none in a preview, where nothing waits."""
        if pulumi.runtime.is_dry_run():
            return None
        if self._binding is None:
            ignore = pulumi.ResourceHookOptions(ignore_errors=True)  # a lost look must not fail a good rollout
            begin = pulumi.ResourceHook("progress-begin", self._begin, ignore)
            end = pulumi.ResourceHook("progress-end", self._end, ignore)
            self._binding = pulumi.ResourceHookBinding(
                before_create=[begin],
                before_update=[begin],
                after_create=[end],
                after_update=[end],
                on_error=[pulumi.ErrorHook("progress-lost", self._lost)],
            )
        return self._binding

    async def _begin(self, args: pulumi.ResourceHookArgs) -> None:
        await self._stop(args.urn)
        self._watches[args.urn] = asyncio.create_task(self._watch(args.urn, args.name))

    async def _end(self, args: pulumi.ResourceHookArgs) -> None:
        await self._stop(args.urn)

    async def _lost(self, args: pulumi.ErrorHookArgs) -> bool:
        await self._stop(args.urn)
        standing = self._last.get(args.urn)
        if standing:
            why = "; ".join(standing.problems) or standing.status
            _say(engine_pb2.ERROR, args.urn, f"{args.name} is not ready: {why}")
        return False  # no retry by the engine: the next `up` waits again

    async def _stop(self, urn: str) -> None:
        watch = self._watches.pop(urn, None)
        if watch:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, urn: str, name: str) -> None:
        await asyncio.sleep(_FIRST_LOOK_SECONDS)
        look = await asyncio.to_thread(_Look, self._context, self._namespace, self._kubeconfig)
        said: set[str] = set()
        while True:
            view = await asyncio.to_thread(look.at, name)
            if view:
                standing = describe(view)
                self._last[urn] = standing
                for problem in standing.problems:
                    if problem not in said:
                        _say(engine_pb2.WARNING, urn, problem)
                if standing.status not in said:
                    _say(engine_pb2.INFO, urn, f"waiting: {standing.status}", ephemeral=True)
                said |= {standing.status, *standing.problems}
            await asyncio.sleep(_PERIOD_SECONDS)


def _say(severity: engine_pb2.LogSeverity, urn: str, text: str, *, ephemeral: bool = False) -> None:
    """Log beside a resource known by its URN; `pulumi.log` takes only the resource object, which a hook has not."""
    log = get_engine()
    if log is not None:
        log.Log(engine_pb2.LogRequest(severity=severity, message=text, urn=urn, ephemeral=ephemeral))


class _Look:
    """Reads a View from the cluster."""

    def __init__(self, context: str, namespace: str, kubeconfig: str | None) -> None:
        import urllib3
        from kubernetes import client

        api = api_client(context, kubeconfig)
        self._namespace = namespace
        # The second: nobody answers for a moment. Neither may end the watch.
        self._errors = (client.ApiException, urllib3.exceptions.HTTPError)
        self._core, self._custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self._plain = api.sanitize_for_serialization

    def at(self, name: str) -> View | None:
        """The group called `name`, or None while it cannot be read."""
        try:
            group = self._custom.get_namespaced_custom_object(
                "leaderworkerset.x-k8s.io", "v1", self._namespace, "leaderworkersets", name
            )
            pods = self._plain(
                self._core.list_namespaced_pod(self._namespace, label_selector=f"{_GROUP}name={name}").items
            )
        except self._errors:
            return None
        short = any(not pod["spec"].get("nodeName") for pod in pods)
        nodes, others = self._room(name) if short else ([], [])
        return View(
            spec=group["spec"],
            pods=pods,
            nodes=nodes,
            others=others,
            logs={_name(pod): self._log(_name(pod)) for pod in pods if _tells(pod)},
        )

    def _room(self, name: str) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """The nodes, and the pods that are not of the group. Empty for who may read one namespace only."""
        try:
            pods = self._plain(self._core.list_pod_for_all_namespaces(label_selector=f"{_GROUP}name!={name}").items)
            return self._plain(self._core.list_node().items), pods
        except self._errors:
            return [], []

    def _log(self, pod: str) -> str:
        try:
            # The library gives None, not "", for a log without a line.
            return self._core.read_namespaced_pod_log(pod, self._namespace, tail_lines=_LOG_LINES) or ""
        except self._errors:
            return ""


def _tells(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's log says something new: a leader's while it starts, any pod's when it failed."""
    statuses = pod["status"].get("containerStatuses") or []
    failed = any(status.get("restartCount") or "terminated" in (status.get("state") or {}) for status in statuses)
    leader = pod["metadata"]["labels"].get(f"{_GROUP}worker-index") == "0"
    return failed or (leader and pod["status"].get("phase") == "Running" and not _ready(pod))
