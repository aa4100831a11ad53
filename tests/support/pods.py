"""Arguments for an engine's pods, and helpers that read their templates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

from components.cluster.credentials import SecretKey
from components.cluster.pod_extras import NOTHING
from components.serving.engine_pods import EnginePodsArgs
from components.serving.ray_cluster_fleet import RayClusterFleetArgs
from components.serving.ray_lws_group import RayLwsGroupArgs

PODS = EnginePodsArgs(
    stack="test",
    namespace="default",
    colour=None,
    image="vllm/vllm-openai:v0.7.3",
    engine_args=["/weights/models/DeepSeek-R1", "--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"],
    nodes=2,
    gpus_per_node=8,
    data=1,
    several_servers=False,
    tensor=8,
    pipeline=2,
    cpu=64,
    memory="512Gi",
    shm="32Gi",
    ephemeral_storage=None,
    startup_seconds=1200,
    weights_seconds=0,
    drain_seconds=300,
    drains_itself=False,
    port=8000,
    routes=["GET /health", "POST /v1/chat/completions"],
    metrics_need_key=False,
    readiness_probe=True,
    extra_resources={},
    capabilities=(),
    env={},
    secret_env={},
    volumes=(),
    volume_mounts=(),
    init_containers=(),
    pod_labels={},
    pod_annotations={},
    node_selector={},
    api_key_secret=None,
    api_key_revision=None,
    compiled=None,
    extras=NOTHING,
)
"""A replica of two pods to which nobody adds anything."""

ADDITIONS: dict[str, Any] = {
    "port": 9000,
    "ephemeral_storage": "800Gi",
    "extra_resources": {"vke.volcengine.com/rdma": "8"},
    "capabilities": ("IPC_LOCK",),
    "env": {"NCCL_IB_DISABLE": "0"},
    "secret_env": {"HF_TOKEN": SecretKey("hub", "token")},
    "volumes": [{"name": "models", "hostPath": {"path": "/mnt/nvme0/models", "type": "Directory"}}],
    "volume_mounts": [{"name": "models", "mountPath": "/models"}],
    "init_containers": [{"name": "init-model", "image": "aibrix/runtime:v0.7.0", "command": ["aibrix_download"]}],
    "pod_labels": {"team": "a"},
    "pod_annotations": {"k8s.volcengine.com/pod-networks": "[]"},
    "node_selector": {"pool": "h20"},
    "api_key_secret": "ds-api-key",
    "api_key_revision": "1",
}
"""What a cloud, a weight source and a user may add to `PODS`."""

WorkloadArgs = TypeVar("WorkloadArgs", RayLwsGroupArgs, RayClusterFleetArgs)
_OF_PODS = {field.name for field in fields(EnginePodsArgs)}


def having(args: WorkloadArgs, **changes: Any) -> WorkloadArgs:
    """The arguments with changes to the pods' or the workload's fields."""
    of_pods = {name: value for name, value in changes.items() if name in _OF_PODS}
    own = {name: value for name, value in changes.items() if name not in _OF_PODS}
    return replace(args, pods=replace(args.pods, **of_pods), **own)


def container_of(template: dict[str, Any]) -> dict[str, Any]:
    """The only container."""
    (only,) = template["spec"]["containers"]
    return only


def env_of(template: dict[str, Any]) -> dict[str, Any]:
    """The container's variables, each with its value or the source of its value."""
    entries = container_of(template)["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names), f"a variable twice: {names}"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf value with its path; named list elements appear in the path by name."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            name = below["name"] if isinstance(below, dict) and isinstance(value, list) else key
            yield from leaves(below, f"{path}/{name}")
    else:
        yield path, value


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The paths of the values that differ."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
