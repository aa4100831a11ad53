"""A model's files in a bucket, mounted without a cache: Secret, PersistentVolume and claim of the OSS driver.

Owns no data: the volume mounts one prefix, and deleting it leaves the bucket as it is. Not here: the bucket, its files,
and mounting them through a cache (`fluid_cache`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import pulumi

from components.cluster.credentials import KeyPair, Role, key_secret
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning.catalog import fact

_NAMESPACE_LABEL = "modelserve.dev/namespace"
_VOLUME_LABEL = "modelserve.dev/volume"


@dataclass(frozen=True, kw_only=True)
class ModelVolumeArgs:
    """`prefix` is the model's key prefix in `bucket`, without a slash at either end; `endpoint` is the object store's
    host as pods reach it. The driver mounts with `key`, or takes that role. `size_gib` is the size of the files there;
    the driver does not enforce it."""

    stack: str
    namespace: str
    bucket: pulumi.Input[str]
    endpoint: str
    prefix: str
    key: KeyPair | Role
    size_gib: int


def secret_name(name: str) -> str:
    """Name of the Secret that the driver uses to mount."""
    return f"{name}-volume-key"


def revision(args: ModelVolumeArgs, bucket: str) -> str:
    """A digest of everything that cannot change in a volume once it exists.

    It is part of the names. So Pulumi creates volume and claim of a new place beside the old ones, moves the workload,
    and only then deletes the old ones. With a fixed name, a replacement would wait forever for the pods that mount the
    claim.
    """
    place = "\n".join((bucket, args.endpoint, args.prefix, str(args.size_gib)))
    if isinstance(args.key, Role):
        place += "\nrole"
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def claim_name(name: str, args: ModelVolumeArgs, bucket: str) -> str:
    """Name of the claim. Not `name` itself, which a cache's claim has: a stack that switches from one to the other has
    both for a while."""
    return f"{name}-volume-{revision(args, bucket)}"


def volume_name(name: str, args: ModelVolumeArgs, bucket: str) -> str:
    """Name of the cluster-wide volume. Its parts contain hyphens, so dots separate them, and names stay unique."""
    stack = re.sub(r"[^a-z0-9]+", "-", args.stack.lower()).strip("-")
    return f"{args.namespace}.{stack}.{claim_name(name, args, bucket)}"


def secret(name: str, args: ModelVolumeArgs, key: KeyPair) -> Manifest:
    """The key under the driver's field names."""
    values = {"akId": key.id, "akSecret": key.secret}
    return key_secret(secret_name(name), args.stack, args.namespace, name, values)


def persistent_volume(name: str, args: ModelVolumeArgs) -> Manifest:
    """The volume: one prefix of the bucket, read by many pods, kept when its claim is deleted."""
    unique_name = _of(args, lambda bucket: volume_name(name, args, bucket))
    keyed: Manifest = {"nodePublishSecretRef": {"name": secret_name(name), "namespace": args.namespace}}
    role: Manifest = {}
    if isinstance(args.key, Role):
        keyed, role = {}, {"authType": "rrsa", "roleName": args.key.name}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": unique_name, "labels": _volume_labels(name, args)},
        "spec": {
            "capacity": {"storage": f"{args.size_gib}Gi"},
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            # No storageClassName: the API server drops an empty one, and Pulumi would show that as a change.
            # Reserve it for our claim: otherwise any claim without a class that fits could bind it.
            "claimRef": {
                "namespace": args.namespace,
                "name": _of(args, lambda bucket: claim_name(name, args, bucket)),
            },
            "csi": {
                "driver": fact("fluid", "csi", "driver"),
                "volumeHandle": unique_name,
                **keyed,
                "volumeAttributes": {
                    "bucket": args.bucket,
                    "url": args.endpoint,
                    "path": f"/{args.prefix}",
                    "otherOpts": fact("fluid", "csi", "otherOpts"),
                    **role,
                },
            },
        },
    }


def claim(name: str, args: ModelVolumeArgs) -> Manifest:
    """The claim, which only that volume satisfies. The empty class stops the cluster's default class from creating a
    disk for it."""
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
    digest = _of(args, lambda bucket: revision(args, bucket))
    return {**labels(args.stack, name), _NAMESPACE_LABEL: args.namespace, _VOLUME_LABEL: digest}


def _of(args: ModelVolumeArgs, make: Callable[[str], str]) -> pulumi.Output[str]:
    return pulumi.Output.from_input(args.bucket).apply(make)


class ModelVolume(pulumi.ComponentResource):
    """The model's files, mounted directly from the bucket."""

    claim: pulumi.Output[str]
    """Name of the claim, known when it is bound."""

    def __init__(self, name: str, args: ModelVolumeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:weights:ModelVolume", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        needed = []
        if isinstance(args.key, KeyPair):
            needed.append(kubernetes_object(f"{name}-volume-key", secret(name, args, args.key), child))
        volume = kubernetes_object(
            f"{name}-volume", persistent_volume(name, args), pulumi.ResourceOptions(parent=self, depends_on=needed)
        )
        bound = kubernetes_object(
            f"{name}-volume-claim", claim(name, args), pulumi.ResourceOptions(parent=self, depends_on=[volume])
        )
        self.claim = bound.id.apply(lambda id: id.rpartition("/")[2])
        self.register_outputs({"claim": self.claim})
