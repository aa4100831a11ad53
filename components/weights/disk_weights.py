"""Weights on a disk of the node: they are there already, or the first pod on the node copies them from a bucket.

Not here: the program that checks and fills the disk (`sync/`, shipped by `model_sync`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from components.cluster.kubernetes import Manifest
from components.weights import model_sync
from components.weights.model_download import ID, SECRET
from components.weights.pod_weights import MOUNT, VOLUME, PodWeights
from planning.catalog import fact
from planning.disks import folder_problem
from planning.names import WEIGHTS_CONTAINER
from planning.problems import Problem, Refused

_NODE = "/node"
_PROGRAM, _TOOLS, _SYSTEM = "weights-program", "weights-tools", "weights-node"


@dataclass(frozen=True, kw_only=True)
class DiskOrigin:
    """The bucket that a node's disk is filled from: `bucket`/`prefix` at `endpoint`, with the key in `key_secret`, a
    Secret that `ModelDownload` creates. `manifest` false takes the bucket as it is: no sync of ours has filled it."""

    bucket: pulumi.Input[str]
    prefix: str
    endpoint: str
    key_secret: pulumi.Input[str]
    tool_image: str
    manifest: bool = True


@dataclass(frozen=True, kw_only=True)
class DiskWeightsArgs:
    """Weights in the folder `model` (a relative path) of `host_path`, a folder on a disk of every node.

    `python_image` is any image with Python 3.10 or later, such as the engine's own. `program` is the ConfigMap that
    `ModelDownload` creates. Without `origin` the model has to be there already. Raises Refused for a path on the system
    disk.
    """

    host_path: str
    model: str
    python_image: str
    program: pulumi.Input[str]
    origin: DiskOrigin | None = None

    def __post_init__(self) -> None:
        check_host_path(self.host_path)


def check_host_path(path: str) -> None:
    """Raises Refused for an invalid path, and for one whose name says that it is on the system disk."""
    if wrong := folder_problem(path):
        raise Refused(Problem("host_path", path, *wrong))


def from_node_disk(args: DiskWeightsArgs) -> PodWeights:
    """Weights on a disk of the node. With an origin, the first pod on a node copies them, and the others wait."""
    folder = f"{MOUNT}/{args.model}"
    volumes = node_volumes(args.host_path, args.program)
    if args.origin is None:
        containers = [look_container(args.python_image, args.host_path, folder)]
    else:
        containers = [
            model_sync.tool_container("weights-tool", _TOOLS, args.origin.tool_image),
            _fill_container(args, args.origin, folder),
        ]
        volumes.append({"name": _TOOLS, "emptyDir": {}})
    return PodWeights(
        argument=folder,
        init_containers=containers,
        volumes=volumes,
        mounts=[{"name": VOLUME, "mountPath": MOUNT, "readOnly": True}],
        copies="node" if args.origin is not None else "none",
    )


def look_container(image: str, host_path: str, folder: str, *, brought: bool = False) -> Manifest:
    """Checks that the path is on a disk of its own and, unless the model is `brought` later, that it is there."""
    values = _disk_settings(host_path, folder) | {"FROM": "elsewhere" if brought else "nowhere"}
    container = model_sync.program_container(
        "weights-disk", image, model_sync.variables(values, {}), program=_PROGRAM, tools=None
    )
    return _on_disk(container, read_only=True)


def _fill_container(args: DiskWeightsArgs, origin: DiskOrigin, folder: str) -> Manifest:
    values: dict[str, pulumi.Input[str]] = {
        **_disk_settings(args.host_path, folder),
        "FROM": "bucket",
        "ENDPOINT": origin.endpoint,
        "BUCKET": origin.bucket,
        "PREFIX": origin.prefix,
        "MANIFEST": "1" if origin.manifest else "0",
        "CALLED": "the disk",
        "PARALLEL": str(fact("weights", "node", "parallel")),
    }
    env = model_sync.variables(values, {"KEY_ID": ID, "KEY_SECRET": SECRET}, origin.key_secret)
    container = model_sync.program_container(WEIGHTS_CONTAINER, args.python_image, env, program=_PROGRAM, tools=_TOOLS)
    return _on_disk(container, read_only=False)


def _disk_settings(host_path: str, folder: str) -> dict[str, str]:
    return {"MOUNT": MOUNT, "NODE": _NODE, "HOST_PATH": host_path, "FOLDER": folder}


def _on_disk(container: Manifest, *, read_only: bool) -> Manifest:
    """Mounts disk and system disk. Runs as root, who owns the nodes' folders, but without root's capabilities."""
    container["securityContext"] |= {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    container["volumeMounts"] += [
        {"name": VOLUME, "mountPath": MOUNT, **({"readOnly": True} if read_only else {})},
        {"name": _SYSTEM, "mountPath": _NODE, "readOnly": True},
    ]
    return container


def node_volumes(host_path: str, program: pulumi.Input[str]) -> list[Manifest]:
    return [
        # Never create it: a missing folder means that the disk is not mounted.
        {"name": VOLUME, "hostPath": {"path": host_path, "type": "Directory"}},
        {"name": _SYSTEM, "hostPath": {"path": fact("weights", "node", "systemFolder"), "type": "Directory"}},
        {"name": _PROGRAM, "configMap": {"name": program}},
    ]
