"""Scales a LeaderWorkerSet by the use of its KV cache: a ScaledObject of KEDA, or Kubernetes' HorizontalPodAutoscaler.

Both act through the LeaderWorkerSet's scale subresource, and read what the stack's ServiceMonitor has Prometheus keep.
Not here: the LeaderWorkerSet, whose number of replicas only the autoscaler sets; KEDA, Prometheus and its adapter,
which the cluster has; and AIBrix's own autoscaler (`pod_autoscaler`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import pulumi

from components.cluster.kubernetes import Manifest, labels
from components.serving.autoscaler import Autoscaler, AutoscalerArgs
from planning import scaling
from planning.problems import Problem, Refused


@dataclass(frozen=True, kw_only=True)
class GroupAutoscalerArgs(AutoscalerArgs):
    """Without `cooldown_seconds` a replica stays as long as a cold start without need, up to Kubernetes' limit.
    `prometheus` is the URL that KEDA asks.

    Raises Refused for what Kubernetes would refuse or KEDA could not do.
    """

    engine: Literal["keda", "hpa"]
    prometheus: str | None

    def __post_init__(self) -> None:
        problems = self.problems(scaling.problems(self))
        if self.engine == "keda" and not self.prometheus:
            problems.append(Problem("prometheus", "", "KEDA has nobody to ask", "give its URL"))
        if problems:
            raise Refused(*problems)


def autoscaler(name: str, args: GroupAutoscalerArgs) -> Manifest:
    """The object that scales. It is ready once its target and its metric were found."""
    window = scaling.window_seconds(args.cold_start_seconds, args.cooldown_seconds)
    behavior = {"scaleDown": {"stabilizationWindowSeconds": window}}
    target = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": args.target_name}
    keda = args.engine == "keda"
    # Both set them only after they have read the metric.
    ready = ["Ready"] if keda else ["AbleToScale", "ScalingActive"]
    gauge = scaling.kv_gauge(args.engine_version)
    spec = (
        {
            "scaleTargetRef": target,
            "minReplicaCount": args.minimum,
            "maxReplicaCount": args.maximum,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}},
            "triggers": [
                {
                    "type": "prometheus",
                    # Kubernetes multiplies it by the replicas that answer, so one that Prometheus missed is as busy as
                    # the others, and one that still starts asks for no other.
                    "metricType": "Value",
                    "metadata": {
                        "serverAddress": args.prometheus,
                        "query": f"avg({gauge}{{stack={json.dumps(args.stack)}, model={json.dumps(name)}}})",
                        "threshold": f"{args.target:g}",
                        # KEDA would take no answer for no load.
                        "ignoreNullValues": "false",
                    },
                }
            ],
        }
        if keda
        else {
            "scaleTargetRef": target,
            "minReplicas": args.minimum,
            "maxReplicas": args.maximum,
            "behavior": behavior,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        # A colon does not belong into a path of the API.
                        "metric": {"name": gauge.replace(":", "_")},
                        # As the API server writes it.
                        "target": {"type": "AverageValue", "averageValue": f"{max(1, round(args.target * 1000))}m"},
                    },
                }
            ],
        }
    )
    return {
        "apiVersion": "keda.sh/v1alpha1" if keda else "autoscaling/v2",
        "kind": "ScaledObject" if keda else "HorizontalPodAutoscaler",
        "metadata": {
            "name": args.target_name,
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            "annotations": {"pulumi.com/waitFor": json.dumps([f"condition={each}" for each in ready])},
        },
        "spec": spec,
    }


class GroupAutoscaler(Autoscaler):
    """The autoscaler of a LeaderWorkerSet."""

    def __init__(self, name: str, args: GroupAutoscalerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:serving:GroupAutoscaler", name, autoscaler(name, args), opts)
