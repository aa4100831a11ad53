"""A Job that copies a model's files from a hub to a bucket's prefix or a volume's folder once, and the wait for it.

Not here: bucket and volume, who may write to them, and the program that runs in the Job (`sync/`; this file ships it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pulumi

from components.cluster.credentials import KeyPair, key_secret
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.cluster.pod_extras import CONFINED, PodExtras, dressed
from planning.catalog import fact
from planning.origins import HUBS, hub_problem
from planning.problems import Problem, Refused

COMPONENT = "sync"
"""The pods' label app.kubernetes.io/component."""
_PROGRAM = Path(__file__).with_name("sync")
_PROGRAM_FOLDER = "/etc/modelserve"
_SCRATCH, _TOOLS, _VOLUME = "/scratch", "/tools", "/weights"
_TOKEN = PurePosixPath("/var/run/secrets/modelserve/token")
_GRACE_SECONDS = 10
# The Job ends itself at its own limit and reports it; Pulumi has to wait a little longer to see that.
_MARGIN_SECONDS = 60
_NOBODY = 65534
_LOCKED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True, kw_only=True)
class PodRole:
    """A role of Alibaba Cloud that the pod takes with its own token: the role's ARN, known when it may be taken, that
    of the `provider` who vouches for the token, and the host `sts` that is asked."""

    arn: pulumi.Output[str]
    provider: str
    sts: str


@dataclass(frozen=True)
class BucketTarget:
    """A bucket to fill, reached at the host `endpoint`. `key`, or the role that the pod takes, may list, read and write
    below the prefix. `scratch_gib` is the pod's temporary disk, which has to hold the model's largest file."""

    bucket: pulumi.Input[str]
    endpoint: str
    key: KeyPair | PodRole
    scratch_gib: int


@dataclass(frozen=True)
class ClaimTarget:
    """The volume of a writable PersistentVolumeClaim. The pod runs as `user`; a new file share belongs to root (0)."""

    claim: pulumi.Input[str]
    user: int


@dataclass(frozen=True, kw_only=True)
class ModelSyncArgs:
    """Fills the folder `prefix` of `target` with `repository` at `revision` (empty: the hub's default branch).

    `source` is modelscope, huggingface or the URL of a mirror that speaks Hugging Face's protocol. `token` is the
    hub's, for private or gated repositories. `seconds` limits the whole sync.
    The sync leaves out files that match the patterns `leaves` if the repository's root has one file of each of
    `weights` (`planning.files`). `extras` is what the cluster's owner adds to the pod.
    Raises Refused for a source that is none of these.
    """

    stack: str
    namespace: str
    model: str
    repository: str
    source: str
    revision: str
    target: BucketTarget | ClaimTarget
    prefix: str
    tool_image: str
    python_image: str
    seconds: int
    pod_labels: Mapping[str, str]
    token: pulumi.Output[str] | None
    weights: Sequence[str]
    leaves: Sequence[str]
    extras: PodExtras

    def __post_init__(self) -> None:
        if wrong := hub_problem(self.source):
            raise Refused(Problem("source", "", *wrong))

    @property
    def role(self) -> PodRole | None:
        """The role that the pod takes; None if it has a key, or needs none."""
        key = self.target.key if isinstance(self.target, BucketTarget) else None
        return key if isinstance(key, PodRole) else None

    @property
    def hub(self) -> dict[str, str]:
        """`kind`, `url` and `revision` of the source."""
        if self.source in HUBS:
            hub = fact("sync", "hubs", self.source)
        else:
            hub = fact("sync", "hubs", "huggingface") | {"url": self.source}
        return hub | ({"revision": self.revision} if self.revision else {})


def program() -> dict[str, str]:
    """The files of the program, by name."""
    return {file.name: file.read_text() for file in sorted(_PROGRAM.glob("*.py"))}


def program_config_name(name: str) -> str:
    """Named by a digest of its content, so that a running Job keeps the program that it was started with."""
    digest = hashlib.sha256("\0".join(program().values()).encode()).hexdigest()[:8]
    return f"{name}-program-{digest}"


def secret_name(name: str) -> str:
    """Name of the Secret with the bucket's key and the hub's token."""
    return f"{name}-keys"


def program_config(name: str, args: ModelSyncArgs) -> Manifest:
    """The ConfigMap with the program."""
    return program_object(name, args.stack, args.namespace)


def program_object(name: str, stack: str, namespace: str) -> Manifest:
    """The ConfigMap with the program, for the part `name` of a stack."""
    metadata = {"name": program_config_name(name), "namespace": namespace, "labels": labels(stack, name)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program()}


def secret(name: str, args: ModelSyncArgs) -> Manifest:
    """The Secret of the pod; its data is empty without key and token."""
    key = args.target.key if isinstance(args.target, BucketTarget) else None
    values = {"id": key.id, "secret": key.secret} if isinstance(key, KeyPair) else {}
    if args.token is not None:
        values["token"] = args.token
    return key_secret(secret_name(name), args.stack, args.namespace, name, values)


def service_account(name: str, args: ModelSyncArgs, role: PodRole) -> Manifest:
    """What the pod runs as, called `name`: the role trusts it. The annotation tells people; nothing reads it here."""
    said = {fact("oss", "rrsa", "annotation"): role.arn.apply(lambda arn: arn.rpartition("/")[2])}
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "automountServiceAccountToken": False,
        "metadata": {
            "name": name,
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            "annotations": said,
        },
    }


def job(name: str, args: ModelSyncArgs) -> Manifest:
    """The Job.

    Each attempt is a new pod (restartPolicy Never). So a failed pod stays, with the log that says why; a pod restarted
    in place would be deleted with its log at the last failure. A new pod also starts with empty scratch.
    The Job has no time to live: the next refresh would miss it, and the next `up` would create it again.
    """
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            # A failed Job stays failed: replace it.
            "annotations": {"pulumi.com/replaceUnready": "true"},
        },
        "spec": {
            "activeDeadlineSeconds": args.seconds,
            "backoffLimit": fact("sync", "pod", "retries"),
            "podFailurePolicy": {
                # Do not count an eviction: it says nothing about the sync. There is no rule that fails the Job at once,
                # because the Kubernetes plugin ends its wait at the limit of retries or time, but not at such a rule.
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": pod_template(name, args),
        },
    }


def pod_template(name: str, args: ModelSyncArgs) -> Manifest:
    """The Job's pod: rclone out of its own image, then Python with the program."""
    target = args.target
    if isinstance(target, BucketTarget):
        user, volume = _NOBODY, {"name": "scratch", "emptyDir": {"sizeLimit": f"{target.scratch_gib}Gi"}}
    else:
        user, volume = target.user, {"name": "weights", "persistentVolumeClaim": {"claimName": target.claim}}
    identity = {"runAsNonRoot": user != 0, "runAsUser": user, "runAsGroup": user, "fsGroup": user}
    account: Manifest = {"serviceAccountName": name} if args.role else {}
    template = {
        "metadata": {
            "labels": {**args.pod_labels, **labels(args.stack, name), "app.kubernetes.io/component": COMPONENT}
        },
        "spec": {
            **account,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "securityContext": {**identity, **CONFINED},
            "initContainers": [tool_container("rclone", "tools", args.tool_image)],
            "containers": [_container(name, args)],
            "volumes": [
                {"name": "program", "configMap": {"name": program_config_name(name)}},
                {"name": "tools", "emptyDir": {}},
                volume,
                *([_token_volume()] if args.role else []),
            ],
        },
    }
    return dressed(template, args.extras)


def _token_volume() -> Manifest:
    """The pod's own token for the cloud. Alibaba's webhook would mount the like where an add-on is installed and the
    namespace, which is not ours, has its label; so nothing but the cluster's issuer has to be there."""
    audience, seconds = fact("oss", "rrsa", "audience"), fact("oss", "rrsa", "sessionSeconds")
    source = {"path": _TOKEN.name, "audience": audience, "expirationSeconds": seconds}
    return {"name": "token", "projected": {"sources": [{"serviceAccountToken": source}]}}


def tool_container(name: str, volume: str, image: str) -> Manifest:
    """The init container that copies rclone out of its image into the pod's `volume`."""
    return {
        "name": name,
        "image": image,
        "command": ["cp", "/usr/local/bin/rclone", f"{_TOOLS}/rclone"],
        "resources": _resources(1, 1, None),
        "securityContext": dict(_LOCKED),
        "volumeMounts": [{"name": volume, "mountPath": _TOOLS}],
    }


def program_container(
    name: str, image: str, env: list[Manifest], *, program: str, tools: str | None, scratch: str | None = None
) -> Manifest:
    """A container that runs the sync's program from the volume `program`, with rclone from `tools` (None: without)."""
    mounts = [{"name": program, "mountPath": f"{_PROGRAM_FOLDER}/{_PROGRAM.name}", "readOnly": True}]
    if tools is not None:
        mounts.append({"name": tools, "mountPath": _TOOLS, "readOnly": True})
        env = [*env, {"name": "MODELSERVE_RCLONE", "value": f"{_TOOLS}/rclone"}]
    return {
        "name": name,
        "image": image,
        "command": ["python3", "-m", _PROGRAM.name],
        "workingDir": _PROGRAM_FOLDER,
        "env": env,
        "resources": _resources(fact("sync", "pod", "cpu"), fact("sync", "pod", "memoryGib"), scratch),
        "securityContext": dict(_LOCKED),
        # The Kubernetes plugin quotes it when the Job fails.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def variables(
    values: Mapping[str, pulumi.Input[str]], keys: Mapping[str, str], secret: pulumi.Input[str] | None = None
) -> list[Manifest]:
    """The program's settings: plain `values`, and `keys`, which map a name to a field of the Secret called `secret`."""
    return [
        *({"name": f"MODELSERVE_{name}", "value": value} for name, value in values.items()),
        *(
            {"name": f"MODELSERVE_{name}", "valueFrom": {"secretKeyRef": {"name": secret, "key": field_name}}}
            for name, field_name in keys.items()
        ),
    ]


def _container(name: str, args: ModelSyncArgs) -> Manifest:
    if isinstance(args.target, BucketTarget):
        scratch, mount = f"{args.target.scratch_gib}Gi", {"name": "scratch", "mountPath": _SCRATCH}
    else:
        scratch, mount = None, {"name": "weights", "mountPath": _VOLUME}
    env = _environment(name, args)
    container = program_container("sync", args.python_image, env, program="program", tools="tools", scratch=scratch)
    container["volumeMounts"].append(mount)
    if args.role:
        container["volumeMounts"].append({"name": "token", "mountPath": str(_TOKEN.parent), "readOnly": True})
    return container


def _environment(name: str, args: ModelSyncArgs) -> list[Manifest]:
    values: dict[str, pulumi.Input[str]] = {
        "HUB_KIND": args.hub["kind"],
        "HUB_URL": args.hub["url"],
        "REPOSITORY": args.repository,
        "REVISION": args.hub["revision"],
    }
    if args.leaves:
        values |= {"WEIGHTS": " ".join(args.weights), "LEAVES": " ".join(args.leaves)}
    keys = {}
    target = args.target
    if isinstance(target, BucketTarget):
        values |= {"ENDPOINT": target.endpoint, "BUCKET": target.bucket, "PREFIX": args.prefix}
        values |= {"SCRATCH": _SCRATCH, "SCRATCH_GIB": str(target.scratch_gib)}
        if args.role:
            values |= {"ROLE": args.role.arn, "PROVIDER": args.role.provider}
            values |= {"STS": args.role.sts, "TOKEN_FILE": str(_TOKEN)}
        else:
            keys = {"KEY_ID": "id", "KEY_SECRET": "secret"}
    else:
        values["FOLDER"] = f"{_VOLUME}/{args.prefix}"
    if args.token is not None:
        keys["HUB_TOKEN"] = "token"
    return variables(values, keys, secret_name(name))


def _resources(cpu: int, memory_gib: int, ephemeral_storage: str | None) -> Manifest:
    amounts = {"cpu": str(cpu), "memory": f"{memory_gib}Gi"}
    if ephemeral_storage:
        amounts["ephemeral-storage"] = ephemeral_storage
    return {"requests": amounts, "limits": dict(amounts)}


class ModelSync(pulumi.ComponentResource):
    """A model's files in a bucket, or on a volume."""

    done: pulumi.Output[str]
    """The Job's id, known when it has succeeded."""

    def __init__(
        self,
        name: str,
        args: ModelSyncArgs,
        opts: pulumi.ResourceOptions | None = None,
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> None:
        super().__init__("modelserve:storage:ModelSync", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        needed = [kubernetes_object(f"{name}-program", program_config(name, args), child)]
        keys = secret(name, args)
        if keys["data"]:
            needed.append(kubernetes_object(f"{name}-keys", keys, child))
        if args.role:
            needed.append(kubernetes_object(f"{name}-account", service_account(name, args, args.role), child))
        limit = f"{args.seconds + _MARGIN_SECONDS}s"
        run = kubernetes_object(
            name,
            job(name, args),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=needed,
                hooks=hooks,
                custom_timeouts=pulumi.CustomTimeouts(create=limit, update=limit),
                # A changed pod means a new Job of the same name; two at once would write to one prefix.
                delete_before_replace=True,
            ),
        )
        self.done = run.id
        self.register_outputs({"done": self.done})
