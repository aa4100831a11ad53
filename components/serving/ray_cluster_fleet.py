"""A model on one or several nodes as AIBrix's RayClusterFleet.

AIBrix creates one RayCluster for each replica; KubeRay creates its pods. Not here: what the pods share with other
workloads (`engine_pods`); the Service, the route, the API key and the network policies; the autoscaler; what a cloud or
a weight source adds to pods (RDMA, init containers, volumes), which the stack's builder passes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pulumi

from components.cluster.kubernetes import Manifest, labels
from components.serving import engine_pods
from components.serving.engine_pods import SET_BY_ANOTHER, EnginePodsArgs, layout_annotation
from planning import timeouts
from planning.aibrix_features import MODEL_LABEL, model_labels
from planning.catalog import fact
from planning.engine import release_key
from planning.fleet import name_limit, ray_port
from planning.names import COLOUR, FLEET
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

    `aibrix_version` is a release, `0.7.0`. `scaled_to`, `scheduled`: the fleet starts with `replicas`; from then on an
    autoscaler, up to that many, or a schedule sets the number.
    Raises Refused for a port that Ray uses, for a label that is KubeRay's, and for an autoscaled fleet that starts
    empty.
    """

    pods: EnginePodsArgs
    replicas: int
    aibrix_version: str
    strategy: Literal["Recreate", "RollingUpdate"]
    max_surge: int
    scheduled: bool = False
    scaled_to: int | None = None

    def __post_init__(self) -> None:
        port = self.pods.port
        taken = ray_port(port)
        theirs = sorted(self.pods.pod_labels.keys() & set(fact("fleet", "kuberay", "headServiceLabels")))
        wrong = [
            Problem("pod_labels", each, "KubeRay's Service finds its head by it", "leave it out") for each in theirs
        ]
        if taken:
            wrong.append(Problem("port", str(port), *taken))
        if self.scaled_to is not None and self.replicas < 1:
            why = "nobody would be there for an autoscaler to measure"
            wrong.append(Problem("replicas", str(self.replicas), why, "begin with 1 or more"))
        if wrong:
            raise Refused(*wrong)


def head_selector(name: str, fleet: str | None = None) -> dict[str, str]:
    """Labels that only the heads of `name` have, or of one `fleet` of its two: no other pod answers requests."""
    return {MODEL_LABEL: name, _NODE_TYPE: "head"} | ({FLEET: fleet} if fleet else {})


def member_selector(name: str) -> dict[str, str]:
    """Labels of every pod of `name`."""
    return {"app.kubernetes.io/instance": name, "ray.io/is-ray-node": "yes"}


def fleet(name: str, args: RayClusterFleetArgs) -> Manifest:
    """The RayClusterFleet. It sets every field, because releases before 0.3.0 have no defaults and fail without one.

    Raises Refused for a name that is too long for the names that KubeRay derives from it.
    """
    own = engine_pods.own_name(name, args.pods)
    if len(own) > name_limit():
        why = f"has {len(own)} characters, and KubeRay clips names that are built from more than {name_limit()}"
        raise Refused(Problem("name", own, why, "take a shorter one"))
    # Selector and template share it: if they differ, AIBrix does not find its RayClusters and creates more without end
    # (https://github.com/vllm-project/aibrix/issues/1423). It must never change during a fleet's life. Two fleets must
    # differ in it: AIBrix counts a fleet's RayClusters by it alone (pkg/controller/rayclusterreplicaset).
    selector = {MODEL_LABEL: name, **_fleet_label(name, args)}
    return {
        "apiVersion": "orchestration.aibrix.ai/v1alpha1",
        "kind": "RayClusterFleet",
        "metadata": {
            "name": own,
            "namespace": args.pods.namespace,
            # Without the model's label: with it AIBrix would make the model's route, and take ours away with the fleet.
            "labels": labels(args.pods.stack, name),
            "annotations": {
                **({COLOUR: args.pods.colour} if args.pods.colour else {}),
                "pulumi.com/waitFor": _ready(args),
                # So that a deletion ends only when the GPUs are free; in the background the fleet would go before its
                # pods. Nobody replaces what is being deleted: the fleet's controller then only writes statuses, the
                # replica set's controller does not scale, and KubeRay leaves the RayCluster alone.
                "pulumi.com/deletionPropagationPolicy": "foreground",
                **SET_BY_ANOTHER,
                **layout_annotation(args.pods),
            },
        },
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": dict(selector)},
            "strategy": _strategy(args),
            "minReadySeconds": 0,
            "revisionHistoryLimit": 1,  # to go back, use the history of the stack file
            "progressDeadlineSeconds": args.pods.limits.replace_seconds,
            "paused": False,
            "template": {
                # Without the annotation KubeRay appends its own start command to ours.
                "metadata": {"labels": dict(selector), "annotations": {"ray.io/overwrite-container-cmd": "true"}},
                "spec": _ray_cluster(name, args),
            },
        },
    }


def version(name: str, args: RayClusterFleetArgs, more: str) -> str:
    """A digest of a replica and of `more`. Where it changes, a fleet of the other colour takes over."""
    spec = fleet(name, replace(args, pods=replace(args.pods, colour=None)))["spec"]
    return engine_pods.version(spec["template"], more)


def _fleet_label(name: str, args: RayClusterFleetArgs) -> dict[str, str]:
    return {FLEET: engine_pods.own_name(name, args.pods)} if args.pods.colour else {}


def _ready(args: RayClusterFleetArgs) -> str:
    """When `pulumi up` calls the fleet ready: all counters of one status agree.

    The condition Available says less: if one replica may be unavailable, it is true with none of one available. The
    status omits a zero. An autoscaler may change the number of replicas during the wait.
    """
    counters = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    if args.scheduled:
        alike = "&&".join(f"@.{counter} == $.spec.replicas" for counter in counters)
        expression = f"@.observedGeneration > 0&&({alike}||$.spec.replicas == 0&&!@.replicas)"
    elif args.scaled_to is not None:
        expression = "@.availableReplicas > 0 && @.updatedReplicas == @.replicas"
    elif args.replicas:
        # No blanks around &&: the plugin's parser (theory/jsonpath v0.9.0) refuses a second && after a blank.
        expression = "&&".join(f"@.{counter} == {args.replicas}" for counter in counters)
    else:
        expression = "@.observedGeneration > 0 && !@.replicas"
    return f"jsonpath={{$[?{expression}]}}"


def _strategy(args: RayClusterFleetArgs) -> Manifest:
    if args.strategy == "Recreate":
        return {"type": "Recreate"}
    # A surge needs spare GPUs, so there is none unless the stack file asks for it. The API's default percentages would
    # round up to a surge of one even for a single replica. The price: without surge, an update of one replica is an
    # outage.
    unavailable = 0 if args.max_surge else 1
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": args.max_surge, "maxUnavailable": unavailable}}


def _ray_cluster(name: str, args: RayClusterFleetArgs) -> Manifest:
    gpus = str(args.pods.gpus_per_node)  # set, because KubeRay counts only resources whose name ends in gpu
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
    """The pod template of the head, which has the ports and the engine, or of the workers."""
    pods = args.pods
    container = engine_pods.container(pods, _environment(pods, head=head), leads=head, apart=False)
    if not head:
        return engine_pods.pod_template(name, pods, container | _worker_probes(), "worker", _fleet_label(name, args))
    ports = {**(fact("fleet", "kuberay", "headPorts") if pods.nodes > 1 else {}), PORT_NAME: pods.port}
    container["args"] = engine_pods.serve_args(pods)
    container["ports"] = [{"name": port, "containerPort": number} for port, number in ports.items()]
    return engine_pods.pod_template(name, pods, container | _head_probes(pods), "head", _routed(name, args))


def _routed(name: str, args: RayClusterFleetArgs) -> dict[str, str]:
    """Labels by which AIBrix's gateway and autoscaler find the heads; they include the fleet's selector."""
    routed = model_labels(name, args.pods.port) | _fleet_label(name, args)
    if release_key(args.aibrix_version) >= release_key(fact("fleet", "aibrix", "engineLabelSince")):
        routed[ENGINE_LABEL] = "vllm"
    return routed


def _environment(pods: EnginePodsArgs, *, head: bool) -> list[Manifest]:
    joining = {
        "MODELSERVE_LAUNCHER": "ray",
        "MODELSERVE_POD_INDEX": "0" if head else "1",  # the script does not distinguish workers
        "MODELSERVE_JOIN_SECONDS": str(pods.limits.join_seconds),
        "MODELSERVE_JOIN_PORT": str(fact("fleet", "kuberay", "headPorts")["gcs-server"]),
    }
    return engine_pods.environment(pods, joining, {}, leads=head)


def _head_probes(pods: EnginePodsArgs) -> Manifest:
    probes = engine_pods.probes(pods, PORT_NAME)
    if pods.readiness_probe:
        # When a pod is no longer ready, AIBrix creates a second RayCluster, for which there are no GPUs, and may then
        # delete either of the two (https://github.com/vllm-project/aibrix/issues/2435).
        probes["readinessProbe"]["failureThreshold"] = timeouts.STEADY_READINESS_FAILURES
    return probes


def _worker_probes() -> Manifest:
    # Ray is a worker's first process, so there is nothing else to probe. But without a probe KubeRay adds one that runs
    # wget, which engine images lack; only AIBrix's build of KubeRay has that turned off.
    always = {"exec": {"command": ["true"]}, "periodSeconds": timeouts.LIVENESS_PERIOD_SECONDS}
    return {"livenessProbe": always, "readinessProbe": dict(always)}


class RayClusterFleet(pulumi.ComponentResource):
    """Replicas of a model, each a RayCluster. Ready when every replica answers /health, or one if autoscaled."""

    ready: pulumi.Output[str]
    """The RayClusterFleet's id, known once it is ready."""

    def __init__(
        self,
        name: str,
        args: RayClusterFleetArgs,
        opts: pulumi.ResourceOptions | None = None,
        hooks: pulumi.ResourceHookBinding | None = None,
        *,
        mounts: Sequence[pulumi.Resource] = (),
    ) -> None:
        """Pulumi cannot replace `mounts` while the pods mount them, so it replaces the fleet together with them."""
        super().__init__("modelserve:serving:RayClusterFleet", name, {}, opts)
        # AIBrix starts all replicas at once, except in a rolling update: there one after the other.
        rounds = max(1, args.scaled_to or args.replicas) if args.strategy == "RollingUpdate" else 1
        self.ready = engine_pods.register(
            self,
            name,
            args.pods,
            fleet(name, args),
            hooks,
            mounts,
            rounds=rounds,
            ignore_changes=["spec.replicas"] if args.scaled_to is not None or args.scheduled else [],
        )
        self.register_outputs({"ready": self.ready})
