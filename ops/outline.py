"""A stack as the policy pack's early rules see it, from the stack file and its plans alone.

Not the objects themselves: `render` creates those, which needs Pulumi and takes seconds. The outline has what those
rules read of the objects, under the same names; a test compares it with the rendering.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from config.plans import Planned
from config.stack import StackConfig, aibrix_release, own_bucket
from config.weights import PvcWeights
from planning import aibrix_features, timeouts
from planning.catalog import fact
from planning.images import pulled
from planning.names import COLOUR, COLOURS, group_object, model_object
from planning.scaling import window_seconds
from policy import pack_config, rules
from policy.rule_types import STACK, Finding, Resource, Stack
from stacks.plan_summary import outputs

_INSTANCE = "app.kubernetes.io/instance"
_COMPONENT = "app.kubernetes.io/component"


def findings(config: StackConfig, plans: Mapping[str, Planned], stack: str) -> list[Finding]:
    """What the early rules find in a stack file, by the pack's own config. Raises Refused for a wrong one."""
    told = pack_config.read()
    resources = Stack(outline(config, plans, stack), datetime.date.today())
    return rules.judge(resources, told.values, told.levels, only=lambda rule: rule.early)


def outline(config: StackConfig, plans: Mapping[str, Planned], stack: str) -> list[Resource]:
    """The resources of a stack that the early rules judge."""
    found = [Resource(STACK, stack, outputs(config, plans)), *_weights(config)]
    for name, planned in plans.items():
        found += _service(config, name, planned)
    sync = getattr(config.weights, "sync", None)
    if sync:
        tools = (
            sync.tool_image or fact("sync", "images", "rclone"),
            sync.python_image or fact("sync", "images", "python"),
        )
        pod = {"containers": [{"name": "sync", "image": pulled(image, config.registry)} for image in tools]}
        models = sorted({model_object(planned.service.model) for planned in plans.values()})
        found += [_object("Job", f"{model}-sync", {"template": {"spec": pod}}) for model in models]
    return found


def _weights(config: StackConfig) -> Iterator[Resource]:
    bucket, weights = own_bucket(config), config.weights
    if bucket is not None and bucket.create:
        yield Resource(fact("clouds", config.cloud.kind, "bucketType"), "weights", {}, bucket.keep)
    if isinstance(weights, PvcWeights) and weights.create:
        yield _object("PersistentVolumeClaim", weights.claim, {}, kept=weights.create.keep)


def _service(config: StackConfig, name: str, planned: Planned) -> Iterator[Resource]:
    service, layout = planned.service, planned.layout
    limits = timeouts.from_startup(planned.startup_seconds, planned.drain_seconds)
    gpus = {"nvidia.com/gpu": str(layout.gpus_per_node)}
    engine = {
        "name": "vllm",
        "image": pulled(service.engine.image, config.registry),
        "resources": {"limits": gpus, "requests": gpus},
    }
    pod = {"containers": [engine], "terminationGracePeriodSeconds": limits.grace_seconds}
    fleet = service.workload == "fleet"
    group: dict[str, Any] = {
        "size": layout.nodes,
        "leaderTemplate": {"metadata": {"labels": {_COMPONENT: "leader"}}, "spec": pod},
    }
    if layout.nodes > 1:
        group["workerTemplate"] = {"spec": pod}
    spec = {
        "replicas": service.first_replicas,
        "leaderWorkerTemplate": group,
        "strategy": {"rollingUpdate": {"maxSurge": service.rollout.max_surge}},
    }
    beside = {COLOUR: COLOURS[0]} if service.rollout.strategy == "blueGreen" else {}
    yield _object("RayClusterFleet" if fleet else "LeaderWorkerSet", name, spec, annotations=beside)
    scaling = service.autoscaling
    if scaling is not None and scaling.engine != "aibrix":
        window = window_seconds(planned.startup_seconds, scaling.cooldown_seconds)
        behavior = {"scaleDown": {"stabilizationWindowSeconds": window}}
        target = {"scaleTargetRef": {"name": group_object(name) if service.gateway == "aibrix" else name}}
        if scaling.engine == "hpa":
            scaled = {"maxReplicas": scaling.maximum, "behavior": behavior, **target}
            yield _object("HorizontalPodAutoscaler", name, scaled)
        else:
            advanced = {"horizontalPodAutoscalerConfig": {"behavior": behavior}}
            scaled = {"maxReplicaCount": scaling.maximum, "advanced": advanced, **target}
            yield _object("ScaledObject", name, scaled)
    elif scaling is not None:
        release = aibrix_release(config)
        strategy = scaling.strategy or aibrix_features.scalers(release)[0]
        delay = aibrix_features.cooldown_annotation(release, strategy)
        waits = planned.startup_seconds if scaling.cooldown_seconds is None else scaling.cooldown_seconds
        scaled = {"maxReplicas": scaling.maximum, "scaleTargetRef": {"name": name}}
        yield _object("PodAutoscaler", name, scaled, annotations={delay: f"{waits}s"} if delay else {})


def _object(
    kind: str, name: str, spec: Mapping[str, Any], *, kept: bool = False, annotations: Mapping[str, str] | None = None
) -> Resource:
    metadata = {"name": name, "labels": {_INSTANCE: name}, "annotations": annotations or {}}
    return Resource(f"kubernetes::{kind}", name, {"kind": kind, "metadata": metadata, "spec": spec}, kept)
