"""Arguments for monitoring, and series that its exporters would give, for tests of alerts and dashboards."""

from __future__ import annotations

from typing import Any

from components.cluster.kubernetes import labels
from components.monitoring.args import AlertArgs, MonitoringArgs, Scraped
from planning.alert_limits import Limits
from planning.catalog import fact

RELEASES = fact("vllm", "releases", "known")
LIMITS = Limits(
    start_seconds=1200,
    form_seconds=600,
    loop_seconds=3600,
    no_answer_seconds=300,
    idle_seconds=900,
    fill_rate=1e8,
    copy_rate=2e8,
    load_seconds=1200,
    kv_used=0.9,
    at_once=10,
)
WHOLE: dict[str, Any] = {
    "nodes": 2,
    "startup_seconds": 800,
    "weights_bytes": 1 << 38,
    "file_bytes": 1 << 39,
    "sync": "deepseek-r1-sync",
    "load": "deepseek-r1-loader-job",
    "cache": "deepseek-r1-jindofs-worker-[0-9]+",
    "route": "httproute/[^/]+/r1-(modelserve|router)/rule/[0-9]+",
    "replica_hour": 160.0,
}
"""What a service has that uses everything."""


def scraped(name: str = "r1", version: str | None = "0.7.3", stack: str = "vke", **changes: Any) -> Scraped:
    given: dict[str, Any] = {
        "engine_version": version,
        "selector": labels(stack, name),
        "namespace": "models",
        "pods": f"{name}-[0-9]+(-[1-9][0-9]*)?",
        "limits": LIMITS,
    }
    return Scraped(**given | changes)


def arguments(*versions: str | None, **changes: Any) -> MonitoringArgs:
    given: dict[str, Any] = {
        "stack": "vke",
        "namespace": "models",
        "services": {
            f"r{number}": scraped(f"r{number}", each) for number, each in enumerate(versions or ("0.7.3",), 1)
        },
        "labels": {"volcengine.vmp": "true"},
    }
    return MonitoringArgs(**given | changes)


def everything(version: str | None, stack: str = "vke") -> MonitoringArgs:
    """One service, r1, with all that can be watched."""
    services, alerts = {"r1": scraped("r1", version, stack, **WHOLE)}, AlertArgs(labels={"team": "a"})
    return arguments(stack=stack, services=services, alerts=alerts, currency="CNY", rdma=True)
