"""Plays Envoy Gateway: its classes, Gateways, HTTPRoutes and EnvoyPatchPolicies, and the proxy that takes requests.

`python -m standins.gateway --kubeconfig F --folder D`, one process a control plane. It acts as long as the cluster has
a Deployment `envoy-gateway` in its namespace of which a pod is available, and no longer: what an uninstalled controller
leaves behind stays. A Gateway's proxy is a Service, a Deployment of fake pods, and one real Envoy on 127.0.0.1, to
which a port-forward to the Service leads and which `gateways.json` in the control plane's folder names; AIBrix's real
plugin is beside it. Envoy is told what `envoy_config` makes of the objects. Not played: TLS, hostnames and filters of
routes. Knowing where pods are, it also runs the proxy by which AIBrix's controllers read their metrics.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from local.api import Api, ApiError
from local.operators import POD_PROXY
from standins import envoy_config, gateway_model, pod_proxy, watching
from standins.envoy_config import Objects
from standins.gateway_model import CONTROLLER, FINALIZER, NAMESPACE, Known, Thing
from standins.gateway_plane import Address, Envoy, Plugin
from standins.watching import Things, WatchingApi, deleting, now, place_of, play

FILE = "gateways.json"
_API = "/apis/gateway.networking.k8s.io/v1"
_EG = "/apis/gateway.envoyproxy.io/v1alpha1"
PATHS = {
    "GatewayClass": f"{_API}/gatewayclasses",
    "Gateway": f"{_API}/gateways",
    "HTTPRoute": f"{_API}/httproutes",
    "ReferenceGrant": "/apis/gateway.networking.k8s.io/v1beta1/referencegrants",
    "EnvoyProxy": f"{_EG}/envoyproxies",
    "EnvoyPatchPolicy": f"{_EG}/envoypatchpolicies",
    "ClientTrafficPolicy": f"{_EG}/clienttrafficpolicies",
    "EnvoyExtensionPolicy": f"{_EG}/envoyextensionpolicies",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
    "PortForward": "/apis/kwok.x-k8s.io/v1alpha1/portforwards",
    "Secret": f"/api/v1/namespaces/{NAMESPACE}/secrets",
    "Service": "/api/v1/services",
    "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    "Pod": "/api/v1/pods",
    "ConfigMap": f"/api/v1/namespaces/{NAMESPACE}/configmaps",
}
_TICK_SECONDS = 0.2
_PLUGIN = ("aibrix-system", "aibrix-gateway-plugins")
_MODEL, _PORT = "model.aibrix.ai/name", "model.aibrix.ai/port"


class Gateways:
    """Envoy Gateway on one control plane. `tick` moves every object on."""

    def __init__(self, api: Api, folder: Path, envoy: Path, plugin: Path) -> None:
        """`envoy` and `plugin` are the programs."""
        self._api, self._folder, self._envoy = api, folder, envoy
        self._plugin = Plugin(folder, plugin)
        self.lock = threading.RLock()
        self.kinds = {kind: Things(self.lock) for kind in PATHS}
        self.known = Known(service=self.kinds["Service"].at, gateway=self._gateway, grants=self._grants)
        self._fronts: dict[tuple[str, str], Envoy] = {}
        # By name: what was last applied, so that the same is not applied again.
        self._applied: dict[str, Thing] = {}
        self._forwarded: set[str] = set()

    def tick(self) -> None:
        """Looks at every object once."""
        with self.lock:
            if not all(each.listed for each in self.kinds.values()) or not self._runs():
                return
            work: list[tuple[str, Callable[[Thing], None]]] = [
                ("GatewayClass", self._class),
                ("Gateway", self._proxy),
                ("HTTPRoute", self._route),
                ("EnvoyPatchPolicy", self._patch),
                ("Service", partial(self._clean, "/api/v1", "services")),
                ("Deployment", partial(self._clean, "/apis/apps/v1", "deployments")),
                ("Pod", self._forward),
            ]
            for kind, reconcile in work:
                for thing in list(self.kinds[kind].things.values()):
                    try:
                        reconcile(thing)
                    except ApiError as error:
                        # Changed or gone since it was seen: the watch will tell.
                        if error.code not in (404, 409):
                            print(f"{kind} {thing['metadata']['name']}: {error}", flush=True)
            self._close()
            self._plugin.know(self._models())
            for place, envoy in self._fronts.items():
                if gateway := self._gateway(*place):
                    self._tell_envoy(gateway, envoy)

    def _runs(self) -> bool:
        controller = self.kinds["Deployment"].at(NAMESPACE, "envoy-gateway")
        return bool(controller and (controller.get("status") or {}).get("availableReplicas"))

    def _classes(self) -> list[str]:
        classes = self.kinds["GatewayClass"].things.values()
        return [each["metadata"]["name"] for each in classes if each["spec"]["controllerName"] == CONTROLLER]

    def _gateway(self, namespace: str, name: str) -> Thing | None:
        found = self.kinds["Gateway"].at(namespace, name)
        ours = found and not deleting(found) and found["spec"]["gatewayClassName"] in self._classes()
        return found if ours else None

    def _grants(self, namespace: str) -> list[Thing]:
        grants = list(self.kinds["ReferenceGrant"].things.values())
        return [each for each in grants if each["metadata"]["namespace"] == namespace]

    def _routes(self, gateway: Thing) -> list[Thing]:
        """The routes that a Gateway has taken."""
        found = []
        for route in list(self.kinds["HTTPRoute"].things.values()):
            for reference, parent in gateway_model.parents(route, self.known):
                same = parent["metadata"]["uid"] == gateway["metadata"]["uid"]
                if same and gateway_model.attachment(route, reference, parent)[1]:
                    found.append(route)
        return found

    def _tell_envoy(self, gateway: Thing, envoy: Envoy) -> None:
        """Makes a proxy what the objects say; without what cannot be translated, as it was."""
        clients, patches, extensions = (
            list(self.kinds[kind].things.values())
            for kind in ("ClientTrafficPolicy", "EnvoyPatchPolicy", "EnvoyExtensionPolicy")
        )
        patches = [each for each in patches if self._is_patched(gateway, each)]
        # A policy that names no processor only keeps others from its target.
        processors = [each for each in extensions if each["spec"].get("extProc")]
        objects = Objects(
            gateway=gateway,
            routes=self._routes(gateway),
            clients=gateway_model.client_policy(gateway, clients),
            extensions=sorted(processors, key=place_of),
            patches=envoy.mounted(self._mounts(gateway), sorted(patches, key=place_of)),
        )
        try:
            envoy.be(envoy_config.translate(objects, self._endpoints, envoy.places))
        except (KeyError, IndexError, ValueError) as error:
            print(f"Gateway {'/'.join(place_of(gateway))} is not translated: {error!r}", flush=True)

    def _mounts(self, gateway: Thing) -> dict[str, dict[str, str]]:
        """The Secrets that a proxy's container has, by where it has them: file to content in base64."""
        deployment = self._settings(gateway).get("envoyDeployment") or {}
        volumes = {each["name"]: each for each in (deployment.get("pod") or {}).get("volumes") or []}
        found = {}
        for mount in (deployment.get("container") or {}).get("volumeMounts") or []:
            if name := (volumes[mount["name"]].get("secret") or {}).get("secretName"):
                found[mount["mountPath"]] = (self.kinds["Secret"].at(NAMESPACE, name) or {}).get("data") or {}
        return found

    def _endpoints(self, thing: Thing, reference: Thing) -> list[Address] | None:
        """Where the ready pods behind a reference listen on this machine; None for one that is not resolved."""
        if not gateway_model.resolution(thing, self.known, [{"backendRefs": [reference]}])[1]:
            return None
        namespace, name = reference.get("namespace", thing["metadata"]["namespace"]), reference["name"]
        service = self.known.service(namespace, name) or {"spec": {}}
        names = {each["port"]: each.get("name", "") for each in service["spec"].get("ports") or []}
        found: list[Address] = []
        for part in self.kinds["EndpointSlice"].things.values():
            metadata = part["metadata"]
            of = metadata["namespace"], (metadata.get("labels") or {}).get("kubernetes.io/service-name")
            ready = [each for each in part.get("endpoints") or [] if (each.get("conditions") or {}).get("ready")]
            if of != (namespace, name) or not ready:
                continue
            if of == _PLUGIN:
                return [self._plugin.address]
            for port in part.get("ports") or []:
                if port.get("name", "") == names[reference["port"]]:
                    places = [self._to_pod((namespace, each["targetRef"]["name"]), port["port"]) for each in ready]
                    found += [each for each in places if each]
        return sorted(found)

    def _to_pod(self, place: tuple[str, str], port: int) -> Address | None:
        """Where a pod's port leads on this machine."""
        forward = self.kinds["PortForward"].at(*place) or {"spec": {"forwards": []}}
        for each in forward["spec"]["forwards"]:
            if port in each["ports"]:
                return each["target"]["address"], each["target"]["port"]
        return None

    def listens(self, address: str, port: int) -> Address | None:
        """Where a port of a pod's own address leads on this machine."""
        for pod in list(self.kinds["Pod"].things.values()):
            if (pod.get("status") or {}).get("podIP") == address:
                return self._to_pod(place_of(pod), port)
        return None

    def _models(self) -> dict[str, list[Address]]:
        """The pods of each model, by AIBrix's label, except Ray's workers. Those that are not ready or about to end
        keep their model known, but have no address (pkg/cache/informers.go, pkg/utils/pod.go).

        Without a cluster the plugin does not look for the model's route; with one it refuses requests while that is not
        there or not accepted (validateHTTPRouteStatus in pkg/plugins/gateway/gateway.go). So the model is unknown here,
        unkinder than there: for requests with a strategy too, and with another status.
        """
        found: dict[str, list[Address]] = {}
        for pod in list(self.kinds["Pod"].things.values()):
            labels = pod["metadata"].get("labels") or {}
            if _MODEL not in labels or labels.get("ray.io/node-type") == "worker" or not self._routed(labels[_MODEL]):
                continue
            told = (pod.get("status") or {}).get("conditions") or []
            ready = any(each["type"] == "Ready" and each["status"] == "True" for each in told) and not deleting(pod)
            there = found.setdefault(labels[_MODEL], [])
            where = self._to_pod(place_of(pod), int(labels.get(_PORT, 8000))) if ready else None
            there.append(where or ("", len(there)))
        return found

    def _routed(self, model: str) -> bool:
        """Whether the route is fine that the plugin asks for."""
        route = self.kinds["HTTPRoute"].at("aibrix-system", f"{model}-router") or {}
        told = [each for parent in (route.get("status") or {}).get("parents") or [] for each in parent["conditions"]]
        return bool(told) and all(each["status"] == "True" for each in told)

    def _class(self, thing: Thing) -> None:
        if thing["spec"]["controllerName"] != CONTROLLER:
            return
        name, held = thing["metadata"]["name"], thing["metadata"].get("finalizers") or []
        used = any(each["spec"]["gatewayClassName"] == name for each in self.kinds["Gateway"].things.values())
        if used != (FINALIZER in held) and not (used and deleting(thing)):
            kept = [*held, FINALIZER] if used else [each for each in held if each != FINALIZER]
            metadata = {"finalizers": kept, "resourceVersion": thing["metadata"]["resourceVersion"]}
            self._take("GatewayClass", self._api.merge(f"{PATHS['GatewayClass']}/{name}", {"metadata": metadata}))
        elif not deleting(thing):
            known = (thing.get("status") or {}).get("conditions", [])
            wanted = [("Accepted", True, "Accepted", "Valid GatewayClass")]
            told = gateway_model.conditions(known, wanted, thing["metadata"]["generation"], now())
            self._tell(thing, "GatewayClass", {"conditions": told})

    def _proxy(self, thing: Thing) -> None:
        gateway = self._gateway(*place_of(thing))
        if gateway is None:
            return
        settings = self._settings(gateway)
        self._apply("/api/v1", "services", gateway_model.proxy_service(gateway, settings))
        self._apply("/apis/apps/v1", "deployments", gateway_model.proxy_deployment(gateway, settings))
        if place_of(gateway) not in self._fronts:
            listeners = [each["name"] for each in gateway["spec"]["listeners"]]
            name = gateway_model.proxy_name(gateway)
            self._fronts[place_of(gateway)] = Envoy(self._folder, name, self._envoy, listeners)
            self._write()
        name = gateway_model.proxy_name(gateway)
        service, deployment = (self.kinds[kind].at(NAMESPACE, name) for kind in ("Service", "Deployment"))
        routes = len(self._routes(gateway))
        self._tell(gateway, "Gateway", gateway_model.gateway_status(gateway, service, deployment, routes, now()))

    def _settings(self, gateway: Thing) -> dict[str, Any]:
        """What the EnvoyProxy of a Gateway, or of its class, says of Kubernetes."""
        class_ = self.kinds["GatewayClass"].at(None, gateway["spec"]["gatewayClassName"])
        own = (gateway["spec"].get("infrastructure") or {}).get("parametersRef")
        reference = own or ((class_ or {}).get("spec") or {}).get("parametersRef")
        if not reference:
            return {}
        namespace = reference.get("namespace", gateway["metadata"]["namespace"])
        proxy = self.kinds["EnvoyProxy"].at(namespace, reference["name"])
        return ((((proxy or {}).get("spec") or {}).get("provider") or {}).get("kubernetes")) or {}

    def _route(self, thing: Thing) -> None:
        if not deleting(thing):
            self._tell(thing, "HTTPRoute", gateway_model.route_status(thing, self.known, now()))

    def _patch(self, thing: Thing) -> None:
        target = thing["spec"]["targetRef"]["name"]
        if deleting(thing) or self._gateway(thing["metadata"]["namespace"], target) is None:
            return
        told = gateway_model.patch_status(thing, enabled=self._patches(), now=now())
        self._tell(thing, "EnvoyPatchPolicy", told)

    def _patches(self) -> bool:
        """Whether Envoy Gateway's configuration lets patches take effect."""
        config = self.kinds["ConfigMap"].at(NAMESPACE, "envoy-gateway-config") or {}
        text = (config.get("data") or {}).get("envoy-gateway.yaml", "")
        return ((yaml.safe_load(text) or {}).get("extensionApis") or {}).get("enableEnvoyPatchPolicy", False)

    def _is_patched(self, gateway: Thing, policy: Thing) -> bool:
        target = policy["metadata"]["namespace"], policy["spec"]["targetRef"]["name"]
        return self._patches() and target == place_of(gateway) and not deleting(policy)

    def _clean(self, base: str, plural: str, thing: Thing) -> None:
        """A proxy goes with its Gateway."""
        owner, name = gateway_model.owner(thing), thing["metadata"]["name"]
        if owner is None or thing["metadata"]["namespace"] != NAMESPACE or self._gateway(*owner) or deleting(thing):
            return
        self._applied.pop(f"{plural}/{name}", None)
        self._api.delete(f"{base}/namespaces/{NAMESPACE}/{plural}/{name}")

    def _close(self) -> None:
        for place in [place for place in self._fronts if self._gateway(*place) is None]:
            threading.Thread(target=self._fronts.pop(place).stop, daemon=True).start()
            self._write()

    def _forward(self, pod: Thing) -> None:
        """Lets a port-forward to a proxy's pod reach its listener."""
        owner, uid = gateway_model.owner(pod), pod["metadata"]["uid"]
        if pod["metadata"]["namespace"] != NAMESPACE:
            return
        front, gateway = self._fronts.get(owner or ("", "")), self._gateway(*(owner or ("", "")))
        if front is None or gateway is None or uid in self._forwarded or deleting(pod):
            return
        ports = [gateway_model.proxy_port(each["port"]) for each in gateway["spec"]["listeners"]]
        host, port = next(iter(front.places.values()))
        target = {"address": host, "port": port}
        name = pod["metadata"]["name"]
        by = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        manifest = {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": "PortForward",
            "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [by]},
            "spec": {"forwards": [{"ports": ports, "target": target}]},
        }
        self._api.apply(f"/apis/kwok.x-k8s.io/v1alpha1/namespaces/{NAMESPACE}/portforwards/{name}", manifest)
        self._forwarded.add(uid)

    def _apply(self, base: str, plural: str, manifest: Thing) -> None:
        key = f"{plural}/{manifest['metadata']['name']}"
        there = self.kinds[manifest["kind"]].at(NAMESPACE, manifest["metadata"]["name"])
        if self._applied.get(key) == manifest and there:
            return
        self._take(manifest["kind"], self._api.apply(f"{base}/namespaces/{NAMESPACE}/{key}", manifest))
        self._applied[key] = manifest

    def _tell(self, thing: Thing, kind: str, status: Thing) -> None:
        """Writes what is new in a status."""
        before = thing.get("status") or {}
        if all(before.get(key) == value for key, value in status.items()):
            return
        namespace = thing["metadata"].get("namespace")
        *head, plural = PATHS[kind].split("/")
        path = "/".join([*head, *(["namespaces", namespace] if namespace else []), plural, thing["metadata"]["name"]])
        self._take(kind, self._api.merge(f"{path}/status", {"status": status}))

    def _take(self, kind: str, thing: Thing) -> None:
        self.kinds[kind].see(thing)

    def _write(self) -> None:
        """Where each Gateway listens on this machine."""
        listeners = {place: next(iter(front.places.values())) for place, front in self._fronts.items()}
        book = {"/".join(place): f"http://{host}:{port}" for place, (host, port) in listeners.items()}
        fresh = self._folder / f"{FILE}.new"
        fresh.write_text(json.dumps(book, indent=2))
        fresh.replace(self._folder / FILE)


def main(argv: Sequence[str]) -> None:
    """Runs until it is ended or its control plane is gone."""
    parser = watching.parser("python -m standins.gateway", __doc__)
    for name in ("envoy", "plugin"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="the program")
    options = parser.parse_args(argv)
    api = WatchingApi.of(options.kubeconfig, options.folder)
    gateways = Gateways(api, options.folder, options.envoy, options.plugin)
    fresh = options.folder / f"{POD_PROXY}.new"
    fresh.write_text(pod_proxy.serve(gateways.listens))
    fresh.replace(options.folder / POD_PROXY)
    sinks = {path: gateways.kinds[kind] for kind, path in PATHS.items()}
    play(api, options.folder, sinks, gateways.tick, _TICK_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1:])
