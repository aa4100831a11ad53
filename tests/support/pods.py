"""Looks into the templates of pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.cluster.credentials import SecretKey

ADDITIONS: dict[str, Any] = {
    "port": 9000,
    "replicas": 3,
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
"""Arguments of an engine's pods beyond those that must be given: all that a cloud, a weight source and a user add."""


def container_of(template: dict[str, Any]) -> dict[str, Any]:
    """The only container."""
    (only,) = template["spec"]["containers"]
    return only


def env_of(template: dict[str, Any]) -> dict[str, Any]:
    """Its variables, each with its value or where that comes from."""
    entries = container_of(template)["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names), f"a variable twice: {names}"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no other, by its path; what has a name is in it by that."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            name = below["name"] if isinstance(below, dict) and isinstance(value, list) else key
            yield from leaves(below, f"{path}/{name}")
    else:
        yield path, value


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The paths of what differs."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
