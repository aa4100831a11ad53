"""Pods inside Kubernetes objects of any kind, as the rules look at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.rule_types import Resource, at, listed, number

_COMPONENT = "app.kubernetes.io/component"
_LEADERS = ("leader", "head")


@dataclass(frozen=True)
class Pod:
    """A pod, or a pod template. `copies` is how many of this pod one replica of its workload has."""

    template: Mapping[str, Any]
    copies: int = 1

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.template["spec"]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """Its containers, init containers included."""
        both = (*listed(self.spec.get("initContainers")), *listed(self.spec.get("containers")))
        return [each for each in both if isinstance(each, Mapping)]

    @property
    def leads(self) -> bool:
        """Whether this pod answers the requests of its replica."""
        return at(self.template, "metadata", "labels", _COMPONENT) in _LEADERS

    @property
    def gpus(self) -> float:
        return sum(number(amount) or 0 for each in self.containers for amount in gpus(each).values())


def gpus(container: Mapping[str, Any]) -> dict[str, Any]:
    """The GPUs that a container requests: resource name to amount."""
    asked = {**(at(container, "resources", "requests") or {}), **(at(container, "resources", "limits") or {})}
    return {name: amount for name, amount in asked.items() if name.endswith("/gpu")}


def pods(resource: Resource) -> list[Pod]:
    """Every pod that a Kubernetes object creates."""
    return list(_pods(resource.properties, 1)) if resource.kind else []


def variables(container: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Its environment: name to entry, which has a `value` or says where the value comes from."""
    entries = (each for each in listed(container.get("env")) if isinstance(each, Mapping))
    return {str(each.get("name")): each for each in entries}


def _pods(value: Any, copies: int) -> Iterator[Pod]:
    if isinstance(value, Mapping):
        if isinstance(at(value, "spec", "containers"), (list, tuple)):
            yield Pod(value, copies)
            return
        size = number(value.get("size"))  # of a LeaderWorkerSet: the leader and its workers
        for key, below in value.items():
            more = copies
            if key == "workerTemplate" and size:
                more = copies * (int(size) - 1)
            elif key == "template" and "groupName" in value:  # a worker group of a RayCluster
                more = copies * int(number(value.get("replicas")) or 0)
            yield from _pods(below, more)
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from _pods(below, copies)
