"""What a cluster's owner asks of pods beside what is ours: secrets for images, where they may run, more volumes.

Not here: what of it would fight with ours (`config.pods` refuses that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.cluster.kubernetes import Manifest


@dataclass(frozen=True, kw_only=True)
class PodExtras:
    """Everything as Kubernetes spells it. `spec` are fields of the pod's, of which a map adds to ours; `mounts` and
    `container_security` are of the pod's first container alone."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    volumes: Sequence[Manifest] = ()
    mounts: Sequence[Manifest] = ()
    container_security: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


NOTHING = PodExtras()


def dressed(template: Manifest, extras: PodExtras) -> Manifest:
    """A pod template with the extras in it; what both say is ours."""
    spec, metadata = dict(template["spec"]), dict(template["metadata"])
    for key, value in extras.spec.items():
        spec[key] = {**value, **spec.get(key, {})} if isinstance(value, Mapping) else value
    for key, given in (("labels", extras.labels), ("annotations", extras.annotations)):
        if given:
            metadata[key] = {**given, **metadata.get(key, {})}
    if extras.volumes:
        spec["volumes"] = [*spec["volumes"], *extras.volumes]
    first, *others = spec["containers"]
    if extras.mounts:
        first = {**first, "volumeMounts": [*first["volumeMounts"], *extras.mounts]}
    if extras.container_security:
        first = {**first, "securityContext": _security(first.get("securityContext", {}), extras.container_security)}
    return {**template, "metadata": metadata, "spec": {**spec, "containers": [first, *others]}}


def _security(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Manifest:
    """Both, also of what is added to the container's capabilities."""
    made = {**theirs, **ours}
    if "capabilities" in ours and "capabilities" in theirs:
        added = [*ours["capabilities"].get("add", ()), *theirs["capabilities"].get("add", ())]
        made["capabilities"] = {**theirs["capabilities"], **ours["capabilities"], "add": list(dict.fromkeys(added))}
    return made
