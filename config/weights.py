"""The stack file's sections on weights: where they come from, how they get there, and what caches them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from config.abilities import CLOUDS, Abilities
from config.clouds import context_of
from config.errors import refuse, rule
from config.pods import CachePod, SyncPod
from config.strict import Strict
from config.types import (
    AUTO,
    BinaryQuantity,
    ClaimName,
    Gbit,
    Image,
    NodePath,
    Positive,
    Region,
    RelativePath,
    Revision,
    StorageClass,
    Url,
    WholeGib,
    auto_schema,
    bucket_name,
    gibibytes,
    pattern,
)
from planning import origins
from planning.catalog import fact

# Kubernetes writes 1024Gi as 1Ti, and Fluid does not convert Ti for Jindo.
_TEBI = 1024
FOREIGN = ("s3", "gcs")
"""Stores of other clouds: their buckets can be read but not created or filled."""


def _can(info: ValidationInfo) -> Abilities | None:
    """What the file's cloud can do; None if the file names no known cloud."""
    return CLOUDS.get(context_of(info).cloud or "")


def _served_here(value: str, info: ValidationInfo) -> str:
    """The rule of every `source`: the cloud must have it."""
    can, cloud = _can(info), context_of(info).cloud
    if can and value not in can.sources:
        why = (
            "the rehearsal's local stack has no cloud with buckets"
            if cloud == "local"
            else f"{cloud} has no such source"
        )
        others = "pvc, or another cloud.kind" if cloud == "local" else " or ".join(can.sources)
        raise rule(value, why, f"write {others}")
    return value


def _have_owners(value: dict[str, str]) -> dict[str, str]:
    refuse(
        *[(f".{model}", name, *wrong) for model, name in value.items() if (wrong := origins.repository_problem(name))]
    )
    return value


Repositories = Annotated[dict[str, Annotated[str, pattern(r"[^\s/]+/[^\s/]+")]], AfterValidator(_have_owners)]


class ClaimToMake(Strict):
    """A claim that the stack creates."""

    storage_class: StorageClass = Field(description="the storage class, one whose volumes many nodes can mount")
    size: WholeGib = Field(description="the volume's size, such as 2Ti; it holds every model of the stack")
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = Field(
        "ReadWriteMany", description="how nodes may mount it; ReadWriteOnce is for one node"
    )
    keep: bool = Field(True, description="true protects the claim: a destroy leaves it, and its weights, in place")


class Bucket(Strict):
    """The bucket with the weights."""

    store: Literal["oss", "tos", "s3", "gcs"] | None = Field(
        None, validate_default=True, description="whose bucket it is; the cloud's own if absent"
    )
    name: str = Field(description="the bucket's name, unique in the whole cloud")
    region: Region | None = Field(None, description="the bucket's region, if it is not the cloud section's")
    endpoint: Url | None = Field(None, description="the https URL of an S3 store, if it is not the usual one")
    create: bool = Field(True, description="true if this stack creates the bucket, false if it exists")
    keep: bool = Field(True, description="true protects the bucket: a destroy leaves it, and its weights, in place")
    auth: Literal["rrsa", "key"] | None = Field(
        None,
        description="how pods prove who they are: rrsa is a role, for an hour each time; key an access key; rrsa where "
        "cluster.oidc is given and the reader takes roles, if absent",
    )
    keys: tuple[Positive, ...] = Field(
        (1,),
        strict=False,
        min_length=1,
        max_length=2,
        description="a list of the generations of access keys that there are, the one in use first; "
        "`python -m ops rotate` writes it",
    )

    @field_validator("store")
    @classmethod
    def _the_cloud_reads_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        stores = can.stores if (can := _can(info)) else ()
        clouds_own = stores[0] if stores else None
        if value is None or clouds_own is None:
            return clouds_own
        if value not in stores:
            raise rule(
                value, f"{context_of(info).cloud} reads only its own buckets", f"write {clouds_own}, or leave it out"
            )
        if value != clouds_own and "accessKey" not in context_of(info).secrets:
            why = "the stack cannot create a user there, and there is no access key"
            raise rule(value, why, "run: pulumi config set --secret modelserve:accessKey, and secretKey")
        return value

    @field_validator("name")
    @classmethod
    def _the_store_takes_it(cls, value: str, info: ValidationInfo) -> str:
        # If the store is refused, its rules for names are unknown; but no store takes a URL.
        judged = "store" in info.data or "://" in value
        return bucket_name(value, info.data.get("store")) if judged else value

    @field_validator("region")
    @classmethod
    def _foreign_stores_have_theirs(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("store", FOREIGN[0]) not in FOREIGN:
            raise rule(value, "the cloud's own bucket is in the cloud's region", "leave it out")
        return value

    @field_validator("endpoint")
    @classmethod
    def _own_stores_have_the_clouds(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("store", FOREIGN[0]) not in FOREIGN:
            raise rule(value, "the cloud's own bucket has the cloud's endpoint", "leave it out")
        return value

    @field_validator("create")
    @classmethod
    def _only_its_own_are_made(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("store") in FOREIGN:
            raise rule(value, f"this cloud cannot create a bucket in {info.data['store']}", "write false")
        return value

    @field_validator("auth")
    @classmethod
    def _the_cloud_knows_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        store, can = info.data.get("store"), _can(info)
        if value != "rrsa" or can is None:
            return value
        if store in FOREIGN:
            raise rule(value, f"{store} is another cloud's, which gives this cluster's pods no role", "write key")
        if value not in can.auths:
            raise rule(value, f"pods take no roles on {context_of(info).cloud}", "write key")
        return value

    @field_validator("auth")
    @classmethod
    def _says_something(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Where nobody vouches for pods, `key` says no more than its absence.
        return None if value == "key" and not context_of(info).oidc else value

    @field_validator("keys")
    @classmethod
    def _are_different(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise rule(str(list(value)), "names one generation twice", "write each once")
        return value

    @field_validator("keep")
    @classmethod
    def _only_what_is_made_goes(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and info.data.get("create") is False:
            raise rule(value, "create is false, so the bucket stays anyway", "leave it out")
        return value


class Sync(Strict):
    """How the bucket is filled, once."""

    from_: Annotated[str, pattern(f"{'|'.join(origins.HUBS)}|{origins.URL}")] = Field(
        alias="from", description="modelscope, huggingface, or the https URL of a mirror that speaks Hugging Face's API"
    )
    revision: Revision | None = Field(None, description="branch, tag or commit; the hub's main branch if absent")
    repositories: Repositories = Field(
        {}, description="a map of model to repository with owner, for models whose owner the catalog does not know"
    )
    gbit_per_second: Gbit | None = Field(None, description="the rate from the hub into the bucket, in Gbit/s")
    tool_image: Image | None = Field(None, description="an image with rclone, such as your mirror of it")
    python_image: Image | None = Field(None, description="an image with Python, such as your mirror of it")
    pod: SyncPod | None = Field(None, description="a map of what your cluster requires of the Job's pods")

    @field_validator("from_")
    @classmethod
    def _is_a_hub(cls, value: str) -> str:
        if wrong := origins.hub_problem(value):
            raise rule("" if "@" in value else value, *wrong)
        return value


_Loader = Annotated[Literal["default", "runai_streamer", "fastsafetensors", "instanttensor"] | None, AUTO]


def _loader() -> Any:
    return Field(
        None,
        description="what loads them into the GPUs; auto is the engine's default, or runai_streamer where it streams",
        json_schema_extra=auto_schema,
    )


class PvcWeights(Strict):
    """Weights on a volume."""

    source: Literal["pvc"] = Field(description="where weights come from: pvc is a claim")
    create: ClaimToMake | None = Field(
        None, description="a map with storageClass and size; if absent, the claim exists"
    )
    claim: ClaimName = Field(description="the name of the PersistentVolumeClaim that holds the weights")
    prefix: RelativePath = Field("models", description="the folder that holds one folder per model")
    sync: Sync | None = Field(
        None, validate_default=True, description="a map with from: what fills the volume; if absent, it is full"
    )
    gbit_per_second: Gbit | None = Field(
        None, description="what all nodes together may read, in Gbit/s; a usual quota is taken if absent"
    )
    loader: _Loader = _loader()

    _source = field_validator("source")(_served_here)

    @field_validator("create")
    @classmethod
    def _the_cloud_makes_it(cls, value: ClaimToMake | None, info: ValidationInfo) -> ClaimToMake | None:
        can = _can(info)
        if value is not None and can and "pvc" not in can.made:
            why = f"a stack on {context_of(info).cloud} creates no claim"
            raise rule("", why, "leave it out, and create the claim yourself")
        return value

    @field_validator("claim")
    @classmethod
    def _a_label_holds_it(cls, value: str, info: ValidationInfo) -> str:
        most = fact("kubernetes", "names", "label")["limit"]
        if info.data.get("create") is not None and len(value) > most:
            raise rule(
                value,
                f"has {len(value)} characters, and the stack puts it into labels",
                f"write at most {most}",
            )
        return value

    @field_validator("sync")
    @classmethod
    def _the_cloud_fills_it(cls, value: Sync | None, info: ValidationInfo) -> Sync | None:
        can = _can(info)
        if value is not None and can and "pvc" not in can.filled:
            instead = "leave it out, or write source: bucket" if can.filled else "leave it out"
            raise rule("", f"{context_of(info).cloud} fills {'buckets only' if can.filled else 'nothing'}", instead)
        if value is None and info.data.get("create") is not None:
            raise rule("", "is missing, and a claim that the stack creates is empty", "write a map with from")
        return value


class Download(Strict):
    """How each pod copies its weights before the engine starts."""

    threads: Positive = Field(16, description="the number of parallel downloads of a pod")
    suffixes: tuple[Annotated[str, pattern(origins.SUFFIX)], ...] = Field(
        ("json", "safetensors", "py"), strict=False, min_length=1, description="a list of the file endings to copy"
    )
    node_path: NodePath | None = Field(
        None, description="a folder on a mounted disk of the node that keeps the files; the pod's scratch if absent"
    )
    image: Image | None = Field(None, description="the downloader's image, such as your mirror of it")

    @field_validator("suffixes")
    @classmethod
    def _end_names_of_files(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        judged = [(f"[{i}]", suffix, origins.suffix_problem(suffix)) for i, suffix in enumerate(value)]
        refuse(*[(below, suffix, *wrong) for below, suffix, wrong in judged if wrong])
        return value


class BucketWeights(Strict):
    """Weights in a bucket."""

    source: Literal["bucket"] = Field(description="where weights come from: bucket is one of the cloud")
    bucket: Bucket = Field(description="a map with name")
    prefix: RelativePath = Field("models", description="the key prefix that holds one folder per model")
    read: Annotated[Literal["volume", "stream", "download"] | None, AUTO] = Field(
        None,
        validate_default=True,
        description="volume mounts the bucket or its cache; stream lets vLLM read the bucket itself; "
        "download copies it to each pod first; auto for the cloud's usual way",
        json_schema_extra=auto_schema,
    )
    download: Download = Field(Download.model_construct(), description="a map for read: download")
    sync: Sync | None = Field(None, description="a map with from; if absent, the bucket must already be filled")
    gbit_per_second: Gbit | None = Field(
        None, description="what all nodes together may read, in Gbit/s; the region's quota if absent"
    )
    loader: _Loader = _loader()

    _source = field_validator("source")(_served_here)

    @field_validator("read")
    @classmethod
    def _the_cloud_has_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        ways = can.reads if (can := _can(info)) else ()
        if value is None or not ways:
            return value or (ways[0] if ways else None)
        if value not in ways:
            raise rule(value, f"{context_of(info).cloud} cannot read so", f"write {' or '.join(ways)}")
        return value

    @field_validator("download")
    @classmethod
    def _something_is_downloaded(cls, value: Download, info: ValidationInfo) -> Download:
        can = _can(info)
        if can and info.data.get("read", "download") != "download":
            instead = "leave it out" + (", or write read: download" if "download" in can.reads else "")
            raise rule("", f"nothing is copied to the pods: read is {info.data['read']}", instead)
        return value


class HuggingfaceWeights(Strict):
    """Weights that each pod's engine downloads from the hub."""

    source: Literal["huggingface"] = Field(description="where weights come from: huggingface is the hub itself")
    endpoint: Url = Field("https://huggingface.co", description="the hub's https URL, or a mirror's")
    revision: Revision | None = Field(None, description="branch, tag or commit; the hub's main branch if absent")
    repositories: Repositories = Field(
        {}, description="a map of model to repository with owner, for models whose owner the catalog does not know"
    )
    gbit_per_second: Gbit | None = Field(None, description="what all nodes together get from the hub, in Gbit/s")
    loader: _Loader = _loader()

    _source = field_validator("source")(_served_here)


class NvmeWeights(Strict):
    """Weights on each node's own disk."""

    source: Literal["nvme"] = Field(description="where weights come from: nvme is a disk of each node")
    path: NodePath = Field(description="a folder on the mounted disk, such as /mnt/nvme0/models")
    bucket: Bucket | None = Field(None, description="a map with name: what fills the disks; if absent, they are full")
    prefix: RelativePath = Field("models", description="the key prefix in the bucket that holds one folder per model")
    sync: Sync | None = Field(None, description="a map with from: what fills the bucket")
    gbit_per_second: Gbit | None = Field(
        None, description="what all nodes together may read from the bucket, in Gbit/s; the quota if absent"
    )
    loader: _Loader = _loader()

    _source = field_validator("source")(_served_here)

    @field_validator("prefix", "sync", "gbit_per_second")
    @classmethod
    def _is_of_a_bucket(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("bucket", ...) is None:
            why = "there is no bucket to fill" if info.field_name == "sync" else "there is no bucket to read"
            raise rule("" if info.field_name == "sync" else value, why, "write weights.bucket, or leave it out")
        return value


Weights = Annotated[PvcWeights | BucketWeights | HuggingfaceWeights | NvmeWeights, Field(discriminator="source")]


class CompileCache(Strict):
    """Where engines keep the kernels that they compile, so that a restart need not compile them again."""

    node_path: NodePath | None = Field(None, description="a folder on a disk of every node, such as /mnt/nvme0/kernels")
    claim: ClaimName | None = Field(
        None,
        validate_default=True,
        description="the name of an existing PersistentVolumeClaim; ReadWriteMany, unless one pod alone mounts it",
    )

    @field_validator("node_path")
    @classmethod
    def _pods_have_a_node(cls, value: str | None, info: ValidationInfo) -> str | None:
        can = _can(info)
        if value is not None and can and not can.node_disks:
            raise rule(value, f"pods of {context_of(info).cloud} have no node whose disk they could use", "write claim")
        return value

    @field_validator("claim")
    @classmethod
    def _is_one_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "node_path" not in info.data:
            return value
        node = info.data["node_path"]
        if value is None and node is None:
            raise rule("", "is missing, and so is nodePath", "write one of them")
        if value is not None and node is not None:
            raise rule(value, f"nodePath {node} is another place for the same", "leave one out")
        if value is not None and value == context_of(info).weights.get("claim"):
            raise rule(value, "no pod of an engine may write to the weights", "write another claim")
        return value


class Cache(Strict):
    """The cache that keeps weights near the nodes while the stack is up, and what is kept of engines."""

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
    memory: WholeGib | None = Field(None, description="memory of each worker, such as 128Gi")
    quota: BinaryQuantity | None = Field(None, description="what each worker may hold of the weights, such as 120Gi")
    high: float | None = Field(None, gt=0, le=1, description="the fill level at which eviction starts, between 0 and 1")
    low: float | None = Field(None, gt=0, le=1, description="the fill level at which eviction stops, below high")
    while_paused: Literal["keep", "drop"] = Field(
        "keep", description="what becomes of a model's cache while replicas is 0 in all its services: keep, or drop"
    )
    pod: CachePod | None = Field(None, description="a map of what your cluster requires of the cache's pods")
    compile: CompileCache | None = Field(
        None, description="a map with claim or nodePath: where compiled kernels are kept; with the pod if absent"
    )

    @field_validator("engine")
    @classmethod
    def _the_cloud_has_it(cls, value: str, info: ValidationInfo) -> str:
        can = _can(info)
        if can and value not in can.caches:
            there = " and ".join(kind for kind, other in CLOUDS.items() if value in other.caches)
            raise rule(value, f"only {there} has it", "write none")
        weights = context_of(info).weights
        if value == "fluid" and (
            weights.get("source") in ("pvc", "huggingface", "nvme") or weights.get("read") == "stream"
        ):
            streams = weights.get("read") == "stream"
            why = (
                "vLLM streams weights from the bucket itself"
                if streams
                else "it caches a bucket, and weights are on a claim"
            )
            raise rule(value, why, "write none")
        return value

    @field_validator("*")
    @classmethod
    def _there_is_a_cache(cls, value: Any, info: ValidationInfo) -> Any:
        # `auto` means the same as no key.
        asked = info.field_name not in ("engine", "compile") and value is not None
        if asked and info.data.get("engine") == "none":
            can = _can(info)
            instead = "leave it out" + (", or write engine: fluid" if can and "fluid" in can.caches else "")
            shown = "" if isinstance(value, CachePod) else value
            raise rule(shown, "nothing is cached: cache.engine is none", instead)
        return value

    @field_validator("quota")
    @classmethod
    def _quota_leaves_room(cls, value: str | None, info: ValidationInfo) -> str | None:
        can, cloud = _can(info), context_of(info).cloud
        if value is None or can is None or cloud is None or "fluid" not in can.caches:
            return value
        memory = info.data.get("memory", "") or f"{fact('clouds', cloud, 'cacheWorker')['memoryGib']}Gi"
        most = int(gibibytes(memory) * fact("startup", "cache", "quotaOfLimit"))
        if not value.endswith("Gi") or int(value[:-2]) % _TEBI == 0:
            raise rule(
                value,
                "Kubernetes would write it as Ti, and Fluid converts only Gi for Jindo",
                f"write whole Gi that are not a multiple of {_TEBI}, such as {most}Gi",
                f"{most}Gi",
            )
        if "memory" not in info.data:
            return value
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
        if value is not None and "high" in info.data and value >= high:
            raise rule(value, f"eviction starts at {high:g} and must end below it", f"write less than {high:g}")
        return value
