"""What backs a fake pod, seen through the real API server: its log and its port, for as long as the pod lives."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from kubernetes import client, config
from kubernetes.stream import portforward

from local.api import Api, wait_until
from local.control_plane import ControlPlane
from tests.support.patience import PATIENCE_SECONDS
from watch.rollout import Reader, failures

KWOK = "/apis/kwok.x-k8s.io/v1alpha1/namespaces"


class Bench:
    """A namespace to put pods in."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.api: Api = plane.api
        self.namespace = namespace
        self.kubeconfig = plane.kubeconfig.read_text()
        self.core = client.CoreV1Api(config.new_client_from_config(str(plane.kubeconfig)))

    def pod(
        self, name: str, *, nodes: int = 1, fail: str = "", crash: str = "", ready_after: str = "", index: str = "0"
    ) -> None:
        fate = {"ready-after": ready_after, "fail": fail, "crash": crash}
        annotations = {f"rehearsal.modelserve.dev/{key}": value for key, value in fate.items()}
        labels = {
            "leaderworkerset.sigs.k8s.io/name": "g",
            "leaderworkerset.sigs.k8s.io/group-index": "0",
            "leaderworkerset.sigs.k8s.io/worker-index": index,
        }
        container = {
            "name": "vllm",
            "image": "vllm/vllm-openai:v0.8.5",
            "command": ["bash", "/etc/modelserve/launch.sh"],
            "args": ["/weights/m", "--served-model-name", "m", "--port", "9000"],
            "env": [{"name": "MODELSERVE_NODES", "value": str(nodes)}, {"name": "LWS_LEADER_ADDRESS", "value": "g-0"}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": 9000}},
        }
        metadata = {
            "name": name,
            "labels": labels if nodes > 1 else {},
            "annotations": {key: value for key, value in annotations.items() if value},
        }
        self.api.request("POST", f"/api/v1/namespaces/{self.namespace}/pods", {
            "metadata": metadata, "spec": {"containers": [container], "restartPolicy": "Always"}})  # fmt: skip

    def log(self, name: str, **options: Any) -> str:
        try:
            return self.core.read_namespaced_pod_log(name, self.namespace, **options) or ""
        except client.ApiException as error:
            return f"refused: {error.body}"

    def wait_for_log(self, name: str, text: str) -> None:
        wait_until(
            lambda: text in self.log(name), PATIENCE_SECONDS, lambda: f"no {text!r} in the log:\n{self.log(name)}"
        )

    def status(self, name: str) -> dict[str, Any]:
        return self.api.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}")["status"]

    def delete(self, name: str) -> None:
        self.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def objects(self) -> list[str]:
        """kwok's objects of the namespace, as kind/name."""
        return [
            f"{kind}/{each['metadata']['name']}"
            for kind in ("logs", "portforwards")
            for each in self.api.get(f"{KWOK}/{self.namespace}/{kind}")["items"]
        ]

    def target(self, name: str) -> str:
        """The address on this machine that the pod's port leads to."""
        forward = self.api.get(f"{KWOK}/{self.namespace}/portforwards/{name}")["spec"]["forwards"][0]
        return f"http://{forward['target']['address']}:{forward['target']['port']}"


@pytest.fixture
def bench(control_plane: ControlPlane) -> Iterator[Bench]:
    name = f"engines-{secrets.token_hex(3)}"
    api = control_plane.api
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_until(lambda: bool(api.get(account)), PATIENCE_SECONDS, lambda: "no service account")
    yield Bench(control_plane, name)
    api.delete(f"/api/v1/namespaces/{name}")


def test_ready_pod_serves_through_the_api_server_and_its_log_tells_the_start(bench: Bench) -> None:
    bench.pod("solo")
    bench.wait_for_log("solo", "Application startup complete.")
    log = bench.log("solo")
    order = [
        "modelserve: one node",
        "version 0.8.5",
        "checkpoint shards: 100%",
        "GPU KV cache size",
        "startup complete",
    ]
    places = [log.index(text) for text in order]
    assert places == sorted(places)
    wait_until(lambda: "portforwards/solo" in bench.objects(), PATIENCE_SECONDS, lambda: "no port")
    forward = portforward(
        bench.core.connect_get_namespaced_pod_portforward, "solo", bench.namespace, ports="9000"
    ).socket(9000)
    forward.sendall(b"GET /v1/models HTTP/1.1\r\nHost: pod\r\n\r\n")
    forward.settimeout(PATIENCE_SECONDS)
    answer = b""
    while b'"id":"m"' not in answer:
        answer += forward.recv(4096)
    forward.close()
    assert answer.startswith(b"HTTP/1.1 200")
    bench.wait_for_log("solo", '"GET /v1/models HTTP/1.1" 200')


def test_starting_pod_has_a_growing_log_and_no_port(bench: Bench) -> None:
    bench.pod("slow", ready_after="3s")
    bench.wait_for_log("slow", "Loading safetensors checkpoint shards:")
    early = bench.log("slow")
    assert "startup complete" not in early
    assert bench.objects() == ["logs/slow"]
    wait_until(lambda: len(bench.log("slow")) > len(early), PATIENCE_SECONDS, lambda: "the log does not grow")
    assert bench.log("slow").startswith(early)
    bench.wait_for_log("slow", "Application startup complete.")


def test_pod_without_a_running_container_has_no_log(bench: Bench) -> None:
    bench.pod("stuck", fail="image-pull")
    wait_until(
        lambda: "ImagePullBackOff" in str(bench.status("stuck")), PATIENCE_SECONDS, lambda: str(bench.status("stuck"))
    )
    assert bench.log("stuck").startswith("refused: ")
    assert bench.objects() == []


def test_pod_that_never_gets_ready_never_says_it_started(bench: Bench) -> None:
    bench.pod("hung", fail="never-ready", ready_after="1s")
    bench.wait_for_log("hung", "Graph capturing finished")
    assert "startup complete" not in bench.log("hung")
    assert bench.objects() == ["logs/hung"]


def test_crashing_pod_ends_its_log_with_the_reason_and_keeps_the_previous_one(bench: Bench) -> None:
    bench.pod("bad", fail="crash")
    wait_until(
        lambda: "CrashLoopBackOff" in str(bench.status("bad")), PATIENCE_SECONDS, lambda: str(bench.status("bad"))
    )
    assert "See root cause above" in bench.log("bad").splitlines()[-1]
    wait_until(
        lambda: "CUDA out of memory" in bench.log("bad", previous=True),
        PATIENCE_SECONDS,
        lambda: bench.log("bad", previous=True),
    )


def test_the_program_reads_why_a_container_was_killed_from_the_run_that_is_over(bench: Bench) -> None:
    bench.pod("big", fail="crash", crash="killed")
    wait_until(
        lambda: "CrashLoopBackOff" in str(bench.status("big")), PATIENCE_SECONDS, lambda: str(bench.status("big"))
    )
    pod = bench.api.get(f"/api/v1/namespaces/{bench.namespace}/pods/big")
    reader = Reader("rehearsal", bench.namespace, bench.kubeconfig)
    *_, said = failures(pod, {"big": reader.end(pod)}, "")
    assert "exit code 137 (killed by signal 9, out of memory: it used more than its limit)" in said
    assert "when it was killed: weights loading: " in said


def test_pod_that_is_gone_leaves_no_port_and_no_object(bench: Bench) -> None:
    bench.pod("brief")
    wait_until(lambda: len(bench.objects()) == 2, PATIENCE_SECONDS, lambda: str(bench.objects()))
    target = bench.target("brief")
    assert requests.get(f"{target}/health").status_code == 200
    bench.delete("brief")
    wait_until(lambda: bench.objects() == [], PATIENCE_SECONDS, lambda: str(bench.objects()))

    def refused() -> bool:
        try:
            requests.get(f"{target}/health", timeout=PATIENCE_SECONDS)
        except requests.ConnectionError:
            return True
        return False

    wait_until(refused, PATIENCE_SECONDS, lambda: "the port is still open")


def test_two_pods_serve_on_ports_of_their_own(bench: Bench) -> None:
    bench.pod("one")
    bench.pod("two")
    wait_until(lambda: len(bench.objects()) == 4, PATIENCE_SECONDS, lambda: str(bench.objects()))
    assert bench.target("one") != bench.target("two")
    requests.get(f"{bench.target('one')}/ping")
    bench.wait_for_log("one", "GET /ping")
    assert "GET /ping" not in bench.log("two")


def test_engine_that_dies_later_says_why_and_closes_its_port(bench: Bench) -> None:
    bench.pod("fallen")
    wait_until(lambda: len(bench.objects()) == 2, PATIENCE_SECONDS, lambda: str(bench.objects()))
    path = f"/api/v1/namespaces/{bench.namespace}/pods/fallen"
    bench.api.merge(path, {"metadata": {"annotations": {"rehearsal.modelserve.dev/fail": "crash"}}})
    wait_until(
        lambda: "CrashLoopBackOff" in str(bench.status("fallen")), PATIENCE_SECONDS, lambda: str(bench.status("fallen"))
    )
    wait_until(lambda: bench.objects() == ["logs/fallen"], PATIENCE_SECONDS, lambda: str(bench.objects()))
    assert "Application startup complete." in bench.log("fallen")
    assert bench.log("fallen").count("Loading safetensors checkpoint shards: 100%") == 1
    assert "CUDA out of memory" in bench.log("fallen")
