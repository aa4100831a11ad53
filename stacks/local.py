"""The program against the rehearsal: everything that needs no cloud."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.inference_service import InferenceService, InferenceServiceArgs, api_key_revision
from components.kubernetes import kubernetes_provider
from components.names import API_KEY, service_object
from components.ray_lws_group import RayLwsGroup, RayLwsGroupArgs, group_selector, leader_selector
from stacks import engine
from stacks.config import StackConfig
from stacks.plans import Planned
from stacks.progress import Progress
from stacks.refusals import NAMESPACE


def build(config: StackConfig, plans: Mapping[str, Planned]) -> dict[str, pulumi.Input[Any]]:
    """Register the stack and return its outputs."""
    secrets = pulumi.Config(NAMESPACE)
    cluster = kubernetes_provider("cluster", config.cluster.context, secrets.get_secret("kubeconfig"))
    api_key = secrets.get_secret(API_KEY)
    progress = Progress(config.cluster.context, config.cluster.namespace, secrets.get("kubeconfig"))
    endpoints = {
        name: _serve(name, planned, config, api_key, progress, pulumi.ResourceOptions(provider=cluster))
        for name, planned in plans.items()
    }
    return {"endpoints": endpoints, "verify": f"python -m ops verify {pulumi.get_stack()}"}


def _serve(
    name: str,
    planned: Planned,
    config: StackConfig,
    api_key: pulumi.Output[str] | None,
    progress: Progress,
    opts: pulumi.ResourceOptions,
) -> pulumi.Output[str]:
    service, layout = planned.service, planned.layout
    stack, namespace = pulumi.get_stack(), config.cluster.namespace
    front = InferenceService(
        name,
        InferenceServiceArgs(
            stack=stack,
            namespace=namespace,
            service_name=service_object(name),
            port=service.port,
            api_key=api_key,
            leaders=leader_selector(name),
            members=group_selector(name),
        ),
        opts,
    )
    group = RayLwsGroup(
        name,
        RayLwsGroupArgs(
            stack=stack,
            namespace=namespace,
            image=service.engine.image,
            port=service.port,
            replicas=service.replicas,
            nodes=layout.nodes,
            gpus_per_node=layout.gpus_per_node,
            tensor=layout.tensor,
            pipeline=layout.pipeline,
            cpu=service.resources.cpu,
            memory=service.resources.memory,
            shm=service.resources.shm,
            ephemeral_storage=service.resources.ephemeral_storage,
            engine_args=engine.arguments(name, planned, config.weights),
            env=engine.environment(planned),
            volumes=[engine.weights_volume(config.weights)],
            volume_mounts=[engine.weights_mount()],
            pod_labels=service.pod_labels,
            pod_annotations=service.pod_annotations,
            api_key_secret=front.secret_name,
            api_key_revision=pulumi.Output.unsecret(api_key.apply(api_key_revision)) if api_key else None,
            startup_seconds=planned.startup_seconds,
            startup_policy=service.startup_policy,
            restart_policy=service.restart_policy,
            readiness_probe=service.readiness_probe,
        ),
        pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[front])),
        progress.group_hooks(),
    )
    return pulumi.Output.all(front.endpoint, group.ready).apply(lambda known: known[0])
