"""The path through AIBrix's gateway to one model: its Service, API key, network policy, our route and its grant.

Works for any workload whose servers a label selector finds. Not here: the workload, AIBrix and its gateway (`aibrix`),
and requests with a routing strategy: those bypass every HTTPRoute, because AIBrix's plugins send them to a pod of their
choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.serving.inference_service import VERSION, InferenceService, InferenceServiceArgs, in_namespace, service
from planning import aibrix_features
from planning.catalog import fact
from planning.names import coloured, route_object
from planning.problems import Problem, Refused

_GROUP = "gateway.networking.k8s.io"
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, kw_only=True)
class ModelRouteArgs:
    """`model_name` is the model's name in requests, in the engine's --served-model-name and of the Service.
    `head_selector` finds the pods that serve HTTP on `port`, `member_selector` every pod of the workload.

    `gateway_address` is the Gateway object's first address, which may become known late. `request_seconds` is how long
    a request may last, including a streamed answer. `api_key` is a secret Output, or None.
    Pods in `monitoring_namespace` may reach the port too, to read metrics, and so may `more_clients`.
    `service_annotations` are added to those of the Service.
    Raises Refused for a name or a port that AIBrix cannot route to, and for a time that the Gateway API cannot express.
    """

    stack: str
    namespace: str
    aibrix_version: str
    model_name: str
    head_selector: Mapping[str, str]
    member_selector: Mapping[str, str]
    gateway_address: pulumi.Input[str]
    request_seconds: int
    port: int = 8000
    api_key: pulumi.Output[str] | None = None
    monitoring_namespace: str | None = None
    service_annotations: Mapping[str, str] = field(default_factory=dict)
    more_clients: Sequence[Manifest] = ()

    def __post_init__(self) -> None:
        longest = fact("aibrix", "gateway", "requestSecondsMax")
        told = {
            "model_name": aibrix_features.model_name_problem(self.model_name),
            "port": aibrix_features.port_problem(self.aibrix_version, self.port),
        }
        if not 1 <= self.request_seconds <= longest:
            told["request_seconds"] = ("is no time of a route", f"give 1 to {longest}")
        if wrong := [Problem(key, str(getattr(self, key)), *reason) for key, reason in told.items() if reason]:
            raise Refused(*wrong)

    @property
    def front(self) -> InferenceServiceArgs:
        """The Service, key and policy. A request without a strategy goes to the Service that has the model's name."""
        return InferenceServiceArgs(
            stack=self.stack,
            namespace=self.namespace,
            service_name=self.model_name,
            leaders=self.head_selector,
            members=self.member_selector,
            port=self.port,
            api_key=self.api_key,
            load_balancer=None,
            clients=[*clients(self.monitoring_namespace), *self.more_clients],
            annotations=self.service_annotations,
        )


def clients(monitoring_namespace: str | None) -> list[Manifest]:
    """Who may reach the engine's port, as NetworkPolicy peers: Envoy, AIBrix's metrics readers, monitoring."""
    peers: list[Manifest] = [
        {
            "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: each["namespace"]}},
            "podSelector": {"matchLabels": dict(each["labels"])},
        }
        for each in fact("aibrix", "gateway", "clients")
    ]
    if monitoring_namespace:
        peers.append(in_namespace(monitoring_namespace))
    return peers


def reference_grant(name: str, args: ModelRouteArgs) -> Manifest:
    """Lets the gateway's routes send to this model's Service for as long as the model exists.

    AIBrix creates one grant for a whole namespace, and deletes it with any model there, although others still need it
    (https://github.com/vllm-project/aibrix/issues/1504); this one lives and dies with its own model. Still, it names no
    Service: Envoy Gateway 1.1 (findReferenceGrant) looks at only one grant per namespace, whichever Service that names.
    """
    gateway = fact("aibrix", "gateway", "object")
    return {
        "apiVersion": f"{_GROUP}/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": f"{name}-gateway", "namespace": args.namespace, "labels": labels(args.stack, name)},
        "spec": {
            "from": [{"group": _GROUP, "kind": "HTTPRoute", "namespace": gateway["namespace"]}],
            "to": [{"group": "", "kind": "Service"}],
        },
    }


def http_route(name: str, args: ModelRouteArgs, to: str | None = None, version: str | None = None) -> Manifest:
    """The route, ready when the gateway has accepted it and found the Service: the model's own, or `to`, whose pods are
    of this `version`.

    It has the name of the route that the gateway's plugins ask for: they refuse requests while there is none. For a
    workload that has the model's label, AIBrix's controller creates one under that name, which ends every request after
    120 s, and deletes whatever has the name with the workload, although another one of the same model still serves
    (v0.7.0, pkg/controller/modelrouter/modelrouter_controller.go, deleteHTTPRoute); it never makes it again for one
    that is there. So our workloads lack that label, their pods have it, and the route is ours alone.
    """
    gateway = fact("aibrix", "gateway", "object")
    wait = [
        f"jsonpath={{.status.parents[*].conditions[?@.type == '{kind}' && @.status == 'True'].status}}=True"
        for kind in ("Accepted", "ResolvedRefs")
    ]
    header = {"type": "Exact", "name": "model", "value": args.model_name}
    paths = aibrix_features.route_paths(args.aibrix_version)
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": route_object(args.model_name),
            "namespace": gateway["namespace"],
            "labels": labels(args.stack, name),
            "annotations": {
                "pulumi.com/waitFor": json.dumps(wait),
                # A switch that gives a new group a share writes the route too, and owns what it wrote.
                "pulumi.com/patchForce": "true",
                **({VERSION: version} if version else {}),
            },
        },
        "spec": {
            "parentRefs": [{"name": gateway["name"], "namespace": gateway["namespace"]}],
            "rules": [
                {
                    "matches": [{"path": {"type": "Exact", "value": path}, "headers": [header]} for path in paths],
                    "backendRefs": [{"name": to or args.model_name, "namespace": args.namespace, "port": args.port}],
                    # Envoy Gateway also raises the stream's idle timeout (five minutes by default) to this value; an
                    # answer that is not streamed would run into it otherwise.
                    "timeouts": {"request": f"{args.request_seconds}s"},
                }
            ],
        },
    }


class ModelRoute(pulumi.ComponentResource):
    """A model's endpoint behind AIBrix's gateway. Create the workload after it: the pods need the Secret."""

    endpoint: pulumi.Output[str]
    """Base URL of the OpenAI-compatible API at the gateway's address, known once the route is accepted."""
    secret_name: str | None
    """The API key's Secret, or None."""
    before: list[pulumi.Resource]
    """What the pods need, or must not be without."""

    def __init__(
        self, name: str, args: ModelRouteArgs, opts: pulumi.ResourceOptions | None = None, *, switches: bool = False
    ) -> None:
        """The route comes last if it `switches`: then call `switch`, once the group behind it is registered."""
        super().__init__("modelserve:serving:ModelRoute", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
        front = InferenceService(name, args.front, child, switches=switches)
        self._name, self._args = name, args
        self.secret_name = front.secret_name
        self._grant = kubernetes_object(f"{name}-grant", reference_grant(name, args), child)
        self.before = [*front.before, self._grant]
        if switches:
            front.register_outputs({})
        else:
            self._route(http_route(name, args), [front])

    def switch(
        self,
        group: pulumi.Resource,
        colour: str,
        leaders: Mapping[str, str],
        version: str,
        hooks: pulumi.ResourceHookBinding | None,
    ) -> None:
        """Registers a Service for the `leaders` of this `group`, and the route to it, with `hooks` that judge the group
        first. The other colour's Service and group stay until the end of an `up` in which nothing has failed."""
        name, args = self._name, self._args
        own = replace(args.front, service_name=coloured(args.model_name, colour), leaders=leaders)
        child = pulumi.ResourceOptions(parent=self)
        made = kubernetes_object(f"{coloured(name, colour)}-service", service(name, own), child)
        self._route(http_route(name, args, own.service_name, version), [made, group], hooks)

    def _route(self, manifest: Manifest, after: Sequence[Any], hooks: pulumi.ResourceHookBinding | None = None) -> None:
        # References count as resolved only once the Service and the grant exist.
        behind = pulumi.ResourceOptions(parent=self, depends_on=[*after, self._grant], hooks=hooks)
        route, address = kubernetes_object(f"{self._name}-route", manifest, behind), self._args.gateway_address
        self.endpoint = pulumi.Output.all(address, route.id).apply(lambda known: f"http://{known[0]}/v1")
        self.register_outputs({"endpoint": self.endpoint})
