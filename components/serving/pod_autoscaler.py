"""Replicas of a fleet by the use of its KV cache: AIBrix's PodAutoscaler, as the chosen release really reads it.

Not here: the fleet, whose replicas are the autoscaler's alone then, and what a release makes of its settings
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
    """`target` is the used part of each replica's KV cache to aim at, above 0 and below 1. Times are seconds; without
    `cooldown_seconds` the cooldown is a cold start long, where the strategy has one. `strategy`
    None is the first of the release that can act on a fraction.

    Raises Refused for what the AIBrix release would refuse, ignore or misread, and where it reads no metric that the
    engine exports.
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
    cooldown_seconds: int | None = None
    strategy: str | None = None
    port: int = 8000

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
    """The PodAutoscaler, ready when AIBrix has found its spec valid and its target there."""
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
    """The autoscaler of a fleet. It comes after the fleet, and goes before it."""

    ready: pulumi.Output[str]
    """The PodAutoscaler's id, known when the wait is over."""

    def __init__(self, name: str, args: PodAutoscalerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:serving:PodAutoscaler", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
        self.ready = kubernetes_object(f"{name}-autoscaler", pod_autoscaler(name, args), child).id
        self.register_outputs({"ready": self.ready})
