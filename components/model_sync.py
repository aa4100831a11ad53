"""A Job that fills a bucket's prefix once with a model's files out of a hub, and the wait for it.

Not here: the bucket, who may write to it, and the program in the Job (`sync/`, which this ships).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pulumi

from components.credentials import KeyPair, key_secret
from components.kubernetes import Manifest, kubernetes_object, labels
from planning.catalog import fact

COMPONENT = "sync"
"""The pods' label app.kubernetes.io/component."""
_PROGRAM = Path(__file__).with_name("sync")
_PROGRAM_FOLDER = "/etc/modelserve"
_SCRATCH, _TOOLS = "/scratch", "/tools"
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
    Raises ValueError for a source that is none of these.
    """

    stack: str
    namespace: str
    model: str
    repository: str
    source: str
    revision: str
    bucket: pulumi.Input[str]
    endpoint: str
    prefix: str
    key: KeyPair
    tool_image: str
    python_image: str
    seconds: int
    scratch_gib: int
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    token: pulumi.Output[str] | None = None

    def __post_init__(self) -> None:
        if self.source not in ("modelscope", "huggingface"):
            if not self.source.startswith(("http://", "https://")):
                raise ValueError(f"{self.source!r} is no source: use modelscope, huggingface or a mirror's URL")
            if "@" in self.source:
                raise ValueError("the mirror's URL has credentials in it: give them as the hub's token")

    @property
    def hub(self) -> dict[str, str]:
        """`kind`, `url` and `revision` of the source."""
        if self.source in ("modelscope", "huggingface"):
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
    metadata = {"name": program_config_name(name), "namespace": args.namespace, "labels": labels(args.stack, name)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program()}


def secret(name: str, args: ModelSyncArgs) -> Manifest:
    """The Secret of the pod."""
    values = {"id": args.key.id, "secret": args.key.secret}
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
    scratch = f"{args.scratch_gib}Gi"
    return {
        "metadata": {
            "labels": {**args.pod_labels, **labels(args.stack, name), "app.kubernetes.io/component": COMPONENT}
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "securityContext": {"runAsNonRoot": True, "runAsUser": _NOBODY, "runAsGroup": _NOBODY, "fsGroup": _NOBODY},
            "initContainers": [
                {
                    "name": "rclone",
                    "image": args.tool_image,
                    "command": ["cp", "/usr/local/bin/rclone", f"{_TOOLS}/rclone"],
                    "resources": _resources(1, 1, None),
                    "securityContext": {"allowPrivilegeEscalation": False},
                    "volumeMounts": [{"name": "tools", "mountPath": _TOOLS}],
                }
            ],
            "containers": [_container(name, args, scratch)],
            "volumes": [
                {"name": "program", "configMap": {"name": program_config_name(name)}},
                {"name": "tools", "emptyDir": {}},
                {"name": "scratch", "emptyDir": {"sizeLimit": scratch}},
            ],
        },
    }


def _container(name: str, args: ModelSyncArgs, scratch: str) -> Manifest:
    return {
        "name": "sync",
        "image": args.python_image,
        "command": ["python3", "-m", _PROGRAM.name],
        "workingDir": _PROGRAM_FOLDER,
        "env": _environment(name, args),
        "resources": _resources(fact("sync", "pod", "cpu"), fact("sync", "pod", "memoryGib"), scratch),
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
        # The provider quotes it when the Job fails.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "program", "mountPath": f"{_PROGRAM_FOLDER}/{_PROGRAM.name}", "readOnly": True},
            {"name": "tools", "mountPath": _TOOLS, "readOnly": True},
            {"name": "scratch", "mountPath": _SCRATCH},
        ],
    }


def _environment(name: str, args: ModelSyncArgs) -> list[Manifest]:
    values = {
        "HUB_KIND": args.hub["kind"],
        "HUB_URL": args.hub["url"],
        "REPOSITORY": args.repository,
        "REVISION": args.hub["revision"],
        "ENDPOINT": args.endpoint,
        "BUCKET": args.bucket,
        "PREFIX": args.prefix,
        "RCLONE": f"{_TOOLS}/rclone",
        "SCRATCH": _SCRATCH,
        "SCRATCH_GIB": str(args.scratch_gib),
    }
    secrets = {"KEY_ID": "id", "KEY_SECRET": "secret"} | ({} if args.token is None else {"HUB_TOKEN": "token"})
    return [
        *({"name": f"MODELSERVE_{key}", "value": value} for key, value in values.items()),
        *(
            {
                "name": f"MODELSERVE_{key}",
                "valueFrom": {"secretKeyRef": {"name": secret_name(name), "key": field_name}},
            }
            for key, field_name in secrets.items()
        ),
    ]


def _resources(cpu: int, memory_gib: int, ephemeral_storage: str | None) -> Manifest:
    amounts = {"cpu": str(cpu), "memory": f"{memory_gib}Gi"}
    if ephemeral_storage:
        amounts["ephemeral-storage"] = ephemeral_storage
    return {"requests": amounts, "limits": dict(amounts)}


class ModelSync(pulumi.ComponentResource):
    """A model's files in a bucket."""

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
        config = kubernetes_object(f"{name}-program", program_config(name, args), child)
        keys = kubernetes_object(f"{name}-keys", secret(name, args), child)
        limit = f"{args.seconds + _MARGIN_SECONDS}s"
        run = kubernetes_object(
            name,
            job(name, args),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[config, keys],
                hooks=hooks,
                custom_timeouts=pulumi.CustomTimeouts(create=limit, update=limit),
                # A changed pod is another Job of the same name, and two would write to one prefix.
                delete_before_replace=True,
            ),
        )
        self.done = run.id
        self.register_outputs({"done": self.done})
