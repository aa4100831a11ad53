"""What each cloud's builder can do: the one table that the rules of every section use.

Facts about the clouds (sizes, prices, labels) are in `planning/catalog`. A key that has no effect on a cloud, or with
the other choices of the stack file, is refused at that key: accepted, it would silently do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What one cloud's builder can do. The first of several values is the default.

    `sources` of weights; of these a sync can fill `filled`, and the stack can create the claim of `made`. `reads` and
    `stores` apply to buckets, the cloud's own store first. `exposes` is from where a service can be reached. `installs`
    are the add-ons that the stack installs. `scalers` are who may change the number of replicas. `shapes`: a GPU series
    fixes the shapes of its pods. `node_labels` are the labels by which the program chooses nodes. `auths` are the ways
    in which pods authenticate to the cloud's own buckets. `node_disks`: pods have a node, and may mount its folders.
    `prometheus` are who may read monitors and rules.
    """

    workloads: tuple[str, ...]
    gateways: tuple[str, ...]
    sources: tuple[str, ...]
    filled: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    caches: tuple[str, ...] = ("none",)
    exposes: tuple[str, ...] = ("cluster",)
    installs: tuple[str, ...] = ()
    scalers: tuple[str, ...] = ("keda", "hpa")
    shapes: bool = False
    node_labels: tuple[str, ...] = ()
    auths: tuple[str, ...] = ("key",)
    node_disks: bool = True
    prometheus: tuple[str, ...] = ("operator",)


CLOUDS = {
    "local": Abilities(workloads=("lws",), gateways=("none",), sources=("pvc",)),
    "acs": Abilities(
        workloads=("lws",),
        gateways=("none",),
        sources=("pvc", "bucket"),
        filled=("bucket",),
        reads=("volume", "stream"),
        stores=("oss",),
        caches=("none", "fluid"),
        exposes=("cluster", "private", "public"),
        installs=("lws", "fluid"),
        shapes=True,
        node_labels=("alibabacloud.com/gpu-model-series",),
        auths=("key", "rrsa"),
        node_disks=False,
        prometheus=("arms", "operator"),
    ),
    "volcengine": Abilities(
        workloads=("fleet", "lws"),
        gateways=("aibrix", "none"),
        sources=("bucket", "huggingface", "nvme", "pvc"),
        filled=("bucket", "nvme", "pvc"),
        made=("pvc",),
        reads=("download", "stream"),
        stores=("tos", "s3", "gcs"),
        exposes=("cluster", "private", "public"),
        installs=("lws", "aibrix"),
        scalers=("aibrix", "keda", "hpa"),
        node_labels=("node.kubernetes.io/instance-type",),
        prometheus=("vmp", "operator"),
    ),
}

NEEDS: Mapping[str, Callable[[Abilities], bool]] = {
    **{
        f"Cache.{key}": lambda can: "fluid" in can.caches
        for key in ("engine", "workers", "cpu", "memory", "quota", "high", "low", "whilePaused", "pod")
    },
    "CompileCache.nodePath": lambda can: can.node_disks,
    "Addons.charts": lambda can: bool(can.installs),
    "Addons.fluid": lambda can: "fluid" in can.installs,
    "Addons.aibrix": lambda can: "aibrix" in can.installs,
    **{
        f"AddonChoice.{key}": lambda can: bool(can.installs)
        for key in ("chartVersion", "chart", "repo", "namespace", "values")
    },
    "PvcWeights.create": lambda can: "pvc" in can.made,
    "PvcWeights.sync": lambda can: "pvc" in can.filled,
    "BucketWeights.download": lambda can: "download" in can.reads,
    "Bucket.store": lambda can: len(can.stores) > 1,
    "Bucket.region": lambda can: len(can.stores) > 1,
    "Bucket.endpoint": lambda can: len(can.stores) > 1,
    "Service.routing": lambda can: can.gateways != ("none",),
    **{f"Autoscaling.{key}": lambda can: "aibrix" in can.scalers for key in ("strategy", "schedules")},
    "Rollout.maxSurge": lambda can: "fleet" in can.workloads,
    **{f"Rollout.{key}": lambda can: can.gateways != ("none",) for key in ("canary", "stepSeconds")},
    "Service.expose": lambda can: len(can.exposes) > 1,
    "Catalog.gpuPods": lambda can: can.shapes,
    "Prices.perCacheWorkerHour": lambda can: "fluid" in can.caches,
    "Monitoring.prometheus": lambda can: len(can.prometheus) > 1,
    "Alerts.groupPolicy": lambda can: "vmp" in can.prometheus,
}
"""Parts, and keys of parts, that only some clouds have a use for: what a cloud must be able to do. All others have uses
everywhere that their part has one."""
