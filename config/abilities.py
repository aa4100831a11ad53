"""What each cloud's builder can do: the one table that the rules of every section go by.

What clouds themselves are like (sizes, prices, labels) is in `planning/catalog`. A key that a cloud, or the way that a
stack file chooses on it, makes nothing of is refused where the key is: accepted, it would mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """Of several values the first is the usual one.

    `sources` are those of weights, `filled` those that a sync fills, `made` those whose claim the stack makes; `reads`
    and `stores` are of buckets, the cloud's own store first. `autoscales`: something changes the number of replicas.
    `installs` are the add-ons that the stack brings along. `exposes` is how far a service is reached. `shapes` says
    that pods come in the shapes of a series. `node_labels` are the labels by which the program chooses nodes.
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
# What only one kind of workload has.
WORKLOADS = {
    "lws": ("startup_policy", "restart_policy"),
    "fleet": ("rollout",),
}
