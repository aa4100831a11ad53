"""The stack for the rehearsal: everything that needs no cloud."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.cluster.kubernetes import kubernetes_provider
from config.errors import NAMESPACE
from config.plans import Planned
from config.stack import StackConfig, lws_release
from config.weights import PvcWeights
from planning.names import API_KEY
from stacks import engine_arguments
from stacks.monitors import monitor
from stacks.serving import Place, Serving
from watch.progress import Progress


def build(
    config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int]
) -> dict[str, pulumi.Input[Any]]:
    """Register the stack and return its outputs."""
    secrets = pulumi.Config(NAMESPACE)
    cluster = kubernetes_provider("cluster", config.cluster.context, secrets.get_secret("kubeconfig"))
    api_key = secrets.get_secret(API_KEY)
    progress = Progress(config.cluster.context, config.cluster.namespace, secrets.get("kubeconfig"))
    place = Place(
        namespace=config.cluster.namespace,
        lws_version=lws_release(config),
        monitoring_namespace=config.monitoring.prometheus_namespace,
    )
    on_cluster = pulumi.ResourceOptions(provider=cluster)
    serving = Serving(api_key, progress, on_cluster, config.registry)
    weights = config.weights
    assert isinstance(weights, PvcWeights)
    endpoints = {
        name: serving.serve(name, planned, engine_arguments.from_volume(weights, planned.service.model), place)
        for name, planned in plans.items()
    }
    monitor(config, plans, on_cluster)
    return {"endpoints": endpoints, "verify": f"python -m ops verify {pulumi.get_stack()}"}
