"""What Prometheus and Grafana need to watch engines: a ServiceMonitor and a PrometheusRule per service, one dashboard.

Works for any Service whose labels and port are known. Not here: Prometheus, its operator and Grafana, which the cluster
or the cloud runs; what the rules and the dashboard ask for (`alerts`, `dashboards`); and which release exports which
metric (`planning.metrics`).
"""

from __future__ import annotations

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.monitoring.alerts import prometheus_rule
from components.monitoring.args import MonitoringArgs
from components.monitoring.dashboards import dashboard_config
from planning.catalog import fact


def service_monitor(name: str, service: str, args: MonitoringArgs) -> Manifest:
    """The ServiceMonitor of one service's engines.

    It selects the Service in front of the leaders, by labels that only that Service has. Selecting Ray heads would take
    those of all models in the namespace, through KubeRay's own Services; their names become the `job` label and change
    with each rollout. `model` and `stack` are set on the target, not on the samples, so that `up` has them too.
    """
    scraped = args.services[service]
    key = scraped.key
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {
            "name": args.object_name(service, name),
            "namespace": args.namespace,
            "labels": {**args.labels, **labels(args.stack, service)},
            # Leave out an empty map: the API server drops it, and Pulumi would show that as a change.
            **({"annotations": dict(args.annotations)} if args.annotations else {}),
        },
        "spec": {
            "namespaceSelector": {"matchNames": [scraped.namespace]},
            "selector": {"matchLabels": dict(scraped.selector)},
            "endpoints": [
                {
                    "port": scraped.port,
                    "path": fact("monitoring", "scrape", "path"),
                    "interval": f"{args.interval_seconds}s",
                    **({"authorization": {"credentials": {"name": key.secret, "key": key.field}}} if key else {}),
                    "relabelings": [
                        {"action": "replace", "targetLabel": "model", "replacement": service},
                        {"action": "replace", "targetLabel": "stack", "replacement": args.stack},
                    ],
                }
            ],
        },
    }


class Monitoring(pulumi.ComponentResource):
    """Monitors, alerts and dashboard of the stack's engines."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:monitoring:Monitoring", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        for service in args.services:
            kubernetes_object(f"{name}-{service}", service_monitor(name, service, args), child)
            if args.alerts:
                kubernetes_object(f"{name}-{service}-alerts", prometheus_rule(name, service, args), child)
        if args.dashboard:
            kubernetes_object(f"{name}-dashboard", dashboard_config(name, args), child)
        self.register_outputs({})
