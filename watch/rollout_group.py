"""The status of a starting group of pods, whatever created it: its pods, the GPUs they wait for, the leader's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from watch.rollout import (
    Reader,
    RolloutStatus,
    failures,
    given_up,
    gone,
    is_ready,
    pod_name,
    running,
    unplaced,
    waiting,
)


@dataclass(frozen=True)
class View:
    """What the cluster shows of one workload with `replicas` of `size` pods each.

    Pods and nodes are the API's JSON. `logs`, `ends` and `gone` map pod names to last lines: of starting leaders, of
    ended runs, and of deleted pods. `leader` is the label of leaders. `others` are the other workloads' pods.
    """

    size: int
    replicas: int
    leader: tuple[str, str]
    pods: Sequence[Mapping[str, Any]]
    nodes: Sequence[Mapping[str, Any]]
    others: Sequence[Mapping[str, Any]]
    logs: Mapping[str, str | None]
    ends: Mapping[str, str]
    gone: Mapping[str, str]


def describe(view: View) -> RolloutStatus:
    """What a start waits for, and what is wrong with it."""
    replicas, wanted = view.replicas, view.size * view.replicas
    pods = sorted(view.pods, key=lambda pod: pod["metadata"]["name"])
    placed = [pod for pod in pods if pod["spec"].get("nodeName")]
    started = [pod for pod in placed if pod["status"].get("phase") == "Running" and not waiting(pod)]
    problems = (
        *_no_room(pods, view),
        *(text for pod in pods for text in failures(pod, view.ends, "its group starts anew")),
        *given_up(view.logs),
        *gone(view.gone),
    )
    if len(pods) < wanted:
        return RolloutStatus(f"pods created: {len(pods)} of {wanted}", problems)
    if len(placed) < wanted:
        return RolloutStatus(f"pods scheduled: {len(placed)} of {wanted}", problems)
    if len(started) < wanted:
        late = next(pod for pod in placed if pod not in started)
        return RolloutStatus(
            f"pods started: {len(started)} of {wanted} ({pod_name(late)}: {waiting(late) or 'Pending'})", problems
        )
    leaders = [pod for pod in pods if _leads(pod, view.leader)]
    late_leader = next((pod for pod in leaders if not is_ready(pod)), None)
    if late_leader is None:
        return RolloutStatus(f"replicas ready: {replicas} of {replicas}", problems)
    return RolloutStatus(f"{pod_name(late_leader)}: {running(view.logs.get(pod_name(late_leader)))}", problems)


def _no_room(pods: Sequence[Mapping[str, Any]], view: View) -> list[str]:
    """One line for all pods that the scheduler cannot place, with the GPUs they need and the cluster has."""
    refused = [(pod, why) for pod in pods if (why := unplaced(pod)) is not None]
    if not refused:
        return []
    first, scheduler = refused[0]
    pods_named = ", ".join(pod_name(pod) for pod, _ in refused)
    resource, per_pod = _gpus(first)
    if resource not in scheduler:
        return [f"no node for {pods_named}: the scheduler says: {scheduler}"]
    wanted = per_pod * view.size * view.replicas
    there = sum(int(node["status"].get("allocatable", {}).get(resource, 0)) for node in view.nodes)
    taken = sum(_gpus(other)[1] for other in [*view.others, *view.pods] if other["spec"].get("nodeName"))
    room = f", the cluster has {there}, of which {max(there - taken, 0)} free" if view.nodes else ""
    return [
        f"no node for {pods_named}: {wanted} {resource} are wanted "
        f"({per_pod} in each pod){room}; the scheduler says: {scheduler}"
    ]


def _gpus(pod: Mapping[str, Any]) -> tuple[str, int]:
    """The extended GPU resource that a pod requests, and how many; ("GPUs", 0) for none."""
    for container in pod["spec"]["containers"]:
        for resource, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if resource.endswith("/gpu"):
                return resource, int(amount)
    return "GPUs", 0


def look_at_group(
    reader: Reader, selectors: tuple[str, str], size: int, replicas: int, leader: tuple[str, str]
) -> RolloutStatus | None:
    """The status of a workload; None while its pods cannot be read. `selectors` find its pods, and all others."""
    pods = reader.pods(selectors[0])
    if pods is None:
        return None
    short = any(not pod["spec"].get("nodeName") for pod in pods)
    nodes, others = reader.room(selectors[1]) if short else ([], [])
    lost = reader.follow(selectors[0], pods)
    logs = {pod_name(pod): reader.log(pod) for pod in pods if _starts(pod, leader)}
    ends = {pod_name(pod): reader.end(pod) for pod in pods}
    return describe(View(size, replicas, leader, pods, nodes, others, logs, ends, lost))


def _leads(pod: Mapping[str, Any], leader: tuple[str, str]) -> bool:
    return pod["metadata"]["labels"].get(leader[0]) == leader[1]


def _starts(pod: Mapping[str, Any], leader: tuple[str, str]) -> bool:
    return _leads(pod, leader) and pod["status"].get("phase") == "Running" and not is_ready(pod)
