"""A model's files in the bucket as a volume: Secret, PersistentVolume and claim of the OSS driver, without a cache.

Owns no data: the volume is a mount of one prefix, and deleting it leaves the bucket as it is. Not here: the bucket, the
files in it, and the cached way to them (`fluid_cache`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import pulumi

from components.cluster.credentials import KeyPair, key_secret
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning.catalog import fact

_NAMESPACE_LABEL = "modelserve.dev/namespace"
_VOLUME_LABEL = "modelserve.dev/volume"


@dataclass(frozen=True, kw_only=True)
class ModelVolumeArgs:
    """`prefix` is the model's key prefix in `bucket`, without a slash at either end; `endpoint` the host of the object
    store as pods reach it. `size_gib` is what lies there; the driver does not enforce it."""

    stack: str
    namespace: str
    bucket: pulumi.Input[str]
    endpoint: str
    prefix: str
    key: KeyPair
    size_gib: int


def secret_name(name: str) -> str:
    """The Secret that the driver mounts with."""
    return f"{name}-volume-key"


def revision(args: ModelVolumeArgs, bucket: str) -> str:
    """A digest of all that a volume cannot change after it was made.

    It is part of the names: volume and claim of a new place are made beside the old ones, the workload moves over, and
    only then do the old ones go. Under one name a replacement would wait for ever for the pods that mount the claim.
    """
    place = "\n".join((bucket, args.endpoint, args.prefix, str(args.size_gib)))
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def claim_name(name: str, args: ModelVolumeArgs, bucket: str) -> str:
    """The claim in the namespace. Not `name` itself, which is that of a cache's claim: a stack that switches from one
    to the other has both for a while."""
    return f"{name}-volume-{revision(args, bucket)}"


def volume_name(name: str, args: ModelVolumeArgs, bucket: str) -> str:
    """The volume, which has no namespace. Dots part what hyphens may not: no two places share a name."""
    stack = re.sub(r"[^a-z0-9]+", "-", args.stack.lower()).strip("-")
    return f"{args.namespace}.{stack}.{claim_name(name, args, bucket)}"


def secret(name: str, args: ModelVolumeArgs) -> Manifest:
    """The key as the driver spells it."""
    values = {"akId": args.key.id, "akSecret": args.key.secret}
    return key_secret(secret_name(name), args.stack, args.namespace, name, values)


def persistent_volume(name: str, args: ModelVolumeArgs) -> Manifest:
    """The volume: one prefix of the bucket, read by many, left alone when its claim goes."""
    made = _of(args, lambda bucket: volume_name(name, args, bucket))
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": made, "labels": _volume_labels(name, args)},
        "spec": {
            "capacity": {"storage": f"{args.size_gib}Gi"},
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            # Without a class. An empty one, as in the claim, the API server drops, which looks like a change.
            # Reserved: else any claim without a class that asks for no more could take it.
            "claimRef": {
                "namespace": args.namespace,
                "name": _of(args, lambda bucket: claim_name(name, args, bucket)),
            },
            "csi": {
                "driver": fact("fluid", "csi", "driver"),
                "volumeHandle": made,
                "nodePublishSecretRef": {"name": secret_name(name), "namespace": args.namespace},
                "volumeAttributes": {
                    "bucket": args.bucket,
                    "url": args.endpoint,
                    "path": f"/{args.prefix}",
                    "otherOpts": fact("fluid", "csi", "otherOpts"),
                },
            },
        },
    }


def claim(name: str, args: ModelVolumeArgs) -> Manifest:
    """The claim of that volume and of no other. Its empty class keeps a cluster's default one from making a disk."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": _of(args, lambda bucket: claim_name(name, args, bucket)),
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
        },
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "selector": {"matchLabels": _volume_labels(name, args)},
            "resources": {"requests": {"storage": f"{args.size_gib}Gi"}},
        },
    }


def _volume_labels(name: str, args: ModelVolumeArgs) -> dict[str, pulumi.Input[str]]:
    found = _of(args, lambda bucket: revision(args, bucket))
    return {**labels(args.stack, name), _NAMESPACE_LABEL: args.namespace, _VOLUME_LABEL: found}


def _of(args: ModelVolumeArgs, make: Callable[[str], str]) -> pulumi.Output[str]:
    return pulumi.Output.from_input(args.bucket).apply(make)


class ModelVolume(pulumi.ComponentResource):
    """The model's files, mounted straight from the bucket."""

    claim: pulumi.Output[str]
    """Name of the claim, known when it is bound."""

    def __init__(self, name: str, args: ModelVolumeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:weights:ModelVolume", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
        key = kubernetes_object(f"{name}-volume-key", secret(name, args), child)
        volume = kubernetes_object(
            f"{name}-volume", persistent_volume(name, args), pulumi.ResourceOptions(parent=self, depends_on=[key])
        )
        bound = kubernetes_object(
            f"{name}-volume-claim", claim(name, args), pulumi.ResourceOptions(parent=self, depends_on=[volume])
        )
        self.claim = bound.id.apply(lambda at: at.rpartition("/")[2])
        self.register_outputs({"claim": self.claim})
