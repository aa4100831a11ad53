"""Registers one service: its endpoint and its workload. It works the same on every cloud; `Place` has what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pulumi

from components.cluster.credentials import SecretKey
from components.cluster.kubernetes import Manifest, labels
from components.serving import compile_cache
from components.serving.compile_cache import CompileCache
from components.serving.engine_pods import EnginePodsArgs
from components.serving.inference_service import InferenceService, InferenceServiceArgs, api_key_revision, in_namespace
from components.serving.ray_lws_group import (
    RayLwsGroup,
    RayLwsGroupArgs,
    group_selector,
    leader_selector,
    leader_worker_set,
)
from components.serving.ray_lws_group import version as group_version
from config.errors import NAMESPACE
from config.plans import Planned
from planning import aibrix_features, flags, loaders, routes
from planning.catalog import fact
from planning.images import pulled
from planning.names import API_KEY, COLOURS, coloured, group_object, service_object, workload
from stacks import engine_arguments
from stacks.pod_section import extras
from watch.progress import Progress

if TYPE_CHECKING:
    from components.serving.model_route import ModelRoute
    from components.serving.ray_cluster_fleet import RayClusterFleet, RayClusterFleetArgs

_PLACED = ("imagePullSecrets", "tolerations", "nodeSelector")
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
        pods = self._pods(name, planned, source, place, front.secret_name)
        if _switches(planned):
            ready, served, manifest = self._blue_green(name, planned, place, pods, front)
        else:
            opts = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[front, *place.after]))
            made = self._fleet if planned.service.workload == "fleet" else self._group
            ready, served, manifest = made(name, planned, place, pods, opts)
        if planned.service.verify_after_up and planned.service.first_replicas:
            self._check(name, planned, place, front, served, manifest)
        return pulumi.Output.all(front.endpoint, ready).apply(lambda known: known[0])

    def _blue_green(
        self, name: str, planned: Planned, place: Place, pods: EnginePodsArgs, front: InferenceService | ModelRoute
    ) -> tuple[pulumi.Output[str], pulumi.Resource, Manifest]:
        """One of the two groups: that of the version which has the requests, or beside it the one that is to have them.

        The other is not registered, so Pulumi deletes it at the end of an `up` in which nothing has failed.
        """
        service = planned.service
        # The key itself is an Output; a running engine never re-reads it.
        key = pulumi.Config(NAMESPACE).get(API_KEY)
        revision = api_key_revision(key) if key else ""
        opts = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[*front.before, *place.after]))

        def next_colour(version: str) -> str:
            return planned.live.next(version) if planned.live else COLOURS[0]

        group: RayLwsGroup | RayClusterFleet
        if service.workload == "fleet":
            from components.serving.ray_cluster_fleet import RayClusterFleet, fleet, head_selector
            from components.serving.ray_cluster_fleet import version as fleet_version

            made = self._fleet_args(planned, place, pods)
            version = fleet_version(name, made, revision)
            colour = next_colour(version)
            made = replace(made, pods=replace(pods, colour=colour))
            leaders, manifest = head_selector(name, coloured(name, colour)), fleet(name, made)
            group = RayClusterFleet(name, made, opts, self.progress.fleet_hooks(), mounts=place.mounts)
        else:
            args = self._group_args(name, planned, place, pods)
            version = group_version(name, args, revision)
            colour = next_colour(version)
            args = replace(args, pods=replace(pods, colour=colour), object_name=coloured(args.object_name, colour))
            leaders, manifest = leader_selector(args.object_name), leader_worker_set(name, args)
            group = RayLwsGroup(name, args, opts, self.progress.group_hooks(), mounts=place.mounts)
        model = service.served_model_name or name
        hooks = self.progress.switch_hooks(name, model, service, leaders) if service.replicas else None
        if isinstance(front, InferenceService):
            front.switch(group, leaders, version, hooks)
        else:
            front.switch(group, colour, leaders, version, hooks)
        return group.ready, group, manifest

    def _front(self, name: str, planned: Planned, place: Place) -> InferenceService | ModelRoute:
        service, stack = planned.service, pulumi.get_stack()
        if service.workload == "fleet":
            from components.serving.ray_cluster_fleet import head_selector, member_selector

            heads, members = head_selector(name), member_selector(name)
        else:
            heads, members = leader_selector(_group_name(name, planned)), group_selector(_group_name(name, planned))
        if _switches(planned):
            members = labels(stack, name)
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
                clients=self._clients(name, planned, place),
            )
            return InferenceService(name, args, self.opts, switches=_switches(planned))
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
        return ModelRoute(name, route, opts, switches=_switches(planned))

    def _clients(self, name: str, planned: Planned, place: Place) -> list[dict[str, Any]] | None:
        """The peers (of a NetworkPolicy) that reach a service without a gateway; None for everybody."""
        service, exposed = planned.service, place.service_annotations is not None
        if service.clients is None and self.api_key is None and not exposed:
            return None
        peers = [each.peer() for each in service.clients or ()] or [{"podSelector": {}}]
        if service.clients is None and exposed:
            # Clients of the load balancer may have any address; its allow-list decides who may call.
            peers.append({"ipBlock": {"cidr": "0.0.0.0/0"}})
        if service.clients is not None and service.verify_after_up:
            from components.serving.service_check import selector

            peers.append({"podSelector": {"matchLabels": selector(pulumi.get_stack(), name)}})
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
            colour=None,
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
            compiled=self._compiled(name, planned, place),
            readiness_probe=service.readiness_probe,
            extras=extras(service.pod),
        )

    def _compiled(self, name: str, planned: Planned, place: Place) -> CompileCache | None:
        """Where the service keeps its kernels; None if the stack file does not say."""
        kept, engine = planned.kernels, planned.service.engine
        if kept is None:
            return None
        image, gpu = pulled(engine.image, self.registry), planned.plan.request.gpu.name
        return CompileCache(
            node_path=kept.node_path,
            claim=kept.claim,
            variables=loaders.kernel_folders(engine.version),
            folder=compile_cache.folder(place.namespace, pulumi.get_stack(), name, image, engine.version, gpu),
        )

    def _group(
        self, name: str, planned: Planned, place: Place, pods: EnginePodsArgs, opts: pulumi.ResourceOptions
    ) -> tuple[pulumi.Output[str], pulumi.Resource, Manifest]:
        args = self._group_args(name, planned, place, pods)
        group = RayLwsGroup(name, args, opts, self.progress.group_hooks(), mounts=place.mounts)
        self._schedule(name, planned, place, group)
        self._scale(name, planned, args, group)
        return group.ready, group, leader_worker_set(name, args)

    def _scale(self, name: str, planned: Planned, args: RayLwsGroupArgs, group: pulumi.Resource) -> None:
        scaling = planned.service.autoscaling
        if scaling is None or scaling.engine == "aibrix":
            return
        from components.serving.group_autoscaler import GroupAutoscaler, GroupAutoscalerArgs, PrometheusAuth

        auth = scaling.prometheus_auth
        scaler = GroupAutoscalerArgs(
            stack=pulumi.get_stack(),
            namespace=args.pods.namespace,
            engine=scaling.engine,
            engine_version=planned.service.engine.version,
            target_name=args.object_name,
            minimum=scaling.minimum,
            maximum=scaling.maximum,
            target=scaling.target,
            cold_start_seconds=planned.startup_seconds,
            cooldown_seconds=scaling.cooldown_seconds,
            prometheus=scaling.prometheus,
            prometheus_auth=PrometheusAuth(auth.mode, auth.secret) if auth else None,
        )
        GroupAutoscaler(
            name, scaler, pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[group]))
        )

    def _group_args(self, name: str, planned: Planned, place: Place, pods: EnginePodsArgs) -> RayLwsGroupArgs:
        service, scaling = planned.service, planned.service.autoscaling
        routed = aibrix_features.model_labels(name, service.port) if service.gateway == "aibrix" else {}
        return RayLwsGroupArgs(
            pods=pods,
            replicas=service.first_replicas,
            lws_version=place.lws_version,
            launcher=service.engine.launcher,
            object_name=_group_name(name, planned),
            leader_labels=routed,
            startup_policy=service.startup_policy,
            restart_policy=service.restart_policy,
            scheduled=service.schedule is not None,
            scaled_to=scaling.maximum if scaling else None,
        )

    def _fleet(
        self, name: str, planned: Planned, place: Place, pods: EnginePodsArgs, opts: pulumi.ResourceOptions
    ) -> tuple[pulumi.Output[str], pulumi.Resource, Manifest]:
        from components.serving.ray_cluster_fleet import RayClusterFleet, fleet

        service, scaling = planned.service, planned.service.autoscaling
        args = self._fleet_args(planned, place, pods)
        made = RayClusterFleet(name, args, opts, self.progress.fleet_hooks(), mounts=place.mounts)
        self._schedule(name, planned, place, made)
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
            after = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[made]))
            PodAutoscaler(name, scaler, after)
        return made.ready, made, fleet(name, args)

    def _fleet_args(self, planned: Planned, place: Place, pods: EnginePodsArgs) -> RayClusterFleetArgs:
        from components.serving.ray_cluster_fleet import RayClusterFleetArgs

        service, scaling = planned.service, planned.service.autoscaling
        strategy = service.rollout.strategy
        return RayClusterFleetArgs(
            pods=pods,
            replicas=service.first_replicas,
            aibrix_version=place.aibrix_version,
            scaled_to=scaling.maximum if scaling else None,
            scheduled=service.schedule is not None,
            # What replaces a fleet that has no requests yet: there are no GPUs for three.
            strategy="Recreate" if strategy == "blueGreen" else strategy,
            max_surge=service.rollout.max_surge,
        )

    def _check(
        self,
        name: str,
        planned: Planned,
        place: Place,
        front: InferenceService | ModelRoute,
        served: pulumi.Resource,
        manifest: Manifest,
    ) -> None:
        """Asks for a completion once `served` is up, and again whenever `manifest`, the workload's, has changed."""
        from components.serving.service_check import ServiceCheck, ServiceCheckArgs

        service, pod = planned.service, extras(planned.service.pod)
        inside = f"http://{service_object(name)}.{place.namespace}.svc:{service.port}"
        args = ServiceCheckArgs(
            stack=pulumi.get_stack(),
            namespace=place.namespace,
            url=front.endpoint if service.gateway == "aibrix" else inside,
            model=service.served_model_name or name,
            key=SecretKey(front.secret_name, API_KEY) if front.secret_name else None,
            tags=service.reasoning_tags,
            served=manifest["spec"],
            image=pulled(fact("sync", "images", "python"), self.registry),
            pod_labels=place.cpu_pod_labels,
            # Where the engines may run, so may who asks them.
            spec={key: pod.spec[key] for key in _PLACED if key in pod.spec},
        )
        after = pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=[front, served]))
        ServiceCheck(name, args, after, self.progress.sync_hooks())

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


def _switches(planned: Planned) -> bool:
    return planned.service.rollout.strategy == "blueGreen"


def _group_name(name: str, planned: Planned) -> str:
    return group_object(name) if planned.service.gateway == "aibrix" else name
