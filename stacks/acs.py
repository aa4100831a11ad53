"""The program on Alibaba Cloud Container Compute Service: add-ons, bucket, weights, cache, and the models.

Each resource depends on what must exist before it; a destroy deletes in reverse order: groups, cache, volume, Secrets,
keys. The bucket stays if `keep` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from components.cluster.alicloud_provider import alicloud_provider
from components.cluster.cluster_addons import ClusterAddons, ClusterAddonsArgs
from components.cluster.credentials import KeyPair
from components.weights.fluid_cache import FluidCache, FluidCacheArgs
from components.weights.model_bucket import ModelBucket
from components.weights.model_volume import ModelVolume, ModelVolumeArgs
from config.clouds import AcsCloud
from config.plans import Planned
from config.stack import StackConfig, drops_cache, lws_release
from config.weights import BucketWeights, PvcWeights
from planning import timeouts
from planning.catalog import fact
from planning.names import model_object
from planning.startup import WARM
from planning.units import GIB
from stacks import addon_charts, engine_arguments
from stacks.cloud_stack import CloudStack, Store, Weights
from stacks.monitors import has_cloud_rules, monitor
from stacks.pod_section import extras
from stacks.serving import Network, Place
from watch.cache_state import CacheReader


def build(
    config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int]
) -> dict[str, pulumi.Input[Any]]:
    """Register the stack and return its outputs. `attempts` numbers the warm-up of each model's cache."""
    stack = _Stack(config, plans, attempts)
    sources = {model: stack.source(model, planned) for model, planned in stack.models().items()}
    endpoints = {name: stack.serve(name, planned, sources[planned.service.model]) for name, planned in plans.items()}
    monitor(config, plans, stack.on_cluster, stack.provider)
    return stack.outputs(endpoints)


class _Stack(CloudStack):
    """The parts that all models of a stack share."""

    def __init__(self, config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int]) -> None:
        assert isinstance(config.cloud, AcsCloud)
        self.cloud = config.cloud
        needed = isinstance(config.weights, BucketWeights) or has_cloud_rules(config)
        super().__init__(config, plans, alicloud_provider("cloud", self.cloud.region) if needed else None)
        self.look = CacheReader(config.cluster.context, self.namespace, self.kubeconfig)
        addons = ClusterAddonsArgs(stack=self.name, addons=addon_charts.wanted(config), kinds=self.kinds)
        self.addons = ClusterAddons("addons", addons, self.on_cluster)
        self.attempts = attempts

    def source(self, model: str, planned: Planned) -> Weights:
        """The model's weights: synced, then cached, mounted or streamed."""
        weights = self.config.weights
        if self.bucket is None or not isinstance(weights, BucketWeights):
            assert isinstance(weights, PvcWeights)
            return Weights(engine_arguments.from_volume(weights, model))
        name, prefix = model_object(model), engine_arguments.model_prefix(weights, model)
        labels, free = fact("clouds", "acs", "cpuPodLabels"), fact("clouds", "acs", "freeEphemeralGib")
        synced = self.sync(name, model, planned, scratch_gib=free, pod_labels=labels)
        if weights.read == "stream":
            assert isinstance(self.bucket.reader, KeyPair)
            store = Store("oss", self.bucket.bucket, self.bucket.endpoint, self.cloud.region, self.bucket.reader)
            streamed, secret = self.stream(name, model, store, synced)
            return Weights(streamed, (secret, *synced))
        if self.config.cache.engine == "fluid" and drops_cache(self.config, model):
            # Fluid's claim has the model's name; no pod mounts it until the cache is back.
            return Weights(engine_arguments.from_model_volume(weights, model, name), tuple(synced))
        if self.config.cache.engine == "fluid":
            cache = self._cache(name, planned, prefix, self.bucket, synced)
            return Weights(
                engine_arguments.from_model_volume(weights, model, cache.claim), (cache, *synced), cache.parts
            )
        volume = ModelVolume(
            name,
            ModelVolumeArgs(
                stack=self.name,
                namespace=self.namespace,
                bucket=self.bucket.bucket,
                endpoint=self.bucket.endpoint,
                prefix=prefix,
                key=self.bucket.reader,
                size_gib=-(-planned.plan.file_bytes // GIB),
            ),
            self.after(*synced),
        )
        return Weights(engine_arguments.from_model_volume(weights, model, volume.claim), (volume, *synced))

    def serve(self, name: str, planned: Planned, weights: Weights) -> pulumi.Output[str]:
        """The endpoint of one service."""
        place = Place(
            namespace=self.namespace,
            lws_version=lws_release(self.config),
            pod_labels=self._pod_labels(),
            node_selector=self._node_selector(),
            network=self._network(),
            service_annotations=self.load_balancer(planned),
            monitoring_namespace=self.config.monitoring.prometheus_namespace,
            cpu_pod_labels=fact("clouds", "acs", "cpuPodLabels"),
            after=(*weights.after, *self.addons.releases),
            mounts=weights.mounts,
        )
        return self.serving.serve(name, planned, weights.source, place)

    def _cache(
        self, name: str, planned: Planned, prefix: str, bucket: ModelBucket, synced: Sequence[pulumi.Resource]
    ) -> FluidCache:
        size = planned.plan.cache
        assert size is not None and isinstance(bucket.reader, KeyPair)
        return FluidCache(
            name,
            FluidCacheArgs(
                stack=self.name,
                namespace=self.namespace,
                bucket=bucket.bucket,
                endpoint=bucket.endpoint,
                prefix=prefix,
                key=bucket.reader,
                workers=size.workers,
                quota_gib=size.quota_gib,
                limit_gib=size.limit_gib,
                cpu=size.vcpu,
                high=size.high,
                low=size.low,
                ready_seconds=timeouts.CACHE_READY_SECONDS,
                load_seconds=timeouts.of_step(planned.plan.startup.seconds(WARM)),
                pod_labels=fact("clouds", "acs", "cpuPodLabels"),
                worker_annotations=fact("clouds", "acs", "serverlessAnnotation"),
                attempt=self.attempts.get(name, 1),
                extras=extras(self.config.cache.pod),
            ),
            self.after(*self.addons.releases, *synced),
            self.progress.load_hooks(),
            runtime_hooks=self.progress.runtime_hooks(),
            shortfall=self.look.shortfall(name, planned.plan.file_bytes),
        )

    def _pod_labels(self) -> dict[str, str]:
        cloud, labels = self.cloud, fact("clouds", "acs", "labels")
        pod_labels: dict[str, str] = {labels["class"]: cloud.compute_class, labels["qos"]: cloud.compute_qos}
        if cloud.compute_class == "gpu":
            pod_labels[labels["series"]] = cloud.gpu_series
        if cloud.rdma:
            pod_labels[fact("clouds", "acs", "rdma")["label"]] = "rdma"
        if self.config.cache.engine == "fluid":
            # Fluid's webhook mounts the cache by a sidecar in the pod: there is no node to mount it on.
            pod_labels[labels["fluidSidecar"]] = "acs"
        return pod_labels

    def _node_selector(self) -> dict[str, str]:
        """Reserved nodes have the GPU series as a label of the node; for class gpu it is a label of the pod."""
        cloud = self.cloud
        return {fact("clouds", "acs", "labels")["series"]: cloud.gpu_series} if cloud.compute_class == "gpu-hpn" else {}

    def _network(self) -> Network:
        rdma = fact("clouds", "acs", "rdmaNetwork") if self.cloud.rdma else {}
        return Network(env={**fact("clouds", "acs", "network"), **rdma})
