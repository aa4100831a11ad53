"""How clients reach a model: Service, API key, network policy.

Works in front of any workload whose leaders a label selector finds. Not here: the workload itself, and the way through
a gateway (`model_route`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning import names
from planning.problems import Problem, Refused

# The digest is public. Two bytes tell a changed key from the old one in all but one of 65,536 changes, and are too few
# to confirm a guess, which any longer digest of a weak key would, however slowly it is made.
_REVISION_BYTES = 2
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, kw_only=True)
class InferenceServiceArgs:
    """`leaders` selects the pods that serve HTTP on `port`; `members` selects every pod of the workload.

    `api_key` is a secret Output, or None for an endpoint that asks for none. `load_balancer` are the annotations by
    which the cloud gives the Service an address outside the cluster, None for none. `clients` are the peers, as a
    NetworkPolicy has them, that alone reach the port; None lets everybody. `annotations` are further ones of the
    Service. Raises Refused for a load balancer
    without a key: whoever finds the address could use the GPUs.
    """

    stack: str
    namespace: str
    service_name: str
    leaders: Mapping[str, str]
    members: Mapping[str, str]
    port: int = 8000
    api_key: pulumi.Output[str] | None = None
    load_balancer: Mapping[str, str] | None = None
    clients: Sequence[Manifest] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.load_balancer is not None and self.api_key is None:
            raise Refused(Problem("load_balancer", self.service_name, "there is no API key", "give api_key"))
        if self.clients is not None and not self.clients:
            raise Refused(Problem("clients", self.service_name, "none would let everybody in", "give None or one"))


def api_key_revision(api_key: str) -> str:
    """A short public digest, which changes with the key. Pods carry it: a running engine never re-reads its key."""
    return hashlib.blake2s(api_key.encode(), digest_size=_REVISION_BYTES).hexdigest()


def service(name: str, args: InferenceServiceArgs) -> Manifest:
    """The Service in front of the leaders.

    Inside the cluster it does not wait: the official provider would hold each `up` for ten seconds of settling, while
    the workload's own wait already proves more. With a load balancer it does, for the address.
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
    """Lets HTTP in from the clients, or from anywhere, and the rest only from the workload's own pods.

    Ray takes code from whoever reaches its ports and asks for no password.
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
    """Every pod of a namespace, as a NetworkPolicy names it."""
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
    """The endpoint of a model inside the cluster."""

    endpoint: pulumi.Output[str]
    """Base URL of the OpenAI-compatible API: as pods of the cluster reach it, or at the load balancer's address."""
    secret_name: str | None
    """The API key's Secret, or None."""

    def __init__(self, name: str, args: InferenceServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:serving:InferenceService", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
        self.secret_name = None
        if args.api_key is not None:
            kubernetes_object(f"{name}-api-key", api_key_secret(name, args), child)
            self.secret_name = names.api_key_secret(name)
        kubernetes_object(f"{name}-network", network_policy(name, args), child)
        front = kubernetes_object(f"{name}-service", service(name, args), child)
        inside = f"{args.service_name}.{args.namespace}.svc.cluster.local"
        host = front.status.apply(_address) if args.load_balancer is not None else front.id.apply(lambda _: inside)
        self.endpoint = host.apply(lambda address: f"http://{address}:{args.port}/v1")
        self.register_outputs({"endpoint": self.endpoint})


def _address(status: Mapping[str, Any]) -> str:
    ingress = status["loadBalancer"]["ingress"][0]
    return ingress.get("ip") or ingress["hostname"]
