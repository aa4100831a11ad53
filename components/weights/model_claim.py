"""A PersistentVolumeClaim for models, which the stack creates from a storage class: empty until a ModelSync fills it.

Not here: claims that exist already, and volumes over a bucket (`model_volume`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning.problems import Problem, Refused

_READERS_ON_MANY_NODES = ("ReadWriteMany", "ReadOnlyMany")


@dataclass(frozen=True, kw_only=True)
class ModelClaimArgs:
    """A claim of `size_gib` from `storage_class` (None: the cluster's default), read by pods on `readers` nodes.

    `filled` says that this stack writes to it. `keep` protects it: a destroy leaves the claim, and with it the weights.
    `awaited` false does not wait for a volume; the first pod waits instead. It is for a class that takes longer than
    five minutes to create a volume: the Kubernetes plugin never waits longer, whatever timeout it is given.
    Raises Refused for an access mode with which the readers or the sync could never start.
    """

    stack: str
    namespace: str
    size_gib: int
    storage_class: str | None = None
    access: Literal["ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce"] = "ReadWriteMany"
    readers: int = 1
    filled: bool = True
    keep: bool = True
    awaited: bool = True

    def __post_init__(self) -> None:
        if self.size_gib < 1:
            why = f"a claim of {self.size_gib} GiB holds no model"
            raise Refused(Problem("size_gib", str(self.size_gib), why, "give the size of its files, and some room"))
        if self.readers > 1 and self.access not in _READERS_ON_MANY_NODES:
            why = f"one node mounts such a volume and {self.readers} nodes read the model"
            instead = "take ReadWriteMany, with a storage class that has it"
            raise Refused(Problem("access mode", self.access, why, instead))
        if self.filled and self.access == "ReadOnlyMany":
            instead = "take ReadWriteMany, or name a claim that holds the model already"
            raise Refused(Problem("access mode", self.access, "nothing could fill the new volume", instead))


def claim(name: str, args: ModelClaimArgs) -> Manifest:
    """The claim.

    Pulumi's Kubernetes plugin waits until it is bound. It does not wait where the class creates a volume only for a pod
    that uses it (WaitForFirstConsumer): no pod would come during the wait.
    """
    metadata: Manifest = {
        "name": name,
        "namespace": args.namespace,
        "labels": labels(args.stack, name),
    }
    if not args.awaited:
        metadata["annotations"] = {"pulumi.com/skipAwait": "true"}
    spec: Manifest = {
        "accessModes": [args.access],
        "resources": {"requests": {"storage": f"{args.size_gib}Gi"}},
    }
    if args.storage_class is not None:
        spec["storageClassName"] = args.storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


class ModelClaim(pulumi.ComponentResource):
    """A volume for models. Class and access mode cannot change in place, and a kept claim cannot be replaced."""

    claim: pulumi.Output[str]
    """Name of the claim, known when it is bound or waits for its first pod."""

    def __init__(self, name: str, args: ModelClaimArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:weights:ModelClaim", name, {}, opts)
        created = kubernetes_object(
            f"{name}-models",
            claim(name, args),
            # Old and new claim have the same name, so they cannot exist side by side.
            pulumi.ResourceOptions(parent=self, protect=args.keep, delete_before_replace=True),
        )
        self.claim = created.id.apply(lambda id: id.rpartition("/")[2])
        self.register_outputs({"claim": self.claim})
