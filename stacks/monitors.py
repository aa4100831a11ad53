"""Monitoring of a stack's services by Prometheus and Grafana, on every cloud, if the stack file asks for it."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi

from components.cluster.credentials import SecretKey
from components.cluster.kubernetes import labels
from config.stack import StackConfig
from planning.catalog import fact
from planning.names import API_KEY, api_key_secret
from stacks.service_plans import Planned


def monitor(config: StackConfig, plans: Mapping[str, Planned], on_cluster: pulumi.ResourceOptions) -> None:
    """Registers it, with the labels of the stack file or those that the cloud's own Prometheus selects."""
    chosen, stack, namespace = config.monitoring, pulumi.get_stack(), config.cluster.namespace
    if not chosen.enabled:
        return
    from components.monitoring.monitoring import Monitoring, MonitoringArgs, Scraped

    args = MonitoringArgs(
        stack=stack,
        namespace=namespace,
        services={
            name: Scraped(
                engine_version=planned.service.engine.version,
                selector=labels(stack, name),
                namespace=namespace,
                # Behind a load balancer the guard asks for the key.
                key=SecretKey(api_key_secret(name), API_KEY) if planned.service.expose.to != "cluster" else None,
            )
            for name, planned in plans.items()
        },
        labels=chosen.labels or fact("monitoring", "scrape", "labels").get(config.cloud.kind, {}),
        annotations=fact("monitoring", "scrape", "annotations").get(config.cloud.kind, {}),
        interval_seconds=chosen.interval_seconds,
        dashboard=chosen.dashboard,
        dashboard_namespace=chosen.dashboard_namespace,
        dashboard_labels=chosen.dashboard_labels,
    )
    Monitoring("monitoring", args, on_cluster)
