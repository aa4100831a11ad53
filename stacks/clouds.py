"""The stack file's sections on the place: cloud, cluster, weights, cache, add-ons. Services: `stacks.services`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from planning.catalog import fact
from stacks.refusals import refuse, rule
from stacks.values import (
    AUTO,
    AddonRelease,
    BinaryQuantity,
    BucketName,
    ClaimName,
    Namespace,
    Positive,
    Region,
    RelativePath,
    Strict,
    auto_schema,
    gibibytes,
)

# Kubernetes writes 1024Gi as 1Ti, which Fluid does not convert for Jindo.
_TEBI = 1024


@dataclass(frozen=True)
class Surroundings:
    """What rules of one section need of others, read leniently from the raw file, so that they run whatever else is
    wrong. `cloud` is None where the file names no known one. `pods` are the shapes of the GPU series
    (`planning/catalog/clouds.json`), None where none are known.
    """

    cloud: str | None = None
    series: str | None = None
    pods: Mapping[str, Any] | None = None
    secrets: frozenset[str] = frozenset()
    lws: str | None = None
    more_pods: Mapping[str, Any] | None = None


class LocalCloud(Strict):
    """The rehearsal on this machine."""

    kind: Literal["local"] = Field(description="the cloud: local is the rehearsal on this machine")
    gpu: str = Field(
        min_length=1,
        description="the GPU by its catalog name, such as H20-96, or NAME:GIB with the "
        "usable memory that the driver reports",
    )

    @property
    def gpu_name(self) -> str:
        """The GPU as the planner looks it up."""
        return self.gpu


class AcsCloud(Strict):
    """Alibaba Cloud Container Compute Service."""

    kind: Literal["acs"] = Field(description="the cloud: acs is Alibaba Cloud Container Compute Service")
    region: Region = Field(description="the region of cluster and bucket, such as cn-hangzhou")
    compute_class: Literal["gpu", "gpu-hpn"] = Field(
        "gpu", description="the compute class of GPU pods; gpu-hpn runs on reserved nodes"
    )
    compute_qos: Literal["default", "best-effort"] = Field(
        "default", validate_default=True, description="the quality of service; best-effort pods may be evicted"
    )
    gpu_series: str = Field(min_length=1, description="the GPU series as ACS calls it, such as GU8TF")
    gpu: str | None = Field(
        None,
        min_length=1,
        description="the GPU by its catalog name or NAME:GIB, where the catalog does not know the series",
    )
    rdma: bool = Field(False, description="true for the RDMA network between the pods of a replica")

    @property
    def gpu_name(self) -> str:
        """The GPU as the planner looks it up: a series is an alias of one."""
        return self.gpu or self.gpu_series

    @field_validator("compute_qos")
    @classmethod
    def _reserved_nodes_are_not_evicted(cls, value: str, info: ValidationInfo) -> str:
        if value == "best-effort" and info.data.get("compute_class") == "gpu-hpn":
            raise rule(value, "gpu-hpn pods run on reserved nodes and have no other than default", "write default")
        return value

    @field_validator("gpu_series")
    @classmethod
    def _series_is_known(cls, value: str, info: ValidationInfo) -> str:
        known = {**fact("clouds", "acs", "gpuPods"), **(info.context.more_pods or {})}
        if value not in known:
            raise rule(
                value,
                "is a series that the catalog does not know",
                f"write one of {', '.join(known)}, or describe it in modelserve:catalog.gpuPods.{value}",
            )
        return value

    @field_validator("rdma")
    @classmethod
    def _series_has_rdma(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.context.pods and info.context.pods.get("rdma") is False:
            raise rule(value, f"series {info.data.get('gpu_series')} has no RDMA network", "write false")
        return value


Cloud = Annotated[LocalCloud | AcsCloud, Field(discriminator="kind")]


class Cluster(Strict):
    """The Kubernetes cluster, which is there before the stack and stays after it."""

    context: str = Field(min_length=1, description="the kubeconfig's context, by name")
    namespace: Namespace = Field("default", description="an existing namespace that takes every object of the stack")


class PvcWeights(Strict):
    """Weights on a volume that is there already."""

    source: Literal["pvc"] = Field(description="where weights come from: pvc is a claim that is there")
    claim: ClaimName = Field(description="the name of an existing PersistentVolumeClaim that holds the weights")
    prefix: RelativePath = Field("models", description="the folder that holds one folder a model")
    gbit_per_second: float | None = Field(
        None, gt=0, description="what all nodes together may read, in Gbit/s; a usual quota is taken if absent"
    )


class Bucket(Strict):
    """The bucket with the weights."""

    name: BucketName = Field(description="the bucket's name, of which the whole cloud has only one")
    create: bool = Field(True, description="true where this stack makes the bucket, false where it is there")
    keep: bool = Field(True, description="true protects the bucket: a destroy leaves it, and its weights, in place")


class Sync(Strict):
    """How the bucket is filled, once."""

    from_: str = Field(
        alias="from", description="modelscope, huggingface, or the https URL of a mirror that speaks Hugging Face's API"
    )
    revision: str | None = Field(
        None, min_length=1, description="branch, tag or commit; the hub's main branch if absent"
    )
    repositories: dict[str, str] = Field(
        {}, description="a map of model to repository with owner, for models whose owner the catalog does not know"
    )
    gbit_per_second: float | None = Field(
        None, gt=0, description="what the way from the hub into the bucket carries, in Gbit/s"
    )
    tool_image: str | None = Field(None, min_length=1, description="an image with rclone, such as your mirror of it")
    python_image: str | None = Field(None, min_length=1, description="an image with Python, such as your mirror of it")

    @field_validator("from_")
    @classmethod
    def _is_a_hub(cls, value: str) -> str:
        if value in ("modelscope", "huggingface") or re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
            return value
        raise rule(value, "is no hub", "write modelscope, huggingface or a mirror's URL")

    @field_validator("repositories")
    @classmethod
    def _have_owners(cls, value: dict[str, str]) -> dict[str, str]:
        refuse(
            *[
                (f".{model}", name, "is not owner/name", f"write one such as deepseek-ai/{model}")
                for model, name in value.items()
                if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)
            ]
        )
        return value


class BucketWeights(Strict):
    """Weights in a bucket of the cloud."""

    source: Literal["bucket"] = Field(description="where weights come from: bucket is one of the cloud")
    bucket: Bucket = Field(description="a map with name")
    prefix: RelativePath = Field("models", description="the key prefix that holds one folder a model")
    read: Literal["volume", "stream"] = Field(
        "volume", description="volume mounts the bucket or its cache; stream lets vLLM read the bucket itself"
    )
    sync: Sync | None = Field(None, description="a map with from; without it the bucket is taken as filled")
    gbit_per_second: float | None = Field(
        None, gt=0, description="what all nodes together may read, in Gbit/s; the region's quota if absent"
    )

    @field_validator("source")
    @classmethod
    def _the_cloud_has_buckets(cls, value: str, info: ValidationInfo) -> str:
        if info.context.cloud == "local":
            raise rule(value, "the rehearsal's local stack has no cloud with buckets", "write pvc, or cloud.kind: acs")
        return value


Weights = Annotated[PvcWeights | BucketWeights, Field(discriminator="source")]


class Cache(Strict):
    """What keeps weights near the nodes while the stack is up."""

    engine: Literal["fluid", "none"] = Field(
        "none", description="fluid keeps them in worker pods; none mounts the bucket"
    )
    workers: Annotated[Positive | None, AUTO] = Field(
        None,
        description="the number of cache workers, or auto for what the model needs",
        json_schema_extra=auto_schema,
    )
    cpu: Positive | None = Field(
        None, description="whole CPUs of each worker; the largest pod without a ticket if absent"
    )
    memory: BinaryQuantity | None = Field(None, description="memory of each worker, such as 128Gi")
    quota: BinaryQuantity | None = Field(None, description="what each worker may hold, such as 120Gi")
    high: float | None = Field(None, gt=0, le=1, description="the filling at which a worker evicts, between 0 and 1")
    low: float | None = Field(None, gt=0, le=1, description="the filling down to which it evicts, below high")

    @field_validator("engine")
    @classmethod
    def _the_cloud_has_it(cls, value: str, info: ValidationInfo) -> str:
        if value == "fluid" and info.context.cloud == "local":
            raise rule(value, "the rehearsal's local stack reads a volume that is there", "write none")
        return value

    @field_validator("quota")
    @classmethod
    def _quota_leaves_room(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return value
        memory = info.data.get("memory") or f"{fact('clouds', 'acs', 'cacheWorker')['memoryGib']}Gi"
        most = int(gibibytes(memory) * fact("startup", "cache", "quotaOfLimit"))
        if not value.endswith("Gi") or int(value[:-2]) % _TEBI == 0:
            raise rule(
                value,
                "Kubernetes would write it as Ti, and Fluid converts only Gi for Jindo",
                f"write whole Gi that are no multiple of {_TEBI}, such as {most}Gi",
            )
        if gibibytes(value) > most:
            raise rule(
                value,
                f"a worker of {memory} needs the rest for itself and the pod's overhead",
                f"write at most {most}Gi, or more memory",
            )
        return value

    @field_validator("low")
    @classmethod
    def _low_is_below_high(cls, value: float | None, info: ValidationInfo) -> float | None:
        high = info.data.get("high") or fact("startup", "cache", "highWatermark")
        if value is not None and value >= high:
            raise rule(value, f"eviction starts at {high:g} and must end below it", f"write less than {high:g}")
        return value


class AddonChoice(Strict):
    """One add-on of the cluster."""

    install: bool | Literal["adopt"] = Field(
        True,
        description="true installs its chart, false takes it as there, adopt takes over a release that is there",
    )
    version: AddonRelease | None = Field(
        None, description="the add-on's release, in quotes: the one to install, or the one that is there"
    )
    chart_version: str | None = Field(
        None, min_length=1, description="the chart's version, in quotes, where it is not the release's"
    )
    chart: str | None = Field(None, min_length=1, description="the chart: an oci:// or https:// URL, or a name in repo")
    repo: str | None = Field(None, min_length=1, description="the URL of the chart's repository")
    namespace: Namespace | None = Field(None, description="the namespace of the release")
    values: dict[str, Any] = Field({}, description="a map of further values of the chart")


class Addons(Strict):
    """What the cluster needs besides Kubernetes."""

    lws: AddonChoice | None = Field(None, description="a map for LeaderWorkerSet")
    fluid: AddonChoice | None = Field(None, description="a map for Fluid (ack-fluid on ACS)")
