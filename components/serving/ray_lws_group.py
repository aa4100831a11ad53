"""A model on one or several nodes as a LeaderWorkerSet.

Ray joins the nodes of a replica; with launcher `native` vLLM does it itself. The name dates from when only Ray could.
Not here: what the pods share with other workloads (`engine_pods`); the Service, the API key and the network policy
(`inference_service`); what a cloud adds to pods (labels, volumes, RDMA), which the stack's builder passes in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pulumi

from components.cluster.kubernetes import Manifest, labels
from components.serving import compile_cache, engine_pods
from components.serving.engine_pods import SET_BY_ANOTHER, EnginePodsArgs, layout_annotation
from planning import addons
from planning.catalog import fact
from planning.names import COLOUR
from planning.problems import Problem, Refused

PORT_NAME = "http"
NAME_LABEL = "leaderworkerset.sigs.k8s.io/name"
_INDEX_LABEL = "leaderworkerset.sigs.k8s.io/worker-index"
_GROUP_LABEL = "leaderworkerset.sigs.k8s.io/group-index"
_AFTER_START = "RecreateGroupAfterStart"


@dataclass(frozen=True, kw_only=True)
class RayLwsGroupArgs:
    """The engine's pods, and how LeaderWorkerSet groups them.

    The arguments in `pods` lack a pod's place in its group: the launch script adds it. `lws_version` is the cluster's
    LeaderWorkerSet release; without one every `restart_policy` is passed on. `object_name` names the LeaderWorkerSet
    and its headless Service, which must not take a gateway's Service's name; selectors go by it. Leaders have
    `leader_labels`, by which a gateway tells them from workers. `scheduled`: a
    schedule sets the number of replicas once the group has been created with `replicas`; `scaled_to`: an autoscaler
    does, up to that many.
    Raises Refused when that release lacks `restart_policy`.
    """

    pods: EnginePodsArgs
    replicas: int
    launcher: Literal["ray", "native"]
    lws_version: str | None
    object_name: str
    leader_labels: Mapping[str, str]
    startup_policy: Literal["LeaderCreated", "LeaderReady"]
    restart_policy: Literal["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]
    scheduled: bool = False
    scaled_to: int | None = None

    def __post_init__(self) -> None:
        installed = self.lws_version if self.restart_policy == _AFTER_START else None
        if installed and not addons.has("lws", installed, _AFTER_START):
            since = addons.since("lws", _AFTER_START)
            why = f"LeaderWorkerSet {self.lws_version} does not know it, {since} is the first that does"
            raise Refused(Problem("restart_policy", _AFTER_START, why, "take RecreateGroupOnPodRestart"))


def leader_selector(name: str) -> dict[str, str]:
    """Labels that LeaderWorkerSet gives to the leaders of `name`, and to no other pod."""
    return {NAME_LABEL: name, _INDEX_LABEL: "0"}


def group_selector(name: str) -> dict[str, str]:
    """Labels that LeaderWorkerSet gives to every pod of `name`."""
    return {NAME_LABEL: name}


def leader_worker_set(name: str, args: RayLwsGroupArgs) -> Manifest:
    """The LeaderWorkerSet. `pulumi up` calls it ready when every replica of the new generation is ready.

    The condition alone is not enough: releases before 0.9 leave `observedGeneration` out, so the old generation's
    condition would end the wait at once. So `up` waits for the counters too. Every release known to us understands this
    manifest, once the arguments are accepted.
    """
    # With an autoscaler a further replica may be starting at any time.
    wait = [*(["condition=Available"] if args.scaled_to is None else []), *_counted(args)]
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {
            "name": args.object_name,
            "namespace": args.pods.namespace,
            "labels": labels(args.pods.stack, name),
            "annotations": {
                "pulumi.com/waitFor": json.dumps(wait),
                **(SET_BY_ANOTHER if _set_by_another(args) else {}),
                **({COLOUR: args.pods.colour} if args.pods.colour else {}),
                **layout_annotation(args.pods),
            },
        },
        "spec": {
            "replicas": args.replicas,
            "startupPolicy": args.startup_policy,
            # A surge group needs a second set of GPUs; LeaderWorkerSet creates one even at the first rollout
            # (https://github.com/kubernetes-sigs/lws/issues/614). The price: with one replica an update is an outage.
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
            },
            "leaderWorkerTemplate": {
                "size": args.pods.nodes,
                "restartPolicy": args.restart_policy,
                "leaderTemplate": pod_template(name, args, leader=True),
                "workerTemplate": pod_template(name, args, leader=False),
            },
        },
    }


def version(name: str, args: RayLwsGroupArgs, more: str) -> str:
    """A digest of a replica and of `more`. Where it changes, a group of the other colour takes over."""
    spec = leader_worker_set(name, replace(args, pods=replace(args.pods, colour=None)))["spec"]
    return engine_pods.version(spec["leaderWorkerTemplate"], more)


def _set_by_another(args: RayLwsGroupArgs) -> bool:
    return args.scheduled or args.scaled_to is not None


def _counted(args: RayLwsGroupArgs) -> list[str]:
    """Waits for the status's counters, which omit a zero; only the status has conditions.

    Without replicas the condition is true at once, but leaders that still give their answers are counted.
    """
    if args.scaled_to is not None:
        return ["jsonpath={$[?@.conditions&&@.readyReplicas > 0&&@.updatedReplicas == @.replicas]}"]
    if args.scheduled:
        alike = "&&".join(f"@.{counter} == $.spec.replicas" for counter in ("updatedReplicas", "readyReplicas"))
        return [f"jsonpath={{$[?@.conditions&&({alike}||$.spec.replicas == 0&&!@.replicas)]}}"]
    if args.replicas == 0:
        return ["jsonpath={$[?@.conditions&&!@.replicas]}"]
    return [f"jsonpath={{.status.{counter}}}={args.replicas}" for counter in ("updatedReplicas", "readyReplicas")]


def pod_template(name: str, args: RayLwsGroupArgs, *, leader: bool) -> Manifest:
    """The pod template of the leader, which has the port and the probes, or of the workers."""
    pods = args.pods
    container = engine_pods.container(pods, _environment(args, leader=leader), leads=leader, apart=True)
    if _joins_engines(args):
        container = engine_pods.data_engine(container)
    if leader or args.launcher == "native":
        container["args"] = engine_pods.serve_args(pods)
    if leader:
        container["ports"] = [{"name": PORT_NAME, "containerPort": pods.port}]
        container |= engine_pods.probes(pods, PORT_NAME)
    role, role_labels = ("leader", args.leader_labels) if leader else ("worker", {})
    return engine_pods.pod_template(name, pods, container, role, role_labels)


def _environment(args: RayLwsGroupArgs, *, leader: bool) -> list[Manifest]:
    joining = {
        "MODELSERVE_LAUNCHER": args.launcher,
        "MODELSERVE_JOIN_SECONDS": str(args.pods.limits.join_seconds),
        "MODELSERVE_JOIN_PORT": str(fact("engines", args.launcher, "joinPort")),
    }
    if _joins_engines(args):
        joining |= {
            "MODELSERVE_ENGINES": str(args.pods.engines_per_node),
            "MODELSERVE_DATA_PORT": str(fact("engines", "native", "dataPort")),
            # What a worker that ends looks at: the other port is open only until all engines have joined.
            "MODELSERVE_JOIN_PORT": str(args.pods.port),
        }
        if not args.pods.engines_per_node:
            joining["MODELSERVE_MASTER_PORT"] = str(fact("engines", "native", "joinPort"))
    # The label, because releases before 0.6 do not set the variable LWS_WORKER_INDEX.
    place = {"MODELSERVE_POD_INDEX": f"metadata.labels['{_INDEX_LABEL}']"}
    if args.pods.compiled:
        place |= compile_cache.place(_GROUP_LABEL)
    return engine_pods.environment(args.pods, joining, place, leads=leader)


def _joins_engines(args: RayLwsGroupArgs) -> bool:
    return args.launcher == "native" and args.pods.data > 1 and args.pods.nodes > 1


class RayLwsGroup(pulumi.ComponentResource):
    """Replicas of a model, each a leader and its workers. Ready when every replica answers /health."""

    ready: pulumi.Output[str]
    """The LeaderWorkerSet's id, known once it is ready."""

    def __init__(
        self,
        name: str,
        args: RayLwsGroupArgs,
        opts: pulumi.ResourceOptions | None = None,
        hooks: pulumi.ResourceHookBinding | None = None,
        *,
        mounts: Sequence[pulumi.Resource] = (),
    ) -> None:
        """Pulumi cannot replace `mounts` while the pods mount them, so it replaces the group together with them."""
        super().__init__("modelserve:serving:RayLwsGroup", name, {}, opts)
        # LeaderWorkerSet updates one replica after the other.
        rounds = max(1, args.scaled_to or args.replicas)
        manifest = leader_worker_set(name, args)
        self.ready = engine_pods.register(
            self,
            name,
            args.pods,
            manifest,
            hooks,
            mounts,
            rounds=rounds,
            ignore_changes=["spec.replicas"] if _set_by_another(args) else [],
        )
        self.register_outputs({"ready": self.ready})
