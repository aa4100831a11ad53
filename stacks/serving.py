"""Registers one service: its endpoint and its workload. It works the same on every cloud; `Place` has what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pulumi

from components.serving.engine_pods import EnginePodsArgs
from components.serving.inference_service import InferenceService, InferenceServiceArgs, api_key_revision, in_namespace
from components.serving.ray_lws_group import RayLwsGroup, RayLwsGroupArgs, group_selector, leader_selector
from planning import aibrix_features, flags, routes
from planning.catalog import fact
from planning.images import pulled
from planning.names import group_object, service_object, workload
from stacks import engine_arguments
from stacks.pod_extras import extras
from stacks.service_plans import Planned
from watch.progress import Progress

if TYPE_CHECKING:
    from components.serving.model_route import ModelRoute

# We import AIBrix's components only for a service that uses them: most stacks do not, and every preview would pay.


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the pods of a replica need to reach each other: variables for NCCL and, with RDMA, devices, annotations and
    the right to pin memory."""

    env: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    extra_resources: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a cloud and its cluster add to a workload. Pulumi creates `after` before the workload and deletes it later;
    it cannot replace `mounts` while the pods exist. `gateway` is the address of AIBrix's gateway. `cpu_pod_labels` are
    for pods without GPUs."""

    namespace: str
    lws_version: str = ""
    aibrix_version: str = ""
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    network: Network = Network()
    service_annotations: Mapping[str, str] | None = None
    gateway: pulumi.Output[str] | None = None
    monitoring_namespace: str | None = None
    cpu_pod_labels: Mapping[str, str] = field(default_factory=dict)
    after: Sequence[pulumi.Resource] = ()
    mounts: Sequence[pulumi.Resource] = ()


@dataclass(frozen=True)
class Serving:
    """Registers services with what they share: API key, progress, the cluster (in `opts`), and the image registry."""

    api_key: pulumi.Output[str] | None
    progress: Progress
    opts: pulumi.ResourceOptions
    registry: str | None = None

    def serve(self, name: str, planned: Planned, source: engine_arguments.Source, place: Place) -> pulumi.Output[str]:
        """Registers the service `name`. Returns its endpoint, known once every replica answers."""
        front = self._front(name, planned, place)
        opts = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[front, *place.after]))
        pods = self._pods(name, planned, source, place, front.secret_name)
        if planned.service.workload == "fleet":
            ready = self._fleet(name, planned, place, pods, opts)
        else:
            ready = self._group(name, planned, place, pods, opts)
        return pulumi.Output.all(front.endpoint, ready).apply(lambda known: known[0])

    def _front(self, name: str, planned: Planned, place: Place) -> InferenceService | ModelRoute:
        service, stack = planned.service, pulumi.get_stack()
        if service.workload == "fleet":
            from components.serving.ray_cluster_fleet import head_selector, member_selector

            heads, members = head_selector(name), member_selector(name)
        else:
            heads, members = leader_selector(_group_name(name, planned)), group_selector(_group_name(name, planned))
        if service.gateway != "aibrix":
            args = InferenceServiceArgs(
                stack=stack,
                namespace=place.namespace,
                service_name=service_object(name),
                port=service.port,
                api_key=self.api_key,
                leaders=heads,
                members=members,
                load_balancer=place.service_annotations,
                annotations=service.service_annotations,
                clients=self._clients(planned, place),
            )
            return InferenceService(name, args, self.opts)
        from components.serving.model_route import ModelRoute, ModelRouteArgs

        assert place.gateway is not None
        # The route needs the CRDs and the controllers that `after` installs.
        opts = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=list(place.after)))
        route = ModelRouteArgs(
            stack=stack,
            namespace=place.namespace,
            aibrix_version=place.aibrix_version,
            model_name=name,
            head_selector=heads,
            member_selector=members,
            gateway_address=place.gateway,
            port=service.port,
            request_seconds=service.routing.request_seconds,
            api_key=self.api_key,
            monitoring_namespace=place.monitoring_namespace,
            service_annotations=service.service_annotations,
            more_clients=[each.peer() for each in service.clients or ()],
        )
        return ModelRoute(name, route, opts)

    def _clients(self, planned: Planned, place: Place) -> list[dict[str, Any]] | None:
        """The peers (of a NetworkPolicy) that reach a service without a gateway; None for everybody."""
        service, exposed = planned.service, place.service_annotations is not None
        if service.clients is None and self.api_key is None and not exposed:
            return None
        peers = [each.peer() for each in service.clients or ()] or [{"podSelector": {}}]
        if service.clients is None and exposed:
            # Clients of the load balancer may have any address; its allow-list decides who may call.
            peers.append({"ipBlock": {"cidr": "0.0.0.0/0"}})
        if place.monitoring_namespace:
            peers.append(in_namespace(place.monitoring_namespace))
        if service.workload == "fleet":
            from components.serving.model_route import clients

            peers += clients(None)  # AIBrix's autoscaler reads metrics
        return peers

    def _pods(
        self, name: str, planned: Planned, source: engine_arguments.Source, place: Place, secret_name: str | None
    ) -> EnginePodsArgs:
        """The pods of a replica, the same in a group and in a fleet."""
        service, layout, network = planned.service, planned.layout, place.network
        # The limits of a group count the copy of the weights as part of the start.
        copy_seconds = planned.copy_seconds if service.workload == "fleet" else 0
        revision = pulumi.Output.unsecret(self.api_key.apply(api_key_revision)) if self.api_key else None
        return EnginePodsArgs(
            stack=pulumi.get_stack(),
            namespace=place.namespace,
            image=pulled(service.engine.image, self.registry),
            port=service.port,
            nodes=layout.nodes,
            gpus_per_node=layout.gpus_per_node,
            data=layout.data,
            several_servers=engine_arguments.several_servers(planned),
            tensor=layout.tensor,
            pipeline=layout.pipeline,
            cpu=service.resources.cpu,
            memory=service.resources.memory,
            shm=service.resources.shm,
            ephemeral_storage=engine_arguments.ephemeral_storage(service, source),
            engine_args=engine_arguments.arguments(name, planned, source),
            startup_seconds=planned.startup_seconds - copy_seconds,
            weights_seconds=copy_seconds,
            drain_seconds=planned.drain_seconds,
            drains_itself=flags.has("--shutdown-timeout", service.engine.version),
            routes=routes.let_through(service.engine.version, service.paths),
            # A load balancer passes every path on, and the engine cannot tell its requests from those of the cluster.
            metrics_need_key=place.service_annotations is not None,
            # The user's variables last: one service may need another network interface or debug level than the cloud's.
            env={**network.env, **engine_arguments.environment(planned, source)},
            secret_env=source.secret_env,
            volumes=source.volumes,
            volume_mounts=source.mounts,
            init_containers=source.init_containers,
            extra_resources=network.extra_resources,
            capabilities=network.capabilities,
            node_selector=place.node_selector,
            pod_labels={**service.pod_labels, **place.pod_labels},
            pod_annotations={
                **service.pod_annotations,
                **network.pod_annotations,
                **aibrix_features.strategy_annotations(place.aibrix_version, service.routing.strategy),
            },
            api_key_secret=secret_name,
            api_key_revision=revision,
            readiness_probe=service.readiness_probe,
            extras=extras(service.pod),
        )

    def _group(
        self, name: str, planned: Planned, place: Place, pods: EnginePodsArgs, opts: pulumi.ResourceOptions
    ) -> pulumi.Output[str]:
        service, scaling = planned.service, planned.service.autoscaling
        routed = aibrix_features.model_labels(name, service.port) if service.gateway == "aibrix" else {}
        args = RayLwsGroupArgs(
            pods=pods,
            replicas=service.first_replicas,
            lws_version=place.lws_version,
            launcher=service.engine.launcher,
            object_name=_group_name(name, planned),
            object_labels=routed,
            leader_labels=routed,
            startup_policy=service.startup_policy,
            restart_policy=service.restart_policy,
            scheduled=service.schedule is not None,
            scaled_to=scaling.maximum if scaling else None,
        )
        group = RayLwsGroup(name, args, opts, self.progress.group_hooks(), mounts=place.mounts)
        self._schedule(name, planned, place, group)
        if scaling is not None and scaling.engine != "aibrix":
            from components.serving.group_autoscaler import GroupAutoscaler, GroupAutoscalerArgs

            scaler = GroupAutoscalerArgs(
                stack=pulumi.get_stack(),
                namespace=place.namespace,
                engine=scaling.engine,
                engine_version=service.engine.version,
                target_name=args.object_name,
                minimum=scaling.minimum,
                maximum=scaling.maximum,
                target=scaling.target,
                cold_start_seconds=planned.startup_seconds,
                cooldown_seconds=scaling.cooldown_seconds,
                prometheus=scaling.prometheus,
            )
            after = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[group]))
            GroupAutoscaler(name, scaler, after)
        return group.ready

    def _fleet(
        self, name: str, planned: Planned, place: Place, pods: EnginePodsArgs, opts: pulumi.ResourceOptions
    ) -> pulumi.Output[str]:
        from components.serving.ray_cluster_fleet import RayClusterFleet, RayClusterFleetArgs

        service, scaling = planned.service, planned.service.autoscaling
        args = RayClusterFleetArgs(
            pods=pods,
            replicas=service.first_replicas,
            aibrix_version=place.aibrix_version,
            scaled_to=scaling.maximum if scaling else None,
            scheduled=service.schedule is not None,
            strategy=service.rollout.strategy,
            max_surge=service.rollout.max_surge,
        )
        fleet = RayClusterFleet(name, args, opts, self.progress.fleet_hooks(), mounts=place.mounts)
        self._schedule(name, planned, place, fleet)
        if scaling is not None:
            from components.serving.pod_autoscaler import PodAutoscaler, PodAutoscalerArgs

            scaler = PodAutoscalerArgs(
                stack=pulumi.get_stack(),
                namespace=place.namespace,
                aibrix_version=place.aibrix_version,
                engine_version=service.engine.version,
                target_name=name,
                minimum=scaling.minimum,
                maximum=scaling.maximum,
                target=scaling.target,
                cold_start_seconds=planned.startup_seconds,
                cooldown_seconds=scaling.cooldown_seconds,
                strategy=scaling.strategy,
                port=service.port,
            )
            after = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[fleet]))
            PodAutoscaler(name, scaler, after)
        return fleet.ready

    def _schedule(self, name: str, planned: Planned, place: Place, scaled: pulumi.Resource) -> None:
        service, schedule = planned.service, planned.service.schedule
        if schedule is None:
            return
        from components.serving.replica_schedule import ReplicaSchedule, ReplicaScheduleArgs, Workload

        args = ReplicaScheduleArgs(
            stack=pulumi.get_stack(),
            namespace=place.namespace,
            workload=Workload(*workload(name, service.workload, gateway=service.gateway == "aibrix")),
            schedule=schedule.planned,
            replicas=service.replicas,
            image=pulled(schedule.image or fact("sync", "images", "python"), self.registry),
            pod_labels=place.cpu_pod_labels,
        )
        after = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[scaled]))
        ReplicaSchedule(name, args, after)


def _group_name(name: str, planned: Planned) -> str:
    return group_object(name) if planned.service.gateway == "aibrix" else name
