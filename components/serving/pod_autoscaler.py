"""Scales a fleet by the use of its KV cache: AIBrix's PodAutoscaler, written as the chosen release really reads it.

Not here: the fleet, whose number of replicas only the autoscaler sets, and what each release does with its settings
(`planning.aibrix_features`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning import aibrix_features
from planning.catalog import fact
from planning.problems import Problem, Refused

_TARGET = "RayClusterFleet"


@dataclass(frozen=True, kw_only=True)
class PodAutoscalerArgs:
    """`target` is the used fraction of each replica's KV cache to aim at, above 0 and below 1. Times are in seconds.
    Without `cooldown_seconds` the cooldown, if the strategy has one, is as long as a cold start. Without `strategy`
    the autoscaler takes the first of the release's strategies that works with a fraction.

    Raises Refused for what the AIBrix release would refuse, ignore or misread, and if the engine does not export the
    metric that the release reads.
    """

    stack: str
    namespace: str
    aibrix_version: str
    engine_version: str
    target_name: str
    minimum: int
    maximum: int
    target: float
    cold_start_seconds: int
    cooldown_seconds: int | None
    strategy: str | None
    port: int

    def __post_init__(self) -> None:
        problems = aibrix_features.scaler_problems(
            self.aibrix_version,
            self.engine_version,
            minimum=self.minimum,
            maximum=self.maximum,
            target=self.target,
            cold_start_seconds=self.cold_start_seconds,
            cooldown_seconds=self.cooldown_seconds,
            strategy=self.strategy,
        )
        if problems:
            raise Refused(*(Problem(field, str(getattr(self, field)), *reason) for field, *reason in problems))


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


class PodAutoscaler(pulumi.ComponentResource):
    """The autoscaler of a fleet. Pulumi creates it after the fleet and deletes it before."""

    ready: pulumi.Output[str]
    """The PodAutoscaler's id, known once it is ready."""

    def __init__(self, name: str, args: PodAutoscalerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:serving:PodAutoscaler", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        self.ready = kubernetes_object(f"{name}-autoscaler", pod_autoscaler(name, args), child).id
        self.register_outputs({"ready": self.ready})
