"""A Job that fills a bucket's prefix or a volume's folder once with a model's files out of a hub, and the wait for it.

Not here: bucket and volume, who may write to them, and the program in the Job (`sync/`, which this ships).
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
# The Job ends itself at its own limit, and says so; whoever waits for it has to wait a little longer to hear it.
_MARGIN_SECONDS = 60
_NOBODY = 65534


@dataclass(frozen=True, kw_only=True)
class ModelSyncArgs:
    """Fills `bucket`/`prefix`, reached at `endpoint`, with `repository` at `revision` (empty: the hub's own branch).

    `source` is modelscope, huggingface or the URL of a mirror that speaks Hugging Face's protocol. `key` may list, read
    and write below the prefix. `token` is the hub's, for private or gated repositories. `seconds` limits the whole
    sync, `scratch_gib` is the pod's temporary disk, which has to hold the model's largest file.
    With `claim`, a PersistentVolumeClaim that can be written, the folder `prefix` of its volume is filled in place of a
    bucket: no endpoint, key or scratch then. `user` is who writes: a fresh file share belongs to root (0).
    Files of the patterns `leaves` are left out where the repository's root has one of each of `weights`
    (`planning.files`). `extras` is what the cluster's owner asks of the pod.
    Raises Refused for a source that is none of these, and unless exactly one place is to be filled.
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
            known = fact("sync", "hubs", self.source)
        else:
            known = fact("sync", "hubs", "huggingface") | {"url": self.source}
        return known | ({"revision": self.revision} if self.revision else {})


def program() -> dict[str, str]:
    """The files of the program, by name."""
    return {file.name: file.read_text() for file in sorted(_PROGRAM.glob("*.py"))}


def program_config_name(name: str) -> str:
    """Named by content: a Job that runs keeps the program that it was started with."""
    digest = hashlib.sha256("\0".join(program().values()).encode()).hexdigest()[:8]
    return f"{name}-program-{digest}"


def secret_name(name: str) -> str:
    """The Secret with the bucket's key and the hub's token."""
    return f"{name}-keys"


def program_config(name: str, args: ModelSyncArgs) -> Manifest:
    """The ConfigMap with the program."""
    return program_object(name, args.stack, args.namespace)


def program_object(name: str, stack: str, namespace: str) -> Manifest:
    """The ConfigMap with the program, for the part `name` of a stack."""
    metadata = {"name": program_config_name(name), "namespace": namespace, "labels": labels(stack, name)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program()}


def secret(name: str, args: ModelSyncArgs) -> Manifest:
    """The Secret of the pod, empty where there is nothing to keep."""
    values = {} if args.key is None else {"id": args.key.id, "secret": args.key.secret}
    if args.token is not None:
        values["token"] = args.token
    return key_secret(secret_name(name), args.stack, args.namespace, name, values)


def job(name: str, args: ModelSyncArgs) -> Manifest:
    """The Job.

    One pod after another, each new (restartPolicy Never): a failed pod stays, and with it the log that says why, where
    one restarted in place is deleted with its log at the last failure; scratch holds no more than the files under way.
    It is not cleaned up by time: the next refresh would miss it, and the next `up` make it again.
    """
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            # A Job that has failed stays failed: only a new one can heal it.
            "annotations": {"pulumi.com/replaceUnready": "true"},
        },
        "spec": {
            "activeDeadlineSeconds": args.seconds,
            "backoffLimit": fact("sync", "pod", "retries"),
            "podFailurePolicy": {
                # An eviction says nothing about the sync. No rule for what is hopeless: the Kubernetes plugin ends its
                # wait at the limit of retries or of time, and would not at such a rule's failure.
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
    made = {
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
    return dressed(made, args.extras)


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
    """A container with the sync's program, out of the volumes `program` and `tools` (rclone's; None without it)."""
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
        # The provider quotes it when the Job fails.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def variables(
    values: Mapping[str, pulumi.Input[str]], keys: Mapping[str, str], secret: pulumi.Input[str] | None = None
) -> list[Manifest]:
    """The program's settings: plain `values`, and `keys`, name to field of the Secret called `secret`."""
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
    made = program_container("sync", args.python_image, env, program="program", tools="tools", scratch=scratch)
    place = ("scratch", _SCRATCH) if args.claim is None else ("weights", _VOLUME)
    made["volumeMounts"].append(dict(zip(("name", "mountPath"), place, strict=True)))
    return made


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
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
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
                # A changed pod is another Job of the same name, and two would write to one prefix.
                delete_before_replace=True,
            ),
        )
        self.done = run.id
        self.register_outputs({"done": self.done})
