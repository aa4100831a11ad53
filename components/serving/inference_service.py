"""How clients reach a model: Service, API key, network policy.

It works for every workload whose leaders have labels of their own. Not here: the workload itself, and the route through
a gateway (`model_route`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning import names
from planning.problems import Problem, Refused

# The digest is public. Two bytes miss one of 65,536 changes of the key, and are too few to confirm a guess. A longer
# digest of a weak key would confirm one, even with a slow hash.
_REVISION_BYTES = 2
VERSION = "modelserve.dev/version"
"""The annotation of a Service or route that switches between groups: the version that it sends requests to."""
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, kw_only=True)
class InferenceServiceArgs:
    """`leaders` selects the pods that serve HTTP on `port`; `members` selects every pod of the workload.

    `api_key` is a secret Output, or None for an endpoint without authentication. `load_balancer` holds the annotations
    that make the cloud expose the Service outside the cluster; None keeps it inside. Only `clients`, the peers of a
    NetworkPolicy, reach the port; None lets everybody in. `annotations` are added to the Service.
    Raises Refused for a load balancer without a key: anybody who finds the address could use the GPUs.
    """

    stack: str
    namespace: str
    service_name: str
    leaders: Mapping[str, str]
    members: Mapping[str, str]
    port: int
    api_key: pulumi.Output[str] | None
    load_balancer: Mapping[str, str] | None
    clients: Sequence[Manifest] | None
    annotations: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.load_balancer is not None and self.api_key is None:
            raise Refused(Problem("load_balancer", self.service_name, "there is no API key", "give api_key"))
        if self.clients is not None and not self.clients:
            raise Refused(Problem("clients", self.service_name, "none would let everybody in", "give None or one"))


def api_key_revision(api_key: str) -> str:
    """A short public digest that changes with the key, and so restarts the pods: a running engine never re-reads it."""
    return hashlib.blake2s(api_key.encode(), digest_size=_REVISION_BYTES).hexdigest()


def service(name: str, args: InferenceServiceArgs) -> Manifest:
    """The Service in front of the leaders.

    Inside the cluster `up` does not wait for it: the official provider would wait ten seconds for the Service to
    settle, and the wait for the workload proves more. With a load balancer `up` waits for the address.
    """
    outside = args.load_balancer is not None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": args.service_name,
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            "annotations": {**args.annotations, **(args.load_balancer or {})}
            if outside
            else {**args.annotations, "pulumi.com/skipAwait": "true"},
        },
        "spec": {
            "type": "LoadBalancer" if outside else "ClusterIP",
            "selector": dict(args.leaders),
            "ports": [{"name": "http", "port": args.port, "protocol": "TCP", "targetPort": args.port}],
        },
    }


def network_policy(name: str, args: InferenceServiceArgs) -> Manifest:
    """Allows HTTP from the clients, or from anywhere, and all other traffic only between the workload's own pods.

    Ray runs code for everybody who reaches its ports, without a password.
    """
    http: Manifest = {"ports": [{"port": args.port, "protocol": "TCP"}]}
    if args.clients is not None:
        http["from"] = list(args.clients)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": args.namespace, "labels": labels(args.stack, name)},
        "spec": {
            "podSelector": {"matchLabels": dict(args.members)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": dict(args.members)}}]},
                http,
            ],
        },
    }


def in_namespace(namespace: str) -> Manifest:
    """Every pod of a namespace, as a peer of a NetworkPolicy."""
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: namespace}}}


def api_key_secret(name: str, args: InferenceServiceArgs) -> Manifest:
    """The Secret with the API key. Needs `args.api_key`."""
    if args.api_key is None:
        raise Refused(Problem("api_key", name, "a Secret without a key", "give api_key"))
    encoded = args.api_key.apply(lambda key: base64.b64encode(key.encode()).decode())
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": names.api_key_secret(name),
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
        },
        "data": {names.API_KEY: encoded},
    }


class InferenceService(pulumi.ComponentResource):
    """The endpoint of a model: inside the cluster, or at a load balancer."""

    endpoint: pulumi.Output[str]
    """Base URL of the OpenAI-compatible API: inside the cluster, or at the load balancer's address."""
    secret_name: str | None
    """The name of the API key's Secret, or None."""

    before: list[pulumi.Resource]
    """What the pods need, or must not be without."""

    def __init__(
        self,
        name: str,
        args: InferenceServiceArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        switches: bool = False,
    ) -> None:
        """The Service comes last if it `switches`: then call `switch`, once the group behind it is registered. A route
        that switches makes its own instead."""
        super().__init__("modelserve:serving:InferenceService", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        self._name, self._args, self.secret_name = name, args, None
        self.before = []
        if args.api_key is not None:
            self.before.append(kubernetes_object(f"{name}-api-key", api_key_secret(name, args), child))
            self.secret_name = names.api_key_secret(name)
        self.before.append(kubernetes_object(f"{name}-network", network_policy(name, args), child))
        if not switches:
            self._serve(child)

    def switch(
        self,
        group: pulumi.Resource,
        leaders: Mapping[str, str],
        version: str,
        hooks: pulumi.ResourceHookBinding | None,
    ) -> None:
        """Registers the Service in front of the `leaders` of this `group`, with `hooks` that judge the group first.

        Pulumi deletes what is no longer registered at the end of an `up`, and only if nothing has failed: so the group
        that had the requests before stays until this one has them.
        """
        annotations = {**self._args.annotations, VERSION: version}
        self._args = replace(self._args, leaders=leaders, annotations=annotations)
        self._serve(pulumi.ResourceOptions(parent=self, depends_on=[group], hooks=hooks))

    def _serve(self, child: pulumi.ResourceOptions) -> None:
        name, args = self._name, self._args
        front = kubernetes_object(f"{name}-service", service(name, args), child)
        inside = f"{args.service_name}.{args.namespace}.svc.cluster.local"
        host = front.status.apply(_address) if args.load_balancer is not None else front.id.apply(lambda _: inside)
        self.endpoint = host.apply(lambda address: f"http://{address}:{args.port}/v1")
        self.register_outputs({"endpoint": self.endpoint})


def _address(status: Mapping[str, Any]) -> str:
    found = (status.get("loadBalancer") or {}).get("ingress")
    if not found:
        if pulumi.runtime.is_dry_run():
            return "the-load-balancers-address"  # the status is that of the Service before it had one
        raise pulumi.RunError("the Service's load balancer has no address")
    return found[0].get("ip") or found[0]["hostname"]
