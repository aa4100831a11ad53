"""The engine's command line, environment and weights, from the stack file. Mount and argument use one path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pulumi

from components.cluster.credentials import KeyPair, SecretKey, key_secret
from components.cluster.kubernetes import Manifest
from config.plans import Planned
from config.services import Service
from config.weights import BucketWeights, NvmeWeights, PvcWeights
from planning import flags, loaders
from planning.catalog import fact
from planning.engine import release_key

if TYPE_CHECKING:
    from components.weights.pod_weights import PodWeights

_MOUNT = "/weights"
# Fields of the Secret with a streaming engine's key.
_STREAM_FIELDS = {"id": "accessKeyId", "secret": "accessKeySecret"}


@dataclass(frozen=True)
class Source:
    """Where an engine reads its weights: the argument that names them, and what the pods need for it."""

    argument: pulumi.Input[str]
    volumes: Sequence[Manifest] = ()
    mounts: Sequence[Manifest] = ()
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, SecretKey] = field(default_factory=dict)
    init_containers: Sequence[Manifest] = ()
    ephemeral_gib: int = 0


def model_prefix(weights: PvcWeights | BucketWeights | NvmeWeights, model: str) -> str:
    """The folder of a model's files below the root of volume or bucket, without a slash at either end."""
    return f"{weights.prefix}/{model}"


def from_volume(weights: PvcWeights, model: str, claim: pulumi.Input[str] | None = None) -> Source:
    """Weights on a claim that holds every model: the stack file's claim, or one whose name is known later."""
    return _mounted(f"{_MOUNT}/{model_prefix(weights, model)}", claim or weights.claim, _MOUNT)


def from_model_volume(weights: BucketWeights, model: str, claim: pulumi.Input[str]) -> Source:
    """Weights on a claim whose root is the model's own folder, as with a static volume or a cache."""
    path = f"{_MOUNT}/{model_prefix(weights, model)}"
    return _mounted(path, claim, path)


def from_bucket(
    weights: BucketWeights, model: str, bucket: pulumi.Input[str], endpoint: str, key_secret: str
) -> Source:
    """Weights that the engine streams from the bucket; the bucket's key is in a Secret."""
    names = fact("engines", "streamer", "variables")
    return Source(
        argument=pulumi.Output.concat("s3://", bucket, f"/{model_prefix(weights, model)}"),
        env={names["endpoint"]: endpoint if "://" in endpoint else f"https://{endpoint}", **names["fixed"]},
        secret_env={
            names["id"]: SecretKey(key_secret, _STREAM_FIELDS["id"]),
            names["secret"]: SecretKey(key_secret, _STREAM_FIELDS["secret"]),
        },
    )


def from_pods(weights: PodWeights) -> Source:
    """Weights that each pod fetches for itself."""
    return Source(
        argument=weights.argument,
        volumes=weights.volumes,
        mounts=weights.mounts,
        args=weights.args,
        env=weights.env,
        secret_env=weights.secret_env,
        init_containers=weights.init_containers,
        ephemeral_gib=weights.ephemeral_gib,
    )


def ephemeral_storage(service: Service, source: Source) -> str | None:
    """The temporary disk of each pod: the stack file's value, else what the weights need."""
    return service.resources.ephemeral_storage or (f"{source.ephemeral_gib}Gi" if source.ephemeral_gib else None)


def stream_key(name: str, stack: str, namespace: str, key: KeyPair) -> Manifest:
    """The Secret that `from_bucket` refers to, for the model called `name`."""
    values = {_STREAM_FIELDS["id"]: key.id, _STREAM_FIELDS["secret"]: key.secret}
    return key_secret(f"{name}-stream-key", stack, namespace, name, values)


def _mounted(path: str, claim: pulumi.Input[str], at: str) -> Source:
    return Source(
        argument=path,
        # No pod may change the weights.
        volumes=[{"name": "weights", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        mounts=[{"name": "weights", "mountPath": at, "readOnly": True}],
    )


def arguments(name: str, planned: Planned, source: Source) -> list[pulumi.Input[str]]:
    """The argument list of `vllm serve` for the service called `name`."""
    service, layout, engine = planned.service, planned.layout, planned.service.engine
    args = [
        source.argument,
        *source.args,
        *([] if planned.loader == loaders.DEFAULT else [loaders.FLAG, planned.loader]),
        "--served-model-name",
        service.served_model_name or name,
        "--port",
        str(service.port),
        "--tensor-parallel-size",
        str(layout.tensor),
        "--pipeline-parallel-size",
        str(layout.pipeline),
        "--max-model-len",
        str(planned.max_model_len),
    ]
    args += _data_parallel(planned)
    if layout.expert_parallel:
        args.append("--enable-expert-parallel")
    if layout.context > 1:
        args += ["--decode-context-parallel-size", str(layout.context)]
    if layout.nodes > 1 and (layout.data == 1 or layout.spans_nodes or engine.launcher == "ray"):
        # Always explicit: releases from 0.11.1 on no longer choose Ray by themselves.
        args += ["--distributed-executor-backend", fact("engines", "launchers", "executor")[engine.launcher]]
    if engine.gpu_memory_utilization:
        args += ["--gpu-memory-utilization", str(engine.gpu_memory_utilization)]
    return [*args, *_reasoning(service), *engine.extra_args]


def _data_parallel(planned: Planned) -> list[str]:
    """The launch script adds what differs between the pods of launcher native."""
    layout = planned.layout
    if layout.data == 1:
        return []
    args = ["--data-parallel-size", str(layout.data)]
    if layout.nodes > 1 and planned.service.engine.launcher == "ray":
        local = str(layout.gpus_per_node // layout.engine_gpus)
        args += ["--data-parallel-backend", "ray", "--data-parallel-size-local", local]
    return args


def several_servers(planned: Planned) -> bool:
    """Whether several processes may answer on the service's port: releases differ in how many they start."""
    engine = planned.service.engine
    asked = flags.number(flags.read(engine.extra_args, engine.version).get("--api-server-count"))
    return planned.layout.data > 1 if asked is None else asked > 1


def _reasoning(service: Service) -> list[str]:
    """Without a parser a reasoning model's thoughts end up in the answer's text."""
    if service.parser is None:
        return []
    switch = ["--enable-reasoning"] if flags.has("--enable-reasoning", service.engine.version) else []
    return [*switch, "--reasoning-parser", service.parser]


def environment(planned: Planned, source: Source) -> dict[str, str]:
    """Environment variables of the engine, the user's last."""
    engine, ready = planned.service.engine, fact("engines", "vllm", "readyTimeoutVariable")
    env: dict[str, Any] = dict(source.env)
    if release_key(engine.version) >= release_key(ready["since"]):
        env[ready["name"]] = str(planned.startup_seconds)
    return env | engine.env
