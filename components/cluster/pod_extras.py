"""What a cluster's owner adds to our pods: secrets for pulling images, where they may run, more volumes.

Not here: additions that would conflict with ours (`config.pods` refuses them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.cluster.kubernetes import Manifest


@dataclass(frozen=True, kw_only=True)
class PodExtras:
    """Additions in Kubernetes' own spelling. `spec` has fields of the pod's spec; a map is merged with ours. `mounts`
    and `container_security` apply only to the pod's first container."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    volumes: Sequence[Manifest] = ()
    mounts: Sequence[Manifest] = ()
    container_security: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


NOTHING = PodExtras()
# What the program asks for unless the cluster's owner asks for something else.
_THEIRS = ("seccompProfile", "allowPrivilegeEscalation")
CONFINED: Mapping[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
"""The security context of every pod: the container runtime's own list of system calls."""


def dressed(template: Manifest, extras: PodExtras) -> Manifest:
    """The pod template with the extras in it. Where both set a value, ours wins, unless it only confines the pod."""
    spec, metadata = dict(template["spec"]), dict(template["metadata"])
    for key, value in extras.spec.items():
        spec[key] = _both(spec.get(key, {}), value) if isinstance(value, Mapping) else value
    for key, additions in (("labels", extras.labels), ("annotations", extras.annotations)):
        if additions:
            metadata[key] = {**additions, **metadata.get(key, {})}
    if extras.volumes:
        spec["volumes"] = [*spec["volumes"], *extras.volumes]
    first, *others = spec["containers"]
    if extras.mounts:
        first = {**first, "volumeMounts": [*first["volumeMounts"], *extras.mounts]}
    if extras.container_security:
        first = {**first, "securityContext": _security(first.get("securityContext", {}), extras.container_security)}
    return {**template, "metadata": metadata, "spec": {**spec, "containers": [first, *others]}}


def _both(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Manifest:
    return {**theirs, **ours, **{key: theirs[key] for key in _THEIRS if key in theirs}}


def _security(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Manifest:
    """Both security contexts merged, with the added and the dropped capabilities of both."""
    merged = _both(ours, theirs)
    if "capabilities" in ours and "capabilities" in theirs:
        both = (ours["capabilities"], theirs["capabilities"])
        lists = {verb: [each for one in both for each in one.get(verb, ())] for verb in ("add", "drop")}
        merged["capabilities"] = {verb: list(dict.fromkeys(each)) for verb, each in lists.items() if each}
    return merged
