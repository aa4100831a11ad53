"""What changed, and whether the change needs a new object. Reads nothing but the state and the new inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from local.providers.wire import UNKNOWN

_ABSENT = object()
_BARE_KEY = re.compile(r"[A-Za-z_$][\w$]*\Z")

# Fields that the official plugin replaces the object for, of every kind and of the kinds of these group versions.
_REPLACING = ["metadata.name", "metadata.namespace"]
_REPLACING_BY_KIND: dict[str, list[str]] = {
    "v1/ConfigMap": ["binaryData", "data"],
    "v1/Secret": ["type", "stringData", "data"],
    "v1/Service": ["spec.clusterIP"],
    "v1/PersistentVolumeClaim": ["spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeName"],
    "v1/PersistentVolume": [f"spec.{source}" for source in ("csi", "flexVolume", "hostPath", "local", "nfs")],
    "v1/Pod": ["spec"],
    "apps/v1/Deployment": ["spec.selector"],
    "apps/v1/StatefulSet": ["spec.podManagementPolicy", "spec.revisionHistoryLimit", "spec.selector"]
    + ["spec.serviceName", "spec.volumeClaimTemplates"],
    "batch/v1/Job": ["spec.completions", "spec.parallelism", "spec.selector", "spec.template"],
    "rbac.authorization.k8s.io/v1/RoleBinding": ["roleRef"],
    "rbac.authorization.k8s.io/v1/ClusterRoleBinding": ["roleRef"],
}


@dataclass(frozen=True)
class Change:
    """One changed place; the path is written as the engine writes it."""

    path: str
    kind: str  # add, delete or update
    replaces: bool = False


def compare(live: dict[str, Any], old_inputs: dict[str, Any], news: dict[str, Any]) -> tuple[list[Change], bool]:
    """The state's live object, reduced to what the old inputs had, against the new inputs.

    The second is whether a replacement has the old one's name, so that the old one has to go first.
    """
    old = prune(live, old_inputs)
    fields = _REPLACING + _REPLACING_BY_KIND.get(f"{news.get('apiVersion')}/{news.get('kind')}", [])
    changes = [
        Change(path, kind, any(_touches(path, field, old if kind == "delete" else news) for field in fields))
        for path, kind in walk(old, news)
    ]
    before, after = (side.get("metadata") or {} for side in (live, news))
    stays = all((before.get(key) or "") == (after.get(key) or "") for key in ("name", "namespace"))
    return changes, stays and annotation(news, "autonamed") != "true"


def prune(live: Any, shape: Any) -> Any:
    """`live` reduced to the fields that `shape` has."""
    if isinstance(live, dict) and isinstance(shape, dict):
        return {key: prune(live[key], part) for key, part in shape.items() if key in live}
    if isinstance(live, list) and isinstance(shape, list):
        return [prune(item, part) for item, part in zip(live, shape, strict=False)]
    return live


def walk(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and kind of every change, a part that is added or removed as one."""
    if new is _ABSENT or (new is None and old is not None):
        yield path, "delete"
    elif old is _ABSENT:
        yield path, "add"
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from walk(old.get(key, _ABSENT), new.get(key, _ABSENT), _join(path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            pair = (items[index] if index < len(items) else _ABSENT for items in (old, new))
            yield from walk(*pair, f"{path}[{index}]")
    elif new == UNKNOWN or old != new or isinstance(old, bool) != isinstance(new, bool):
        yield path, "update"


def _join(path: str, key: str) -> str:
    if not _BARE_KEY.match(key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def _touches(path: str, field: str, side: Any) -> bool:
    """Whether a change at `path` changes `field`: it lies in it, or is a whole map of `side` that holds it."""
    if path == field or path.startswith((f"{field}.", f"{field}[")):
        return True
    if not field.startswith(f"{path}."):
        return False
    for key in field.split("."):
        if not isinstance(side, dict) or key not in side:
            return False
        side = side[key]
    return True


def annotation(manifest: dict[str, Any], name: str) -> str | None:
    """The value of `pulumi.com/<name>`."""
    metadata = manifest.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    value = annotations.get(f"pulumi.com/{name}") if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else None
