"""A real Prometheus scrapes simulated engines of every release, and answers every query of the dashboard from them.

Targets are static: fake pods have no address that a scrape could reach. Series of other exporters are one page, made of
what the catalog knows of their names and labels.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from components.monitoring.dashboards import dashboard
from components.serving.group_autoscaler import autoscaler
from local.api import wait_until
from local.control_plane import free_ports
from local.toolchain import ensure
from planning.catalog import entries
from standins.vllm import Application, Engine
from standins.vllm_arguments import Arguments
from tests.support.monitoring import RELEASES, everything
from tests.support.patience import PATIENCE_SECONDS
from tests.support.prometheus import running
from tests.unit.components.serving import test_group_autoscaler

pytestmark = pytest.mark.rehearsal
SCRAPE, WINDOW = "5s", "40s"
# What the labels of other exporters' series say of the service r1.
LABELS = {
    "namespace": ["models"],
    "pod": ["r1-0", "deepseek-r1-jindofs-worker-0"],
    "job_name": ["deepseek-r1-loader-job"],
    "condition": ["true", "false"],
    "phase": ["Pending"],
    "envoy_cluster_name": ["httproute/aibrix-system/r1-router/rule/0"],
    "envoy_response_code_class": ["2", "5"],
    "le": ["1", "+Inf"],
}
# They are gauges and counters of 1, but for a moment of a start, and pods that are not ready yet.
VALUES = {"kube_pod_created": time.time(), "kube_job_status_start_time": time.time(), "kube_pod_status_ready": 0}


def exporters(honoured: bool) -> str:
    """The page of all other exporters; `honoured`: Prometheus left the GPU exporter's labels as they were."""
    lines = []
    for kind, entry in entries("monitoring")["exporters"].items():
        for name, labels in entry["value"].items():
            theirs = [label for label in labels if not label.startswith("exported_")]
            for values in itertools.product(*(LABELS.get(label, ["x"]) for label in theirs)):
                given = dict(zip(theirs, values, strict=True))
                if kind == "dcgm-exporter" and not honoured:
                    given |= {f"exported_{label}": given[label] for label in ("namespace", "pod")}
                    given |= {"namespace": "gpu", "pod": "dcgm-exporter-x"}
                shown = ",".join(f"{label}={json.dumps(value)}" for label, value in given.items())
                lines.append(f"{name}{{{shown}}} {VALUES.get(name, 1)}")
    return "\n".join(lines) + "\n"


class Engines:
    """Simulated engines of every release under `/RELEASE`, each always busy; other exporters under `/exporters`."""

    def __init__(self) -> None:
        given = Arguments(model="m", served_names=("m",))
        self._engines = {release: Engine(given, release, token_seconds=0.2) for release in RELEASES}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._asking = [asyncio.create_task(self._ask(engine)) for engine in self._engines.values()]
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        release, _, path = scope["path"].strip("/").partition("/")
        if release in self._engines:
            await Application(self._engines[release])({**scope, "path": f"/{path}"}, receive, send)
            return
        headers = [(b"content-type", b"text/plain; version=0.0.4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": exporters(path == "honoured").encode()})

    async def _ask(self, engine: Engine) -> None:
        while True:
            async for _ in engine.tokens(engine.begin({"max_tokens": 4}, "how are you today")):
                pass


@dataclass
class Asked:
    """A Prometheus by its URL. Every query is about the same `moment`: a busy machine may miss a scrape after it."""

    url: str
    moment: float = 0.0

    def __call__(self, expression: str) -> list[dict[str, Any]]:
        given = {"query": expression, "time": str(self.moment)}
        answer = requests.get(f"{self.url}/api/v1/query", given, timeout=PATIENCE_SECONDS).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """A Prometheus, asked about a moment at which it had scraped every target often enough for a rate."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    (served,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(Engines(), port=served, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    engines = [
        {"targets": [f"127.0.0.1:{served}"], "labels": labels | {"__metrics_path__": f"/{release}/metrics"}}
        for release in RELEASES
        for labels in [{"stack": release, "model": "r1", "pod": "r1-0"}]
    ]
    others = [
        {"targets": [f"127.0.0.1:{served}"], "labels": {"__metrics_path__": f"/exporters/{how}", "how": how}}
        for how in ("honoured", "renamed")
    ]
    config = {
        "global": {"scrape_interval": SCRAPE},
        "scrape_configs": [
            {"job_name": "engines", "static_configs": engines},
            {"job_name": "exporters", "honor_labels": True, "static_configs": others},
        ],
    }

    def scraped(asked: Asked) -> bool:
        asked.moment = time.time()
        return len(asked(f"sum_over_time(up[{WINDOW}]) > 3 and up == 1")) == len(engines) + len(others)

    try:
        with running(folder, config) as url:
            asked = Asked(url)
            wait_until(lambda: scraped(asked), 300, lambda: folder.joinpath("log").read_text()[-2000:])
            yield asked
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)


@pytest.mark.parametrize("release", RELEASES)
def test_every_query_of_the_dashboard_returns_data(prometheus: Asked, release: str):
    empty = []
    for panel in dashboard("monitoring", everything(release, stack=release))["panels"]:
        for target in panel.get("targets", ()):
            asked = target["expr"].replace("$__rate_interval", WINDOW).replace("$model", ".*").replace("$pod", ".*")
            if not prometheus(asked):
                empty.append(f"{panel['title']}: {asked}")
    assert empty == []


@pytest.mark.parametrize("release", RELEASES)
def test_what_keda_asks_is_one_number_of_the_engines_of_every_release(prometheus: Asked, release: str):
    made = autoscaler("r1", test_group_autoscaler.arguments("keda", stack=release, engine_version=release))
    ((found,),) = [prometheus(trigger["metadata"]["query"]) for trigger in made["spec"]["triggers"]]
    assert not found["metric"] and 0 <= float(found["value"][1]) <= 1


def test_a_gpu_is_found_by_its_pod_whether_or_not_prometheus_renamed_the_exporters_labels(prometheus: Asked):
    (panel,) = [each for each in dashboard("m", everything(None))["panels"] if each["title"] == "GPU utilization"]
    (target,) = panel["targets"]
    for how in ("honoured", "renamed"):
        asked = target["expr"].replace("DCGM_FI_DEV_GPU_UTIL{", f'DCGM_FI_DEV_GPU_UTIL{{how="{how}", ')
        assert {each["metric"]["pod"] for each in prometheus(asked)} == {"r1-0"}, how


def test_grafana_can_read_every_dashboard():
    made = [dashboard("monitoring", everything(release)) for release in RELEASES]
    text = "\n".join(map(json.dumps, made))
    ran = subprocess.run([ensure("grafana-schema")["grafana-schema"]], input=text, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")
    for wrong in ({"titel": "x"}, {"refresh": 5}, {"panels": [{"type": "timeseries", "gridPos": {"x": "left"}}]}):
        text = json.dumps(made[0] | wrong)
        ran = subprocess.run([ensure("grafana-schema")["grafana-schema"]], input=text, capture_output=True, text=True)
        assert ran.returncode == 1 and next(iter(wrong)) in ran.stdout, wrong
