"""What `ops` reads from a cluster: the pod behind a Service and a key in a Secret; forwards a pod's port.

Owns the messages about what is missing there. Not here: the stack file, and the choice of the kubeconfig
(`config.kubeconfig`). Importing it loads the Kubernetes library, which takes a third of a second.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.stream import portforward

from watch.client import Reads, api_client
from watch.rollout import is_ready, pod_name

# Time for the last bytes of an answer after the client has closed its side.
_LAST_BYTES_SECONDS = 5


class ClusterError(Exception):
    """The cluster lacks something, or does not answer. `str()` is one line."""


@dataclass(frozen=True)
class Leader:
    """The pod that serves behind a Service, and the port it listens on."""

    pod: str
    port: int


class Cluster:
    """One namespace of the cluster that a kubeconfig context names."""

    def __init__(self, context: str, namespace: str, kubeconfig: str | None = None) -> None:
        """`kubeconfig` is content, for a cluster that is in no kubeconfig file of this machine. Raises ClusterError."""
        try:
            self._api = api_client(context, kubeconfig)
        except config.ConfigException as error:
            raise ClusterError(f"context {context}: {' '.join(str(error).split())}") from None
        self._context, self._namespace = context, namespace
        self._reads, self._place = Reads(self._api), f"namespaces/{namespace}"
        # The library swaps a client's transport while it opens a stream. So streams have their own client, and open one
        # at a time.
        self._streams = Reads(client.ApiClient(self._api.configuration))
        self._opening = threading.Lock()

    def leader(self, service: str) -> Leader:
        """A ready pod behind the Service. If there is none, raises ClusterError, which says what is missing."""
        with self._asking(f"Service {service}"):
            spec = self._reads.json(f"/api/v1/{self._place}/services/{service}")["spec"]
        first = self._ready_pods(spec.get("selector") or {}, f"behind Service {service}")[0]
        return Leader(pod_name(first), _target_port(spec["ports"][0], first))

    def leaders(self, selector: Mapping[str, str], port: int) -> list[Leader]:
        """The ready pods with these labels. If there is none, raises ClusterError, which says what is missing."""
        return [Leader(pod_name(pod), port) for pod in self._ready_pods(selector, "with its labels")]

    def replicas(self, api_version: str, plural: str, name: str) -> int | None:
        """How many replicas the workload is to have; None if there is no such workload."""
        with suppress(_Absent):
            return self.custom(api_version, plural, name)["spec"]["replicas"]
        return None

    def custom(self, api_version: str, plural: str, name: str) -> dict[str, Any]:
        """An object of a kind that the library does not know. Raises ClusterError."""
        with self._asking(f"{plural} {name}"):
            return self._reads.json(f"/apis/{api_version}/{self._place}/{plural}/{name}")

    def merge(self, api_version: str, plural: str, name: str, changes: Mapping[str, Any]) -> None:
        """Changes such an object by a merge patch. Raises ClusterError."""
        with self._asking(f"{plural} {name}"):
            patch = client.CustomObjectsApi(self._api).patch_namespaced_custom_object
            patch(*api_version.split("/"), self._namespace, plural, name, changes)

    def secret(self, name: str, key: str) -> str | None:
        """The value in a Secret; None if there is no such Secret or key."""
        with suppress(_Absent), self._asking(f"Secret {name}"):
            data = self._reads.json(f"/api/v1/{self._place}/secrets/{name}").get("data") or {}
            return base64.b64decode(data[key]).decode() if key in data else None
        return None

    @contextmanager
    def forwarded(self, leader: Leader) -> Iterator[str]:
        """The leader's port as an http URL on 127.0.0.1, for any number of connections, until the block ends."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=self._accept, args=(server, leader), daemon=True).start()
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
            server.shutdown(socket.SHUT_RDWR)

    def _accept(self, server: socket.socket, leader: Leader) -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._bridge, args=(near, leader), daemon=True).start()

    def _bridge(self, near: socket.socket, leader: Leader) -> None:
        """Carries one connection. If the cluster refuses it, the client's connection is closed at once."""
        with near:
            try:
                with self._opening:
                    path = f"/api/v1/{self._place}/pods/{leader.pod}/portforward"
                    forward = portforward(self._streams.stream, path, ports=str(leader.port))
            except (client.ApiException, urllib3.exceptions.HTTPError, OSError):
                return
            far = forward.socket(leader.port)
            answers = threading.Thread(target=_return, args=(far, near), daemon=True)
            answers.start()
            # End with the client: not every kubelet passes on that the pod has closed its side.
            _pump(near, far)
            # Keep reading: the library's thread fails with a traceback if nobody takes its bytes.
            answers.join(_LAST_BYTES_SECONDS)
            forward.close()

    def _ready_pods(self, labels: Mapping[str, str], where: str) -> list[dict[str, Any]]:
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        with self._asking("pods"):
            pods = self._reads.items(f"/api/v1/{self._place}/pods", labelSelector=selector)
        ready = [pod for pod in pods if is_ready(pod) and not pod["metadata"].get("deletionTimestamp")]
        if not ready:
            reasons = "; ".join(self._not_ready(pod) for pod in pods) or f"no pod has the labels {selector}"
            raise ClusterError(f"no ready leader pod {where}: {reasons}")
        return sorted(ready, key=pod_name)

    def _not_ready(self, pod: Mapping[str, Any]) -> str:
        """Why one pod is not ready."""
        name, status = pod_name(pod), pod.get("status") or {}
        for condition in status.get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{name} finds no node: {condition.get('message')}"
        for each in status.get("containerStatuses") or []:
            if waiting := (each.get("state") or {}).get("waiting"):
                return f"{name}: {waiting.get('reason')}" + (f": {text}" if (text := waiting.get("message")) else "")
        if status.get("phase") != "Running":
            return f"{name} is {status.get('phase')}"
        last = ""
        with suppress(client.ApiException):
            last = self._reads.text(f"/api/v1/{self._place}/pods/{name}/log", tailLines=1).strip()
        return f"{name} runs and is not ready" + (f"; its log ends: {last}" if last else "")

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns the library's errors about `what` into a ClusterError of one line."""
        try:
            yield
        except client.ApiException as error:
            where = f"namespace {self._namespace} of context {self._context}"
            if error.status == 404:
                raise _Absent(f"{what} is not in {where}; run pulumi up") from None
            if error.status in (401, 403):
                raise ClusterError(f"{what}: this kubeconfig may not read it in {where} ({error.reason})") from None
            raise ClusterError(f"{what}: the API server says {error.status} {error.reason}") from None
        except urllib3.exceptions.HTTPError as error:
            server = self._api.configuration.host
            raise ClusterError(
                f"context {self._context}: {server} does not answer ({type(error).__name__}); is the cluster up?"
            ) from None


class _Absent(ClusterError):
    """There is no such object."""


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carries bytes until the source ends, then closes the sink for writing."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _return(far: socket.socket, near: socket.socket) -> None:
    """Carries the answer back, and discards the rest if the client has gone."""
    _pump(far, near)
    with suppress(OSError):
        while far.recv(65536):
            pass


def _target_port(port: Mapping[str, Any], pod: Mapping[str, Any]) -> int:
    """The number of the port that the Service sends to; the Service may give it by name."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    ports = (each for container in pod["spec"]["containers"] for each in container.get("ports") or [])
    return next((each["containerPort"] for each in ports if each.get("name") == target), port["port"])
