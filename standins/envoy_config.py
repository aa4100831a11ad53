"""What Envoy Gateway makes of a Gateway's objects: the configuration of its Envoy. Pure.

Names, orders and values are those of github.com/envoyproxy/gateway v1.2.8 (internal/gatewayapi, internal/xds/translator
and its testdata/out), for the objects that AIBrix and a stack write: HTTPRoutes by path, header and method,
ClientTrafficPolicy, EnvoyExtensionPolicy with one external processor, EnvoyPatchPolicy that adds. Not here: which
policies and routes a Gateway takes (`gateway_model`), TLS, and filters of routes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from standins.gateway_model import Thing, seconds

Endpoints = Callable[[Thing, Thing], "Sequence[tuple[str, int]] | None"]
"""Addresses behind a reference of a route or policy to a Service's port; None for one that is not resolved."""

_TYPES = "type.googleapis.com/envoy"
_LISTENER, _ROUTES, _CLUSTER, _ENDPOINTS = (
    f"{_TYPES}.config.{kind}"
    for kind in (
        "listener.v3.Listener",
        "route.v3.RouteConfiguration",
        "cluster.v3.Cluster",
        "endpoint.v3.ClusterLoadAssignment",
    )
)
_HTTP = f"{_TYPES}.extensions.filters.http"
_CONNECTION_BYTES = 32768
_HTTP2 = {"initial_connection_window_size": 1048576, "initial_stream_window_size": 65536}
_IDLE_SECONDS = 3600.0
_SIZES = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What one Gateway has taken: routes, its policy for clients, policies with processors, and patches by priority."""

    gateway: Thing
    routes: Sequence[Thing] = ()
    clients: Thing | None = None
    extensions: Sequence[Thing] = ()
    patches: Sequence[Thing] = ()


@dataclass
class Resources:
    """Envoy's resources by their names."""

    listeners: dict[str, Thing] = field(default_factory=dict)
    routes: dict[str, Thing] = field(default_factory=dict)
    clusters: dict[str, Thing] = field(default_factory=dict)


def translate(objects: Objects, endpoints: Endpoints, places: Mapping[str, tuple[str, int]]) -> Resources:
    """The resources of a Gateway whose listeners are, by their names, at these addresses of this machine."""
    found, home = Resources(), _place(objects.gateway)
    processors = [_processor(policy) for policy in objects.extensions]
    for policy in objects.extensions:
        reference = policy["spec"]["extProc"][0]["backendRefs"][0]
        name = _processor_cluster(policy)
        found.clusters[name] = _cluster(name, [(1, endpoints(policy, reference) or ())], http2=True)
    for listener in objects.gateway["spec"]["listeners"]:
        name = f"{home}/{listener['name']}"
        found.listeners[name] = _listener(name, places[listener["name"]], listener["port"], objects.clients, processors)
        routes = _sorted(_matched(objects, endpoints, found))
        host = {"name": f"{name}/*", "domains": ["*"], "routes": routes}
        found.routes[name] = {"name": name, "ignore_port_in_host_matching": True, "virtual_hosts": [host]}
    for policy in objects.patches:
        for patch in policy["spec"]["jsonPatches"]:
            _apply(patch, found)
    for table in found.routes.values():
        for host in table["virtual_hosts"]:
            for route in host["routes"]:
                # Not Envoy Gateway's: so that a test can see which route of several a request took.
                name = route["name"]
                told = "/".join(name.split("/")[1:3]) if name.startswith("httproute/") else name
                route["response_headers_to_add"] = [{"header": {"key": "x-rehearsal-route", "value": told}}]
    return found


def bootstrap(found: Resources, admin: tuple[str, int], folder: str) -> Thing:
    """Envoy's own configuration: its resources are files in `folder`, which it watches (`files`)."""
    return {
        "node": {"id": "rehearsal", "cluster": "rehearsal"},
        "admin": {"address": _address(admin)},
        "dynamic_resources": {
            "lds_config": _from_file(f"{folder}/listeners.json"),
            "cds_config": _from_file(f"{folder}/clusters.json"),
        },
        # Envoy counts its connections at each flush: every 5 s by default, a tenth of that for short tests.
        "stats_flush_interval": "0.5s",
        # As Envoy Gateway's bootstrap (internal/xds/bootstrap); a test's clients are few.
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPES}.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 50000,
                    },
                }
            ]
        },
    }


def files(found: Resources, folder: str) -> dict[str, Thing]:
    """The files with the resources, by name, in the order in which Envoy has to learn of them."""
    listeners, clusters = copy.deepcopy(found.listeners), copy.deepcopy(found.clusters)
    for listener in listeners.values():
        rds = listener["default_filter_chain"]["filters"][0]["typed_config"]["rds"]
        rds["config_source"] = _from_file(f"{folder}/routes.json")
    made: dict[str, Thing] = {}
    for name, cluster in clusters.items():
        if ends := cluster.pop("load_assignment", None):
            # A change of endpoints must leave the cluster, so that running answers go on.
            file = f"endpoints-{name.replace('/', '.')}.json"
            made[file] = {"resources": [{"@type": _ENDPOINTS, **ends}]}
            cluster |= {"type": "EDS", "eds_cluster_config": {"eds_config": _from_file(f"{folder}/{file}")}}
    kinds = {"clusters": (_CLUSTER, clusters), "routes": (_ROUTES, found.routes), "listeners": (_LISTENER, listeners)}
    for name, (kind, resources) in kinds.items():
        made[f"{name}.json"] = {"resources": [{"@type": kind, **resource} for resource in resources.values()]}
    return made


def _from_file(path: str) -> Thing:
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}


def _place(thing: Thing) -> str:
    return f"{thing['metadata']['namespace']}/{thing['metadata']['name']}"


def _address(place: tuple[str, int]) -> Thing:
    return {"socket_address": {"address": place[0], "port_value": place[1]}}


def _listener(
    name: str, place: tuple[str, int], port: int, clients: Thing | None, processors: Sequence[tuple[str, Thing]]
) -> Thing:
    spec = (clients or {"spec": {}})["spec"]
    filters: list[Thing] = [{"name": key, "disabled": True, "typed_config": value} for key, value in processors]
    router = {"@type": f"{_HTTP}.router.v3.Router", "suppress_envoy_headers": True}
    filters.append({"name": "envoy.filters.http.router", "typed_config": router})
    manager: Thing = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"http-{port if port >= 1024 else port + 10000}",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "http2_protocol_options": {**_HTTP2, "max_concurrent_streams": 100},
        "http_filters": filters,
        "merge_slashes": True,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "rds": {"route_config_name": name},
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": True,
    }
    if removed := ((spec.get("headers") or {}).get("earlyRequestHeaders") or {}).get("remove"):
        mutation = {
            "@type": f"{_TYPES}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove": header} for header in removed],
        }
        manager["early_header_mutation_extensions"] = [
            {"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": mutation}
        ]
    connections = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": name,
        "address": _address(place),
        "default_filter_chain": {"filters": [connections], "name": name},
        "per_connection_buffer_limit_bytes": _bytes((spec.get("connection") or {}).get("bufferLimit")),
    }


def _bytes(quantity: int | str | None) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w*)", str(quantity or _CONNECTION_BYTES)).groups()  # type: ignore[union-attr]
    return int(number) * _SIZES[unit]


def _processor(policy: Thing) -> tuple[str, Thing]:
    """The filter of a policy's external processor."""
    (asked,) = policy["spec"]["extProc"]
    modes, reference = asked.get("processingMode") or {}, asked["backendRefs"][0]
    mode: Thing = {"request_trailer_mode": "SKIP", "response_trailer_mode": "SKIP"}
    for side in ("request", "response"):
        mode[f"{side}_header_mode"] = "SEND" if side in modes else "SKIP"
        if body := (modes.get(side) or {}).get("body"):
            mode[f"{side}_body_mode"] = {"BufferedPartial": "BUFFERED_PARTIAL"}.get(body, body.upper())
    service = {
        "envoy_grpc": {
            "cluster_name": _processor_cluster(policy),
            "authority": f"{reference['name']}.{policy['metadata']['namespace']}:{reference['port']}",
        },
        "timeout": "10s",
    }
    config = {"@type": f"{_HTTP}.ext_proc.v3.ExternalProcessor", "grpc_service": service, "processing_mode": mode}
    if "messageTimeout" in asked:
        config["message_timeout"] = asked["messageTimeout"]
    return _processor_name(policy), config


def _processor_name(policy: Thing) -> str:
    return f"envoy.filters.http.ext_proc/envoyextensionpolicy/{_place(policy)}/extproc/0"


def _processor_cluster(policy: Thing) -> str:
    return f"envoyextensionpolicy/{_place(policy)}/extproc/0"


def _cluster(name: str, shares: Iterable[tuple[int, Iterable[tuple[str, int]]]], *, http2: bool = False) -> Thing:
    """One cluster for all of a rule's backends: each is a locality with its weight (buildXdsClusterLoadAssignment)."""
    localities = [
        {
            "lb_endpoints": [{"endpoint": {"address": _address(place)}} for place in addresses],
            "load_balancing_weight": weight,
            "locality": {"region": f"{name}/backend/{number}"},
        }
        for number, (weight, addresses) in enumerate(shares)
    ]
    cluster: Thing = {
        "name": name,
        "connect_timeout": "10s",
        "ignore_health_on_host_removal": True,
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
        "common_lb_config": {"locality_weighted_lb_config": {}},
        "outlier_detection": {},
        "per_connection_buffer_limit_bytes": _CONNECTION_BYTES,
        "load_assignment": {"cluster_name": name, "endpoints": localities},
    }
    if http2:
        options = f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            options.removeprefix("type.googleapis.com/"): {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": _HTTP2},
            }
        }
    return cluster


def _matched(objects: Objects, endpoints: Endpoints, found: Resources) -> list[Thing]:
    """A route of Envoy's for each match, in the order of the objects; their clusters go into `found`."""
    made = []
    for route in objects.routes:
        filters = {
            _processor_name(policy): _enabled() for policy in objects.extensions if _is_of(policy, route, objects)
        }
        for place, rule in enumerate(route["spec"].get("rules") or []):
            name = f"httproute/{_place(route)}/rule/{place}"
            action = _action(name, route, rule, endpoints, found)
            for number, match in enumerate(rule.get("matches") or [{}]):
                entry = {"name": f"{name}/match/{number}/*", "match": _match(match), **action}
                made.append(entry | ({"typed_per_filter_config": filters} if filters else {}))
    return made


def _enabled() -> Thing:
    return {"@type": f"{_TYPES}.config.route.v3.FilterConfig", "config": {}}


def _is_of(policy: Thing, route: Thing, objects: Objects) -> bool:
    """Whether a policy's target is the route, or its Gateway."""
    spec = policy["spec"]
    for target in [*(spec.get("targetRefs") or []), *([spec["targetRef"]] if "targetRef" in spec else [])]:
        of = route if target["kind"] == "HTTPRoute" else objects.gateway
        if (policy["metadata"]["namespace"], target["name"]) == (of["metadata"]["namespace"], of["metadata"]["name"]):
            return True
    return False


def _action(name: str, route: Thing, rule: Thing, endpoints: Endpoints, found: Resources) -> Thing:
    # A backend of weight 0 is left out, as if it were not there (processDestination).
    weighed = [(each.get("weight", 1), endpoints(route, each)) for each in rule.get("backendRefs") or []]
    there = [(weight, addresses) for weight, addresses in weighed if weight]
    if all(addresses is None for _, addresses in there):
        return {"direct_response": {"status": 500}}
    valid = [(weight, addresses or ()) for weight, addresses in there if addresses or len(there) == 1]
    found.clusters[name] = _cluster(name, valid)
    action: Thing = {"cluster": name, "upgrade_configs": [{"upgrade_type": "websocket"}]}
    if lost := sum(weight for weight, _ in there) - sum(weight for weight, _ in valid):
        # A backend without a ready pod keeps its share, and nobody answers it (buildXdsWeightedRouteAction).
        parts = [("invalid-backend-cluster", lost), *((name, weight) for weight, _ in valid)]
        del action["cluster"]
        clusters = [{"name": part, "weight": weight} for part, weight in parts]
        action |= {
            "weighted_clusters": {"clusters": clusters},
            "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
        }
    limit = seconds((rule.get("timeouts") or {}).get("request"))
    if limit is not None:
        action |= {"timeout": f"{limit:g}s"}
    return {"route": action | {"idle_timeout": f"{max(limit or 0.0, _IDLE_SECONDS):g}s"}}


def _match(match: Thing) -> Thing:
    path = match.get("path") or {"type": "PathPrefix", "value": "/"}
    value = path["value"]
    found: Thing = {"path": value}
    if path["type"] != "Exact":
        found = {"prefix": "/"} if value == "/" else {"path_separated_prefix": value.rstrip("/")}
    headers = [(each["name"], each["value"]) for each in match.get("headers") or []]
    headers += [(":method", match["method"])] if "method" in match else []
    if headers:
        found["headers"] = [{"name": name, "string_match": {"exact": value}} for name, value in headers]
    return found


def _sorted(routes: list[Thing]) -> list[Thing]:
    """Exact paths before prefixes, longer before shorter, more headers before fewer (internal/gatewayapi/sort.go)."""

    def precision(route: Thing) -> tuple[int, int, int]:
        match = route["match"]
        path = match.get("path") or match.get("path_separated_prefix") or match["prefix"]
        return -int("path" in match), -len(path), -len(match.get("headers") or [])

    return sorted(routes, key=precision)


def _apply(patch: Thing, found: Resources) -> None:
    """One JSON patch of an EnvoyPatchPolicy: a new resource, or something added to the one that it names."""
    kinds = {_LISTENER: found.listeners, _ROUTES: found.routes, _CLUSTER: found.clusters}
    resources, operation = kinds[patch["type"]], patch["operation"]
    if operation["op"] != "add":
        raise ValueError(f"the rehearsal plays no patch that does {operation['op']}")
    value = copy.deepcopy(operation["value"])
    if not operation.get("path"):
        resources[value["name"]] = value
        return
    *steps, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    inside: Any = resources[patch["name"]]
    for step in steps:
        inside = inside[int(step)] if isinstance(inside, list) else inside[step]
    if isinstance(inside, list):
        inside.insert(len(inside) if last == "-" else int(last), value)
    else:
        inside[last] = value
