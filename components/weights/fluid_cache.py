"""A model's files in the memory of cache workers, by Fluid and JindoCache: Secret, Dataset, runtime and first load.

Written for Fluid 1.0.8. Not here: installing Fluid (`cluster_addons`), how many workers a model needs
(`planning.cache`), and reading the cluster: the stack's builder passes in a callable that says whether a load that
Fluid calls complete holds the whole model.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pulumi

from components.cluster.credentials import KeyPair, key_secret
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.cluster.pod_extras import NOTHING, PodExtras
from planning.cache import quota_problem
from planning.catalog import fact
from planning.problems import Problem, Refused

API_VERSION = "data.fluid.io/v1alpha1"
ATTEMPT = "modelserve.dev/attempt"
"""Annotation of a DataLoad: the number of the attempt; absent on the first."""
LOADS = "modelserve.dev/loads"
"""Annotation of a DataLoad: how many workers it loads the model into."""
MOUNT = "modelserve.dev/mount"
"""Annotation of the key's Secret: the place that the key opens."""
# With foreground deletion the garbage collector deletes the runtime's parts while its controller still shuts them down
# (https://github.com/fluid-cloudnative/fluid/issues/775). Pulumi waits for finalizers in either case.
_BACKGROUND = {"pulumi.com/deletionPropagationPolicy": "background"}
# Fields for pod placement that Fluid's runtime and DataLoad share.
_PLACED = ("nodeSelector", "tolerations")
_KEYS = ("fs.oss.accessKeyId", "fs.oss.accessKeySecret")

Shortfall = Callable[[], Awaitable[str | None] | str | None]
"""Says what is missing from a complete load; None when nothing is."""


@dataclass(frozen=True, kw_only=True)
class FluidCacheArgs:
    """One cache. `cpu`, `limit_gib` (memory) and `quota_gib` are per worker: files may fill the share `high` of the
    quota.

    The workers must be ready within `ready_seconds`, the model loaded within `load_seconds`. `attempt` above 1 loads
    again. `pod_labels` go on every pod of the cache, `worker_annotations` on the workers only. `extras` is what the
    cluster's owner wants on master, workers and loader; of its `spec`, only the fields that a JindoRuntime has.

    Raises Refused for sizes that JindoCache refuses or misreads.
    """

    stack: str
    namespace: str
    bucket: pulumi.Input[str]
    endpoint: str
    prefix: str
    key: KeyPair
    workers: int
    quota_gib: int
    limit_gib: int
    cpu: int
    high: float
    low: float
    ready_seconds: int
    load_seconds: int
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    worker_annotations: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    extras: PodExtras = NOTHING

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise Refused(
                Problem("workers", str(self.workers), "a cache without workers holds nothing", "give 1 or more")
            )
        if wrong := quota_problem(self.quota_gib, self.limit_gib):
            raise Refused(Problem("quota", f"{self.quota_gib} GiB", *wrong))
        if not 0 < self.low < self.high <= 1:
            why = f"marks low {self.low:g}, high {self.high:g} are not 0 < low < high <= 1"
            raise Refused(Problem("low", f"{self.low:g}", why, "give marks in that order"))


def secret_name(name: str) -> str:
    """Name of the Secret that the Dataset refers to."""
    return f"{name}-cache-key"


def secret(name: str, args: FluidCacheArgs) -> Manifest:
    """The key under JindoCache's field names. JindoCache accepts only one Secret, so both halves are in it."""
    values = dict(zip(_KEYS, (args.key.id, args.key.secret), strict=True))
    manifest = key_secret(secret_name(name), args.stack, args.namespace, name, values)
    return manifest | {"metadata": manifest["metadata"] | {"annotations": {MOUNT: _mount_point(args)}}}


def _mount_point(args: FluidCacheArgs) -> pulumi.Output[str]:
    return pulumi.Output.concat("oss://", args.bucket, f"/{args.prefix}/")


def dataset(name: str, args: FluidCacheArgs) -> Manifest:
    """What is cached: only the model's prefix, at the volume's root. Mounting the bucket's root would put the files one
    prefix deeper than the workload expects, and cache everything else in the bucket too."""
    encrypted = [{"name": key, "valueFrom": {"secretKeyRef": {"name": secret_name(name), "key": key}}} for key in _KEYS]
    return _fluid("Dataset", name, args) | {
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "placement": "Shared",
            "mounts": [
                {
                    "name": name,
                    "mountPoint": _mount_point(args),
                    "path": "/",
                    "options": {"fs.oss.endpoint": args.endpoint},
                    "encryptOptions": encrypted,
                }
            ],
        }
    }


def jindo_runtime(name: str, args: FluidCacheArgs) -> Manifest:
    """The cache's pods, ready when every worker is ready.

    Fluid calls the Dataset Bound when the first worker is ready; a load that starts then would overflow that worker.
    The wait checks the number and the phase, because Fluid's status does not say which generation it describes.
    """
    ready = [f"jsonpath={{.status.workerNumberReady}}={args.workers}", "jsonpath={.status.workerPhase}=Ready"]
    master = fact("fluid", "fluid", "master")
    placed = {key: args.extras.spec[key] for key in _PLACED if key in args.extras.spec}
    secrets = {key: args.extras.spec[key] for key in ("imagePullSecrets",) if key in args.extras.spec}
    return _fluid("JindoRuntime", name, args, {"pulumi.com/waitFor": json.dumps(ready)}) | {
        "spec": {
            **secrets,
            "replicas": args.workers,
            "networkmode": "ContainerNetwork",  # Fluid's default is the host network, which a serverless pod lacks
            "master": {
                **placed,
                "podMetadata": _metadata(args),
                "resources": _resources(master["cpu"], master["memoryGib"]),
            },
            "worker": {
                **placed,
                "podMetadata": _metadata(args, args.worker_annotations),
                "resources": _resources(args.cpu, args.limit_gib),
            },
            # No resources: Fluid adds this container to the model's pods, whose sizes are sold in steps.
            "fuse": {"podMetadata": {"labels": dict(args.pod_labels)}},
            "tieredstore": {
                "levels": [
                    {
                        "mediumtype": "MEM",
                        "path": "/dev/shm",
                        "volumeType": "emptyDir",
                        "quota": f"{args.quota_gib}Gi",
                        "high": f"{args.high:g}",
                        "low": f"{args.low:g}",
                    }
                ]
            },
        }
    }


def data_load(name: str, args: FluidCacheArgs) -> Manifest:
    """Loads the whole model. Pulumi waits for either outcome; the component then checks which one it was."""
    annotations = {
        "pulumi.com/waitFor": "jsonpath={.status[?@ == 'Complete' || @ == 'Failed']}",
        LOADS: f"workers={args.workers}",
    }
    if args.attempt > 1:
        annotations[ATTEMPT] = str(args.attempt)
    return _fluid("DataLoad", name, args, annotations) | {
        "spec": {
            "dataset": {"name": name, "namespace": args.namespace},
            "loadMetadata": True,
            "target": [{"path": "/", "replicas": 1}],
            "podMetadata": _metadata(args),
            **{key: args.extras.spec[key] for key in _PLACED if key in args.extras.spec},
        }
    }


def _metadata(args: FluidCacheArgs, annotations: Mapping[str, str] = MappingProxyType({})) -> Manifest:
    metadata: Manifest = {"labels": {**args.extras.labels, **args.pod_labels}}
    if all_annotations := {**args.extras.annotations, **annotations}:
        metadata["annotations"] = all_annotations
    return metadata


def failure(status: Mapping[str, Any] | None) -> str | None:
    """Why a DataLoad with this status did not succeed, in Fluid's own words.

    None for a complete load, and without a status, as in a program that runs without Pulumi's engine.
    """
    if not status or status.get("phase") == "Complete":
        return None
    reasons = [
        ": ".join(text for text in (condition.get("reason"), condition.get("message")) if text)
        for condition in status.get("conditions") or []
        if condition.get("status") == "True"
    ]
    phase = status.get("phase") or "not begun"
    return f"Fluid calls the load {phase}" + (f" ({'; '.join(reasons)})" if any(reasons) else "")


def _fluid(kind: str, name: str, args: FluidCacheArgs, annotations: Mapping[str, str] | None = None) -> Manifest:
    limit = fact("fluid", "fluid", "nameLimit")
    if len(name) > limit:
        why = f"has {len(name)} characters, and Fluid's workers can be named by at most {limit}"
        raise Refused(Problem("name", name, why, "take a shorter one"))
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            "annotations": {**_BACKGROUND, **(annotations or {})},
        },
    }


def _resources(cpu: int, memory_gib: int) -> Manifest:
    amounts = {"cpu": str(cpu), "memory": f"{memory_gib}Gi"}
    return {"requests": amounts, "limits": dict(amounts)}


class FluidCache(pulumi.ComponentResource):
    """The model's files in the memory of cache workers, loaded once."""

    claim: pulumi.Output[str]
    """Name of the claim that Fluid creates; it is the Dataset's name. Known when the whole model is loaded."""
    parts: tuple[pulumi.Resource, ...]
    """Key, Dataset and runtime. Whatever mounts the claim names them in `replace_with`: none of them can be deleted
    while a pod mounts the claim."""

    def __init__(
        self,
        name: str,
        args: FluidCacheArgs,
        opts: pulumi.ResourceOptions | None = None,
        hooks: pulumi.ResourceHookBinding | None = None,
        *,
        runtime_hooks: pulumi.ResourceHookBinding | None = None,
        shortfall: Shortfall | None = None,
    ) -> None:
        """`hooks` are the DataLoad's. `shortfall` is called once Fluid calls the load complete."""
        super().__init__("modelserve:weights:FluidCache", name, {}, opts)
        # Do not merge opts: the parts would inherit our depends_on and ignore_changes.
        key = kubernetes_object(
            f"{name}-cache-key",
            secret(name, args),
            # Pulumi deletes the resources that are replaced with one resource in random order (it walks a map), and
            # Fluid holds up deleting the runtime while a pod mounts the cache. So when the Dataset has to go, the key
            # goes first and takes along whatever mounts the cache; only the runtime is left to go with the Dataset.
            pulumi.ResourceOptions(
                parent=self, replace_on_changes=[f'metadata.annotations["{MOUNT}"]'], delete_before_replace=True
            ),
        )
        files = kubernetes_object(
            f"{name}-dataset",
            dataset(name, args),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[key],
                # The runtime mounts them only when it is set up.
                replace_on_changes=["spec.mounts"],
                delete_before_replace=True,
            ),
        )
        runtime = self._runtime(name, args, files, runtime_hooks)
        self.parts = (key, files, runtime)
        load = self._load(name, args, hooks)

        async def whole(status: Mapping[str, Any] | None) -> str:
            lacking = failure(status)
            if lacking is None and shortfall is not None:
                asked = shortfall()
                lacking = await asked if inspect.isawaitable(asked) else asked
            if lacking is not None:
                raise pulumi.RunError(f"{name}: {lacking}")
            return name

        # In a preview the status is that of the previous load.
        self.claim = load.id.apply(lambda _: name) if pulumi.runtime.is_dry_run() else load.status.apply(whole)
        self.register_outputs({"claim": self.claim})

    def _runtime(
        self,
        name: str,
        args: FluidCacheArgs,
        files: pulumi.Resource,
        hooks: pulumi.ResourceHookBinding | None,
    ) -> pulumi.CustomResource:
        ready_in = f"{args.ready_seconds}s"
        return kubernetes_object(
            f"{name}-runtime",
            jindo_runtime(name, args),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[files],
                hooks=hooks,
                custom_timeouts=pulumi.CustomTimeouts(create=ready_in, update=ready_in),
                # Fluid applies new replicas and resources to running pods, and ignores other changes.
                replace_on_changes=[
                    "spec.networkmode",
                    "spec.tieredstore",
                    "spec.imagePullSecrets",
                    *(f"spec.{part}.{key}" for part in ("master", "worker") for key in _PLACED),
                    *(f"spec.{part}.podMetadata" for part in ("master", "worker", "fuse")),
                ],
                # Deleting the Dataset deletes its runtime: Fluid makes the Dataset its owner.
                replace_with=[files],
                delete_before_replace=True,  # its name must be the Dataset's
            ),
        )

    def _load(
        self,
        name: str,
        args: FluidCacheArgs,
        hooks: pulumi.ResourceHookBinding | None,
    ) -> Any:
        loaded_in = f"{args.load_seconds}s"
        return kubernetes_object(
            f"{name}-load",
            # An input without a value makes Pulumi return the live status as an output.
            data_load(name, args) | {"status": None},
            pulumi.ResourceOptions(
                parent=self,
                depends_on=self.parts,
                hooks=hooks,
                custom_timeouts=pulumi.CustomTimeouts(create=loaded_in, update=loaded_in),
                # A load runs once; Fluid ignores what changes after its end.
                replace_on_changes=["spec", *(f'metadata.annotations["{key}"]' for key in (ATTEMPT, LOADS))],
                replace_with=list(self.parts),  # a new cache is empty
                delete_before_replace=True,
            ),
        )
