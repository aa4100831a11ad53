"""A model over one or several nodes as AIBrix's RayClusterFleet: the fleet itself.

A replica is a RayCluster, whose pods KubeRay makes; AIBrix makes the RayClusters. Not here: the pods' parts that
other workloads have too (`engine_pods`), the Service and the route that requests take, the API key and the network
policies, the autoscaler, and what a cloud or a weight source adds to pods (RDMA, init containers, volumes), which the
stack's builder passes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pulumi

from components.cluster.kubernetes import Manifest, labels
from components.serving import engine_pods
from components.serving.engine_pods import EnginePodsArgs, layout_annotation
from planning import timeouts
from planning.aibrix_features import MODEL_LABEL, model_labels
from planning.catalog import fact
from planning.engine import release_key
from planning.fleet import name_limit, ray_port
from planning.problems import Problem, Refused

PORT_NAME = "service"
"""The engine's port in the head's container, and so in the headless Service that KubeRay makes of a head."""
ENGINE_LABEL = "model.aibrix.ai/engine"
WORKERS = "workers"
"""The group of all pods but the head."""
_NODE_TYPE = "ray.io/node-type"


@dataclass(frozen=True, kw_only=True)
class RayClusterFleetArgs:
    """The engine's pods, and how AIBrix keeps the replicas.

    `aibrix_version` is a release, `0.7.0`. `autoscaled`: the fleet starts with `replicas`; from then on an autoscaler
    sets the number.
    Raises Refused for a port that Ray uses, for a label that is KubeRay's, and for an autoscaled fleet that starts
    empty.
    """

    pods: EnginePodsArgs
    replicas: int
    aibrix_version: str
    autoscaled: bool
    strategy: Literal["Recreate", "RollingUpdate"]
    max_surge: int

    def __post_init__(self) -> None:
        port = self.pods.port
        taken = ray_port(port)
        theirs = sorted(self.pods.pod_labels.keys() & set(fact("fleet", "kuberay", "headServiceLabels")))
        wrong = [
            Problem("pod_labels", each, "KubeRay's Service finds its head by it", "leave it out") for each in theirs
        ]
        if taken:
            wrong.append(Problem("port", str(port), *taken))
        if self.autoscaled and self.replicas < 1:
            why = "nobody would be there for an autoscaler to measure"
            wrong.append(Problem("replicas", str(self.replicas), why, "begin with 1 or more"))
        if wrong:
            raise Refused(*wrong)


def head_selector(name: str) -> dict[str, str]:
    """Labels of the heads of `name`, and of no other pod: they alone answer requests."""
    return {MODEL_LABEL: name, _NODE_TYPE: "head"}


def member_selector(name: str) -> dict[str, str]:
    """Labels of every pod of `name`."""
    return {"app.kubernetes.io/instance": name, "ray.io/is-ray-node": "yes"}


def fleet(name: str, args: RayClusterFleetArgs) -> Manifest:
    """The RayClusterFleet. Releases before 0.3.0 have no defaults and stop at what is missing: all is said here.

    Raises Refused for a name from which KubeRay would build names that are too long.
    """
    if len(name) > name_limit():
        why = f"has {len(name)} characters, and KubeRay clips names that are built from more than {name_limit()}"
        raise Refused(Problem("name", name, why, "take a shorter one"))
    # One source for both: where they differ, AIBrix does not find its RayClusters again and makes more without end
    # (https://github.com/vllm-project/aibrix/issues/1423). Nothing in it may change over a fleet's life.
    chosen = {MODEL_LABEL: name}
    return {
        "apiVersion": "orchestration.aibrix.ai/v1alpha1",
        "kind": "RayClusterFleet",
        "metadata": {
            "name": name,
            "namespace": args.pods.namespace,
            # AIBrix makes the model's route by the fleet's own labels, and only when it first sees the fleet.
            "labels": {**labels(args.pods.stack, name), **model_labels(name, args.pods.port)},
            "annotations": {
                "pulumi.com/waitFor": _ready(args),
                # So that the wait for a deletion ends when the GPUs are free. What has begun to be deleted stays
                # unreplaced: the fleet's controller then writes statuses only, the replica set's scales nothing, and
                # KubeRay leaves a RayCluster alone. In the background the fleet would be gone at once, before its pods.
                "pulumi.com/deletionPropagationPolicy": "foreground",
                # An autoscaler that is gone still owns the number of replicas, and every later change would be refused.
                "pulumi.com/patchForce": "true",
                **layout_annotation(args.pods),
            },
        },
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": dict(chosen)},
            "strategy": _strategy(args),
            "minReadySeconds": 0,
            "revisionHistoryLimit": 1,  # what to go back to, the stack file's history says
            "progressDeadlineSeconds": args.pods.limits.replace_seconds,
            "paused": False,
            "template": {
                # Without the annotation KubeRay appends its own start command to ours.
                "metadata": {"labels": dict(chosen), "annotations": {"ray.io/overwrite-container-cmd": "true"}},
                "spec": _ray_cluster(name, args),
            },
        },
    }


def _ready(args: RayClusterFleetArgs) -> str:
    """When `pulumi up` calls the fleet ready: by numbers of one status, all at once.

    The condition Available says less: with one replica of which one may be unavailable, it is true of none. A zero is
    absent from the status. An autoscaler may move the number of replicas while we wait.
    """
    if args.autoscaled:
        told = "@.availableReplicas > 0 && @.updatedReplicas == @.replicas"
    elif args.replicas:
        counters = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        # No blanks around &&: the plugin's parser (theory/jsonpath v0.9.0) refuses the second one that follows a blank.
        told = "&&".join(f"@.{counter} == {args.replicas}" for counter in counters)
    else:
        told = "@.observedGeneration > 0 && !@.replicas"
    return f"jsonpath={{$[?{told}]}}"


def _strategy(args: RayClusterFleetArgs) -> Manifest:
    if args.strategy == "Recreate":
        return {"type": "Recreate"}
    # A surge needs GPUs that nobody else has: none unless asked for. The percentages of the API's defaults round up to
    # one even of a single replica. Cost: with one replica and no surge an update is an outage.
    unavailable = 0 if args.max_surge else 1
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": args.max_surge, "maxUnavailable": unavailable}}


def _ray_cluster(name: str, args: RayClusterFleetArgs) -> Manifest:
    gpus = str(args.pods.gpus_per_node)  # said, because KubeRay counts only resources whose name ends in gpu
    spec: Manifest = {
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-gpus": gpus},
            "template": pod_template(name, args, head=True),
        }
    }
    version = fact("fleet", "ray", "versions").get(args.pods.image.rpartition("/")[2])
    if version:
        spec["rayVersion"] = version
    others = args.pods.nodes - 1
    if others:
        spec["workerGroupSpecs"] = [
            {
                "groupName": WORKERS,
                "replicas": others,
                "minReplicas": others,
                "maxReplicas": others,
                "rayStartParams": {"num-gpus": gpus},
                "template": pod_template(name, args, head=False),
            }
        ]
    return spec


def pod_template(name: str, args: RayClusterFleetArgs, *, head: bool) -> Manifest:
    """The head's pod template, which has the ports and the engine, or the workers'."""
    pods = args.pods
    container = engine_pods.container(pods, _environment(pods, head=head), leads=head)
    if not head:
        return engine_pods.pod_template(name, pods, container | _worker_probes(), "worker", {})
    ports = {**(fact("fleet", "kuberay", "headPorts") if pods.nodes > 1 else {}), PORT_NAME: pods.port}
    container["args"] = engine_pods.serve_args(pods)
    container["ports"] = [{"name": port, "containerPort": number} for port, number in ports.items()]
    return engine_pods.pod_template(name, pods, container | _head_probes(pods), "head", _routed(name, args))


def _routed(name: str, args: RayClusterFleetArgs) -> dict[str, str]:
    """By what AIBrix's gateway and autoscaler find the pods that answer, with the selector of the fleet in it."""
    found = model_labels(name, args.pods.port)
    if release_key(args.aibrix_version) >= release_key(fact("fleet", "aibrix", "engineLabelSince")):
        found[ENGINE_LABEL] = "vllm"
    return found


def _environment(pods: EnginePodsArgs, *, head: bool) -> list[Manifest]:
    joining = {
        "MODELSERVE_LAUNCHER": "ray",
        "MODELSERVE_POD_INDEX": "0" if head else "1",  # workers need not be told apart
        "MODELSERVE_JOIN_SECONDS": str(pods.limits.join_seconds),
        "MODELSERVE_JOIN_PORT": str(fact("fleet", "kuberay", "headPorts")["gcs-server"]),
    }
    return engine_pods.environment(pods, joining, {}, leads=head)


def _head_probes(pods: EnginePodsArgs) -> Manifest:
    probes = engine_pods.probes(pods, PORT_NAME)
    if pods.readiness_probe:
        # AIBrix puts a whole RayCluster beside one of which a pod is not ready any more, for which there are no GPUs,
        # and may then keep either of them (https://github.com/vllm-project/aibrix/issues/2435).
        probes["readinessProbe"]["failureThreshold"] = timeouts.STEADY_READINESS_FAILURES
    return probes


def _worker_probes() -> Manifest:
    # Ray is a worker's first process: there is nothing else to ask. But where it finds no probe, KubeRay puts one that
    # runs wget, which engines' images lack; only AIBrix's build is told not to.
    fine = {"exec": {"command": ["true"]}, "periodSeconds": timeouts.LIVENESS_PERIOD_SECONDS}
    return {"livenessProbe": fine, "readinessProbe": dict(fine)}


class RayClusterFleet(pulumi.ComponentResource):
    """Replicas of a model, each a RayCluster. Ready when every replica answers /health, autoscaled: when one does."""

    ready: pulumi.Output[str]
    """The RayClusterFleet's id, known when the wait is over."""

    def __init__(
        self,
        name: str,
        args: RayClusterFleetArgs,
        opts: pulumi.ResourceOptions | None = None,
        hooks: pulumi.ResourceHookBinding | None = None,
        *,
        mounts: Sequence[pulumi.Resource] = (),
    ) -> None:
        """`mounts` are what the pods mount and what cannot be replaced while they do: the fleet is replaced with it."""
        super().__init__("modelserve:serving:RayClusterFleet", name, {}, opts)
        # At once at the first time and at a recreation, one after the other in a rolling update.
        rounds = max(1, args.replicas) if args.strategy == "RollingUpdate" else 1
        self.ready = engine_pods.register(
            self,
            name,
            args.pods,
            fleet(name, args),
            hooks,
            mounts,
            rounds=rounds,
            ignore_changes=["spec.replicas"] if args.autoscaled else [],
        )
        self.register_outputs({"ready": self.ready})
