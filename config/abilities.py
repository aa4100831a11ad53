"""What each cloud's builder can do: the one table that the rules of every section use.

Facts about the clouds (sizes, prices, labels) are in `planning/catalog`. A key that has no effect on a cloud, or with
the other choices of the stack file, is refused at that key: accepted, it would silently do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What one cloud's builder can do. The first of several values is the default.

    `sources` of weights; of these a sync can fill `filled`, and the stack can create the claim of `made`. `reads` and
    `stores` apply to buckets, the cloud's own store first. `exposes` is from where a service can be reached. `installs`
    are the add-ons that the stack installs. `autoscales`: something changes the number of replicas. `shapes`: a GPU
    series fixes the shapes of its pods. `node_labels` are the labels by which the program chooses nodes. `auths` are
    the ways in which pods authenticate to the cloud's own buckets.
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
    autoscales: bool = False
    shapes: bool = False
    node_labels: tuple[str, ...] = ()
    auths: tuple[str, ...] = ("key",)


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
        autoscales=True,
        node_labels=("node.kubernetes.io/instance-type",),
    ),
}
# Keys that only one kind of workload has.
WORKLOADS = {
    "lws": ("startup_policy", "restart_policy"),
    "fleet": ("rollout",),
}
