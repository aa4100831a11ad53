"""The program on Volcengine Kubernetes Engine: AIBrix, bucket, weights of four sources, fleets behind the gateway.

Each resource depends on what must exist before it, and a destroy follows that chain backwards: autoscalers, fleets,
routes, Secrets, the gateway, AIBrix, Envoy Gateway. CRDs and a retained bucket stay.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pulumi

from components.cluster.aibrix import Aibrix, AibrixArgs, kinds_addon, kinds_chart
from components.cluster.cluster_addons import ClusterAddons, ClusterAddonsArgs
from components.cluster.credentials import KeyPair, SecretKey
from components.cluster.kubernetes import KubernetesObject, Manifest
from components.cluster.volcengine_provider import volcengine_provider
from components.weights.bucket_weights import BucketWeightsArgs, from_bucket
from components.weights.disk_weights import DiskOrigin, DiskWeightsArgs, from_node_disk
from components.weights.hub_weights import HubWeightsArgs, from_hub
from components.weights.model_claim import ModelClaim, ModelClaimArgs
from components.weights.model_download import TOKEN, ModelDownload, ModelDownloadArgs, secret_name
from components.weights.model_sync import ClaimTarget
from config.clouds import VolcengineCloud
from config.errors import NAMESPACE, ConfigError
from config.plans import Planned
from config.stack import (
    StackConfig,
    aibrix_choice,
    aibrix_registry,
    aibrix_release,
    lws_release,
    own_bucket,
    repository,
)
from config.types import gibibytes
from config.weights import Bucket, BucketWeights, HuggingfaceWeights, NvmeWeights, PvcWeights
from planning.catalog import fact
from planning.names import API_KEY, model_object
from planning.problems import PlanError
from stacks import addon_charts, aibrix_files, engine_arguments
from stacks.cloud_stack import CloudStack, Store, Weights
from stacks.monitors import has_cloud_rules, monitor
from stacks.serving import Network, Place

_INSTANCE_TYPE = "node.kubernetes.io/instance-type"


def build(
    config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int]
) -> dict[str, pulumi.Input[Any]]:
    """Register the stack and return its outputs. Raises ConfigError, before it registers anything, if AIBrix's
    manifests cannot be had or do not contain an image that the stack file names."""
    documents = aibrix_files.documents(config)
    try:
        installing = _installation(config, plans, documents) if documents else None
    except PlanError as error:
        raise ConfigError(
            replace(problem, key=f"addons.aibrix.images.{problem.value}", value="") for problem in error.problems
        ) from None
    stack = _Stack(config, plans, installing)
    sources = {model: stack.source(model, planned) for model, planned in stack.models().items()}
    endpoints = {name: stack.serve(name, planned, sources[planned.service.model]) for name, planned in plans.items()}
    monitor(config, plans, stack.on_cluster, stack.provider)
    return stack.outputs(endpoints)


class _Stack(CloudStack):
    """The parts that every model of a stack shares."""

    def __init__(self, config: StackConfig, plans: Mapping[str, Planned], installing: AibrixArgs | None) -> None:
        assert isinstance(config.cloud, VolcengineCloud)
        self.cloud = config.cloud
        needed = own_bucket(config) is not None or has_cloud_rules(config)
        provider = volcengine_provider("cloud", self.cloud.region) if needed else None
        super().__init__(config, plans, provider)
        self.release = aibrix_release(config)
        listed = addon_charts.wanted(config)
        if installing is not None:
            listed.append(kinds_addon(installing, aibrix_files.chart(self.release, kinds_chart(installing))))
        addons = ClusterAddonsArgs(stack=self.name, addons=listed, kinds=self.kinds)
        self.addons = ClusterAddons("addons", addons, self.on_cluster)
        self.installed: list[pulumi.Resource] = list(self.addons.releases)
        self.gateway: pulumi.Output[str] | None = None
        if installing is not None:
            made = Aibrix("aibrix", installing, self.after(*self.addons.releases))
            self.installed += [*made.controllers, *made.parts]
            self.gateway = made.gateway.status.apply(_address)
        elif any(planned.service.gateway == "aibrix" for planned in plans.values()):
            self.gateway = self._found_gateway().status.apply(_address)

    def _found_gateway(self) -> KubernetesObject:
        """The gateway that already exists; the stack only reads it."""
        known = fact("aibrix", "gateway", "object")
        opts = pulumi.ResourceOptions(id=f"{known['namespace']}/{known['name']}")
        token = "kubernetes:gateway.networking.k8s.io/v1:Gateway"
        return KubernetesObject(token, "gateway", {"status": None}, pulumi.ResourceOptions.merge(self.on_cluster, opts))

    def source(self, model: str, planned: Planned) -> Weights:
        """The model's weights, from whichever of the four sources it uses."""
        weights, name = self.config.weights, model_object(model)
        if isinstance(weights, PvcWeights):
            return self._from_claim(weights, name, model, planned)
        if isinstance(weights, HuggingfaceWeights):
            return self._from_hub(weights, name, model, planned)
        synced = self.sync(name, model, planned, scratch_gib=fact("clouds", "volcengine", "syncScratchGib"))
        if isinstance(weights, NvmeWeights):
            return self._from_disk(weights, name, model, planned, synced)
        if weights.read == "stream":
            streamed, secret = self.stream(name, model, self._store(weights.bucket), synced)
            return Weights(streamed, (secret, *synced))
        return self._from_bucket(weights, name, model, planned, synced)

    def _from_claim(self, weights: PvcWeights, name: str, model: str, planned: Planned) -> Weights:
        after: list[pulumi.Resource] = []
        claim: pulumi.Input[str] = weights.claim
        if weights.create is not None:
            claim, after = self._claim.claim, [self._claim]
        if weights.sync is not None:
            after.append(self.job(name, model, planned, weights.sync, ClaimTarget(claim, user=0)))
        return Weights(engine_arguments.from_volume(weights, model, claim), tuple(after))

    @functools.cached_property
    def _claim(self) -> ModelClaim:
        """The one claim that the stack creates, shared by all of its models."""
        weights = self.config.weights
        assert isinstance(weights, PvcWeights) and weights.create is not None
        args = ModelClaimArgs(
            stack=self.name,
            namespace=self.namespace,
            size_gib=int(gibibytes(weights.create.size)),
            storage_class=weights.create.storage_class,
            access=weights.create.access_mode,
            readers=sum(plan.layout.nodes * max(plan.service.first_replicas, 1) for plan in self.plans.values()),
            keep=weights.create.keep,
        )
        return ModelClaim(weights.claim, args, self.on_cluster)

    def _from_hub(self, weights: HuggingfaceWeights, name: str, model: str, planned: Planned) -> Weights:
        token = self.secrets.get_secret("hubToken")
        args = ModelDownloadArgs(stack=self.name, namespace=self.namespace, token=token)
        keys = ModelDownload(name, args, self.on_cluster) if token is not None else None
        found = from_hub(
            HubWeightsArgs(
                repository=repository(self.config, weights.repositories, model) or model,
                file_bytes=planned.plan.file_bytes,
                revision=weights.revision or "",
                endpoint=weights.endpoint,
                token=SecretKey(secret_name(name), TOKEN) if keys else None,
            )
        )
        return Weights(engine_arguments.from_pods(found), (keys,) if keys else ())

    def _from_bucket(
        self, weights: BucketWeights, name: str, model: str, planned: Planned, synced: Sequence[pulumi.Resource]
    ) -> Weights:
        store, chosen = self._store(weights.bucket), weights.download
        keys = self._keys(name, store.key, program=chosen.node_path is not None)
        found = from_bucket(
            BucketWeightsArgs(
                version=self.release,
                scheme=store.scheme,
                bucket=store.bucket,
                prefix=engine_arguments.model_prefix(weights, model),
                model=engine_arguments.model_prefix(weights, model).rpartition("/")[2],
                endpoint=store.endpoint,
                region=store.region,
                key_secret=secret_name(name),
                file_bytes=planned.plan.file_bytes,
                suffixes=chosen.suffixes,
                threads=chosen.threads,
                registry=aibrix_registry(self.config),
                image=self.pulled(chosen.image) if chosen.image else None,
                host_path=chosen.node_path,
                python_image=self.pulled(planned.service.engine.image),
                program=keys.program_name,
            )
        )
        return Weights(engine_arguments.from_pods(found), (keys, *synced))

    def _from_disk(
        self, weights: NvmeWeights, name: str, model: str, planned: Planned, synced: Sequence[pulumi.Resource]
    ) -> Weights:
        store = self._store(weights.bucket) if weights.bucket else None
        keys = self._keys(name, store.key if store else None, program=True)
        assert keys.program_name is not None
        origin = None
        if store is not None:
            origin = DiskOrigin(
                bucket=store.bucket,
                prefix=engine_arguments.model_prefix(weights, model),
                endpoint=store.endpoint,
                key_secret=secret_name(name),
                tool_image=self.pulled(
                    (weights.sync.tool_image if weights.sync else None) or fact("sync", "images", "rclone")
                ),
                manifest=weights.sync is not None,
            )
        args = DiskWeightsArgs(
            host_path=weights.path,
            model=model,
            python_image=self.pulled(planned.service.engine.image),
            program=keys.program_name,
            origin=origin,
        )
        return Weights(engine_arguments.from_pods(from_node_disk(args)), (keys, *synced))

    def _keys(self, name: str, key: KeyPair | None, *, program: bool) -> ModelDownload:
        args = ModelDownloadArgs(stack=self.name, namespace=self.namespace, key=key, program=program)
        return ModelDownload(name, args, self.on_cluster)

    def _store(self, bucket: Bucket) -> Store:
        """How pods reach the bucket: the stack's own, or somebody else's with the key that was given."""
        if self.bucket is not None:
            assert isinstance(self.bucket.reader, KeyPair)
            return Store("tos", self.bucket.bucket, self.bucket.endpoint, self.cloud.region, self.bucket.reader)
        known, key = fact("weights", "foreign", bucket.store or ""), self.given("accessKey", "secretKey")
        assert key is not None
        region = bucket.region or known["region"]
        return Store("s3", bucket.name, bucket.endpoint or known["endpoint"].format(region=region), region, key)

    def serve(self, name: str, planned: Planned, weights: Weights) -> pulumi.Output[str]:
        """The endpoint of one service."""
        place = Place(
            namespace=self.namespace,
            lws_version=lws_release(self.config),
            aibrix_version=self.release,
            node_selector={_INSTANCE_TYPE: self.cloud.instance_type},
            service_annotations=self.load_balancer(planned),
            gateway=self.gateway,
            monitoring_namespace=self.config.monitoring.prometheus_namespace,
            after=(*weights.after, *self.installed),
            mounts=weights.mounts,
            network=self._network(planned.layout.gpus_per_node),
        )
        return self.serving.serve(name, planned, weights.source, place)

    def _network(self, gpus: int) -> Network:
        """With RDMA, each pod gets one device per GPU and may pin memory."""
        plain = fact("clouds", "volcengine", "network")
        if not self.cloud.rdma:
            return Network(env={**plain, **fact("clouds", "volcengine", "noRdma")})
        known, devices = fact("clouds", "volcengine", "rdma"), self.cloud.rdma_devices or gpus
        hca = ",".join(known["device"].format(number=number) for number in range(1, devices + 1))
        return Network(
            pod_annotations={known["annotation"]: json.dumps([known["network"]] * devices)},
            extra_resources={known["resource"]: str(devices)},
            capabilities=known["capabilities"],
            env={**plain, **known["env"], "NCCL_IB_HCA": hca},
        )


def _installation(
    config: StackConfig, plans: Mapping[str, Planned], documents: Mapping[str, Sequence[Manifest]]
) -> AibrixArgs:
    chosen = aibrix_choice(config)
    return AibrixArgs(
        stack=pulumi.get_stack(),
        version=aibrix_release(config),
        documents=documents,
        request_seconds=max(planned.service.routing.request_seconds for planned in plans.values()),
        drain_seconds=max(planned.drain_seconds for planned in plans.values()),
        replicas=chosen.gateway_replicas,
        api_key=pulumi.Config(NAMESPACE).get_secret(API_KEY),
        registry=aibrix_registry(config),
        images=chosen.images,
        service_annotations=fact("clouds", "volcengine", "loadBalancer")[chosen.address],
        kuberay=chosen.kuberay,
    )


def _address(status: Mapping[str, Any]) -> str:
    return status["addresses"][0]["value"]
