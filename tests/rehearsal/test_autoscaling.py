"""A LeaderWorkerSet whose replicas an autoscaler sets: KEDA's kind is there, and the test is its operator; Kubernetes'
own autoscaler is the real one, and so are Prometheus and its adapter. A fleet's is in test_volcengine_ways."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml

from components.serving import group_autoscaler
from local import definitions
from local.api import ApiError
from local.control_plane import free_ports
from local.paths import ROOT
from local.toolchain import ensure
from standins.vllm_server import TOKEN_SECONDS
from tests.rehearsal.pulumi_stack import API_KEY, Cluster, Stack, one_node
from tests.rehearsal.test_answers import engines
from tests.support import prometheus
from tests.support.patience import PATIENCE_SECONDS
from tests.unit.components.serving import test_group_autoscaler

pytestmark = pytest.mark.soak
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scaledobjects.keda.sh"
GROUP = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets/ds"
SCALED = "/apis/keda.sh/v1alpha1/namespaces/default/scaledobjects/ds"
HPA = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/ds"


def scale(cluster: Cluster, replicas: int) -> None:
    """What the autoscaler does, and until its replicas are ready."""
    api = cluster.plane.api
    api.merge(f"{GROUP}/scale", {"spec": {"replicas": replicas}})
    cluster.wait(f"{replicas} replicas are ready", lambda: api.get(GROUP)["status"].get("readyReplicas") == replicas)


def test_an_update_leaves_a_group_the_replicas_that_an_autoscaler_gave_it(stack: Stack, cluster: Cluster):
    api = cluster.plane.api
    stack.services["ds"] = one_node(stack.services["ds"])
    stack.config["modelserve:monitoring"] = {"enabled": True}
    scaled = {"engine": "keda", "prometheus": "http://prometheus.monitoring:9090", "maximum": 2}
    stack.services["ds"]["autoscaling"] = scaled
    assert "autoscaling.engine: keda: the cluster has no ScaledObject" in stack.up(ok=False)
    api.create_kinds(definitions.read([ROOT / "tests" / "data" / "keda" / "keda.sh_scaledobjects.yaml"]))
    stop = threading.Event()

    def operate() -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(ApiError):  # not there yet
                api.merge(f"{SCALED}/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

    operator = threading.Thread(target=operate, daemon=True)
    operator.start()
    try:
        stack.up()
        assert stack.in_order("LeaderWorkerSet/ds", "ScaledObject/ds-autoscaler")
        scale(cluster, 2)
        stack.up("--expect-no-changes")
        stack.services["ds"]["podLabels"] = {"team": "search"}
        stack.up()
        assert list(stack.steps()) == ["LeaderWorkerSet/ds"] and api.get(GROUP)["spec"]["replicas"] == 2

        scale(cluster, 1)
        del stack.services["ds"]["autoscaling"]
        stack.up()
        assert stack.steps()["ScaledObject/ds-autoscaler"].operation == "delete"
        assert api.get(GROUP)["spec"]["replicas"] == 1
        stack.up("--expect-no-changes")
    finally:
        stop.set()
        operator.join()
        api.delete(CRD)

    args = test_group_autoscaler.arguments("hpa", stack=stack.name, namespace="default", target_name="ds", minimum=1)
    api.apply(HPA, group_autoscaler.autoscaler("ds", args))
    try:
        cluster.wait("Kubernetes says what it lacks", lambda: "FailedGetPodsMetric" in reasons(cluster).values())
        # It has found the group and its pods.
        assert reasons(cluster)["AbleToScale"] == "SucceededGetScale"
        assert api.get(GROUP)["spec"]["replicas"] == 1
    finally:
        api.delete(HPA)


def reasons(cluster: Cluster) -> dict[str, str]:
    told = cluster.plane.api.get(HPA).get("status", {}).get("conditions") or []
    return {each["type"]: each["reason"] for each in told}


@contextmanager
def scraped(cluster: Cluster, folder: Path, stack: str) -> Iterator[str]:
    """A Prometheus that reads the engines behind the Service, labelled as by the stack's ServiceMonitor; its URL.

    Fake pods have no address that it could reach, so each is read where it is played.
    """
    targets, stop = folder / "targets.json", threading.Event()

    def find() -> None:
        while not stop.wait(0.5):
            with contextlib.suppress(ApiError):
                found = [
                    {
                        "targets": [url.removeprefix("http://")],
                        "labels": {"namespace": "default", "pod": pod, "stack": stack, "model": "ds"},
                    }
                    for pod, url in engines(cluster, "ds-leader").items()
                ]
                targets.with_suffix(".new").write_text(json.dumps(found))
                targets.with_suffix(".new").rename(targets)

    jobs = [{"job_name": "engines", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}]
    finder = threading.Thread(target=find, daemon=True)
    finder.start()
    try:
        with prometheus.running(folder, {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}) as url:
            yield url
    finally:
        stop.set()
        finder.join(PATIENCE_SECONDS)


@contextmanager
def adapted(cluster: Cluster, folder: Path, url: str) -> Iterator[None]:
    """The real Prometheus adapter behind the API server, with the rule of docs/operations.md for both names."""
    text = (ROOT / "docs" / "operations.md").read_text()
    rule = text[text.index("- seriesQuery") :].partition("```")[0]
    rules = yaml.safe_load(rule + rule.replace("kv_cache", "gpu_cache"))
    folder.joinpath("adapter.yaml").write_text(yaml.safe_dump({"rules": rules}))
    (port,) = free_ports(1)
    clients = [
        f"--{who}-kubeconfig={cluster.plane.kubeconfig}" for who in ("lister", "authentication", "authorization")
    ]
    serving = [f"--secure-port={port}", "--bind-address=127.0.0.1", f"--cert-dir={folder}"]
    asking = [f"--prometheus-url={url}", f"--config={folder}/adapter.yaml", "--metrics-relist-interval=2s"]
    program, api = ensure("prometheus-adapter")["prometheus-adapter"], cluster.plane.api
    name, group, version = "prometheus-adapter", "custom.metrics.k8s.io", "v1beta1"
    spec = {"type": "ExternalName", "externalName": "localhost"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    place = f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.{group}"
    offer = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}"},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": name, "namespace": "default", "port": port},
        },
    }

    def offered() -> bool:
        with contextlib.suppress(ApiError):
            return bool(api.get(f"/apis/{group}/{version}"))
        return False

    with folder.joinpath("adapter.log").open("w") as log:
        process = subprocess.Popen([program, *clients, *serving, *asking], stdout=log, stderr=log)
    try:
        api.apply(f"/api/v1/namespaces/default/services/{name}", service)
        api.apply(place, offer)
        cluster.wait("the adapter answers", offered)
        yield
    finally:
        api.delete(place)
        api.delete(f"/api/v1/namespaces/default/services/{name}")
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def test_kubernetes_own_autoscaler_follows_the_load_by_what_prometheus_reads_from_the_engines(
    stack: Stack, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
):
    service = stack.services["ds"] = one_node(stack.services["ds"])
    service.pop("replicas", None)
    # Two long requests fill most of the KV cache, for half a minute each.
    service |= {"maxModelLen": 4096, "autoscaling": {"engine": "hpa", "maximum": 2}}
    service["engine"]["env"] = {TOKEN_SECONDS: "0.5"}
    stack.config["modelserve:monitoring"] = {"enabled": True}
    folder, stop, statuses = tmp_path_factory.mktemp("metrics"), threading.Event(), list[int]()

    def load(number: int) -> None:
        asked = {"messages": [{"role": "user", "content": "word " * 3900}], "max_tokens": 60}
        headers = {"Authorization": f"Bearer {API_KEY}"}
        while not stop.is_set():
            urls = sorted(engines(cluster, "ds-leader").values())
            path = f"{urls[number % len(urls)]}/v1/chat/completions"
            answer = requests.post(path, json=asked, headers=headers, timeout=PATIENCE_SECONDS)
            statuses.append(answer.status_code)

    def replicas(count: int) -> bool:
        status = cluster.group()["status"]
        return status.get("replicas") == status.get("readyReplicas") == count

    with scraped(cluster, folder, stack.name) as url, adapted(cluster, folder, url), ThreadPoolExecutor(2) as clients:
        stack.up()
        assert reasons(cluster)["ScalingActive"] == "ValidMetricFound" and replicas(1)
        try:
            running = [clients.submit(load, number) for number in range(2)]
            cluster.wait("the load has brought a second replica", lambda: replicas(2))
        finally:
            stop.set()
        cluster.wait("its end has taken one away", lambda: replicas(1), 2 * PATIENCE_SECONDS)
        [each.result() for each in running]
        assert set(statuses) == {200}
        stack.up("--refresh", "--expect-no-changes")
        stack.destroy()
