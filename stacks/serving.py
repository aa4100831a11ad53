"""Registers one service, endpoint and group, which are alike on every cloud but for what a cloud adds to the pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.inference_service import InferenceService, InferenceServiceArgs, api_key_revision
from components.names import service_object
from components.ray_lws_group import RayLwsGroup, RayLwsGroupArgs, group_selector, leader_selector
from stacks import engine
from stacks.plans import Planned


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a cloud and its cluster add to a group. `after` must be there before the group, and outlives it; `mounts`
    cannot be replaced while the group's pods are there."""

    namespace: str
    lws_version: str
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    service_annotations: Mapping[str, str] | None = None
    after: Sequence[pulumi.Resource] = ()
    mounts: Sequence[pulumi.Resource] = ()


def serve(
    name: str,
    planned: Planned,
    source: engine.Source,
    place: Place,
    api_key: pulumi.Output[str] | None,
    hooks: pulumi.ResourceHookBinding | None,
    opts: pulumi.ResourceOptions,
) -> pulumi.Output[str]:
    """The endpoint of the service called `name`, known once every replica answers."""
    service, layout, stack = planned.service, planned.layout, pulumi.get_stack()
    front = InferenceService(
        name,
        InferenceServiceArgs(
            stack=stack,
            namespace=place.namespace,
            service_name=service_object(name),
            port=service.port,
            api_key=api_key,
            leaders=leader_selector(name),
            members=group_selector(name),
            load_balancer=place.service_annotations,
        ),
        opts,
    )
    group = RayLwsGroup(
        name,
        RayLwsGroupArgs(
            stack=stack,
            namespace=place.namespace,
            lws_version=place.lws_version,
            launcher=service.engine.launcher,
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
            engine_args=engine.arguments(name, planned, source),
            # The user's last: an interface or a debug level of one service may differ from the cloud's.
            env={**place.env, **engine.environment(planned, source)},
            secret_env=source.secret_env,
            volumes=source.volumes,
            volume_mounts=source.mounts,
            node_selector=place.node_selector,
            pod_labels={**service.pod_labels, **place.pod_labels},
            pod_annotations=service.pod_annotations,
            api_key_secret=front.secret_name,
            api_key_revision=pulumi.Output.unsecret(api_key.apply(api_key_revision)) if api_key else None,
            startup_seconds=planned.startup_seconds,
            startup_policy=service.startup_policy,
            restart_policy=service.restart_policy,
            readiness_probe=service.readiness_probe,
        ),
        pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[front, *place.after])),
        hooks,
        mounts=place.mounts,
    )
    return pulumi.Output.all(front.endpoint, group.ready).apply(lambda known: known[0])
