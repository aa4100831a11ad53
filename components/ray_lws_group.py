"""A model over one or several nodes as a LeaderWorkerSet: the group itself and its launch script.

The nodes of a replica are joined by Ray or, launcher `native`, by vLLM itself; the name is of when Ray alone could.
Not here: the Service, the API key and the network policy (`inference_service`), and what a cloud adds to pods (labels,
volumes, RDMA), which the stack's builder passes in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pulumi

from components.credentials import SecretKey
from components.kubernetes import Manifest, kubernetes_object, labels
from components.names import API_KEY
from planning import addons, timeouts
from planning.catalog import fact

PORT_NAME = "http"
CONTAINER = "vllm"
_SCRIPT = Path(__file__).with_name("launch.sh")
_SCRIPT_FOLDER = "/etc/modelserve"
# Which layout the group was made with. LeaderWorkerSet's webhook accepts a new size in place and would roll groups into
# it one by one, beside GPUs that the old ones still hold; so we ask for a replacement ourselves.
_LAYOUT = "modelserve.dev/layout"
_NAME_LABEL = "leaderworkerset.sigs.k8s.io/name"
_INDEX_LABEL = "leaderworkerset.sigs.k8s.io/worker-index"
_AFTER_START = "RecreateGroupAfterStart"


@dataclass(frozen=True, kw_only=True)
class RayLwsGroupArgs:
    """Plain fields shape the plan; `Input` fields may come from other resources.

    `engine_args` is the whole argument list of `vllm serve`, but for a pod's place in its group, which the launcher
    says. `memory` and `shm` are binary quantities. `volumes` may hold Outputs at their leaves: the
    group is not asked for before they are known, and never where one fails. `api_key_secret` is the
    name of a Secret in `namespace` with the key `apiKey`; `api_key_revision` changes whenever its content does, which
    restarts the group. `startup_seconds` is a cold start, from which every time limit derives. `lws_version` is the
    cluster's LeaderWorkerSet release; None judges nothing by it. `object_name` is the LeaderWorkerSet's, where its
    headless Service, which has the same, may not take the service's own name; selectors go by it. `object_labels` are
    the LeaderWorkerSet's own, `leader_labels` those of leaders, by which a gateway tells them from workers.
    `init_containers` run in every pod; `extra_resources` are further amounts of the engine's container, such as RDMA
    devices, and `capabilities` what it may do beside a container's usual.
    Raises ValueError when tensor x pipeline does not fill the GPUs, or that release lacks `restart_policy`.
    """

    stack: str
    namespace: str
    image: str
    engine_args: Sequence[pulumi.Input[str]]
    nodes: int
    gpus_per_node: int
    tensor: int
    pipeline: int
    cpu: int
    memory: str
    shm: str
    startup_seconds: int
    launcher: Literal["ray", "native"] = "ray"
    lws_version: str | None = None
    port: int = 8000
    replicas: int = 1
    ephemeral_storage: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, SecretKey] = field(default_factory=dict)
    volumes: Sequence[Manifest] = ()
    volume_mounts: Sequence[Manifest] = ()
    object_name: str | None = None
    object_labels: Mapping[str, str] = field(default_factory=dict)
    leader_labels: Mapping[str, str] = field(default_factory=dict)
    init_containers: Sequence[Manifest] = ()
    extra_resources: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    api_key_secret: str | None = None
    api_key_revision: pulumi.Input[str] | None = None
    startup_policy: str = "LeaderCreated"
    restart_policy: str = "RecreateGroupOnPodRestart"
    readiness_probe: bool = True

    def __post_init__(self) -> None:
        if self.tensor * self.pipeline != self.nodes * self.gpus_per_node:
            raise ValueError(
                f"tensor {self.tensor} x pipeline {self.pipeline} is not nodes {self.nodes} x "
                f"gpus_per_node {self.gpus_per_node}: change one so that they are equal"
            )
        later = self.restart_policy == _AFTER_START and self.lws_version is not None
        if later and not addons.has("lws", self.lws_version, _AFTER_START):
            raise ValueError(
                f"restart_policy {_AFTER_START}: LeaderWorkerSet {self.lws_version} does not know it, "
                f"{addons.since('lws', _AFTER_START)} is the first that does: take RecreateGroupOnPodRestart"
            )

    @property
    def limits(self) -> timeouts.Timeouts:
        """Every time limit of the group."""
        return timeouts.from_startup(self.startup_seconds)


def launch_script() -> str:
    """The script that every pod runs. Ours, because its place inside images moved with their releases."""
    return _SCRIPT.read_text()


def launch_config_name(name: str) -> str:
    """Named by content: a new script is a new ConfigMap, which running groups do not see before they are rolled."""
    return f"{name}-launch-{hashlib.sha256(launch_script().encode()).hexdigest()[:8]}"


def leader_selector(name: str) -> dict[str, str]:
    """Labels that LeaderWorkerSet gives to the leaders of `name`, and to no other pod."""
    return {_NAME_LABEL: name, _INDEX_LABEL: "0"}


def group_selector(name: str) -> dict[str, str]:
    """Labels that LeaderWorkerSet gives to every pod of `name`."""
    return {_NAME_LABEL: name}


def launch_config(name: str, args: RayLwsGroupArgs) -> Manifest:
    """The ConfigMap with the launch script."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": launch_config_name(name), "namespace": args.namespace, "labels": labels(args.stack, name)},
        "data": {_SCRIPT.name: launch_script()},
    }


def leader_worker_set(name: str, args: RayLwsGroupArgs) -> Manifest:
    """The LeaderWorkerSet, which `pulumi up` calls ready when every replica of the new generation is.

    The wait is on numbers beside the condition: releases before 0.9 leave `observedGeneration` out, where a condition
    of the old generation counts at once. It is on conditions only for 0 replicas: a zero is absent from the status.
    Every release known to us understands all that is said here, once the arguments are accepted.
    """
    wait = ["condition=Available"]
    if args.replicas:
        wait += [f"jsonpath={{.status.{counter}}}={args.replicas}" for counter in ("updatedReplicas", "readyReplicas")]
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {
            "name": args.object_name or name,
            "namespace": args.namespace,
            "labels": {**args.object_labels, **labels(args.stack, name)},
            "annotations": {
                "pulumi.com/waitFor": json.dumps(wait),
                _LAYOUT: f"nodes={args.nodes},gpusPerNode={args.gpus_per_node},"
                f"tensor={args.tensor},pipeline={args.pipeline}",
            },
        },
        "spec": {
            "replicas": args.replicas,
            "startupPolicy": args.startup_policy,
            # A surge group needs a second set of GPUs; LeaderWorkerSet makes it even at the first rollout
            # (https://github.com/kubernetes-sigs/lws/issues/614). Cost: with one replica an update is an outage.
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
            },
            "leaderWorkerTemplate": {
                "size": args.nodes,
                "restartPolicy": args.restart_policy,
                "leaderTemplate": pod_template(name, args, leader=True),
                "workerTemplate": pod_template(name, args, leader=False),
            },
        },
    }


def pod_template(name: str, args: RayLwsGroupArgs, *, leader: bool) -> Manifest:
    """The leader's pod template, which has the port and the probes, or the workers'."""
    annotations: dict[str, Any] = dict(args.pod_annotations)
    if args.api_key_revision is not None:
        annotations["modelserve.dev/api-key-revision"] = args.api_key_revision
    metadata: Manifest = {
        "labels": {
            **args.pod_labels,
            **(args.leader_labels if leader else {}),
            **labels(args.stack, name),
            "app.kubernetes.io/component": "leader" if leader else "worker",
        }
    }
    if annotations:
        metadata["annotations"] = annotations
    placed: Manifest = {"nodeSelector": dict(args.node_selector)} if args.node_selector else {}
    if args.init_containers:
        placed["initContainers"] = list(args.init_containers)
    return {
        "metadata": metadata,
        "spec": {
            **placed,
            # No pod of ours calls the API server, and a Service named VLLM would set VLLM_PORT, which vLLM reads.
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": timeouts.TERMINATION_GRACE_SECONDS,
            "containers": [_container(args, leader=leader)],
            "volumes": [
                {"name": "launch", "configMap": {"name": launch_config_name(name)}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": args.shm}},
                *args.volumes,
            ],
        },
    }


def _container(args: RayLwsGroupArgs, *, leader: bool) -> Manifest:
    amounts = {"cpu": str(args.cpu), "memory": args.memory, args.gpu_resource: str(args.gpus_per_node)}
    if args.ephemeral_storage:
        amounts["ephemeral-storage"] = args.ephemeral_storage
    amounts |= args.extra_resources
    container: Manifest = {
        "name": CONTAINER,
        "image": args.image,
        "command": ["bash", f"{_SCRIPT_FOLDER}/{_SCRIPT.name}"],
        "env": _environment(args),
        # Equal, so that the pod is Guaranteed: GPU memory is pinned through host memory, and an eviction costs a start.
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "volumeMounts": [
            {"name": "launch", "mountPath": _SCRIPT_FOLDER, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
            *args.volume_mounts,
        ],
    }
    if args.capabilities:
        container["securityContext"] = {"capabilities": {"add": list(args.capabilities)}}
    if leader or args.launcher == "native":
        container["args"] = list(args.engine_args)
    if leader:
        if args.api_key_secret:
            container["env"].append(_from_secret("VLLM_API_KEY", SecretKey(args.api_key_secret, API_KEY)))
        container["ports"] = [{"name": PORT_NAME, "containerPort": args.port}]
        container |= _probes(args)
    return container


def _environment(args: RayLwsGroupArgs) -> list[Manifest]:
    values = {
        "MODELSERVE_NODES": str(args.nodes),
        "MODELSERVE_GPUS_PER_NODE": str(args.gpus_per_node),
        "MODELSERVE_LAUNCHER": args.launcher,
        "MODELSERVE_JOIN_SECONDS": str(args.limits.join_seconds),
        "MODELSERVE_JOIN_PORT": str(fact("engines", args.launcher, "joinPort")),
        **args.env,
    }
    env: list[Manifest] = [{"name": key, "value": value} for key, value in values.items()]
    # The label, not LWS_WORKER_INDEX: releases before 0.6 do not inject that variable.
    env += [
        _from_field("MODELSERVE_POD_INDEX", f"metadata.labels['{_INDEX_LABEL}']"),
        _from_field("VLLM_HOST_IP", "status.podIP"),
    ]
    return [*env, *(_from_secret(name, key) for name, key in args.secret_env.items())]


def _from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _from_secret(name: str, key: SecretKey) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": key.secret, "key": key.field}}}


def _probes(args: RayLwsGroupArgs) -> Manifest:
    health = {"httpGet": {"path": "/health", "port": PORT_NAME}, "timeoutSeconds": timeouts.PROBE_TIMEOUT_SECONDS}
    probes = {
        "startupProbe": {
            **health,
            "periodSeconds": timeouts.STARTUP_PERIOD_SECONDS,
            "failureThreshold": args.limits.startup_failures,
        },
        "livenessProbe": {
            **health,
            "periodSeconds": timeouts.LIVENESS_PERIOD_SECONDS,
            "failureThreshold": timeouts.LIVENESS_FAILURES,
        },
    }
    if args.readiness_probe:
        probes["readinessProbe"] = {**health, "periodSeconds": timeouts.READINESS_PERIOD_SECONDS}
    return probes


class RayLwsGroup(pulumi.ComponentResource):
    """Replicas of a model, each a leader and its workers. Ready when every replica answers /health."""

    ready: pulumi.Output[str]
    """The LeaderWorkerSet's id, known when the wait is over."""

    def __init__(
        self,
        name: str,
        args: RayLwsGroupArgs,
        opts: pulumi.ResourceOptions | None = None,
        hooks: pulumi.ResourceHookBinding | None = None,
        *,
        mounts: Sequence[pulumi.Resource] = (),
    ) -> None:
        """`mounts` are what the pods mount and what cannot be replaced while they do: the group is replaced with it."""
        super().__init__("modelserve:serving:RayLwsGroup", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would hand our depends_on and ignore_changes down
        config = kubernetes_object(f"{name}-launch", launch_config(name, args), child)
        ready_in, gone_in = f"{args.limits.ready_seconds}s", f"{args.limits.delete_seconds}s"
        group = kubernetes_object(
            name,
            leader_worker_set(name, args),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[config],
                hooks=hooks,
                custom_timeouts=pulumi.CustomTimeouts(create=ready_in, update=ready_in, delete=gone_in),
                replace_on_changes=[f'metadata.annotations["{_LAYOUT}"]'],
                replace_with=list(mounts),
                # Its name is fixed, and the old group holds the GPUs that the new one needs.
                delete_before_replace=True,
            ),
        )
        self.ready = group.id
        self.register_outputs({"ready": self.ready})
