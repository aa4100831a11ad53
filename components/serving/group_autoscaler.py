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


@dataclass(frozen=True)
class PrometheusAuth:
    """How KEDA shows Prometheus who it is: with what an existing `secret` holds, a token or a user and a password."""

    mode: Literal["bearer", "basic"]
    secret: str


@dataclass(frozen=True, kw_only=True)
class GroupAutoscalerArgs(AutoscalerArgs):
    """Without `cooldown_seconds` a replica stays as long as a cold start without need, up to Kubernetes' limit.
    `prometheus` is the URL that KEDA asks, with `prometheus_auth` if it asks who KEDA is.

    Raises Refused for what Kubernetes would refuse or KEDA could not do.
    """

    engine: Literal["keda", "hpa"]
    prometheus: str | None
    prometheus_auth: PrometheusAuth | None = None

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
    auth = args.prometheus_auth
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
                        **({"authModes": auth.mode} if auth else {}),
                    },
                    **({"authenticationRef": {"name": _auth_name(args)}} if auth else {}),
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


def authentication(name: str, args: GroupAutoscalerArgs, auth: PrometheusAuth) -> Manifest:
    """What leads KEDA to the Secret, whose keys it takes as the parameters of that mode."""
    parameters = {"bearer": {"bearerToken": "token"}, "basic": {"username": "username", "password": "password"}}
    references = [
        {"parameter": parameter, "name": auth.secret, "key": key} for parameter, key in parameters[auth.mode].items()
    ]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": {"name": _auth_name(args), "namespace": args.namespace, "labels": labels(args.stack, name)},
        "spec": {"secretTargetRef": references},
    }


def _auth_name(args: GroupAutoscalerArgs) -> str:
    return f"{args.target_name}-prometheus"


class GroupAutoscaler(Autoscaler):
    """The autoscaler of a LeaderWorkerSet."""

    def __init__(self, name: str, args: GroupAutoscalerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        auth = args.prometheus_auth
        before = [authentication(name, args, auth)] if auth else []
        super().__init__("modelserve:serving:GroupAutoscaler", name, autoscaler(name, args), opts, before)
