"""AIBrix's controllers, KubeRay and the rehearsal's Envoy Gateway: from a fleet to an answer through the gateway."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import yaml
from kubernetes import client, config
from kubernetes.stream import portforward

from local import charts, faults, gateway, manifests
from local.api import Api, ApiError, wait_until
from local.control_plane import ControlPlane

_SYSTEM, _EG = "aibrix-system", "envoy-gateway-system"
_PROXY = "envoy-aibrix-system-aibrix-eg-903790dc"
_FLEETS = "/apis/orchestration.aibrix.ai/v1alpha1/namespaces/{}/rayclusterfleets"
_CLUSTERS = "/apis/ray.io/v1/namespaces/{}/rayclusters"
_ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes"
_GATEWAYS = "/apis/gateway.networking.k8s.io/v1/namespaces/{}/gateways"
_GRANTS = "/apis/gateway.networking.k8s.io/v1beta1/namespaces/{}/referencegrants"
_CLASS = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/aibrix-eg"
_POLICY = "/apis/gateway.envoyproxy.io/v1alpha1/namespaces/{}/envoypatchpolicies"
_OF_NO_NAMESPACE = ("Namespace", "GatewayClass", "ClusterRole", "ClusterRoleBinding")


def find(api: Api, path: str) -> dict[str, Any] | None:
    try:
        return api.get(path)
    except ApiError as error:
        if error.code == 404:
            return None
        raise


def place(document: dict[str, Any]) -> str:
    """Where an object is on the API server."""
    version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    plural = kind.lower()
    plural = (
        f"{plural[:-1]}ies"
        if plural.endswith("xy") or plural.endswith("cy")
        else f"{plural}{'es' * plural.endswith('s') or 's'}"
    )
    namespaced = kind not in _OF_NO_NAMESPACE and not kind.endswith("WebhookConfiguration")
    base = "/api/v1" if version == "v1" else f"/apis/{version}"
    return f"{base}{'/namespaces/' + metadata['namespace'] if namespaced else ''}/{plural}/{metadata['name']}"


def conditions(entry: dict[str, Any]) -> dict[str, str]:
    return {each["type"]: each["reason"] if each["status"] == "False" else "True" for each in entry["conditions"]}


class Room:
    """A namespace with models in it, beside what a stack would have installed."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.api, self.name = plane, plane.api, f"fleet-{secrets.token_hex(3)}"
        self.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.name}})
        accounts = f"/api/v1/namespaces/{self.name}/serviceaccounts"
        self.wait(lambda: bool(self.api.get(accounts)["items"]), "no service account")

    def wait(self, done: Callable[[], Any], what: str) -> None:
        wait_until(lambda: bool(done()), 60, lambda: f"{what}: {json.dumps(self.pods())[:3000]}")

    def items(self, path: str, namespace: str | None = None) -> list[dict[str, Any]]:
        return self.api.get(path.format(namespace or self.name))["items"]

    def pods(self) -> dict[str, dict[str, Any]]:
        """Status of each pod by Ray's word for what it is; a second of a kind hides the first."""
        return {
            each["metadata"]["labels"].get("ray.io/node-type", each["metadata"]["name"]): each["status"] | each["spec"]
            for each in self.items("/api/v1/namespaces/{}/pods")
        }

    def fleet(self, name: str, port: int = 8000) -> None:
        """A model over two nodes of 8 GPUs."""
        label = {"model.aibrix.ai/name": name}
        gpus = {"nvidia.com/gpu": "8", "vke.volcengine.com/rdma": "8"}

        def template(head: bool) -> dict[str, Any]:
            container: dict[str, Any] = {
                "name": "vllm",
                "image": "vllm/vllm-openai:v0.8.5",
                "command": ["bash", "/etc/modelserve/launch.sh"],
                "env": [{"name": "MODELSERVE_NODES", "value": "2"}],
                "resources": {"limits": gpus, "requests": gpus},
            }
            if head:
                container["args"] = ["/weights/m", "--served-model-name", name, "--port", str(port)]
                container["ports"] = [{"name": "service", "containerPort": port}]
                container["readinessProbe"] = {"httpGet": {"path": "/health", "port": port}}
            return {"metadata": {"labels": label if head else {}}, "spec": {"containers": [container]}}

        workers = {"groupName": "workers", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, "rayStartParams": {}}
        spec = {
            "headGroupSpec": {"rayStartParams": {}, "template": template(head=True)},
            "workerGroupSpecs": [workers | {"template": template(head=False)}],
        }
        annotations = {"ray.io/overwrite-container-cmd": "true"}
        body = {
            "apiVersion": "orchestration.aibrix.ai/v1alpha1",
            "kind": "RayClusterFleet",
            "metadata": {"name": name, "labels": label | {"model.aibrix.ai/port": str(port)}},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": label},
                "template": {"metadata": {"labels": label, "annotations": annotations}, "spec": spec},
            },
        }
        self.api.request("POST", _FLEETS.format(self.name), body)

    def service(self, name: str, port: int = 8000) -> None:
        """What a route of AIBrix's leads to."""
        selector = {"model.aibrix.ai/name": name, "ray.io/node-type": "head"}
        body = {"metadata": {"name": name}, "spec": {"selector": selector, "ports": [{"name": "s", "port": port}]}}
        self.api.request("POST", f"/api/v1/namespaces/{self.name}/services", body)

    def counters(self, name: str) -> list[int]:
        status = self.api.get(f"{_FLEETS.format(self.name)}/{name}").get("status") or {}
        return [status.get(f"{each}Replicas", 0) for each in ("updated", "ready", "available")]

    def route(self, name: str) -> dict[str, str]:
        """The conditions of a route, each True or the reason why not."""
        route = find(self.api, f"{_ROUTES.format(_SYSTEM)}/{name}") or {}
        return next((conditions(each) for each in (route.get("status") or {}).get("parents", [])), {})

    def ask(self, model: str, *, body: dict[str, Any] | None = None, **headers: str) -> requests.Response:
        """A completion through the gateway's listener on this machine."""
        book = json.loads((self.plane.folder / gateway.FILE).read_text())
        message = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        url = f"{book['aibrix-system/aibrix-eg']}/v1/chat/completions"
        return requests.post(url, json=body or message, headers=headers, timeout=20)

    def delete(self, name: str) -> None:
        self.api.delete(f"{_FLEETS.format(self.name)}/{name}", "Foreground")


@pytest.fixture(scope="module")
def aibrix(control_plane: ControlPlane) -> Iterator[list[dict[str, Any]]]:
    """Envoy Gateway by its chart, then AIBrix's core; taken away in the order that a stack has to keep."""
    api, folder = control_plane.api, control_plane.folder / charts.FOLDER
    archive, _, _ = charts.find(folder, "oci://docker.io/envoyproxy/gateway-helm", "v1.2.8")

    def helm(*command: str) -> None:
        place = ["--namespace", _EG, "--kubeconfig", str(control_plane.kubeconfig)]
        answer = subprocess.run([charts.helm(folder), *command, *place], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr

    values = "config.envoyGateway.extensionApis.enableEnvoyPatchPolicy=true"
    helm("install", "eg", str(archive), "--create-namespace", "--wait", "--timeout", "60s", "--set", values)
    text = (manifests.folder() / "aibrix-core-v0.7.0.yaml").read_text()
    documents = [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
    documents.sort(key=lambda each: each["kind"] != "Namespace")
    for each in documents:
        api.apply(place(each), each)
    yield documents
    for each in sorted(documents, key=lambda each: each["kind"] != "Gateway"):
        if find(api, place(each)):
            api.delete(place(each))
    wait_until(lambda: find(api, _CLASS) is None, 60, lambda: "the class stays")
    wait_until(lambda: find(api, f"/api/v1/namespaces/{_EG}/services/{_PROXY}") is None, 60, lambda: "the proxy stays")
    helm("uninstall", "eg", "--wait")
    api.delete(f"/api/v1/namespaces/{_EG}")
    for name in (_EG, _SYSTEM):
        wait_until(lambda name=name: find(api, f"/api/v1/namespaces/{name}") is None, 60, lambda: "a namespace stays")


@pytest.fixture
def room(control_plane: ControlPlane, aibrix: list[dict[str, Any]]) -> Iterator[Room]:
    made = Room(control_plane)
    yield made
    (control_plane.folder / "faults.json").unlink(missing_ok=True)
    for each in made.items(_FLEETS):
        made.delete(each["metadata"]["name"])
    made.wait(lambda: not made.pods(), "pods stay")
    made.api.delete(f"/api/v1/namespaces/{made.name}")


def test_a_fleet_becomes_a_raycluster_on_two_nodes_with_a_route_and_all_of_it_goes_with_it(room: Room) -> None:
    room.fleet("ds")
    room.wait(lambda: room.counters("ds") == [1, 1, 1], "the fleet does not get ready")
    (cluster,) = room.items(_CLUSTERS)
    assert cluster["metadata"]["name"].startswith("ds-")
    assert {pod["nodeName"] for pod in room.pods().values()} == {"gpu-0", "gpu-1"}
    env = {each["name"]: each.get("value") for each in room.pods()["worker"]["containers"][0]["env"]}
    assert env["FQ_RAY_IP"].startswith(f"{cluster['metadata']['name']}-head-svc.{room.name}.svc")
    assert "--num-gpus=8" in env["KUBERAY_GEN_RAY_START_CMD"]
    # Without a probe from its maker, no container asks by wget.
    assert "readinessProbe" not in room.pods()["worker"]["containers"][0]
    grants = [each["metadata"]["name"] for each in room.items(_GRANTS)]
    assert grants == [f"aibrix-system-reserved-referencegrant-in-{room.name}"]
    room.wait(lambda: room.route("ds-router") == {"Accepted": "True", "ResolvedRefs": "BackendNotFound"}, "no route")

    room.delete("ds")
    room.wait(lambda: not (room.items(_FLEETS) or room.items(_CLUSTERS) or room.pods()), "something stays")
    room.wait(lambda: room.route("ds-router") == {} and not room.items(_GRANTS), "the route stays")


def test_an_installed_gateway_is_programmed_and_what_is_installed_gets_ready(
    room: Room, aibrix: list[dict[str, Any]]
) -> None:
    api = room.api

    def programmed() -> bool:
        status = api.get(f"{_GATEWAYS.format(_SYSTEM)}/aibrix-eg")["status"]
        return conditions(status) == {"Accepted": "True", "Programmed": "True"} and len(status["addresses"]) == 1

    room.wait(programmed, "the Gateway is not programmed")
    assert conditions(api.get(_CLASS)["status"]) == {"Accepted": "True"}
    (policy,) = room.items(_POLICY, _SYSTEM)
    assert conditions(policy["status"]["ancestors"][0]) == {"Accepted": "True", "Programmed": "True"}
    service = api.get(f"/api/v1/namespaces/{_EG}/services/{_PROXY}")
    assert service["spec"]["type"] == "LoadBalancer" and [each["port"] for each in service["spec"]["ports"]] == [80]
    deployments = "/apis/apps/v1/namespaces/{}/deployments"
    wanted = [each["metadata"]["name"] for each in aibrix if each["kind"] == "Deployment"]

    def available() -> list[str]:
        items = room.items(deployments, _SYSTEM)
        return sorted(each["metadata"]["name"] for each in items if each["status"].get("availableReplicas"))

    room.wait(lambda: available() == sorted(wanted), "not all of AIBrix gets ready")


def test_a_request_reaches_the_head_by_the_model_in_its_body_and_is_refused_where_it_cannot(room: Room) -> None:
    room.fleet("ds")
    room.wait(lambda: room.counters("ds") == [1, 1, 1], "the fleet does not get ready")
    # The route of the plugin's choice: no Service is asked.
    room.wait(lambda: room.ask("ds", **{"routing-strategy": "random"}).status_code == 200, "no strategy")
    # The default: a Service that the model is the name of.
    assert room.ask("ds").status_code == 500
    room.service("ds")
    room.wait(lambda: room.route("ds-router") == {"Accepted": "True", "ResolvedRefs": "True"}, "not resolved")
    room.wait(lambda: room.ask("ds").status_code == 200, "no answer")
    answer = room.ask("ds")
    assert answer.json()["model"] == "ds" and answer.headers["x-rehearsal-route"] == "aibrix-system/ds-router"
    assert room.ask("other").status_code == 400 and room.ask("", body={"messages": []}).status_code == 400

    api, grant = room.api, room.items(_GRANTS)[0]["metadata"]["name"]
    api.delete(f"{_GRANTS.format(room.name)}/{grant}")
    room.wait(lambda: room.route("ds-router").get("ResolvedRefs") == "RefNotPermitted", "still permitted")
    assert room.ask("ds").status_code == 500

    core = client.CoreV1Api(config.new_client_from_config(str(room.plane.kubeconfig)))
    (proxy,) = [each for each in room.items("/api/v1/namespaces/{}/pods", _EG) if _PROXY in each["metadata"]["name"]]
    forward = portforward(
        core.connect_get_namespaced_pod_portforward, proxy["metadata"]["name"], _EG, ports="10080"
    ).socket(10080)
    forward.sendall(b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\n\r\n")
    forward.settimeout(20)
    assert forward.recv(4096).startswith(b"HTTP/1.1 404")
    forward.close()


@pytest.mark.parametrize(("how", "failing"), [("never-ready", "head"), ("worker-missing", "worker")])
def test_a_fleet_that_is_told_to_fail_never_gets_ready_nor_answers(room: Room, how: str, failing: str) -> None:
    faults.put(room.plane.folder, "RayClusterFleet", "ds", how)
    room.fleet("ds")
    room.service("ds")

    def failed() -> bool:
        pods = {kind: {c["type"]: c["status"] for c in pod.get("conditions", [])} for kind, pod in room.pods().items()}
        other = {"head": "worker", "worker": "head"}[failing]
        return pods.get(other, {}).get("Ready") == "True" and pods[failing].get("Ready") == "False"

    room.wait(failed, "it does not fail so")
    assert room.counters("ds")[1:] == [0, 0]
    assert room.ask("ds").status_code == 503
