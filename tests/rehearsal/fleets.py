"""AIBrix's part of a rehearsal, as tests see it: fleets, their pods, the GPUs that they used, and the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from kubernetes import watch

from local.api import ApiError
from local.nodes import NodePool
from standins import gateway
from tests.rehearsal.pulumi_stack import API_KEY, Cluster
from tests.support.patience import PATIENCE_SECONDS

NAME = "deepseek-r1-671b"
"""The service of the committed stack file."""
OURS, AIBRIX = "modelserve", "router"


@dataclass
class Fleets:
    """The fleets in a rehearsal's namespace `default`."""

    cluster: Cluster

    def fleet(self, name: str = NAME) -> dict[str, Any]:
        """The RayClusterFleet of a service."""
        found = self.cluster.object("RayClusterFleet", name)
        assert found is not None
        return found

    def pods(self, name: str = NAME) -> list[Any]:
        """The existing pods of a service, including terminating ones."""
        selector = f"ray.io/cluster,app.kubernetes.io/instance={name}"
        return self.cluster.core.list_namespaced_pod("default", label_selector=selector).items

    def uids(self, name: str = NAME) -> set[str]:
        """The uids of a service's pods, which distinguish them from others of the same name."""
        return {pod.metadata.uid for pod in self.pods(name)}

    def head(self, name: str = NAME) -> Any:
        """The pod that serves requests for a service with one replica."""
        (found,) = [pod for pod in self.pods(name) if pod.metadata.labels["ray.io/node-type"] == "head"]
        return found

    def ready(self, name: str = NAME, replicas: int = 1, size: int = 2) -> bool:
        """Whether the service has exactly this many pods, all of them ready."""
        found = self.pods(name)
        return len(found) == replicas * size and all(
            any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or []) for pod in found
        )

    def now(self) -> str:
        """The current time, for `most_gpus`."""
        return self.cluster.core.list_namespaced_pod("default").metadata.resource_version

    def most_gpus(self, since: str) -> int:
        """The most GPUs that pods held or requested at any one time after `since`, without terminating pods.

        AIBrix does not wait until the pods that it deletes have ended; until then, new pods may have to wait for GPUs.
        """
        there: dict[str, int] = {}
        most = 0
        events = watch.Watch().stream(
            self.cluster.core.list_namespaced_pod, "default", resource_version=since, timeout_seconds=1
        )
        for event in events:
            pod = event["object"]
            gpus = sum(int((each.resources.requests or {}).get("nvidia.com/gpu", 0)) for each in pod.spec.containers)
            gone = event["type"] == "DELETED" or pod.metadata.deletion_timestamp
            there[pod.metadata.uid] = 0 if gone else gpus
            most = max(most, sum(there.values()))
        return most

    @property
    def gateway(self) -> str:
        """The URL of the gateway's listener on this machine."""
        return json.loads((self.cluster.plane.folder / gateway.FILE).read_text())["aibrix-system/aibrix-eg"]

    def ask(self, model: str = NAME, *, content: str = "hi", max_tokens: int = 4, **headers: str) -> requests.Response:
        """Requests a completion through the gateway."""
        message = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}
        url = f"{self.gateway}/v1/chat/completions"
        return requests.post(
            url, json=message, headers={"Authorization": f"Bearer {API_KEY}", **headers}, timeout=PATIENCE_SECONDS
        )

    def way(self, model: str = NAME, **headers: str) -> str | int:
        """The route that serves a request, or the status if it is refused."""
        answer = self.ask(model, **headers)
        return answer.headers["x-rehearsal-route"] if answer.status_code == 200 else answer.status_code

    @contextmanager
    def more_nodes(self, count: int) -> Iterator[None]:
        """Adds `count` GPU nodes to the rehearsal's two. Pods on them end late when the nodes are removed."""
        here = NodePool().manifests()
        fresh = [node for node in NodePool(count=2 + count).manifests() if node not in here]
        paths = [f"/api/v1/nodes/{node['metadata']['name']}" for node in fresh]
        for path, node in zip(paths, fresh, strict=True):
            self.cluster.plane.api.apply(path, node)
        try:
            yield
        finally:
            for path in paths:
                self.cluster.plane.api.delete(path)

    def there(self, path: str) -> dict[str, Any] | None:
        """The object at a path of the API server, if any."""
        try:
            return self.cluster.plane.api.get(path)
        except ApiError as error:
            if error.code != 404:
                raise
            return None
