"""The Secret and the ConfigMap that pods read to bring their weights by themselves.

Not here: what the pods do with them (`hub_weights`, `bucket_weights`, `disk_weights`), nor volumes that the stack
creates (`model_claim`, `model_volume`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from components.cluster.credentials import KeyPair, key_secret
from components.cluster.kubernetes import Manifest, kubernetes_object
from components.weights import model_sync

ID, SECRET, TOKEN = "id", "secret", "token"
"""Fields of the Secret: the two halves of the bucket's key, and the hub's token."""


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
