"""The pods of an engine: launch script, guard, container, environment, probes, termination, registration.

Owns what a LeaderWorkerSet and a RayClusterFleet share, so that an engine behaves the same in both. Not here: how the
pods of a replica find each other, and which of them leads (`ray_lws_group`, `ray_cluster_fleet`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi

from components.cluster.credentials import SecretKey
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.cluster.pod_extras import CONFINED, PodExtras, dressed
from components.serving import compile_cache
from components.serving.compile_cache import CompileCache
from planning import timeouts
from planning.names import API_KEY, COLOURS, coloured
from planning.problems import Problem, Refused
from planning.units import quantity

_CONTAINER = "vllm"
_GPU_RESOURCE = "nvidia.com/gpu"
_SCRIPT = Path(__file__).with_name("launch.sh")
_GUARD = Path(__file__).with_name("modelserve_guard.py")
_DATA_SCRIPT = Path(__file__).with_name("launch_data.sh")
_SHARED_GUARD = Path(__file__).with_name("modelserve_servers.py")
_SCRIPT_FOLDER = "/etc/modelserve"
# The layout of the pods. The workloads' controllers would accept a new layout in place, and create its pods while the
# old ones still hold the GPUs. So a changed annotation makes Pulumi replace the workload.
_LAYOUT = "modelserve.dev/layout"
SET_BY_ANOTHER = {"pulumi.com/patchForce": "true"}
"""Annotations of a workload whose number of replicas another sets: deleted, it still owns the number, and the API
server would refuse later changes."""


@dataclass(frozen=True, kw_only=True)
class EnginePodsArgs:
    """The pods of one replica. No field has a default: the stack file decides each, and the type checker finds one that
    the builder forgot. Plain fields shape the plan; `Input` fields may come from other resources.

    `data` engines of tensor x pipeline GPUs share the requests of one port, on which `several_servers` processes may
    answer. `engine_args` is the whole argument list of `vllm serve`, except what the launcher and the guard add.
    `memory`, `shm` and `ephemeral_storage` (None: no limit) are binary quantities. `extra_resources` maps further
    resources of each pod, such as RDMA devices, to amounts. `capabilities` are added to the container's default ones.
    Every time limit derives from three times: `startup_seconds`, a cold start without what `init_containers` take;
    `weights_seconds`, what they may take before it; `drain_seconds`, how long a pod that ends waits for its answers.
    `drains_itself`: the engine has a flag for the last, and gets it.
    `routes` are what the guard lets through, each `METHOD /path`; /metrics is open to callers without a key unless
    `metrics_need_key`. Every pod gets `init_containers`, `volumes` and `volume_mounts`. Volumes may hold Outputs at
    their leaves: Pulumi asks for the pods once all are known, and never if one fails.
    Two groups of a service may stand side by side; `colour` tells what is one's own, None where there is but one.
    `api_key_secret` names a Secret in `namespace` with the field `apiKey`. `api_key_revision` changes whenever the key
    does, which restarts the engine. `compiled` keeps the engine's kernels over restarts. `extras` is what the cluster's
    owner adds to every pod.
    Raises Refused when data x tensor x pipeline does not fill the GPUs.
    """

    stack: str
    namespace: str
    colour: str | None
    image: str
    engine_args: Sequence[pulumi.Input[str]]
    nodes: int
    gpus_per_node: int
    data: int
    several_servers: bool
    tensor: int
    pipeline: int
    cpu: int
    memory: str
    shm: str
    ephemeral_storage: str | None
    startup_seconds: int
    weights_seconds: int
    drain_seconds: int
    drains_itself: bool
    port: int
    routes: Sequence[str]
    metrics_need_key: bool
    readiness_probe: bool
    extra_resources: Mapping[str, str]
    capabilities: Sequence[str]
    env: Mapping[str, str]
    secret_env: Mapping[str, SecretKey]
    volumes: Sequence[Manifest]
    volume_mounts: Sequence[Manifest]
    init_containers: Sequence[Manifest]
    pod_labels: Mapping[str, str]
    pod_annotations: Mapping[str, str]
    node_selector: Mapping[str, str]
    api_key_secret: str | None
    api_key_revision: pulumi.Input[str] | None
    compiled: CompileCache | None
    extras: PodExtras

    def __post_init__(self) -> None:
        if self.data * self.tensor * self.pipeline != self.nodes * self.gpus_per_node:
            data = f" x data {self.data}" if self.data > 1 else ""
            gpus = f"nodes {self.nodes} x gpus_per_node {self.gpus_per_node}"
            why = f"x pipeline {self.pipeline}{data} is not {gpus}"
            raise Refused(Problem("tensor", str(self.tensor), why, "change one so that they are equal"))

    @property
    def engines_per_node(self) -> int:
        """Data-parallel engines in each pod; 0 if each takes several pods."""
        return self.gpus_per_node // (self.tensor * self.pipeline)

    @property
    def limits(self) -> timeouts.Timeouts:
        """Every time limit of one replica."""
        return timeouts.from_startup(self.startup_seconds, self.drain_seconds, self.weights_seconds, self.nodes)


def launch_files(args: EnginePodsArgs) -> dict[str, str]:
    """What every pod runs beside the engine: the guard, and the launch script, which we ship because its path in images
    changed between releases."""
    more = [*([_DATA_SCRIPT] if args.data > 1 else []), *([_SHARED_GUARD] if args.several_servers else [])]
    return {file.name: file.read_text() for file in (_SCRIPT, _GUARD, *more)}


def launch_config(name: str, args: EnginePodsArgs) -> Manifest:
    """The ConfigMap with the launch script and the guard."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _config_name(name, args), "namespace": args.namespace, "labels": labels(args.stack, name)},
        "data": launch_files(args),
    }


def _config_name(name: str, args: EnginePodsArgs) -> str:
    """Named by content: a new script is a new ConfigMap, so running pods see it only once they are rolled."""
    return (
        f"{own_name(name, args)}-launch-{hashlib.sha256(''.join(launch_files(args).values()).encode()).hexdigest()[:8]}"
    )


def own_name(name: str, args: EnginePodsArgs) -> str:
    """What the names of a group's own objects begin with."""
    return coloured(name, args.colour) if args.colour else name


def version(template: Any, more: str) -> str:
    """A digest of a replica's template and of `more`. Output values are not in it: they are known only while the stack
    is made."""
    text = json.dumps([template, more], sort_keys=True, default=lambda _: None)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def layout_annotation(args: EnginePodsArgs) -> dict[str, str]:
    """The annotation whose change replaces the workload."""
    layout = f"nodes={args.nodes},gpusPerNode={args.gpus_per_node},tensor={args.tensor},pipeline={args.pipeline}"
    return {_LAYOUT: layout + (f",data={args.data}" if args.data > 1 else "")}


def pod_template(
    name: str, args: EnginePodsArgs, container: Manifest, role: str, role_labels: Mapping[str, str]
) -> Manifest:
    """The pod template of one role. Only pods of this role have `role_labels`."""
    annotations: dict[str, Any] = dict(args.pod_annotations)
    if args.api_key_revision is not None:
        annotations["modelserve.dev/api-key-revision"] = args.api_key_revision
    metadata: Manifest = {
        "labels": {
            **args.pod_labels,
            **role_labels,
            **labels(args.stack, name),
            "app.kubernetes.io/component": role,
        }
    }
    if annotations:
        metadata["annotations"] = annotations
    optional: Manifest = {}
    if args.node_selector:
        optional["nodeSelector"] = dict(args.node_selector)
    if args.init_containers:
        optional["initContainers"] = list(args.init_containers)
    template: Manifest = {
        "metadata": metadata,
        "spec": {
            **optional,
            # Our pods never call the API server; and a Service named vllm would set VLLM_PORT, which vLLM reads.
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": dict(CONFINED),
            "terminationGracePeriodSeconds": args.limits.grace_seconds,
            "containers": [container],
            "volumes": [
                {"name": "launch", "configMap": {"name": _config_name(name, args)}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(args.shm)}},
                *args.volumes,
                *([compile_cache.volume(args.compiled)] if args.compiled else []),
            ],
        },
    }
    return dressed(template, args.extras)


def serve_args(args: EnginePodsArgs) -> list[pulumi.Input[str]]:
    """The argument list of `vllm serve`. The guard is the last of its middlewares, and so the outermost."""
    guard = _SHARED_GUARD if args.several_servers else _GUARD
    drain = ["--shutdown-timeout", str(args.drain_seconds)] if args.drains_itself else []
    return [*args.engine_args, *drain, "--middleware", f"{guard.stem}.Guard"]


def data_engine(engine: Manifest) -> Manifest:
    """An engine's container whose pods vLLM itself joins as data-parallel engines."""
    return engine | {"command": ["bash", f"{_SCRIPT_FOLDER}/{_DATA_SCRIPT.name}"]}


def container(args: EnginePodsArgs, env: list[Manifest], *, leads: bool, apart: bool) -> Manifest:
    """The engine's container without what only some roles have: arguments, ports, probes. `apart`: a variable tells
    replicas apart.

    The leader ends once it has given its answers; the others wait for the leader's end, because every answer needs
    their GPUs.
    """
    amounts = {"cpu": str(args.cpu), "memory": quantity(args.memory), _GPU_RESOURCE: str(args.gpus_per_node)}
    if args.ephemeral_storage:
        amounts["ephemeral-storage"] = quantity(args.ephemeral_storage)
    amounts |= args.extra_resources
    container: Manifest = {
        "name": _CONTAINER,
        "image": args.image,
        "command": ["bash", f"{_SCRIPT_FOLDER}/{_SCRIPT.name}"],
        "env": env,
        "lifecycle": {
            "preStop": {
                "exec": {
                    "command": ["python3", f"{_SCRIPT_FOLDER}/{_GUARD.name}", "drain" if leads else "await-leader"]
                }
            }
        },
        # Equal, so that the pod is Guaranteed: transfers to the GPU pin host memory, and an eviction costs a start.
        "resources": {"requests": amounts, "limits": dict(amounts)},
        # We mount /dev/shm: KubeRay would otherwise mount one as large as the pod's memory.
        "volumeMounts": [
            {"name": "launch", "mountPath": _SCRIPT_FOLDER, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
            *args.volume_mounts,
            *([compile_cache.mount(args.compiled, apart=apart)] if args.compiled else []),
        ],
    }
    # The root file system can be written: engines keep compiled kernels, sockets and logs where their release says.
    capabilities: Manifest = {"drop": ["ALL"]}
    if args.capabilities:
        capabilities["add"] = list(args.capabilities)
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": capabilities}
    return container


def environment(
    args: EnginePodsArgs, joining: Mapping[str, str], fields: Mapping[str, str], *, leads: bool
) -> list[Manifest]:
    """The container's variables. `joining` are variables for the launch script; `fields` maps variables to the pod's
    fields that they are read from. Only the leader checks API keys and paths."""
    guard = {"MODELSERVE_PATHS": " ".join(args.routes), "MODELSERVE_PORT": str(args.port)}
    if args.metrics_need_key:
        guard["MODELSERVE_METRICS"] = "key"
    values = {
        "MODELSERVE_NODES": str(args.nodes),
        "MODELSERVE_GPUS_PER_NODE": str(args.gpus_per_node),
        "MODELSERVE_SETTLE_SECONDS": str(timeouts.SETTLE_SECONDS),
        "MODELSERVE_DRAIN_SECONDS": str(args.drain_seconds),
        **(guard if leads else {}),
        **joining,
        **(compile_cache.variables(args.compiled) if args.compiled else {}),
        **args.env,
    }
    secrets = dict(args.secret_env)
    if leads and args.api_key_secret:
        secrets["VLLM_API_KEY"] = SecretKey(args.api_key_secret, API_KEY)
    pod_fields = {**fields, "VLLM_HOST_IP": "status.podIP"}
    return [
        *({"name": variable, "value": value} for variable, value in values.items()),
        *({"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}} for variable, path in pod_fields.items()),
        *(
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": key.secret, "key": key.field}}}
            for variable, key in secrets.items()
        ),
    ]


def probes(args: EnginePodsArgs, port_name: str) -> Manifest:
    """The probes of the container that answers requests."""
    health = {"httpGet": {"path": "/health", "port": port_name}, "timeoutSeconds": timeouts.PROBE_TIMEOUT_SECONDS}
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


def register(
    component: pulumi.Resource,
    name: str,
    args: EnginePodsArgs,
    workload: Manifest,
    hooks: pulumi.ResourceHookBinding | None,
    mounts: Sequence[pulumi.Resource],
    *,
    rounds: int = 1,
    ignore_changes: Sequence[str] = (),
) -> pulumi.Output[str]:
    """Registers the launch script and `workload` below `component`. Returns the workload's id, known once it is ready.

    Pulumi cannot replace `mounts` while the pods mount them, so it replaces the workload together with them. An update
    may take one termination and one start for each of its `rounds`.
    """
    child = pulumi.ResourceOptions(parent=component)  # merging opts would pass on its depends_on and ignore_changes
    parts = own_name(name, args)
    config = kubernetes_object(f"{parts}-launch", launch_config(name, args), child)
    limits = args.limits
    registered = kubernetes_object(
        parts,
        workload,
        pulumi.ResourceOptions(
            parent=component,
            depends_on=[config],
            hooks=hooks,
            custom_timeouts=pulumi.CustomTimeouts(
                create=f"{limits.ready_seconds}s",
                update=f"{limits.replace_seconds * rounds}s",
                delete=f"{limits.delete_seconds}s",
            ),
            ignore_changes=list(ignore_changes),
            # A group of a colour is replaced by one without: there may be GPUs for one of them.
            aliases=[] if args.colour else [pulumi.Alias(name=coloured(name, each)) for each in COLOURS],
            replace_on_changes=[f'metadata.annotations["{_LAYOUT}"]'],
            replace_with=list(mounts),
            # The name is fixed, and the old workload holds the GPUs that the new one needs.
            delete_before_replace=True,
        ),
    )
    return registered.id
