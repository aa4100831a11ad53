"""What changed, and whether the change needs a new object. Reads nothing but the state and the new inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from local.providers.kubernetes.wire import UNKNOWN

_ABSENT = object()
_BARE_KEY = re.compile(r"[A-Za-z_$][\w$]*\Z")

# Fields that the official plugin replaces the object for, by the kind's name without its group.
_REPLACING: dict[str, list[str]] = {
    "ConfigMap": ["binaryData", "data"],
    "Secret": ["type", "stringData", "data"],
    "Service": ["spec.clusterIP"],
    "Deployment": ["spec.selector"],
    "DaemonSet": ["spec.selector"],
    "StatefulSet": [
        "spec.podManagementPolicy",
        "spec.revisionHistoryLimit",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ],
    "Job": ["spec.completions", "spec.parallelism", "spec.selector", "spec.template"],
    "PersistentVolumeClaim": ["spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeName"],
    "PersistentVolume": [f"spec.{source}" for source in ("csi", "flexVolume", "hostPath", "local", "nfs")],
    "Pod": ["spec"],
    "PodDisruptionBudget": ["spec"],
    "RoleBinding": ["roleRef"],
    "ClusterRoleBinding": ["roleRef"],
    "StorageClass": ["parameters", "provisioner"],
}
_REPLACING_ALL = ["metadata.name", "metadata.namespace"]
_BUILT_IN_GROUP = re.compile(r"[a-z]+(\.k8s\.io)?/|v1\Z")


@dataclass(frozen=True)
class Change:
    """One changed place. `removed` is a removal from the inputs; a path is written as the engine writes it."""

    path: str
    kind: str  # add, delete or update
    replaces: bool = False


@dataclass
class Diff:
    changes: list[Change] = field(default_factory=list)
    delete_before_replace: bool = False

    @property
    def replaces(self) -> list[str]:
        return [change.path for change in self.changes if change.replaces]


def prune(live: Any, shape: Any) -> Any:
    """`live` reduced to the fields that `shape` has."""
    if isinstance(live, dict) and isinstance(shape, dict):
        return {key: prune(live[key], part) for key, part in shape.items() if key in live}
    if isinstance(live, list) and isinstance(shape, list):
        return [prune(item, part) for item, part in zip(live, shape, strict=False)]
    return live


def _join(path: str, key: str) -> str:
    if not _BARE_KEY.match(key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def _walk(old: Any, new: Any, path: str) -> Iterator[tuple[str, str]]:
    if new is _ABSENT or (new is None and old is not None):
        yield path, "delete"
    elif old is _ABSENT:
        yield path, "add"
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _walk(old.get(key, _ABSENT), new.get(key, _ABSENT), _join(path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            pair = (items[index] if index < len(items) else _ABSENT for items in (old, new))
            yield from _walk(*pair, f"{path}[{index}]")
    elif new is UNKNOWN or old != new or isinstance(old, bool) != isinstance(new, bool):
        yield path, "update"


def _under(path: str, field_path: str) -> bool:
    return path == field_path or path.startswith((f"{field_path}.", f"{field_path}["))


def _touches(path: str, old: Any, new: Any, field_path: str) -> bool:
    """Whether a change at `path` changes `field_path`: lies in it, or adds or removes a map that holds it."""
    if _under(path, field_path):
        return True
    return _under(field_path, path) and _reaches(old, field_path) != _reaches(new, field_path)


def _reaches(value: Any, field_path: str) -> bool:
    for key in field_path.split("."):
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _replacing_fields(old: dict[str, Any], new: dict[str, Any], mutable_kinds: set[str]) -> list[str]:
    kind, api_version = new.get("kind", ""), str(new.get("apiVersion", ""))
    if not _BUILT_IN_GROUP.match(api_version):
        return _REPLACING_ALL
    if kind in mutable_kinds and True not in (old.get("immutable"), new.get("immutable")):
        return _REPLACING_ALL + (["type"] if kind == "Secret" else [])
    return _REPLACING_ALL + _REPLACING.get(kind, [])


def compare(
    live: dict[str, Any], old_inputs: dict[str, Any], new_inputs: dict[str, Any], mutable_kinds: set[str]
) -> Diff:
    """The state's live object, reduced to what the old inputs had, against the new inputs.

    `mutable_kinds` are those of ConfigMap and Secret whose data may change in place.
    """
    old = prune(live, old_inputs)
    fields = _replacing_fields(old, new_inputs, mutable_kinds)
    changes = [
        Change(path, kind, any(_touches(path, old, new_inputs, name) for name in fields))
        for path, kind in _walk(old, new_inputs, "")
    ]
    diff = Diff(changes)
    old_metadata, new_metadata = live.get("metadata") or {}, new_inputs.get("metadata") or {}
    diff.delete_before_replace = (
        bool(diff.replaces)
        and not is_autonamed(new_inputs)
        and new_metadata.get("name") == old_metadata.get("name")
        and (new_metadata.get("namespace") or "") == (old_metadata.get("namespace") or "")
    )
    return diff


def is_autonamed(manifest: dict[str, Any]) -> bool:
    return annotation(manifest, "autonamed") == "true"


def annotation(manifest: dict[str, Any], name: str) -> str | None:
    """The value of `pulumi.com/<name>`."""
    metadata = manifest.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    value = annotations.get(f"pulumi.com/{name}") if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else None
