"""Replicas of a fleet by the use of its KV cache: AIBrix's PodAutoscaler, as the chosen release really reads it.

Not here: the fleet, whose replicas are the autoscaler's alone then, and what a release makes of its settings
(`planning.aibrix_features`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning import aibrix_features
from planning.catalog import fact
from planning.problems import Problem, Refused


@dataclass(frozen=True, kw_only=True)
class PodAutoscalerArgs:
    """`target` is the used part of each replica's KV cache to aim at, above 0 and below 1. Times are seconds; without
    `cooldown_seconds` the cooldown is a cold start long, where the strategy has one. Tolerances are parts of `target`;
    None is the release's own. `strategy` None is the first of the release that can act on a fraction.

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
    target_kind: str = "RayClusterFleet"
    cooldown_seconds: int | None = None
    strategy: str | None = None
    up_tolerance: float | None = None
    down_tolerance: float | None = None
    schedules: Sequence[Any] = ()
    port: int = 8000

    def __post_init__(self) -> None:
        wrong = aibrix_features.target_problem(self.aibrix_version, self.target_kind)
        if wrong:
            raise Refused(Problem("target_kind", self.target_kind, *wrong))
        problems = aibrix_features.scaler_problems(
            self.aibrix_version,
            self.engine_version,
            minimum=self.minimum,
            maximum=self.maximum,
            target=self.target,
            cold_start_seconds=self.cold_start_seconds,
            cooldown_seconds=self.cooldown_seconds,
            strategy=self.strategy,
            schedules=self.schedules,
        )
        if problems:
            raise Refused(*(Problem(field, str(getattr(self, field)), *reason) for field, *reason in problems))


def pod_autoscaler(name: str, args: PodAutoscalerArgs) -> Manifest:
    """The PodAutoscaler, ready when AIBrix has found its spec valid and its target there."""
    strategy = args.strategy or aibrix_features.scalers(args.aibrix_version)[0]
    cooldown = args.cold_start_seconds if args.cooldown_seconds is None else args.cooldown_seconds
    said = {
        "cooldown": f"{cooldown}s",
        "upTolerance": None if args.up_tolerance is None else f"{args.up_tolerance:g}",
        "downTolerance": None if args.down_tolerance is None else f"{args.down_tolerance:g}",
    }
    read = {meaning: aibrix_features.scaler_annotation(args.aibrix_version, strategy, meaning) for meaning in said}
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
                **{key: said[meaning] for meaning, key in read.items() if key and said[meaning] is not None},
            },
        },
        "spec": {
            "scaleTargetRef": {
                "apiVersion": fact("aibrix", "autoscaling", "targets")[args.target_kind],
                "kind": args.target_kind,
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
