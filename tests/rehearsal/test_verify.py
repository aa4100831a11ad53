"""`ops verify STACK` on a real control plane: a group of the program's shape, its Service, its Secret."""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.serving.modelserve_verify import ask
from local.api import Api, ApiError, wait_until
from local.control_plane import ControlPlane
from local.paths import ROOT
from standins.vllm_server import TOKEN_SECONDS
from tests.support.patience import PATIENCE_SECONDS
from watch.port_forward import Cluster

KEY = "the-key-of-the-test"
GROUP = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/{}/leaderworkersets/ds"
Verify = Callable[..., subprocess.CompletedProcess[str]]


def pod(leader: bool, annotations: dict[str, str], env: dict[str, str]) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "vllm",
        "image": "vllm/vllm-openai:v0.7.3",
        "command": ["bash", "/etc/modelserve/launch.sh"],
        "env": [
            {"name": "MODELSERVE_NODES", "value": "2"},
            {"name": "MODELSERVE_GPUS_PER_NODE", "value": "8"},
            *({"name": name, "value": value} for name, value in env.items()),
        ],
    }
    if leader:
        container["args"] = ["/weights/R1", "--served-model-name", "ds", "--port", "8000", "--max-model-len", "4096"]
        container["ports"] = [{"name": "http", "containerPort": 8000}]
        container["readinessProbe"] = {"httpGet": {"path": "/health", "port": "http"}}
        reference = {"name": "ds-api-key", "key": "apiKey"}
        container["env"].append({"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": reference}})
    return {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}


def key_secret(key: str) -> dict[str, Any]:
    data = {"apiKey": base64.b64encode(key.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ds-api-key"}, "data": data}


def group(annotations: dict[str, str], env: dict[str, str]) -> dict[str, Any]:
    template = {
        "size": 2,
        "leaderTemplate": pod(True, annotations, env),
        "workerTemplate": pod(False, annotations, env),
    }
    head = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "ds"}}
    return head | {"spec": {"replicas": 1, "leaderWorkerTemplate": template}}


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace with the Service, the Secret and a ready group."""
    api, name = control_plane.api, f"verify-{secrets.token_hex(3)}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    selector = {"leaderworkerset.sigs.k8s.io/name": "ds", "leaderworkerset.sigs.k8s.io/worker-index": "0"}
    spec = {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ds-leader"}, "spec": spec}
    api.apply(f"/api/v1/namespaces/{name}/services/ds-leader", service)
    api.apply(f"/api/v1/namespaces/{name}/secrets/ds-api-key", key_secret(KEY))
    start_group(api, name, {})
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


def start_group(api: Api, namespace: str, annotations: dict[str, str], **env: str) -> None:
    """Recreates the group and waits until it is ready, or only running if it is not meant to become ready."""
    path = GROUP.format(namespace)
    try:
        api.delete(path)
    except ApiError as error:
        assert error.code == 404
    wait_until(lambda: not pods(api, namespace), PATIENCE_SECONDS, lambda: "old pods do not go")
    api.apply(path, group(annotations, env))
    serving = f"/apis/kwok.x-k8s.io/v1alpha1/namespaces/{namespace}/portforwards/ds-0"

    def up() -> bool:
        if annotations:
            return len(pods(api, namespace)) == 2 and all(
                each["status"]["phase"] == "Running" for each in pods(api, namespace)
            )
        return bool(api.get(serving))

    wait_until(up, PATIENCE_SECONDS, lambda: f"the group does not come up: {pods(api, namespace)}")


def pods(api: Api, namespace: str) -> list[dict[str, Any]]:
    return api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]


@pytest.fixture
def verify(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Verify:
    """Runs `ops verify` on a stack file for the namespace, as a user does."""

    def run(
        *words: str, service: dict[str, Any] | None = None, twin: str = "", kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        stack = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())
        stack["config"]["modelserve:cluster"] = {"context": "rehearsal", "namespace": namespace}
        services = stack["config"]["modelserve:services"]
        services["ds"] |= service or {}
        services |= {twin: dict(services["ds"])} if twin else {}
        file = tmp_path / "Pulumi.test.yaml"
        file.write_text(yaml.safe_dump(stack))
        environment = {"KUBECONFIG": str(kubeconfig or control_plane.kubeconfig), "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-m", "ops", "verify", "--config", str(file), *words]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert "Traceback" not in result.stderr
        return result

    return run


def test_served_model_answers_a_streamed_completion(verify: Verify) -> None:
    result = verify("--json")
    assert result.returncode == 0, result.stderr
    (service,) = json.loads(result.stdout)["services"]
    answer = service["answer"]
    assert (service["service"], answer["model"]) == ("ds", "ds")
    assert "simulated answer" in answer["text"]
    assert answer["tokens"] > 10
    # Tokens that all arrived at once, at the end, would have no rate.
    assert answer["tokens_per_second"] > 0


def test_answer_is_told_in_one_line_without_the_key(verify: Verify) -> None:
    result = verify()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ds: ds answered: first token after ")
    assert result.stdout.count("\n") == 1
    assert KEY not in result.stdout + result.stderr


def test_wrong_key_is_said_and_not_shown(verify: Verify, control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/secrets/ds-api-key"
    try:
        # The engine keeps using the key that it started with.
        control_plane.api.apply(path, key_secret("another-key"))
        wrong = verify()
        control_plane.api.delete(path)
        none = verify()
    finally:
        control_plane.api.apply(path, key_secret(KEY))
    assert (wrong.returncode, none.returncode) == (1, 1)
    assert "401 Unauthorized: the API key is wrong" in wrong.stderr
    assert "another-key" not in wrong.stderr
    assert "401 Unauthorized: the endpoint wants an API key and none was found" in none.stderr


def test_model_of_another_name_is_404(verify: Verify) -> None:
    result = verify(service={"servedModelName": "other"})
    assert result.returncode == 1
    assert "404 Not Found: The model `other` does not exist." in result.stderr


@pytest.mark.soak
@pytest.mark.parametrize(
    ("seconds", "code", "said"),
    [
        ("0.2", 0, r"48 tokens, [0-5](\.\d+)? tokens/s"),
        ("3600", 1, "within 5 s, although /health says that it is well"),
    ],
    ids=["slow", "hung"],
)
def test_a_slow_engine_is_told_by_its_rate_and_a_hung_one_that_is_healthy_is_found(
    verify: Verify, control_plane: ControlPlane, namespace: str, seconds: str, code: int, said: str
) -> None:
    api = control_plane.api
    start_group(api, namespace, {}, **{TOKEN_SECONDS: seconds})
    try:
        result = verify("--timeout", "60" if code == 0 else "5")
    finally:
        start_group(api, namespace, {})
    assert result.returncode == code and re.search(said, result.stdout + result.stderr), (result.stdout, result.stderr)


def test_every_service_is_asked_unless_one_is_named(verify: Verify) -> None:
    both, first, second, nobody = (
        verify(*words, twin="other") for words in ((), ("--service", "ds"), ("--service", "other"), ("--service", "no"))
    )
    assert both.returncode == 1
    assert both.stdout.startswith("ds: ds answered")
    assert "other: did not answer: Service other-leader is not in namespace" in both.stderr
    assert (first.returncode, second.returncode, nobody.returncode) == (0, 1, 2)
    assert "--service no: the stack has ds, other" in nobody.stderr


def test_cluster_that_does_not_answer_is_one_line(verify: Verify, control_plane: ControlPlane, tmp_path: Path) -> None:
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    result = verify(kubeconfig=file)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("ds:")]
    assert "https://127.0.0.1:9 does not answer" in line


def test_forward_carries_several_conversations_at_once(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    cluster = Cluster("rehearsal", namespace)
    with cluster.forwarded(cluster.leader("ds-leader")) as url, ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: ask(url, "ds", KEY, 60), range(6)))
    assert len({answer.text for answer in answers}) == 1


def test_a_client_that_goes_before_the_end_troubles_nobody(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    troubles: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", troubles.append)
    others = set(threading.enumerate())
    cluster = Cluster("rehearsal", namespace)
    with cluster.forwarded(cluster.leader("ds-leader")) as url:
        host, port = url.removeprefix("http://").split(":")
        for _ in range(10):
            with socket.create_connection((host, int(port))) as client:
                # Close at once, while most of the answer is still on its way.
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
                client.recv(1)
    wait_until(lambda: set(threading.enumerate()) <= others, PATIENCE_SECONDS, lambda: "threads go on")
    assert [str(each.exc_value) for each in troubles] == []


def test_model_that_is_not_ready_is_told_by_pod_and_last_log_line(
    verify: Verify, control_plane: ControlPlane, namespace: str
) -> None:
    try:
        start_group(control_plane.api, namespace, {"rehearsal.modelserve.dev/fail": "never-ready"})
        result = verify()
    finally:
        start_group(control_plane.api, namespace, {})
    assert result.returncode == 1
    assert "no ready leader pod behind Service ds-leader: ds-0 runs and is not ready; its log ends: " in result.stderr


def test_absent_service_says_to_run_up(verify: Verify, control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/services/ds-leader"
    service = control_plane.api.get(path)
    control_plane.api.delete(path)
    try:
        result = verify()
    finally:
        kept = {key: service[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "ds-leader"}}
        spec = {key: service["spec"][key] for key in ("selector", "ports")}
        control_plane.api.apply(path, kept | {"spec": spec})
    assert result.returncode == 1
    assert f"Service ds-leader is not in namespace {namespace} of context rehearsal; run pulumi up" in result.stderr
