"""What Envoy Gateway makes of its objects, and which route a request takes: pure. `gateway` does the writing.

Names, labels, reasons and messages are those of github.com/envoyproxy/gateway v1.2.8 (internal/gatewayapi,
internal/infrastructure/kubernetes/proxy); precedence is that of the Gateway API's HTTPRoute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Thing = dict[str, Any]
Condition = tuple[str, bool, str, str]
"""Type, whether it is true, reason, message."""

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
NAMESPACE = "envoy-gateway-system"
FINALIZER = "gateway-exists-finalizer.gateway.networking.k8s.io"
_GROUP = "gateway.networking.k8s.io"
_OWNER = "gateway.envoyproxy.io/owning-gateway-"
# Envoy does not run as root: what is below 1024 it listens to up here.
_ABOVE = 10000
_NAME_LENGTH = 48


@dataclass(frozen=True)
class Known:
    """How to find what a route refers to: Services and Gateways by namespace and name, grants by namespace."""

    service: Callable[[str, str], Thing | None]
    gateway: Callable[[str, str], Thing | None]
    grants: Callable[[str], Iterable[Thing]]


def client_policy(gateway: Thing, policies: Sequence[Thing]) -> Thing | None:
    """The ClientTrafficPolicy that a Gateway takes: its oldest (internal/gatewayapi/clienttrafficpolicy.go; a younger
    one for the same Gateway is in conflict)."""
    place = gateway["metadata"]["namespace"], gateway["metadata"]["name"]
    own = [
        policy
        for policy in policies
        for target in [*(policy["spec"].get("targetRefs") or []), policy["spec"].get("targetRef")]
        if target and (policy["metadata"]["namespace"], target["name"]) == place
    ]
    return min(own, key=lambda policy: policy["metadata"].get("creationTimestamp") or "", default=None)


def proxy_labels(gateway: Thing) -> dict[str, str]:
    """Labels of a Gateway's proxy: its Service, its Deployment and their pods."""
    return {
        "app.kubernetes.io/name": "envoy",
        "app.kubernetes.io/component": "proxy",
        "app.kubernetes.io/managed-by": "envoy-gateway",
        f"{_OWNER}name": gateway["metadata"]["name"],
        f"{_OWNER}namespace": gateway["metadata"]["namespace"],
    }


def owner(thing: Thing) -> tuple[str, str] | None:
    """Namespace and name of the Gateway whose proxy an object is of; None for anything else."""
    labels = thing["metadata"].get("labels") or {}
    if f"{_OWNER}name" not in labels:
        return None
    return labels[f"{_OWNER}namespace"], labels[f"{_OWNER}name"]


def proxy_name(gateway: Thing) -> str:
    """What a Gateway's proxy is called in Envoy Gateway's namespace."""
    place = f"{gateway['metadata']['namespace']}/{gateway['metadata']['name']}"
    digest = hashlib.sha256(place.encode()).hexdigest()
    return f"envoy-{place.replace('/', '-')[:_NAME_LENGTH].rstrip('-')}-{digest[:8]}"


def proxy_port(port: int) -> int:
    """The port that the proxy's container listens to for a listener's."""
    return port if port >= 1024 else port + _ABOVE


def proxy_service(gateway: Thing, settings: Mapping[str, Any]) -> Thing:
    """The Service of a Gateway's proxy; `settings` is what its EnvoyProxy says of Kubernetes."""
    wanted, labels = settings.get("envoyService") or {}, proxy_labels(gateway)
    metadata = {"name": proxy_name(gateway), "namespace": NAMESPACE, "labels": labels}
    if wanted.get("annotations"):
        metadata["annotations"] = wanted["annotations"]
    kind = wanted.get("type", "LoadBalancer")
    listeners = {listener["port"]: listener for listener in gateway["spec"]["listeners"]}
    ports = [
        {"name": f"{each['protocol'].lower()}-{port}", "port": port, "protocol": "TCP", "targetPort": proxy_port(port)}
        for port, each in listeners.items()
    ]
    spec: Thing = {"type": kind, "selector": labels, "ports": ports}
    if kind != "ClusterIP":
        spec["externalTrafficPolicy"] = wanted.get("externalTrafficPolicy", "Local")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    return _merged(service, (wanted.get("patch") or {}).get("value") or {})


def proxy_deployment(gateway: Thing, settings: Mapping[str, Any]) -> Thing:
    """The Deployment of a Gateway's proxy, as far as anybody here can tell the difference."""
    labels = proxy_labels(gateway)
    containers = [{"name": name, "image": f"envoyproxy/{name}"} for name in ("envoy", "shutdown-manager")]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": proxy_name(gateway), "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": (settings.get("envoyDeployment") or {}).get("replicas", 1),
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


def _merged(base: Thing, over: Mapping[str, Any]) -> Thing:
    return base | {
        key: _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }


def conditions(known: Sequence[Thing], wanted: Sequence[Condition], generation: int, now: str) -> list[Thing]:
    """Conditions as they are written: the time of one that stays as it is stays too."""
    before = {each["type"]: each for each in known}
    found = []
    for kind, true, reason, message in wanted:
        status, old = str(true), before.get(kind, {})
        since = old["lastTransitionTime"] if old.get("status") == status else now
        new = {"type": kind, "status": status, "reason": reason, "message": message}
        found.append(new | {"observedGeneration": generation, "lastTransitionTime": since})
    return found


def gateway_status(gateway: Thing, service: Thing | None, deployment: Thing | None, routes: int, now: str) -> Thing:
    """A Gateway's status: its addresses are those of the Service, and it is programmed when both are up."""
    known, generation = gateway.get("status") or {}, gateway["metadata"]["generation"]
    ingress = ((service or {}).get("status") or {}).get("loadBalancer", {}).get("ingress") or []
    addresses = [
        {"type": "IPAddress", "value": each["ip"]} if "ip" in each else {"type": "Hostname", "value": each["hostname"]}
        for each in ingress
    ]
    if service and not ingress and service["spec"]["type"] == "ClusterIP":
        addresses = [{"type": "IPAddress", "value": service["spec"]["clusterIP"]}]
    up = ((deployment or {}).get("status") or {}).get("availableReplicas", 0)
    if not addresses:
        programmed = (False, "AddressNotAssigned", "No addresses have been assigned to the Gateway")
    elif not up:
        programmed = (False, "NoResources", "Envoy replicas unavailable")
    else:
        of = deployment["status"]["replicas"] if deployment else 0
        told = f"Address assigned to the Gateway, {up}/{of} envoy replicas available"
        programmed = (True, "Programmed", told)
    accepted: Condition = ("Accepted", True, "Accepted", "The Gateway has been scheduled by Envoy Gateway")
    heard = {each["name"]: each.get("conditions", []) for each in known.get("listeners", [])}
    fine: list[Condition] = [
        ("Programmed", True, "Programmed", "Sending translated listener configuration to the data plane"),
        ("Accepted", True, "Accepted", "Listener has been successfully translated"),
        ("ResolvedRefs", True, "ResolvedRefs", "Listener references have been resolved"),
    ]
    listeners: list[Thing] = [
        {
            "name": each["name"],
            "attachedRoutes": routes,
            "supportedKinds": [{"group": _GROUP, "kind": kind} for kind in ("HTTPRoute", "GRPCRoute")],
            "conditions": conditions(heard.get(each["name"], []), fine, generation, now),
        }
        for each in gateway["spec"]["listeners"]
    ]
    wanted: list[Condition] = [accepted, ("Programmed", *programmed)]
    said = conditions(known.get("conditions", []), wanted, generation, now)
    return {"addresses": addresses, "conditions": said, "listeners": listeners}


def parents(route: Thing, known: Known) -> list[tuple[Thing, Thing]]:
    """The references of a route that lead to Gateways of ours, with the Gateway."""
    found = []
    for reference in route["spec"].get("parentRefs") or []:
        if reference.get("kind", "Gateway") == "Gateway" and reference.get("group", _GROUP) == _GROUP:
            namespace = reference.get("namespace", route["metadata"]["namespace"])
            if gateway := known.gateway(namespace, reference["name"]):
                found.append((reference, gateway))
    return found


def attachment(route: Thing, reference: Thing, gateway: Thing) -> Condition:
    """Whether a Gateway takes a route."""
    chosen = [
        listener
        for listener in gateway["spec"]["listeners"]
        if reference.get("sectionName", listener["name"]) == listener["name"]
        and reference.get("port", listener["port"]) == listener["port"]
    ]
    if not chosen:
        return "Accepted", False, "NoMatchingParent", "No listeners match this parent ref"
    here = route["metadata"]["namespace"] == gateway["metadata"]["namespace"]
    froms = [((each.get("allowedRoutes") or {}).get("namespaces") or {}).get("from", "Same") for each in chosen]
    if not (here or "All" in froms):
        told = "No listeners included by this parent ref allowed this attachment."
        return "Accepted", False, "NotAllowedByListeners", told
    return "Accepted", True, "Accepted", "Route is accepted"


def resolution(route: Thing, known: Known, rules: Sequence[Thing] | None = None) -> Condition:
    """Whether all that a route's rules refer to is there, and may be referred to."""
    for rule in route["spec"].get("rules", []) if rules is None else rules:
        for reference in rule.get("backendRefs") or []:
            if wrong := _wrong(route, reference, known):
                return "ResolvedRefs", False, *wrong
    return "ResolvedRefs", True, "ResolvedRefs", "Resolved all the Object references for the Route"


def _wrong(route: Thing, reference: Thing, known: Known) -> tuple[str, str] | None:
    home, name = route["metadata"]["namespace"], reference["name"]
    namespace = reference.get("namespace", home)
    if reference.get("kind", "Service") != "Service":
        return "InvalidKind", f"Backend ref kind {reference['kind']} is not played by the rehearsal"
    if namespace != home and not any(_grants(each, home, name) for each in known.grants(namespace)):
        return "RefNotPermitted", f"Backend ref to Service {namespace}/{name} not permitted by any ReferenceGrant."
    service = known.service(namespace, name)
    if service is None:
        return "BackendNotFound", f"Service {namespace}/{name} not found"
    if reference.get("port") not in [each["port"] for each in service["spec"].get("ports") or []]:
        return "PortNotFound", f"TCP Port {reference.get('port')} not found on Service {namespace}/{name}"
    return None


def _grants(grant: Thing, home: str, name: str) -> bool:
    spec = grant["spec"]
    comes = any(
        (each["group"], each["kind"], each["namespace"]) == (_GROUP, "HTTPRoute", home) for each in spec["from"]
    )
    goes = any(
        (each["group"], each["kind"]) == ("", "Service") and each.get("name", name) == name for each in spec["to"]
    )
    return comes and goes


def route_status(route: Thing, known: Known, now: str) -> Thing:
    """A route's status: one entry for each Gateway of ours, beside those of other controllers."""
    before = (route.get("status") or {}).get("parents") or []
    mine = [each for each in before if each["controllerName"] == CONTROLLER]
    entries = [each for each in before if each["controllerName"] != CONTROLLER]
    for reference, gateway in parents(route, known):
        wanted = [attachment(route, reference, gateway), resolution(route, known)]
        told_before: list[Thing] = next((each["conditions"] for each in mine if each["parentRef"] == reference), [])
        told = conditions(told_before, wanted, route["metadata"]["generation"], now)
        entries.append({"parentRef": reference, "controllerName": CONTROLLER, "conditions": told})
    return {"parents": entries}


def patch_status(policy: Thing, *, enabled: bool, now: str) -> Thing:
    """The status of an EnvoyPatchPolicy: it takes effect where Envoy Gateway's configuration lets it."""
    spec = policy["spec"]["targetRef"]
    reference = {"group": spec["group"], "kind": spec["kind"], "name": spec["name"]}
    reference["namespace"] = policy["metadata"]["namespace"]
    wanted: list[Condition] = [
        ("Accepted", True, "Accepted", "Policy has been accepted."),
        ("Programmed", True, "Programmed", "Patches have been successfully applied."),
    ]
    if not enabled:
        wanted = [
            ("Accepted", False, "Disabled", "EnvoyPatchPolicy is disabled in the EnvoyGateway configuration"),
        ]
    before = ((policy.get("status") or {}).get("ancestors") or [{}])[0].get("conditions", [])
    told = conditions(before, wanted, policy["metadata"]["generation"], now)
    return {"ancestors": [{"ancestorRef": reference, "controllerName": CONTROLLER, "conditions": told}]}


def seconds(duration: str | None) -> float | None:
    """A duration of the Gateway API such as `1h30m`, in seconds; None for none, and for 0, which means no limit."""
    units, total, number = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}, 0.0, ""
    text = (duration or "").replace("ms", "\0")
    for sign in text:
        if sign.isdigit():
            number += sign
        else:
            total, number = total + float(number) * units["ms" if sign == "\0" else sign], ""
    return total or None
