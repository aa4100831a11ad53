"""Scales a fleet by the use of its KV cache: AIBrix's PodAutoscaler, written as the chosen release really reads it.

Not here: the fleet, whose number of replicas only the autoscaler sets, and what each release does with its settings
(`planning.aibrix_features`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi

from components.cluster.kubernetes import Manifest, labels
from components.serving.autoscaler import Autoscaler, AutoscalerArgs
from planning import aibrix_features
from planning.catalog import fact
from planning.problems import Refused

_TARGET = "RayClusterFleet"


@dataclass(frozen=True, kw_only=True)
class PodAutoscalerArgs(AutoscalerArgs):
    """Without `cooldown_seconds` the cooldown, if the strategy has one, is as long as a cold start. Without `strategy`
    the autoscaler takes the first of the release's strategies that works with a fraction.

    Raises Refused for what the AIBrix release would refuse, ignore or misread, and if the engine does not export the
    metric that the release reads.
    """

    aibrix_version: str
    port: int

    def __post_init__(self) -> None:
        wrong = aibrix_features.scaler_problems(self.aibrix_version, self.engine_version, self)
        if wrong:
            raise Refused(*self.problems(wrong))


def pod_autoscaler(name: str, args: PodAutoscalerArgs) -> Manifest:
    """The PodAutoscaler. It is ready once AIBrix has accepted its spec and found its target."""
    strategy = args.strategy or aibrix_features.scalers(args.aibrix_version)[0]
    cooldown = args.cold_start_seconds if args.cooldown_seconds is None else args.cooldown_seconds
    delay = aibrix_features.cooldown_annotation(args.aibrix_version, strategy)
    conditions = [f"condition={kind}" for kind in aibrix_features.scaler_conditions(args.aibrix_version)]
    return {
        "apiVersion": "autoscaling.aibrix.ai/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {
            "name": name,
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            "annotations": {
                "pulumi.com/waitFor": json.dumps(conditions),
                **({delay: f"{cooldown}s"} if delay else {}),
            },
        },
        "spec": {
            "scaleTargetRef": {
                "apiVersion": fact("aibrix", "autoscaling", "targets")[_TARGET],
                "kind": _TARGET,
                "name": args.target_name,
            },
            "minReplicas": args.minimum,
            "maxReplicas": args.maximum,
            "scalingStrategy": strategy,
            "metricsSources": [
                {
                    "metricSourceType": "pod",
                    "protocolType": "http",
                    "port": str(args.port),
                    "path": "/metrics",
                    "targetMetric": aibrix_features.metric(args.aibrix_version, args.engine_version),
                    "targetValue": f"{args.target:g}",
                }
            ],
        },
    }


class PodAutoscaler(Autoscaler):
    """The autoscaler of a fleet."""

    def __init__(self, name: str, args: PodAutoscalerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:serving:PodAutoscaler", name, pod_autoscaler(name, args), opts)
