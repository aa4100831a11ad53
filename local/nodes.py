"""Fake nodes, which the real scheduler takes for machines. Owns node objects, no process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NodePool:
    """`count` GPU nodes of one product and instance type, and one node without GPUs for jobs.

    The default holds one group of two pods with 8 GPUs each, so that a bigger one stays unscheduled.
    """

    count: int = 2
    product: str = "NVIDIA-H20-96G"
    gpus: int = 8
    rdma: int = 8
    instance_type: str = "ecs.ebmhpcpni3l.48xlarge"
    cpu: str = "192"
    memory: str = "2Ti"

    def manifests(self) -> list[dict[str, Any]]:
        """The nodes, with the labels that pods of either cloud select."""
        extended = {"nvidia.com/gpu": str(self.gpus), "vke.volcengine.com/rdma": str(self.rdma)}
        labels = {
            "nvidia.com/gpu.product": self.product,
            "alibabacloud.com/gpu-model-series": self.product,
            "machine.cluster.vke.volcengine.com/gpu-name": self.product,
            "node.kubernetes.io/instance-type": self.instance_type,
        }
        nodes = [_node(f"gpu-{i}", self.cpu, self.memory, labels, extended) for i in range(self.count)]
        return [*nodes, _node("cpu-0", "64", "512Gi", {}, {})]


def _node(name: str, cpu: str, memory: str, labels: dict[str, str], extended: dict[str, str]) -> dict[str, Any]:
    resources = {"cpu": cpu, "memory": memory, "ephemeral-storage": "4Ti", "pods": "110"} | extended
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": "rehearsal",
                "topology.kubernetes.io/region": "rehearsal",
                "topology.kubernetes.io/zone": "rehearsal-a",
                "type": "virtual-kubelet",
            }
            | labels,
        },
        "status": {"allocatable": resources, "capacity": resources},
    }
