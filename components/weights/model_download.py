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
    """`key` reads the bucket; `token` is the hub's; `program` ships the program that checks and fills a node's disk."""

    stack: str
    namespace: str
    key: KeyPair | None = None
    token: pulumi.Output[str] | None = None
    program: bool = False


def secret_name(name: str) -> str:
    """Name of the Secret that the pods read."""
    return f"{name}-download-keys"


def program_name(name: str) -> str:
    """Name of the ConfigMap that the pods read; it includes a digest of the content."""
    return model_sync.program_config_name(f"{name}-download")


def secret(name: str, args: ModelDownloadArgs) -> Manifest:
    """The Secret; its data is empty without key and token."""
    values = {} if args.key is None else {ID: args.key.id, SECRET: args.key.secret}
    if args.token is not None:
        values[TOKEN] = args.token
    return key_secret(secret_name(name), args.stack, args.namespace, name, values)


class ModelDownload(pulumi.ComponentResource):
    """Secret and program of one model's pods. `secret_name` and `program_name` are known when the objects exist, and
    None for an object that is not needed."""

    secret_name: pulumi.Output[str] | None = None
    program_name: pulumi.Output[str] | None = None

    def __init__(self, name: str, args: ModelDownloadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:weights:ModelDownload", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        keys = secret(name, args)
        if keys["data"]:
            created = kubernetes_object(f"{name}-download-keys", keys, child)
            self.secret_name = created.id.apply(_object_name)
        if args.program:
            config = model_sync.program_object(f"{name}-download", args.stack, args.namespace)
            created = kubernetes_object(f"{name}-download-program", config, child)
            self.program_name = created.id.apply(_object_name)
        self.register_outputs({"secretName": self.secret_name, "programName": self.program_name})


def _object_name(id: str) -> str:
    return id.rpartition("/")[2]
