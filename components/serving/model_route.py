"""The path through AIBrix's gateway to one model: its Service, API key, network policy, our route and its grant.

Works for any workload whose servers a label selector finds and whose own metadata names the model, so that AIBrix
creates its route too. Not here: the workload, AIBrix and its gateway (`aibrix`), and requests with a routing strategy:
those bypass every HTTPRoute, because AIBrix's plugins send them to a pod of their choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.serving.inference_service import InferenceService, InferenceServiceArgs, in_namespace
from planning import aibrix_features
from planning.catalog import fact
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


def http_route(name: str, args: ModelRouteArgs) -> Manifest:
    """The route with our timeout, ready when the gateway has accepted it and found the Service.

    AIBrix's controller creates `<model>-router`, which ends every request after its 120 s, even while an answer still
    streams. A route of ours created earlier under that name would hold, but the controller deletes it with the workload
    (also one that is replaced) and creates its own again; and while no route has that name, the gateway's plugins
    refuse requests. So ours stands beside it under another name. By the Gateway API the older route wins, but not with
    Envoy Gateway 1.1 and 1.2 (internal/gatewayapi/sort.go): they ignore age and leave equal routes in any order. In
    both versions an exact path comes before AIBrix's prefixes.
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
            "name": f"{args.model_name}-modelserve",
            "namespace": gateway["namespace"],
            "labels": labels(args.stack, name),
            "annotations": {"pulumi.com/waitFor": json.dumps(wait)},
        },
        "spec": {
            "parentRefs": [{"name": gateway["name"], "namespace": gateway["namespace"]}],
            "rules": [
                {
                    "matches": [{"path": {"type": "Exact", "value": path}, "headers": [header]} for path in paths],
                    "backendRefs": [{"name": args.model_name, "namespace": args.namespace, "port": args.port}],
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
    service_name: str
    """The Service, named after the model."""
    secret_name: str | None
    """The API key's Secret, or None."""

    def __init__(self, name: str, args: ModelRouteArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:serving:ModelRoute", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
        front = InferenceService(name, args.front, child)
        grant = kubernetes_object(f"{name}-grant", reference_grant(name, args), child)
        # References count as resolved only once the Service and the grant exist.
        behind = pulumi.ResourceOptions(parent=self, depends_on=[front, grant])
        route = kubernetes_object(f"{name}-route", http_route(name, args), behind)
        self.service_name = args.model_name
        self.secret_name = front.secret_name
        self.endpoint = pulumi.Output.all(args.gateway_address, route.id).apply(lambda known: f"http://{known[0]}/v1")
        self.register_outputs({"endpoint": self.endpoint})
