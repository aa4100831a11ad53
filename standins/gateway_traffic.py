"""Where a request to a Gateway goes: by its routes, and by AIBrix's gateway plugin where that is installed.

The plugin looks into requests that only AIBrix's catch-all route takes, or that ask for a routing strategy: it finds
the model's pods, names the model in a header for the routes, or picks a pod itself, which takes the request around
every route and Service. So it does in github.com/vllm-project/aibrix v0.7.0 (config/gateway, pkg/plugins/gateway). Not
played: which pod a strategy prefers, limits by user, and the metadata service.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from local.api import Api, ApiError
from standins import gateway_model
from standins.gateway_front import Refused, Way
from standins.gateway_model import Known, Thing
from standins.watching import deleting, place_of

_PLUGIN = ("aibrix-system", "aibrix-gateway-plugins")
_CATCH_ALL = ("aibrix-system", "aibrix-reserved-router")
_STRATEGY, _TARGET = "routing-strategy", "target-pod"
_MODEL = "model.aibrix.ai/name"
_PORT = "model.aibrix.ai/port"


class Traffic:
    """What one control plane's Gateways do with requests. `routes` gives those that a Gateway has taken,
    `removed` the headers that it takes from requests."""

    def __init__(
        self,
        api: Api,
        known: Known,
        routes: Callable[[Thing], list[Thing]],
        removed: Callable[[Thing], set[str]],
    ) -> None:
        self._api, self._known, self._routes, self._removed = api, known, routes, removed

    def decide(
        self, gateway: Thing | None, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> Way | Refused:
        """The way of one request, or what it is answered instead."""
        if gateway is None:
            return Refused(503, "no such Gateway any more")
        gone = self._removed(gateway)
        headers = {name: value for name, value in headers.items() if name not in gone}
        try:
            return self._decide(self._routes(gateway), method, path, headers, body)
        except ApiError as error:
            return Refused(503, str(error))

    def _decide(
        self, routes: list[Thing], method: str, path: str, headers: dict[str, str], body: bytes
    ) -> Way | Refused:
        found = gateway_model.choose(routes, method, path, headers)
        catches_all = found is not None and place_of(found[0]) == _CATCH_ALL
        if self._known.service(*_PLUGIN) and _STRATEGY in headers and not (headers[_STRATEGY] and body):
            return _anywhere(headers)
        if self._known.service(*_PLUGIN) and (catches_all or _STRATEGY in headers):
            model = _model(body)
            if model is None:
                return Refused(400, "no model in request body")
            picked = self._pick(model)
            if isinstance(picked, Refused) or _STRATEGY in headers:
                return picked
            headers = headers | {"model": model}
            found = gateway_model.choose(routes, method, path, headers)
        if found is None:
            return Refused(404, "no route takes this request")
        route, rule = found
        _, fine, _, message = gateway_model.resolution(route, self._known, [rule])
        if not fine:
            return Refused(500, message)
        backend = next(iter(rule.get("backendRefs") or []), None)
        if backend is None:
            return Refused(500, "the route has no backend")
        seconds = gateway_model.seconds((rule.get("timeouts") or {}).get("request"))
        return self._through(route, backend, seconds)

    def _pick(self, model: str) -> Way | Refused:
        """A Ready pod of the model, by AIBrix's label."""
        path = f"/api/v1/pods?labelSelector={_MODEL}%3D{model}"
        pods = [each for each in self._api.get(path)["items"] if _label(each, "ray.io/node-type") != "worker"]
        if not pods:
            return Refused(400, f"model {model} does not exist")
        for pod in pods:
            # The plugin passes over pods that are about to end (pkg/utils/pod.go).
            ready = not deleting(pod) and any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or []
            )
            if ready and (way := self._to_pod(place_of(pod), int(_label(pod, _PORT) or 8000), "original_route", None)):
                return way
        return Refused(503, f"no ready pod for model {model}")

    def _through(self, route: Thing, backend: Thing, seconds: float | None) -> Way | Refused:
        """The way through a Service to one of its ready pods."""
        home = route["metadata"]["namespace"]
        namespace, name = backend.get("namespace", home), backend["name"]
        service = self._known.service(namespace, name) or {"spec": {}}
        ports = {each["port"]: each.get("name", "") for each in service["spec"].get("ports") or []}
        selector = f"labelSelector=kubernetes.io/service-name%3D{name}"
        slices = self._api.get(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{selector}")["items"]
        for each in slices:
            port = next((p["port"] for p in each.get("ports") or [] if p["name"] == ports.get(backend["port"])), None)
            for endpoint in each.get("endpoints") or []:
                pod = (endpoint.get("targetRef") or {}).get("name")
                if not (port and pod and (endpoint.get("conditions") or {}).get("ready")):
                    continue
                if way := self._to_pod((namespace, pod), port, "/".join(place_of(route)), seconds):
                    return way
        return Refused(503, "no healthy upstream")

    def _to_pod(self, place: tuple[str, str], port: int, route: str, seconds: float | None) -> Way | None:
        """Where a pod's port leads on this machine."""
        namespace, name = place
        try:
            forward = self._api.get(f"/apis/kwok.x-k8s.io/v1alpha1/namespaces/{namespace}/portforwards/{name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        for each in forward["spec"]["forwards"]:
            if port in each["ports"]:
                return Way(each["target"]["address"], each["target"]["port"], route, seconds)
        return None


def _anywhere(headers: dict[str, str]) -> Way | Refused:
    """Where the plugin picks no pod, Envoy sends a request to the address in its header `target-pod`, whoever wrote it:
    so did a real Envoy with the plugin of 0.7.0, for a request without a body and for an empty strategy."""
    host, _, port = headers.get(_TARGET, "").rpartition(":")
    if host and port.isdecimal():
        return Way(host, int(port), "original_route", None)
    return Refused(503, "no healthy upstream")


def _model(body: bytes) -> str | None:
    try:
        request: Any = json.loads(body)
    except ValueError:
        return None
    model = request.get("model") if isinstance(request, dict) else None
    return model if isinstance(model, str) and model else None


def _label(thing: Thing, key: str) -> str | None:
    return (thing["metadata"].get("labels") or {}).get(key)
