"""Rules between the sections of a stack file, each apart: what no section can judge alone."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from config.clouds import (
    AddonChoice,
)
from config.services import Service
from config.stack import (
    StackConfig,
    aibrix_release,
    installs_aibrix,
    loader_of,
    own_bucket,
    repository,
    role_takers,
    streams,
)
from config.weights import (
    BucketWeights,
    HuggingfaceWeights,
    NvmeWeights,
    PvcWeights,
    Sync,
)
from planning import addons, aibrix_install, flags, loaders
from planning.catalog import fact
from planning.names import model_object
from planning.problems import PlanError, Problem, Unjudged


def rules(config: StackConfig) -> Iterator[Iterator[Problem]]:
    """The rules, each apart: if one cannot judge, the others still can."""
    yield from (rule(config) for rule in (_fills, _roles, _single_node, _same_objects, _enough_nodes, _aibrix))
    yield from (_addon(config, name) for name in ("lws", "fluid"))
    of_service = (
        _object_names,
        _weights_of,
        _loaded,
        _compiled,
        _behind_gateway,
        _rdma_devices,
        _secure,
        _scaled,
        _scheduled,
    )
    for name in _services(config):
        yield from (rule(config, name) for rule in of_service)


def _services(config: StackConfig) -> tuple[str, ...]:
    try:
        return tuple(config.services)
    except Unjudged:
        return ()


def _fills(config: StackConfig) -> Iterator[Problem]:
    weights = config.weights
    if isinstance(weights, (BucketWeights, NvmeWeights)) and weights.sync and own_bucket(config) is None:
        why = "a stack fills buckets of its own cloud only"
        yield Problem("weights.sync", "", why, "leave it out, and fill the bucket yourself")


def _roles(config: StackConfig) -> Iterator[Problem]:
    bucket, oidc = own_bucket(config), config.cluster.oidc
    if bucket is not None and bucket.auth == "rrsa":
        if oidc is None:
            why = "the role trusts the cluster's OIDC provider, and cluster.oidc is missing"
            yield Problem("weights.bucket.auth", "rrsa", why, "write cluster.oidc, or key")
        elif config.cache.engine == "fluid":
            why = "Fluid's JindoRuntime takes access keys only"
            instead = "write cache.engine: none, or leave it out: then the sync alone takes a role"
            yield Problem("weights.bucket.auth", "rrsa", why, instead)
        elif streams(config):
            why = "an engine that streams reads an access key, once"
            instead = "write read: volume, or leave it out: then the sync alone takes a role"
            yield Problem("weights.bucket.auth", "rrsa", why, instead)
    if oidc is not None and not role_takers(config) and (bucket is None or bucket.auth != "rrsa"):
        yield Problem("cluster.oidc", "", "no pod of this stack takes a role to reach a bucket", "leave it out")


def _single_node(config: StackConfig) -> Iterator[Problem]:
    weights, services = config.weights, config.services.values()
    single = isinstance(weights, PvcWeights) and weights.create and weights.create.access_mode == "ReadWriteOnce"
    if single and (
        any(service.layout is None for service in services) or sum(_most_nodes(each)[0] for each in services) > 1
    ):
        who = " and ".join(f"services.{name}" for name in config.services)
        why = f"{who} may run on more than one node, which cannot mount it"
        yield Problem("weights.create.accessMode", "ReadWriteOnce", why, "write ReadWriteMany")


def _same_objects(config: StackConfig) -> Iterator[Problem]:
    """Two models of a stack must not share the name of their volume and cache."""
    objects: dict[str, tuple[str, Service]] = {}
    for name, service in config.services.items():
        with contextlib.suppress(Unjudged):
            first, other = objects.setdefault(model_object(service.model), (name, service))
            if other.model != service.model:
                why = f"its volume and cache would have the same names as those of {other.model}"
                yield Problem(f"services.{name}.model", service.model, why, "put one of them into another stack")
            elif other.described != service.described:
                why = f"is described otherwise than in services.{first}, and they share their files"
                yield Problem(f"services.{name}.model", service.model, why, "write the same in both")


def _object_names(config: StackConfig, name: str) -> Iterator[Problem]:
    """Limits on a model's name from the objects that belong to the model: they carry it in lower case."""
    path, model = f"services.{name}.model", config.services[name].model
    called, fluid = model_object(model), config.cache.engine == "fluid"
    # A Job's pods carry its whole name in a label.
    most = (
        fact("fluid", "fluid", "nameLimit") if fluid else fact("kubernetes", "names", "label")["limit"] - len("-sync")
    )
    instead = "write cache.engine: none" if fluid else "publish it under a shorter name"
    if len(called) > most:
        whose = "Fluid's workers take" if fluid else "the labels of its objects take"
        yield Problem(path, model, f"{called} has {len(called)} characters, {whose} {most}", instead)
    if fluid and not re.fullmatch(fact("fluid", "fluid", "namePattern"), called):
        yield Problem(path, model, f"{called} begins with a digit, which Fluid refuses", instead)


def _weights_of(config: StackConfig, name: str) -> Iterator[Problem]:
    """A service's model must have a repository that weights can come from."""
    weights, model = config.weights, config.services[name].model
    sync: Sync | None = getattr(weights, "sync", None)
    named = {"weights.sync.repositories": sync.repositories} if sync else {}
    if isinstance(weights, HuggingfaceWeights):
        named["weights.repositories"] = weights.repositories
    for path, repositories in named.items():
        if repository(config, repositories, model) is None:
            why = f"is missing: the catalog does not know who publishes {model}"
            yield Problem(f"{path}.{model}", "", why, f"write owner/{model}")


def _loaded(config: StackConfig, name: str) -> Iterator[Problem]:
    """Reasons why an engine cannot load its weights so."""
    engine, loader = config.services[name].engine, loader_of(config)
    asked = flags.read(engine.extra_args, engine.version).get(loaders.FLAG)
    path = f"services.{name}.engine.extraArgs"
    if asked is not None and streams(config):
        yield Problem(path, loaders.FLAG, "weights.read: stream sets it", "leave it out")
    elif asked in ("auto", *loaders.known()):
        why = "is set by the program from another key"
        yield Problem(path, f"{loaders.FLAG} {asked}", why, "use weights.loader")
    elif asked is not None and loader != loaders.DEFAULT:
        yield Problem(path, f"{loaders.FLAG} {asked}", "weights.loader sets it", "leave one of them out")
    if streams(config) and loader != loaders.STREAMER:
        why = f"read: stream streams by {loaders.STREAMER}"
        yield Problem("weights.loader", loader, why, "leave it out, or write another read")
        return
    layout = config.services[name].layout
    if wrong := loaders.problem(loader, engine.version, engine.image, layout.nodes if layout else 1):
        key, value = ("weights.read", "stream") if streams(config) else ("weights.loader", loader)
        instead = "write volume or download, or take a newer engine" if streams(config) else wrong[1]
        yield Problem(key, value, f"services.{name}: {wrong[0]}", instead)


def _compiled(config: StackConfig, name: str) -> Iterator[Problem]:
    """Reasons why an engine cannot keep its kernels where the stack file says."""
    kept, service = config.cache.compile, config.services[name]
    if kept is None:
        return
    for variable in loaders.kernel_folders(service.engine.version).keys() & service.engine.env.keys():
        path = f"services.{name}.engine.env.{variable}"
        yield Problem(path, "", "cache.compile sets it", "leave one of them out")
    pod = service.pod
    others = (
        [security for security in (pod.security_context, pod.container_security_context) if security] if pod else []
    )
    if kept.node_path is not None and any(each.get("runAsNonRoot") or each.get("runAsUser") for each in others):
        why = f"root owns the folder, and the pods of services.{name} run as another user"
        yield Problem("cache.compile.nodePath", kept.node_path, why, "write claim, with fsGroup in the pods' context")
    node, layout = config.cloud.node, service.layout
    apart = kept.node_path is not None and (layout is None or (node and layout.gpus_per_node == node["gpus"]))
    if service.workload == "fleet" and service.most_replicas > 1 and not apart:
        why = f"replicas of services.{name}, a fleet, would write the same files at the same time"
        instead = "write nodePath, and whole nodes; or workload: lws, whose replicas have a folder each"
        yield Problem("cache.compile", "", why, instead)


def _behind_gateway(config: StackConfig, name: str) -> Iterator[Problem]:
    """Behind the gateway a model has one name everywhere: label, Kubernetes Service and «model» in requests."""
    service = config.services[name]
    if service.autoscaling and service.autoscaling.engine == "aibrix" and service.expose.to != "cluster":
        why = "AIBrix reads the engine's metrics without a key, so a load balancer would give them to anybody"
        yield Problem(f"services.{name}.expose.to", service.expose.to, why, "write cluster")
    if service.gateway != "aibrix":
        return
    called = service.served_model_name or name
    if called != name:
        why = "AIBrix finds a model by its service's own name"
        path = f"services.{name}.servedModelName"
        yield Problem(path, called, why, "leave it out, and name the service so")
    if service.expose.to != "cluster":
        why = "the gateway's load balancer is already in front of it"
        yield Problem(f"services.{name}.expose.to", service.expose.to, why, "write addons.aibrix.address")


def _scaled(config: StackConfig, name: str) -> Iterator[Problem]:
    scaling = config.services[name].autoscaling
    if scaling and scaling.engine != "aibrix" and not config.monitoring.enabled:
        why = "it reads the engine's metrics from Prometheus, which finds the engine by the stack's ServiceMonitor"
        yield Problem(f"services.{name}.autoscaling.engine", scaling.engine, why, "write monitoring.enabled: true")


def _scheduled(config: StackConfig, name: str) -> Iterator[Problem]:
    schedule, limit = config.services[name].schedule, fact("kubernetes", "names", "cronJob") - len("-off-0000")
    if schedule and len(name) > limit:
        why = f"{name} has {len(name)} characters, and its CronJobs take {limit}"
        yield Problem(f"services.{name}.schedule", "", why, "give the service a shorter name")


def _rdma_devices(config: StackConfig, name: str) -> Iterator[Problem]:
    layout = config.services[name].layout
    devices = config.cloud.rdma_devices
    if devices and layout and devices != layout.gpus_per_node:
        gpus = layout.gpus_per_node
        why = f"the pods of services.{name} have {gpus} GPUs, and each needs its own device"
        yield Problem("cloud.rdmaDevices", str(devices), why, f"write {gpus}, or leave it out")


def _enough_nodes(config: StackConfig) -> Iterator[Problem]:
    """The cluster must have enough nodes for all services."""
    cloud = config.cloud
    if cloud.nodes is None:
        return
    asked = {name: _most_nodes(service) for name, service in config.services.items() if service.layout}
    wanted = sum(steady for steady, _ in asked.values())
    for name, (_, surging) in asked.items():
        if wanted <= cloud.nodes < wanted + surging:
            why = f"an update needs {wanted + surging} nodes, and there are {cloud.nodes}"
            rollout = config.services[name].rollout
            if rollout.strategy == "blueGreen":
                yield Problem(f"services.{name}.rollout.strategy", rollout.strategy, why, "leave rollout out")
            else:
                yield Problem(f"services.{name}.rollout.maxSurge", str(rollout.max_surge), why, "write 0")
    if wanted > cloud.nodes:
        why = f"the services need {wanted} nodes at most"
        yield Problem("cloud.nodes", str(cloud.nodes), why, "write fewer replicas, or smaller layouts")


def _most_nodes(service: Service) -> tuple[int, int]:
    """The most nodes that a service may hold, and the additional ones during an update."""
    nodes = service.layout.nodes if service.layout else 1
    beside = service.most_replicas if service.rollout.strategy == "blueGreen" else service.rollout.max_surge
    return nodes * service.most_replicas, nodes * beside


def _secure(config: StackConfig, name: str) -> Iterator[Problem]:
    """Security settings of a service's pods that would keep them from starting."""
    weights, cloud, pod = config.weights, config.cloud, config.services[name].pod
    disk = isinstance(weights, NvmeWeights) or (isinstance(weights, BucketWeights) and weights.download.node_path)
    pinned = fact("clouds", cloud.kind, "rdma")["capabilities"] if cloud.rdma else []
    if pod and disk and (pod.security_context or {}).get("runAsNonRoot"):
        path = f"services.{name}.pod.securityContext.runAsNonRoot"
        why = "in the same pod, root checks and fills the node's disk"
        yield Problem(path, "true", why, "leave it out, or write runAsUser alone")
    dropped = ((pod and pod.container_security_context) or {}).get("capabilities", {}).get("drop") or []
    for capability in dropped:
        if capability in pinned:
            path = f"services.{name}.pod.containerSecurityContext.capabilities.drop"
            yield Problem(path, capability, "RDMA needs it", "leave it out")


def _aibrix(config: StackConfig) -> Iterator[Problem]:
    """Refuses an AIBrix release that cannot be installed."""
    if installs_aibrix(config):
        try:
            aibrix_install.release(aibrix_release(config))
        except PlanError as error:
            yield from (replace(problem, key="addons.aibrix.version") for problem in error.problems)


def _addon(config: StackConfig, name: Literal["lws", "fluid"]) -> Iterator[Problem]:
    """Refuses a release of an add-on that would harm the cluster or does not work on this cloud."""
    choice: AddonChoice | None = getattr(config.addons, name)
    if choice is None or choice.version is None:
        return
    try:
        addons.require_minimum(name, config.cloud.kind, choice.version)
        if choice.install is True:
            addons.require_lasting_crds(name, choice.version)
    except PlanError as error:
        yield from (replace(problem, key=f"addons.{name}.version") for problem in error.problems)
