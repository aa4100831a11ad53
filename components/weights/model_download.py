"""Weights that come to the pods of an engine by themselves: what a pod needs to load from a model hub, from a bucket
through AIBrix' downloader, or from a disk of its node that the first pod there fills.

Pure but for the Secret and the ConfigMap that such pods read (`ModelDownload`). Not here: volumes that the stack makes
(`model_claim`, `model_volume`), and the program that fills a node's disk (`sync/`, shipped by `model_sync`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pulumi

from components.cluster.credentials import KeyPair, SecretKey, key_secret
from components.cluster.kubernetes import Manifest, kubernetes_object
from components.weights import model_sync
from planning import origins
from planning.catalog import fact
from planning.disks import folder_problem
from planning.engine import release_key
from planning.problems import Problem, Refused
from planning.units import quantity

_MOUNT = "/weights"
_NODE = "/node"
_VOLUME, _PROGRAM, _TOOLS, _SYSTEM = "weights", "weights-program", "weights-tools", "weights-node"
_GIB = 1 << 30
ID, SECRET, TOKEN = "id", "secret", "token"
"""Fields of the Secret: the two halves of the bucket's key, and the hub's token."""


@dataclass(frozen=True, kw_only=True)
class PodWeights:
    """What every pod of a replica needs for its weights.

    `argument` names them to the engine, `args` go after it. `mounts` are the engine's; `init_containers` have their
    own. `ephemeral_gib` is what the pod's temporary disk has to hold beside what else is written there. `copies` says
    how often all files cross the network: for each pod, for each node (once, as long as its disk lives), or never.
    """

    argument: str
    args: Sequence[str] = ()
    init_containers: Sequence[Manifest] = ()
    volumes: Sequence[Manifest] = ()
    mounts: Sequence[Manifest] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, SecretKey] = field(default_factory=dict)
    ephemeral_gib: int = 0
    copies: Literal["pod", "node", "none"] = "pod"


def needed_gib(file_bytes: int) -> int:
    """The temporary disk, in GiB, for a copy of the files."""
    return math.ceil(file_bytes / _GIB) + fact("weights", "sizes", "marginGib")


# --- from a model hub


@dataclass(frozen=True, kw_only=True)
class HubWeightsArgs:
    """The engine loads `repository` (owner/name) at `revision` (empty: the hub's own) from `endpoint`, by itself.

    `endpoint` is empty for Hugging Face, or the URL of a mirror. `token` is where the hub's token is, for private and
    gated repositories. Raises Refused for a repository without owner and for an endpoint that is no URL.
    """

    repository: str
    file_bytes: int
    revision: str = ""
    endpoint: str = ""
    token: SecretKey | None = None

    def __post_init__(self) -> None:
        if wrong := origins.repository_problem(self.repository):
            raise Refused(Problem("repository", self.repository, *wrong))
        if self.endpoint and (wrong := origins.url_problem(self.endpoint)):
            raise Refused(Problem("endpoint", "", *wrong))


def from_hub(args: HubWeightsArgs) -> PodWeights:
    """Weights that each pod loads for itself onto a temporary disk."""
    names = fact("weights", "huggingface", "variables")
    endpoint = args.endpoint.rstrip("/") or fact("weights", "huggingface", "endpoint")
    mirrored = endpoint != fact("weights", "huggingface", "endpoint")
    size = needed_gib(args.file_bytes)
    return PodWeights(
        argument=args.repository,
        args=("--revision", args.revision) if args.revision else (),
        volumes=[_temporary(size)],
        mounts=[{"name": _VOLUME, "mountPath": _MOUNT}],
        env={
            names["home"]: f"{_MOUNT}/huggingface",
            names["endpoint"]: endpoint,
            **names["fixed"],
            **(names["mirror"] if mirrored else {}),
        },
        secret_env={} if args.token is None else {names["token"]: args.token},
        ephemeral_gib=size,
    )


# --- from a bucket, through AIBrix' downloader


@dataclass(frozen=True, kw_only=True)
class BucketWeightsArgs:
    """AIBrix' downloader, release `version` (without v), copies `bucket`/`prefix` into a folder called `model`.

    `scheme` is tos or s3; `endpoint` the URL or host that serves S3's protocol, `region` the bucket's. `key_secret` is
    a Secret as `ModelDownload` makes it. Only files whose names end in one of `suffixes` (without a dot) are copied.
    `objects` is how many lie under the prefix, None where unknown. `registry` takes the place of Docker Hub, `image` of
    the whole name. The copy goes to a temporary disk of the pod, or to the folder `host_path` of its node, looked at
    first with `python_image`. Raises Refused for what this downloader cannot do.
    """

    version: str
    scheme: str
    bucket: pulumi.Input[str]
    prefix: str
    model: str
    endpoint: str
    region: str
    key_secret: pulumi.Input[str]
    file_bytes: int
    suffixes: Sequence[str] = ()
    threads: int = 0
    objects: int | None = None
    registry: str | None = None
    image: str | None = None
    host_path: str | None = None
    python_image: str | None = None
    program: pulumi.Input[str] | None = None

    def __post_init__(self) -> None:
        check_scheme(self.scheme)
        host = self.url.partition("://")[2]
        if self.scheme == "tos" and re.fullmatch(r"tos-(?!s3-).*", host):
            why = "the downloader speaks S3's protocol, which TOS serves elsewhere"
            raise Refused(Problem("endpoint", self.endpoint, why, f"write {host.replace('tos-', 'tos-s3-', 1)}"))
        for suffix in self.suffixes:
            if wrong := origins.suffix_problem(suffix):
                raise Refused(Problem("suffix", suffix, *wrong))
        page = fact("weights", "aibrix", "page")
        if (self.objects or 0) > page and not self.pages:
            why = f"copies the first {page} objects of a prefix and no more, {self.objects} lie there"
            instead = f"take {fact('weights', 'aibrix', 'pagesSince')} or later, or another source of weights"
            raise Refused(Problem("AIBrix", self.version, why, instead))
        if self.host_path is not None:
            check_host_path(self.host_path)
            if self.python_image is None or self.program is None:
                instead = "give python_image and program too"
                raise Refused(Problem("host_path", self.host_path, "the disk is looked at first", instead))

    @property
    def pages(self) -> bool:
        """Whether this release copies all that lies under a prefix, sub-folders too."""
        return release_key(self.version) >= release_key(fact("weights", "aibrix", "pagesSince"))

    @property
    def url(self) -> str:
        """The endpoint as a URL."""
        return self.endpoint if "://" in self.endpoint else f"https://{self.endpoint}"


def check_scheme(scheme: str) -> None:
    """Raises Refused for a scheme that AIBrix' downloader takes for something else."""
    known = fact("weights", "aibrix", "schemes")
    if scheme in ("gs", "gcs"):
        why = "AIBrix' downloader does not know it, but Cloud Storage speaks S3's protocol"
        instead = f"write s3://, endpoint {fact('weights', 'aibrix', 'googleEndpoint')}, and an HMAC key"
        raise Refused(Problem("scheme", scheme, why, instead))
    if scheme not in known:
        instead = f"write {' or '.join(f'{each}://' for each in known)}"
        raise Refused(Problem("scheme", scheme, "AIBrix' downloader does not know it", instead))


def from_bucket(args: BucketWeightsArgs) -> PodWeights:
    """Weights that an init container of each pod copies out of the bucket."""
    size = needed_gib(args.file_bytes)
    checks: list[Manifest] = []
    volumes = [_temporary(size)]
    if args.host_path is not None and args.python_image is not None and args.program is not None:
        checks = [_look_container(args.python_image, args.host_path, f"{_MOUNT}/{args.model}", brought=True)]
        volumes = _node_volumes(args.host_path, args.program)
    return PodWeights(
        argument=f"{_MOUNT}/{args.model}",
        init_containers=[*checks, _downloader(args)],
        volumes=volumes,
        mounts=[{"name": _VOLUME, "mountPath": _MOUNT, "readOnly": True}],
        ephemeral_gib=0 if args.host_path is not None else size,
        copies="pod" if args.host_path is None else "node",
    )


def _downloader(args: BucketWeightsArgs) -> Manifest:
    names = fact("weights", "aibrix", "schemes")[args.scheme]
    image = args.image or fact("weights", "aibrix", "image").format(version=args.version)
    if args.image is None and args.registry:
        image = f"{args.registry.rstrip('/')}/{image}"
    values = {
        names["endpoint"]: args.url,
        names["region"]: args.region,
        **names["fixed"],
        **fact("weights", "aibrix", "checksums"),
        "DOWNLOADER_NUM_THREADS": str(args.threads or fact("weights", "aibrix", "threads")),
        "DOWNLOADER_ALLOW_FILE_SUFFIX": ",".join(args.suffixes or fact("weights", "aibrix", "suffixes")),
    }
    keys = {names["id"]: ID, names["secret"]: SECRET}
    pod = fact("weights", "aibrix", "pod")
    amounts = {"cpu": str(pod["cpu"]), "memory": f"{pod['memoryGib']}Gi"}
    return {
        "name": "weights",
        "image": image,
        "command": [
            "aibrix_download",
            "--model-uri",
            # With the slash: releases before 0.5.0 find nothing without, and later ones ask for one key more.
            _joined(f"{args.scheme}://", args.bucket, f"/{args.prefix}/"),
            "--local-dir",
            _MOUNT,
            # By argument: the variable DOWNLOADER_MODEL_NAME is read by no release.
            "--model-name",
            args.model,
        ],
        "env": [
            *({"name": name, "value": value} for name, value in values.items()),
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": args.key_secret, "key": key}}}
                for name, key in keys.items()
            ),
        ],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        # Its log goes to a file below /tmp as well, so its own file system has to take writes.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": _VOLUME, "mountPath": _MOUNT}],
    }


# --- from a disk of the node


@dataclass(frozen=True, kw_only=True)
class DiskOrigin:
    """The bucket that fills a node's disk: `bucket`/`prefix` at `endpoint`, with the key in `key_secret` as
    `ModelDownload` makes it. `manifest` false takes a bucket that no sync of ours has filled, as it is."""

    bucket: pulumi.Input[str]
    prefix: str
    endpoint: str
    key_secret: pulumi.Input[str]
    tool_image: str
    manifest: bool = True


@dataclass(frozen=True, kw_only=True)
class DiskWeightsArgs:
    """Weights in the folder `model` (a relative path) of `host_path`, a folder on a disk of every node.

    `python_image` may be the engine's own: any with python3, 3.10 or later. `program` is the ConfigMap that
    `ModelDownload` makes. Without `origin` the model has to be there. Raises Refused for a path of the system disk.
    """

    host_path: str
    model: str
    python_image: str
    program: pulumi.Input[str]
    origin: DiskOrigin | None = None

    def __post_init__(self) -> None:
        check_host_path(self.host_path)


def check_host_path(path: str) -> None:
    """Raises Refused for a path that is none, or is on the system disk by its name alone."""
    if wrong := folder_problem(path):
        raise Refused(Problem("host_path", path, *wrong))


def from_node_disk(args: DiskWeightsArgs) -> PodWeights:
    """Weights on a disk of the node. With an origin the first pod of a node brings them, and the others wait."""
    folder = f"{_MOUNT}/{args.model}"
    volumes = _node_volumes(args.host_path, args.program)
    if args.origin is None:
        containers = [_look_container(args.python_image, args.host_path, folder)]
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
        mounts=[{"name": _VOLUME, "mountPath": _MOUNT, "readOnly": True}],
        copies="node" if args.origin is not None else "none",
    )


def _look_container(image: str, host_path: str, folder: str, *, brought: bool = False) -> Manifest:
    """Looks whether the disk is one, and, unless the model is `brought` afterwards, whether the model is there."""
    values = _disk_settings(host_path, folder) | {"FROM": "elsewhere" if brought else "nowhere"}
    made = model_sync.program_container(
        "weights-disk", image, model_sync.variables(values, {}), program=_PROGRAM, tools=None
    )
    return _on_disk(made, read_only=True)


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
    made = model_sync.program_container("weights", args.python_image, env, program=_PROGRAM, tools=_TOOLS)
    return _on_disk(made, read_only=False)


def _disk_settings(host_path: str, folder: str) -> dict[str, str]:
    return {"MOUNT": _MOUNT, "NODE": _NODE, "HOST_PATH": host_path, "FOLDER": folder}


def _on_disk(container: Manifest, *, read_only: bool) -> Manifest:
    """The container with disk and system disk. As root, to whom folders of nodes belong, without a root's powers."""
    container["securityContext"] |= {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    container["volumeMounts"] += [
        {"name": _VOLUME, "mountPath": _MOUNT, **({"readOnly": True} if read_only else {})},
        {"name": _SYSTEM, "mountPath": _NODE, "readOnly": True},
    ]
    return container


def _node_volumes(host_path: str, program: pulumi.Input[str]) -> list[Manifest]:
    return [
        # Never made: a folder that is missing is a disk that is not mounted.
        {"name": _VOLUME, "hostPath": {"path": host_path, "type": "Directory"}},
        {"name": _SYSTEM, "hostPath": {"path": fact("weights", "node", "systemFolder"), "type": "Directory"}},
        {"name": _PROGRAM, "configMap": {"name": program}},
    ]


def _joined(before: str, name: pulumi.Input[str], after: str) -> pulumi.Input[str]:
    return f"{before}{name}{after}" if isinstance(name, str) else pulumi.Output.concat(before, name, after)


def _temporary(size_gib: int) -> Manifest:
    return {"name": _VOLUME, "emptyDir": {"sizeLimit": quantity(f"{size_gib}Gi")}}


# --- what such pods read


@dataclass(frozen=True, kw_only=True)
class ModelDownloadArgs:
    """`key` is the bucket's, for reading; `token` the hub's; `program` true where a node's disk is looked at."""

    stack: str
    namespace: str
    key: KeyPair | None = None
    token: pulumi.Output[str] | None = None
    program: bool = False


def secret_name(name: str) -> str:
    """The Secret that the pods read."""
    return f"{name}-download-keys"


def program_name(name: str) -> str:
    """The ConfigMap that the pods read: named by content."""
    return model_sync.program_config_name(f"{name}-download")


def secret(name: str, args: ModelDownloadArgs) -> Manifest:
    """The Secret, empty where there is nothing to keep."""
    values = {} if args.key is None else {ID: args.key.id, SECRET: args.key.secret}
    if args.token is not None:
        values[TOKEN] = args.token
    return key_secret(secret_name(name), args.stack, args.namespace, name, values)


class ModelDownload(pulumi.ComponentResource):
    """Secret and program of one model's pods. `secret_name` and `program_name` are known when the objects are there,
    None where nothing was asked for."""

    secret_name: pulumi.Output[str] | None = None
    program_name: pulumi.Output[str] | None = None

    def __init__(self, name: str, args: ModelDownloadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:weights:ModelDownload", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
        keys = secret(name, args)
        if keys["data"]:
            made = kubernetes_object(f"{name}-download-keys", keys, child)
            self.secret_name = made.id.apply(_bare)
        if args.program:
            config = model_sync.program_object(f"{name}-download", args.stack, args.namespace)
            made = kubernetes_object(f"{name}-download-program", config, child)
            self.program_name = made.id.apply(_bare)
        self.register_outputs({"secretName": self.secret_name, "programName": self.program_name})


def _bare(at: str) -> str:
    return at.rpartition("/")[2]
