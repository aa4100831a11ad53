"""Monitoring of a stack's services by Prometheus and Grafana, on every cloud, if the stack file asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import pulumi

from components.cluster.credentials import SecretKey
from components.cluster.kubernetes import labels
from config.abilities import CLOUDS
from config.plans import Planned
from config.stack import StackConfig
from planning import alert_limits
from planning.catalog import fact
from planning.names import (
    API_KEY,
    COLOURS,
    api_key_secret,
    coloured,
    group_object,
    loader_job,
    model_object,
    route_object,
    sync_object,
)
from planning.startup import node_bytes

if TYPE_CHECKING:
    from components.monitoring.args import Scraped


def monitor(
    config: StackConfig,
    plans: Mapping[str, Planned],
    on_cluster: pulumi.ResourceOptions,
    cloud: pulumi.ProviderResource | None = None,
) -> None:
    """Registers it, with the labels of the stack file or those that the cloud's own Prometheus selects. `cloud` is the
    cloud's provider, which rules of its own Prometheus need."""
    chosen = config.monitoring
    if not chosen.enabled:
        return
    from components.monitoring.args import AlertArgs, MonitoringArgs
    from components.monitoring.monitoring import Monitoring

    reader = prometheus(config)
    wanted = AlertArgs(
        labels=chosen.alerts.labels,
        runbook=chosen.alerts.runbook or fact("monitoring", "alerts", "runbook"),
        no_answer_seconds=chosen.alerts.no_answer_seconds,
        idle_seconds=chosen.alerts.idle_seconds,
    )
    args = MonitoringArgs(
        stack=pulumi.get_stack(),
        namespace=config.cluster.namespace,
        services={name: scraped(config, name, planned) for name, planned in plans.items()},
        labels=chosen.labels or fact("monitoring", "scrape", "labels").get(reader, {}),
        annotations=fact("monitoring", "scrape", "annotations").get(reader, {}),
        interval_seconds=chosen.interval_seconds,
        dashboard=chosen.dashboard,
        dashboard_namespace=chosen.dashboard_namespace,
        dashboard_labels=chosen.dashboard_labels,
        alerts=wanted if reader == "operator" and chosen.alerts.enabled else None,
        currency=config.prices.currency,
        rdma=getattr(config.cloud, "rdma", False),
    )
    Monitoring("monitoring", args, on_cluster)
    if has_cloud_rules(config):
        from components.monitoring.cloud_alerts import CloudAlerts, Ruler

        assert reader != "operator" and chosen.alerts.instance is not None
        ruler = Ruler(
            kind=reader,
            instance=chosen.alerts.instance,
            policy=chosen.alerts.policy,
            group_policy=chosen.alerts.group_policy,
        )
        CloudAlerts("alerts", replace(args, alerts=wanted), ruler, pulumi.ResourceOptions(provider=cloud))


def prometheus(config: StackConfig) -> Literal["operator", "arms", "vmp"]:
    """Whose Prometheus watches the stack."""
    return config.monitoring.prometheus or cast(Any, CLOUDS[config.cloud.kind].prometheus[0])


def has_cloud_rules(config: StackConfig) -> bool:
    """Whether the alerts are rules of the cloud's own Prometheus."""
    chosen = config.monitoring
    return chosen.enabled and chosen.alerts.enabled and chosen.alerts.instance is not None


def scraped(config: StackConfig, name: str, planned: Planned) -> Scraped:
    """What monitoring is told of one service."""
    from components.monitoring.args import Scraped

    service, plan, layout = planned.service, planned.plan, planned.layout
    model, fleet, routed = model_object(service.model), service.workload == "fleet", service.gateway == "aibrix"
    group = group_object(name) if routed else name
    if service.rollout.strategy == "blueGreen":
        group = coloured(group, f"({'|'.join(COLOURS)})")
    cached = plan.cache is not None
    return Scraped(
        engine_version=service.engine.version,
        selector=labels(pulumi.get_stack(), name),
        namespace=config.cluster.namespace,
        # Behind a load balancer the guard asks for the key.
        key=SecretKey(api_key_secret(name), API_KEY) if service.expose.to != "cluster" else None,
        # A LeaderWorkerSet numbers its pods, KubeRay draws the ends of their names.
        pods=f"{name}-.+-(head|workers-worker)-.+" if fleet else f"{group}-[0-9]+(-[1-9][0-9]*)?",
        limits=alert_limits.limits(plan, planned.startup_seconds, planned.drain_seconds, planned.copy_seconds),
        nodes=layout.nodes,
        replicas=service.first_replicas,
        keeps_names=not fleet,
        pauses=service.schedule is not None,
        startup_seconds=planned.startup_seconds,
        weights_bytes=plan.file_bytes if planned.copy_seconds else max(node_bytes(plan.request, plan.fit)),
        file_bytes=plan.file_bytes,
        sync=sync_object(model) if getattr(config.weights, "sync", None) else None,
        load=loader_job(model) if cached else None,
        cache=f"{model}-jindofs-worker-[0-9]+" if cached else None,
        route=f"httproute/[^/]+/{route_object(name)}/rule/[0-9]+|original_destination_cluster" if routed else None,
        replica_hour=None if config.prices.per_gpu_hour is None else config.prices.per_gpu_hour * layout.gpus,
    )
