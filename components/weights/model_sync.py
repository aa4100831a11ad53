"""A Job that copies a model's files from a hub to a bucket's prefix or a volume's folder once, and the wait for it.

Not here: bucket and volume, who may write to them, and the program that runs in the Job (`sync/`; this file ships it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pulumi

from components.cluster.credentials import KeyPair, key_secret
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.cluster.pod_extras import NOTHING, PodExtras, dressed
from planning.catalog import fact
from planning.origins import HUBS, hub_problem
from planning.problems import Problem, Refused

COMPONENT = "sync"
"""The pods' label app.kubernetes.io/component."""
_PROGRAM = Path(__file__).with_name("sync")
_PROGRAM_FOLDER = "/etc/modelserve"
_SCRATCH, _TOOLS, _VOLUME = "/scratch", "/tools", "/weights"
_GRACE_SECONDS = 10
# The Job ends itself at its own limit and reports it; Pulumi has to wait a little longer to see that.
_MARGIN_SECONDS = 60
_NOBODY = 65534


@dataclass(frozen=True, kw_only=True)
class ModelSyncArgs:
    """Copies `repository` at `revision` (empty: the hub's default branch) to `bucket`/`prefix` at `endpoint`.

    `source` is modelscope, huggingface or the URL of a mirror that speaks Hugging Face's protocol. `key` may list, read
    and write below the prefix. `token` is the hub's, for private or gated repositories. `seconds` limits the whole
    sync. `scratch_gib` is the pod's temporary disk; it has to hold the model's largest file.
    With `claim`, a writable PersistentVolumeClaim, the target is the folder `prefix` of its volume instead of a bucket,
    without endpoint, key and scratch. `user` is the user id that writes: a new file share belongs to root (0).
    Files that match the patterns `leaves` are left out if the repository's root has a file for each of `weights`
    (`planning.files`). `extras` is what the cluster's owner wants on the pod.
    Raises Refused for another source, and unless there is exactly one target.
    """

    stack: str
    namespace: str
    model: str
    repository: str
    source: str
    revision: str
    prefix: str
    tool_image: str
    python_image: str
    seconds: int
    bucket: pulumi.Input[str] | None = None
    endpoint: str = ""
    key: KeyPair | None = None
    scratch_gib: int = 0
    claim: pulumi.Input[str] | None = None
    user: int = _NOBODY
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    token: pulumi.Output[str] | None = None
    weights: Sequence[str] = ()
    leaves: Sequence[str] = ()
    extras: PodExtras = NOTHING

    def __post_init__(self) -> None:
        in_bucket = (self.bucket is not None, bool(self.endpoint), self.key is not None, self.scratch_gib > 0)
        if set(in_bucket) != {self.claim is None}:
            why = "is not one place to fill"
            raise Refused(Problem("claim", "", why, "give bucket, endpoint, key and scratch, or a claim alone"))
        if wrong := hub_problem(self.source):
            raise Refused(Problem("source", "", *wrong))

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
    values = {} if args.key is None else {"id": args.key.id, "secret": args.key.secret}
    if args.token is not None:
        values["token"] = args.token
    return key_secret(secret_name(name), args.stack, args.namespace, name, values)


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
    identity = {"runAsNonRoot": args.user != 0, "runAsUser": args.user, "runAsGroup": args.user, "fsGroup": args.user}
    if args.claim is None:
        place = {"name": "scratch", "emptyDir": {"sizeLimit": f"{args.scratch_gib}Gi"}}
    else:
        place = {"name": "weights", "persistentVolumeClaim": {"claimName": args.claim}}
    template = {
        "metadata": {
            "labels": {**args.pod_labels, **labels(args.stack, name), "app.kubernetes.io/component": COMPONENT}
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "securityContext": identity,
            "initContainers": [tool_container("rclone", "tools", args.tool_image)],
            "containers": [_container(name, args)],
            "volumes": [
                {"name": "program", "configMap": {"name": program_config_name(name)}},
                {"name": "tools", "emptyDir": {}},
                place,
            ],
        },
    }
    return dressed(template, args.extras)


def tool_container(name: str, volume: str, image: str) -> Manifest:
    """The init container that copies rclone out of its image into the pod's `volume`."""
    return {
        "name": name,
        "image": image,
        "command": ["cp", "/usr/local/bin/rclone", f"{_TOOLS}/rclone"],
        "resources": _resources(1, 1, None),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
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
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
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
    scratch = None if args.claim is not None else f"{args.scratch_gib}Gi"
    env = _environment(name, args)
    container = program_container("sync", args.python_image, env, program="program", tools="tools", scratch=scratch)
    name, path = ("scratch", _SCRATCH) if args.claim is None else ("weights", _VOLUME)
    container["volumeMounts"].append({"name": name, "mountPath": path})
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
    if args.claim is not None:
        values["FOLDER"] = f"{_VOLUME}/{args.prefix}"
    elif args.bucket is not None:
        values |= {"ENDPOINT": args.endpoint, "BUCKET": args.bucket, "PREFIX": args.prefix}
        values |= {"SCRATCH": _SCRATCH, "SCRATCH_GIB": str(args.scratch_gib)}
        keys = {"KEY_ID": "id", "KEY_SECRET": "secret"}
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
