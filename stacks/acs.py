"""The program on Alibaba Cloud Container Compute Service: add-ons, bucket, weights, cache, and the models before them.

What must exist first is what a resource depends on, and a destroy runs that chain backwards: groups, cache, volume,
Secrets, keys. The bucket stays where `keep` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components.alicloud import alicloud_provider
from components.cluster_addons import ClusterAddons, ClusterAddonsArgs
from components.credentials import KeyPair, key_secret
from components.fluid_cache import FluidCache, FluidCacheArgs
from components.kubernetes import kubernetes_object, kubernetes_provider
from components.model_bucket import ModelBucket, ModelBucketArgs
from components.model_sync import ModelSync, ModelSyncArgs
from components.model_volume import ModelVolume, ModelVolumeArgs
from components.names import API_KEY, model_object
from planning import timeouts
from planning.catalog import fact
from planning.startup import FILL, WARM
from planning.units import GIB
from stacks import addons, engine
from stacks.cache_look import CacheLook
from stacks.clouds import AcsCloud, BucketWeights
from stacks.config import StackConfig, lws_release, repository
from stacks.plans import Planned
from stacks.progress import Progress
from stacks.refusals import NAMESPACE
from stacks.serving import Place, serve

# Longer than any sync takes, so that only what nobody will complete goes.
_ABORT_UPLOAD_DAYS = 7


def build(
    config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int]
) -> dict[str, pulumi.Input[Any]]:
    """Register the stack and return its outputs. `attempts` counts the warm-ups of each model's cache."""
    stack = _Stack(config, plans, attempts)
    sources = {model: stack.source(model, planned) for model, planned in stack.models().items()}
    endpoints = {name: stack.serve(name, planned, sources[planned.service.model]) for name, planned in plans.items()}
    outputs: dict[str, pulumi.Input[Any]] = {
        "endpoints": endpoints,
        "models": {name: planned.service.served_model_name or name for name, planned in plans.items()},
        "verify": f"python -m ops verify {pulumi.get_stack()}",
    }
    return outputs | ({"bucket": stack.bucket.bucket} if stack.bucket else {})


@dataclass(frozen=True)
class _Weights:
    """Where a model's weights are read, what has to outlive the groups that read them, and what these hold in place."""

    source: engine.Source
    after: tuple[pulumi.Resource, ...] = ()
    mounts: tuple[pulumi.Resource, ...] = ()


class _Stack:
    """The parts that every model of a stack shares."""

    def __init__(self, config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int]) -> None:
        assert isinstance(config.cloud, AcsCloud)
        self.config, self.plans, self.cloud = config, plans, config.cloud
        self.name, self.namespace = pulumi.get_stack(), config.cluster.namespace
        secrets = pulumi.Config(NAMESPACE)
        self.secrets, kubeconfig = secrets, secrets.get("kubeconfig")
        cluster = kubernetes_provider("cluster", config.cluster.context, secrets.get_secret("kubeconfig"))
        self.on_cluster = pulumi.ResourceOptions(provider=cluster)
        self.progress = Progress(config.cluster.context, self.namespace, kubeconfig)
        self.look = CacheLook(config.cluster.context, self.namespace, kubeconfig)
        self.addons = ClusterAddons(
            "addons", ClusterAddonsArgs(stack=self.name, addons=addons.wanted(config)), self.on_cluster
        )
        self.bucket = self._bucket() if isinstance(config.weights, BucketWeights) else None
        self.attempts = attempts

    def models(self) -> dict[str, Planned]:
        """Every model once, with the plan of the first service that serves it: services share volume and cache."""
        found: dict[str, Planned] = {}
        for planned in self.plans.values():
            found.setdefault(planned.service.model, planned)
        return found

    def source(self, model: str, planned: Planned) -> _Weights:
        """The model's weights: synced, and cached or mounted or streamed."""
        weights = self.config.weights
        if self.bucket is None or not isinstance(weights, BucketWeights):
            return _Weights(engine.from_volume(weights, model))
        name, prefix = model_object(model), engine.model_prefix(weights, model)
        synced = [self._sync(name, model, planned, self.bucket)] if weights.sync else []
        after = pulumi.ResourceOptions.merge(self.on_cluster, pulumi.ResourceOptions(depends_on=synced))
        if weights.read == "stream":
            secret = f"{name}-stream-key"
            key = self.bucket.reader
            made = kubernetes_object(
                secret,
                key_secret(
                    secret,
                    self.name,
                    self.namespace,
                    name,
                    {engine.STREAM_FIELDS["id"]: key.id, engine.STREAM_FIELDS["secret"]: key.secret},
                ),
                after,
            )
            streamed = engine.from_bucket(weights, model, self.bucket.bucket, self.bucket.endpoint, secret)
            return _Weights(streamed, (made, *synced))
        if self.config.cache.engine == "fluid":
            cache = self._cache(name, planned, prefix, self.bucket, synced)
            return _Weights(engine.from_model_volume(weights, model, cache.claim), (cache, *synced), cache.parts)
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
            after,
        )
        return _Weights(engine.from_model_volume(weights, model, volume.claim), (volume, *synced))

    def serve(self, name: str, planned: Planned, weights: _Weights) -> pulumi.Output[str]:
        """The endpoint of one service."""
        place = Place(
            namespace=self.namespace,
            lws_version=lws_release(self.config),
            pod_labels=self._pod_labels(),
            node_selector=self._node_selector(),
            env=self._network(),
            service_annotations=_load_balancer(planned),
            after=(*weights.after, *self.addons.releases),
            mounts=weights.mounts,
        )
        api_key = self.secrets.get_secret(API_KEY)
        return serve(name, planned, weights.source, place, api_key, self.progress.group_hooks(), self.on_cluster)

    def _bucket(self) -> ModelBucket:
        weights = self.config.weights
        assert isinstance(weights, BucketWeights)
        return ModelBucket(
            "weights",
            ModelBucketArgs(
                stack=self.name,
                bucket=weights.bucket.name,
                region=self.cloud.region,
                prefix=weights.prefix,
                create=weights.bucket.create,
                keep=weights.bucket.keep,
                reader=self._given("accessKey", "secretKey"),
                writer=self._given("syncAccessKey", "syncSecretKey"),
                writes=weights.sync is not None,
                abort_upload_days=_ABORT_UPLOAD_DAYS,
            ),
            pulumi.ResourceOptions(provider=alicloud_provider("cloud", self.cloud.region)),
        )

    def _given(self, key: str, secret: str) -> KeyPair | None:
        found = self.secrets.get_secret(key), self.secrets.get_secret(secret)
        return KeyPair(*found) if found[0] is not None and found[1] is not None else None

    def _sync(self, name: str, model: str, planned: Planned, bucket: ModelBucket) -> ModelSync:
        weights = self.config.weights
        assert isinstance(weights, BucketWeights) and weights.sync is not None and bucket.writer is not None
        sync = weights.sync
        return ModelSync(
            f"{name}-sync",
            ModelSyncArgs(
                stack=self.name,
                namespace=self.namespace,
                model=model,
                repository=repository(weights, model) or model,
                source=sync.from_,
                revision=sync.revision or "",
                bucket=bucket.bucket,
                endpoint=bucket.endpoint,
                prefix=engine.model_prefix(weights, model),
                key=bucket.writer,
                tool_image=sync.tool_image or fact("sync", "images", "rclone"),
                python_image=sync.python_image or fact("sync", "images", "python"),
                seconds=timeouts.of_step(planned.plan.startup.seconds(FILL)),
                scratch_gib=fact("clouds", "acs", "freeEphemeralGib"),
                pod_labels=fact("clouds", "acs", "cpuPodLabels"),
                token=self.secrets.get_secret("hubToken"),
            ),
            self.on_cluster,
            self.progress.sync_hooks(),
        )

    def _cache(
        self, name: str, planned: Planned, prefix: str, bucket: ModelBucket, synced: list[pulumi.Resource]
    ) -> FluidCache:
        size = planned.plan.cache
        assert size is not None
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
                file_bytes=planned.plan.file_bytes,
                pod_labels=fact("clouds", "acs", "cpuPodLabels"),
                worker_annotations=fact("clouds", "acs", "serverlessAnnotation"),
                attempt=self.attempts.get(name, 1),
            ),
            pulumi.ResourceOptions.merge(
                self.on_cluster, pulumi.ResourceOptions(depends_on=[*self.addons.releases, *synced])
            ),
            self.progress.load_hooks(),
            runtime_hooks=self.progress.runtime_hooks(),
            shortfall=self.look.shortfall(name, planned.plan.file_bytes),
        )

    def _pod_labels(self) -> dict[str, str]:
        cloud, labels = self.cloud, fact("clouds", "acs", "labels")
        found = {labels["class"]: cloud.compute_class, labels["qos"]: cloud.compute_qos}
        if cloud.compute_class == "gpu":
            found[labels["series"]] = cloud.gpu_series
        if cloud.rdma:
            found[labels["rdma"]] = "rdma"
        if self.config.cache.engine == "fluid":
            # Fluid's webhook puts the mount into the pod as a sidecar: there is no node to mount it on.
            found[labels["fluidSidecar"]] = "acs"
        return found

    def _node_selector(self) -> dict[str, str]:
        """Reserved nodes are chosen by their own label, where pods of the other class carry it themselves."""
        cloud = self.cloud
        return {fact("clouds", "acs", "labels")["series"]: cloud.gpu_series} if cloud.compute_class == "gpu-hpn" else {}

    def _network(self) -> dict[str, str]:
        rdma = fact("clouds", "acs", "rdmaNetwork") if self.cloud.rdma else {}
        return {**fact("clouds", "acs", "network"), **rdma}


def _load_balancer(planned: Planned) -> dict[str, str] | None:
    """Annotations of the Service for a load balancer, None for none."""
    expose, known = planned.service.expose, fact("clouds", "acs", "loadBalancer")
    if expose.to == "cluster":
        return None
    listed = {**known["allowList"], known["allowListId"]: expose.allow_list} if expose.allow_list else {}
    return {**known[expose.to], **listed}
