"""Where an engine's compiled kernels outlive its pods: a folder on each node's disk, or on a claim.

Whoever writes into the folder runs code in the engine. So each service has a folder of its own, and each image, release
and GPU one below it: kernels of another would not fit. Replicas are apart too: vLLM does not write its index whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from components.cluster.kubernetes import Manifest

MOUNT = "/var/cache/modelserve"
VOLUME = "compiled"
_REPLICA = "MODELSERVE_REPLICA"


@dataclass(frozen=True, kw_only=True)
class CompileCache:
    """A folder of the node (`node_path`) or a claim in the pods' namespace; one of the two is None. `variables` maps
    each variable of the engine to a folder below the mount."""

    node_path: str | None
    claim: str | None
    variables: Mapping[str, str]
    folder: str


def folder(namespace: str, stack: str, service: str, image: str, version: str, gpu: str) -> str:
    """The folder of one service's kernels, below the volume's root."""
    made_for = hashlib.sha256("\n".join((image, version, gpu)).encode()).hexdigest()[:12]
    return f"modelserve/{namespace}/{stack}/{service}/{made_for}"


def volume(cache: CompileCache) -> Manifest:
    """The pods' volume."""
    if cache.node_path is not None:
        return {"name": VOLUME, "hostPath": {"path": cache.node_path, "type": "DirectoryOrCreate"}}
    return {"name": VOLUME, "persistentVolumeClaim": {"claimName": cache.claim}}


def mount(cache: CompileCache, *, apart: bool) -> Manifest:
    """The engine container's mount; with `apart` each replica has a folder of its own, by the variable that `place`
    sets."""
    below = {"subPathExpr": f"{cache.folder}/$({_REPLICA})"} if apart else {"subPath": cache.folder}
    return {"name": VOLUME, "mountPath": MOUNT, **below}


def place(label: str) -> dict[str, str]:
    """The variable that tells replicas apart, read from a label of the pod."""
    return {_REPLICA: f"metadata.labels['{label}']"}


def variables(cache: CompileCache) -> dict[str, str]:
    """What the engine is told."""
    return {name: f"{MOUNT}/{below}" for name, below in cache.variables.items()}
