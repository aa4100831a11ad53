"""The stack file as types, and its rules. The one place for defaults.

`StackConfig` is plain and frozen; secrets are separate keys (`SECRETS`) that never enter it. Nothing here imports
Pulumi, so that a check of a stack file costs a fraction of a second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from components.names import API_KEY, service_object
from planning import flags
from planning.catalog import fact
from stacks.refusals import ConfigError, Refusal, from_pydantic, join, refuse, rule, shown, unknown_key
from stacks.values import (
    AUTO,
    BinaryQuantity,
    ClaimName,
    Day,
    ModelName,
    Namespace,
    PinnedImage,
    Positive,
    RelativePath,
    Release,
    auto_schema,
    gibibytes,
)

# Secret keys of the stack file, each with what it is. They are read as Pulumi secrets by the builder.
SECRETS = {
    API_KEY: "the key that clients send as a bearer token; without it the endpoint asks for none",
    "kubeconfig": "the cluster's kubeconfig, where it is not a file of the machine",
}

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PLACEHOLDER = re.compile(r"<[^<>]+>")
_GPUS_DEFAULT = 8
# Arguments that the program derives from other keys, and which key that is.
_OWNED_FLAGS = {
    "--served-model-name": "servedModelName",
    "--port": "port",
    "--model": "model",
    "--tensor-parallel-size": "layout.tensor",
    "-tp": "layout.tensor",
    "--pipeline-parallel-size": "layout.pipeline",
    "-pp": "layout.pipeline",
    "--data-parallel-size": "replicas",
    "-dp": "replicas",
    "--max-model-len": "maxModelLen",
    "--gpu-memory-utilization": "engine.gpuMemoryUtilization",
    "--distributed-executor-backend": "engine.launcher",
    "--api-key": "the secret modelserve:apiKey",
    "--host": "nothing: it listens on every address",
}


class Strict(BaseModel):
    """Base of every part of the stack file: no unknown key, no silent conversion, no change afterwards.

    Rules that join fields are validators of the last field, reading `info.data`: they still run, and are said, when
    another field is wrong. Rules that depend on the cloud read its facts by `info.context["cloud"]`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class Cloud(Strict):
    """Where the stack runs."""

    kind: Literal["local"] = Field(description="the cloud: local is the rehearsal on this machine")
    gpu: str = Field(
        min_length=1,
        description="the GPU by its catalog name, such as H20-96, or NAME:GIB with the "
        "usable memory that the driver reports",
    )


class Cluster(Strict):
    """The Kubernetes cluster, which is there before the stack and stays after it."""

    context: str = Field(min_length=1, description="the kubeconfig's context, by name")
    namespace: Namespace = Field("default", description="an existing namespace that takes every object of the stack")


class Weights(Strict):
    """Where the engines read weights from. A model's files are in `<prefix>/<model>`."""

    source: Literal["pvc"] = Field(description="where weights come from")
    claim: ClaimName = Field(description="the name of an existing PersistentVolumeClaim that holds the weights")
    prefix: RelativePath = Field("models", description="the folder that holds one folder a model")
    gbit_per_second: float | None = Field(
        None, gt=0, description="what all nodes together may read, in Gbit/s; a usual quota is taken if absent"
    )


class Engine(Strict):
    """The inference engine in the image."""

    image: PinnedImage = Field(description="the image, by tag or digest")
    version: Release = Field(description="the vLLM release inside the image, in quotes")
    launcher: Literal["ray"] = Field("ray", description="what joins the nodes of one replica")
    image_has_ray: bool = Field(
        False, description="true where you put Ray into an image of a release that ships without it"
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, lt=1, description="the part of a GPU's memory that vLLM may use, between 0 and 1"
    )
    extra_args: tuple[str, ...] = Field((), strict=False, description="a list of further arguments of vllm serve")
    env: dict[str, str] = Field({}, description="a map of further environment variables, text to text")

    @field_validator("extra_args")
    @classmethod
    def _engine_knows_them_and_no_key_of_ours_says_them(
        cls, value: tuple[str, ...], info: ValidationInfo
    ) -> tuple[str, ...]:
        found = []
        for i, argument in enumerate(value):
            flag = argument.partition("=")[0].replace("_", "-")
            if flag in _OWNED_FLAGS:
                found.append((f"[{i}]", flag, "is set by the program from another key", f"use {_OWNED_FLAGS[flag]}"))
            elif "version" in info.data and (wrong := flags.problem(argument, info.data["version"])):
                found.append((f"[{i}]", argument, *wrong))
        refuse(*found)
        return value

    @field_validator("env")
    @classmethod
    def _sets_no_variable_of_ours(cls, value: dict[str, str]) -> dict[str, str]:
        ours = (*fact("engines", "vllm", "variablesWeSet"), "MODELSERVE_", "LWS_")
        refuse(
            *[
                (f".{name}", "", "is set by the program or LeaderWorkerSet", "leave it out")
                for name in value
                if name.startswith(ours)
            ]
        )
        return value


class Layout(Strict):
    """How one replica is cut over GPUs. tensor x pipeline = nodes x gpusPerNode."""

    nodes: Positive = Field(description="the number of nodes (pods) of one replica")
    gpus_per_node: Positive = Field(_GPUS_DEFAULT, description="the number of GPUs of each node")
    pipeline: Positive = Field(description="the pipeline parallel size: stages that split the layers")
    tensor: Positive = Field(description="the tensor parallel size: GPUs that split every layer")

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.nodes * self.gpus_per_node

    @field_validator("gpus_per_node")
    @classmethod
    def _a_pod_has_so_many(cls, value: int, info: ValidationInfo) -> int:
        cloud = info.context["cloud"]
        allowed = fact("clouds", cloud, "gpusPerPod")
        if value not in allowed:
            raise rule(value, f"{cloud} has no pod of {value} GPUs", f"write one of {', '.join(map(str, allowed))}")
        return value

    @field_validator("tensor")
    @classmethod
    def _ranks_fill_the_gpus(cls, tensor: int, info: ValidationInfo) -> int:
        if not {"nodes", "gpus_per_node", "pipeline"} <= info.data.keys():
            return tensor
        nodes, per_node, pipeline = (info.data[key] for key in ("nodes", "gpus_per_node", "pipeline"))
        ranks, gpus = tensor * pipeline, nodes * per_node
        if ranks != gpus:
            stages, rest = divmod(gpus, tensor)
            instead = f"write pipeline: {stages}" if not rest else f"write tensor: {per_node}, pipeline: {nodes}"
            raise rule(
                tensor,
                f"tensor {tensor} x pipeline {pipeline} = {ranks} ranks, but nodes {nodes} x "
                f"gpusPerNode {per_node} = {gpus} GPUs",
                f"{instead}, or change nodes",
            )
        return tensor


class Resources(Strict):
    """What each pod of a replica requests, which is also its limit."""

    cpu: Positive = Field(description="whole CPUs of each pod, such as 64")
    memory: BinaryQuantity = Field(description="memory of each pod, such as 512Gi")
    shm: BinaryQuantity = Field(
        "32Gi", validate_default=True, description="size of /dev/shm, such as 32Gi; it is part of memory"
    )
    ephemeral_storage: BinaryQuantity | None = Field(None, description="scratch disk of each pod, such as 30Gi")

    @field_validator("shm")
    @classmethod
    def _shm_is_part_of_memory(cls, value: str, info: ValidationInfo) -> str:
        memory = info.data.get("memory")
        if memory and gibibytes(value) >= gibibytes(memory):
            raise rule(value, f"/dev/shm is counted in the pod's memory of {memory}", "write less than memory")
        return value


class Service(Strict):
    """One model under one name."""

    model: ModelName = Field(description="the model's public repository name without its owner, such as DeepSeek-R1")
    served_model_name: str | None = Field(
        None, min_length=1, description="the model's name in requests; the service's name if absent"
    )
    engine: Engine = Field(description="a map with image and version")
    layout: Annotated[Layout | None, AUTO] = Field(
        None,
        description="a map with nodes, tensor and pipeline, or auto for the cheapest layout that fits",
        json_schema_extra=auto_schema,
    )
    resources: Resources = Field(description="a map with cpu and memory")
    startup_seconds: Positive | None = Field(
        None, description="seconds of a cold start, from pod to first answer, where you know better than the plan"
    )
    max_model_len: Annotated[Positive | None, AUTO] = Field(
        None,
        description="the longest context in tokens, or auto for the longest that fits",
        json_schema_extra=auto_schema,
    )
    unproven: bool = Field(False, description="true to deploy although the plan says that it does not fit")
    replicas: Annotated[int, Field(ge=0)] = Field(1, description="the number of copies of the model, 0 or more")
    port: Annotated[int, Field(gt=0, lt=65536)] = Field(8000, description="the port that serves HTTP, 1 to 65535")
    readiness_probe: bool = Field(True, description="true, unless something else decides when the leader is ready")
    startup_policy: Literal["LeaderCreated", "LeaderReady"] = Field(
        "LeaderCreated", description="when a group's workers are created"
    )
    restart_policy: Literal["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"] = Field(
        "RecreateGroupOnPodRestart", description="what the death of one pod does to its group"
    )
    pod_labels: dict[str, str] = Field({}, description="a map of further labels of every pod, text to text")
    pod_annotations: dict[str, str] = Field({}, description="a map of further annotations of every pod, text to text")

    @field_validator("port")
    @classmethod
    def _port_is_free(cls, value: int, info: ValidationInfo) -> int:
        cloud = info.context["cloud"]
        taken = {
            **{
                port: f"{cloud} reserves it for {what}" for port, what in fact("clouds", cloud, "reservedPorts").items()
            },
            **{port: f"the same pod uses it for {what}" for port, what in fact("engines", "ray", "ports").items()},
        }
        if str(value) in taken:
            raise rule(value, taken[str(value)], "write 8000")
        return value

    @field_validator("startup_policy")
    @classmethod
    def _group_can_start(cls, value: str, info: ValidationInfo) -> str:
        if value == "LeaderReady" and info.data.get("readiness_probe"):
            raise rule(
                value,
                "workers would wait for a leader whose readiness probe passes only when the workers have "
                "joined: a deadlock",
                "write LeaderCreated",
            )
        return value

    @field_validator("pod_labels", "pod_annotations")
    @classmethod
    def _owned_by_us(cls, value: dict[str, str]) -> dict[str, str]:
        owners = ("leaderworkerset.sigs.k8s.io/", "pulumi.com/", "modelserve.dev/", "app.kubernetes.io/")
        refuse(
            *[
                (f".{key}", given, "is set by the program or its controllers", "leave it out")
                for key, given in value.items()
                if key.startswith(owners)
            ]
        )
        return value


class Catalog(Strict):
    """Facts that the program's own catalog lacks or has wrong, under the names and in the shape it has them."""

    models: dict[str, dict[str, Any]] = Field({}, description="a map of models: name to facts")
    gpus: dict[str, dict[str, Any]] = Field({}, description="a map of GPUs: name to usableGib and link")


class Prices(Strict):
    """What things cost, and when that was read. Nothing is guessed: what is absent is unknown."""

    currency: str | None = Field(None, min_length=1, description="the currency of every price, such as CNY")
    per_gpu_hour: float | None = Field(None, description="the price of one GPU for an hour")
    per_gib_month: float | None = Field(None, description="the price of one GiB of weights kept for a month")
    as_of: Day | None = Field(None, description="the day the prices were read, such as 2026-11-01")


class StackConfig(Strict):
    """The whole stack file, without its secrets."""

    cloud: Cloud = Field(description="a map with kind")
    cluster: Cluster = Field(description="a map with context")
    weights: Weights = Field(description="a map with source")
    services: dict[str, Service] = Field(min_length=1, description="a map of services: name to model, engine, layout")
    catalog: Catalog = Field(Catalog(), description="a map with models and gpus")
    prices: Prices = Field(Prices(), description="a map with currency, perGpuHour and asOf")


def parse(raw: Mapping[str, Any], *, plain_secrets: Mapping[str, str] = {}) -> StackConfig:
    """The typed config of `raw` (top-level key without namespace -> decoded value, secrets left out).

    `plain_secrets` names secret keys that are not encrypted in the stack file. Raises ConfigError with every refusal.
    """
    refusals = [
        Refusal(
            key,
            "(plain text)",
            "a secret in plain text ends in the state file, the repository and logs",
            f"run: pulumi config set --secret modelserve:{key}",
        )
        for key in plain_secrets
    ]
    refusals += [unknown_key(key, raw[key], key, [*_top_level(), *SECRETS]) for key in raw if key not in _top_level()]
    refusals += _placeholders(raw)
    refusals += _names(raw.get("services"))
    config = None
    try:
        config = StackConfig.model_validate(
            {key: value for key, value in raw.items() if key in _top_level()}, context={"cloud": _cloud_kind(raw)}
        )
    except ValidationError as error:
        said = {refusal.path for refusal in refusals}
        refusals += [refusal for refusal in from_pydantic(error, StackConfig) if refusal.path not in said]
    if refusals or config is None:
        raise ConfigError(sorted(refusals))
    return config


def _cloud_kind(raw: Mapping[str, Any]) -> str:
    """The cloud whose facts judge the services; the first known one where the stack file names none."""
    known = get_args(Cloud.model_fields["kind"].annotation)
    cloud = raw.get("cloud")
    kind = cloud.get("kind") if isinstance(cloud, Mapping) else None
    return kind if kind in known else known[0]


def _top_level() -> list[str]:
    return [field.alias or name for name, field in StackConfig.model_fields.items()]


def _placeholders(value: object, path: tuple[object, ...] = ()) -> list[Refusal]:
    if isinstance(value, Mapping):
        return [found for key, below in value.items() for found in _placeholders(below, (*path, key))]
    if isinstance(value, list):
        return [found for i, below in enumerate(value) for found in _placeholders(below, (*path, i))]
    if isinstance(value, str) and _PLACEHOLDER.search(value):
        return [Refusal(join(path), shown(value), "is a placeholder that was left in", "write your own value")]
    return []


def _names(services: object) -> list[Refusal]:
    """Rules of the services' names. They run on raw input, so that other mistakes in a service do not hide them."""
    if not isinstance(services, Mapping):
        return []
    refusals = []
    for name, service in services.items():
        path, text = join(("services", name)), str(name)
        replicas = service.get("replicas", 1) if isinstance(service, Mapping) else 1
        limit = name_limit(replicas if isinstance(replicas, int) else 1)
        if not _DNS_1035.fullmatch(text):
            refusals.append(
                Refusal(
                    path,
                    shown(text),
                    "is not a DNS-1035 name, which LeaderWorkerSet asks for",
                    "write a lower-case letter, then lower-case letters, digits and '-'",
                )
            )
        if len(text) > limit:
            refusals.append(
                Refusal(
                    path,
                    shown(text),
                    f"has {len(text)} characters; the labels of its worker pods, built from it, would pass 63",
                    f"write at most {limit}",
                )
            )
        if text in {service_object(str(other)) for other in services}:
            refusals.append(
                Refusal(
                    path,
                    shown(text),
                    "is the name of another service's Kubernetes Service",
                    f"rename it or {text.removesuffix('-leader')}",
                )
            )
    return refusals


def name_limit(replicas: int) -> int:
    """The longest name of a service with so many replicas, in characters."""
    group = len(str(max(replicas - 1, 0)))
    return (
        fact("engines", "leaderWorkerSet", "nameLimit")
        - fact("engines", "leaderWorkerSet", "revisionHashLength")
        - len("-")
        - group
        - len("-")
    )
