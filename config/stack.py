"""The stack file as one type, and the rules between its sections.

`StackConfig` is plain and frozen; secrets are separate keys (`config.secrets`) that never enter it. Nothing here
imports Pulumi, so that checking a stack file takes a fraction of a second.
"""

import contextlib
import datetime
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from config import secrets as secret_keys
from config.abilities import CLOUDS
from config.clouds import (
    AddonChoice,
    Addons,
    AibrixChoice,
    Cloud,
    Cluster,
    Monitoring,
    ValidationContext,
    gpu_node,
)
from config.errors import ConfigError, join, shown, unknown_key
from config.facts import Catalog, GpuFacts, GpuPods, ModelFacts, gpu_pods
from config.secrets import PAIRS, SECRETS
from config.services import Service
from config.strict import Strict, refusals
from config.types import Day, InSchema, Registry, is_release
from config.weights import (
    FOREIGN,
    Bucket,
    BucketWeights,
    Cache,
    HuggingfaceWeights,
    NvmeWeights,
    PvcWeights,
    Sync,
    Weights,
)
from planning import addons, aibrix_features, aibrix_install, flags, loaders
from planning.catalog import fact, overruled
from planning.fleet import name_limit as fleet_limit
from planning.images import registry_of
from planning.names import API_KEY, COLOURS, coloured, model_object, service_object
from planning.problems import PlanError, Problem, Unjudged, printable

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Why an add-on is unused.
_USES = {
    "lws": "no service is a LeaderWorkerSet",
    "fluid": "cache.engine is none",
    "aibrix": "no service is a fleet or behind its gateway",
}

DNS_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
PLACEHOLDER = r"<[^<>]+>"
# A week, so that somebody who looks once a week sees it.
_ENDING_DAYS = 7


def name_limit(replicas: int) -> int:
    """The longest name of a service with this many replicas, in characters."""
    group = len(str(max(replicas - 1, 0)))
    return (
        fact("engines", "leaderWorkerSet", "nameLimit")
        - fact("engines", "leaderWorkerSet", "revisionHashLength")
        - len("-")
        - group
        - len("-")
    )


_Names = InSchema({"propertyNames": {"pattern": f"^{DNS_1035}$", "maxLength": name_limit(1)}})
_Price = Annotated[float, InSchema({"minimum": 0})]


class Prices(Strict):
    """Prices, and when they were read. Nothing is guessed: a missing price is unknown."""

    currency: str | None = Field(None, min_length=1, description="the currency of every price, such as CNY")
    per_gpu_hour: _Price | None = Field(None, description="the price of one GPU for an hour")
    per_cache_worker_hour: _Price | None = Field(None, description="the price of one cache worker for an hour")
    per_gib_month: _Price | None = Field(None, description="the price of one GiB of weights kept for a month")
    as_of: Day | None = Field(None, description="the day the prices were read, such as 2026-11-01")


class StackConfig(Strict):
    """The whole stack file, without its secrets."""

    cloud: Cloud = Field(description="a map with kind")
    cluster: Cluster = Field(description="a map with context")
    weights: Weights = Field(description="a map with source")
    cache: Cache = Field(Cache.model_construct(), description="a map with engine")
    addons: Addons = Field(Addons.model_construct(), description="a map with lws, fluid and aibrix")
    registry: Registry | None = Field(None, description="the registry of all images whose names do not include one")
    services: Annotated[dict[str, Service], _Names] = Field(
        min_length=1, description="a map of services: name to model, engine, layout"
    )
    monitoring: Monitoring = Field(Monitoring.model_construct(), description="a map with enabled")
    catalog: Catalog = Field(Catalog.model_construct(), description="a map with models and gpus")
    prices: Prices = Field(Prices.model_construct(), description="a map with currency, perGpuHour and asOf")
    owner: str | None = Field(None, min_length=1, description="who answers for the stack, such as a team's name")
    expires: Day | None = Field(None, description="the last day that the stack is needed, such as 2026-12-31")


SECTIONS = tuple(info.alias or name for name, info in StackConfig.model_fields.items())
"""Keys of the stack file that are not secrets."""


def decoded(value: str) -> Any:
    """A value as the engine hands it over: structured values are JSON, others plain text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def parse(
    raw: Mapping[str, Any],
    *,
    plain_secrets: Collection[str] = (),
    secrets: Collection[str] = (),
    empty_secrets: Collection[str] = (),
) -> StackConfig:
    """The typed config; arguments as of `judge`. Raises ConfigError with every refusal."""
    config, problems = judge(raw, plain_secrets=plain_secrets, secrets=secrets, empty_secrets=empty_secrets)
    if problems:
        raise ConfigError(sorted(problems))
    return config


def judge(
    raw: Mapping[str, Any],
    *,
    plain_secrets: Collection[str] = (),
    secrets: Collection[str] = (),
    empty_secrets: Collection[str] = (),
) -> tuple[StackConfig, list[Problem]]:
    """The config of `raw` (top-level key without namespace -> decoded value, secrets left out), and all refusals.

    `secrets` names the stack file's encrypted secrets, `plain_secrets` those in plain text, `empty_secrets` those that
    hold nothing. If there are refusals, only the valid part of the config can be read (`config.strict`).
    """
    problems = [*secret_keys.problems(plain_secrets, secrets, empty_secrets)]
    present = frozenset((*secrets, *plain_secrets, *empty_secrets))
    problems += [
        Problem(key, "(encrypted)", "only secrets are encrypted", "write it in plain text, without --secret")
        for key in secrets
        if key in SECTIONS
    ]
    meant = set()
    for key in raw.keys() - set(SECTIONS):
        why, instead, near = unknown_key(key, [*SECTIONS, *SECRETS])
        problems.append(Problem(printable(key), shown(raw[key], key), why, instead))
        meant.add(near)
    problems += _left_in(raw)
    problems += _names(raw.get("services"), _map(raw, "cloud").get("kind"))
    reported = {problem.key for problem in problems} | {key for key in meant if key not in raw}
    sections = {key: value for key, value in raw.items() if key in SECTIONS}
    config = StackConfig.model_validate(sections, context=_validation_context(raw, present))
    problems += [problem for problem in refusals(config) if problem.key not in reported]
    # Skip a rule that reads a refused value, and a problem whose key is refused itself or has a refused key below it.
    refused = {problem.key for problem in problems}
    for of_rule in (
        *_joined(config),
        _unused_secrets(config, present, refused),
        _unused_prometheus(config, present),
        _generations(config, present),
    ):
        with contextlib.suppress(Unjudged):
            problems += [
                problem for problem in of_rule if not any(f"{key}.".startswith(f"{problem.key}.") for key in refused)
            ]
    return config, problems


def repository(config: StackConfig, repositories: Mapping[str, str], model: str) -> str | None:
    """The hub's repository of `model`, with its owner: as its services, `repositories` or the catalog say it; None if
    none does."""
    for service in config.services.values():
        with contextlib.suppress(Unjudged):
            if service.described and service.model == model:
                return service.described.repository
    owner = fact("models", "owners", "byModel").get(model)
    return repositories.get(model) or (f"{owner}/{model}" if owner else None)


def own_bucket(config: StackConfig) -> Bucket | None:
    """The bucket of this stack's cloud that weights come from; None if there is none, or it is in another cloud."""
    bucket = config.weights.bucket if isinstance(config.weights, (BucketWeights, NvmeWeights)) else None
    return bucket if bucket is not None and bucket.store not in FOREIGN else None


def role_takers(config: StackConfig) -> frozenset[str]:
    """Who of `reader` and `writer` takes a role of the cloud to use the stack's own bucket; whoever else there is has
    an access key."""
    bucket = own_bucket(config)
    if bucket is None or config.cluster.oidc is None or bucket.auth == "key":
        return frozenset()
    # A mount of the driver's renews what it holds. Fluid and engines that stream read a key, and once.
    mounts = isinstance(config.weights, BucketWeights) and config.weights.read == "volume"
    found = {"reader"} if mounts and config.cache.engine == "none" else set()
    return frozenset(found | ({"writer"} if getattr(config.weights, "sync", None) else set()))


def made_keys(config: StackConfig, secrets: frozenset[str]) -> set[str]:
    """Who of `reader` and `writer` has an access key that the stack makes; `secrets` are those that the file has."""
    if own_bucket(config) is None:
        return set()
    users = {"reader": "accessKey"}
    if getattr(config.weights, "sync", None) is not None:
        users["writer"] = "syncAccessKey"
    return {user for user, key in users.items() if key not in secrets} - role_takers(config)


def keeps_weights(config: StackConfig) -> bool:
    """Whether a destroy leaves weights that this stack has stored, which keep billing."""
    if isinstance(config.weights, PvcWeights):
        return config.weights.create is not None and config.weights.create.keep
    bucket = own_bucket(config)
    return bucket is not None and bucket.create and bucket.keep


def drops_cache(config: StackConfig, model: str) -> bool:
    """Whether the model has no cache for now: all its services are paused, and the stack file drops caches then."""
    services = [service for service in config.services.values() if service.model == model]
    return config.cache.while_paused == "drop" and all(service.most_replicas == 0 for service in services)


def expired(config: StackConfig, today: datetime.date) -> Problem | None:
    """Why a stack is not brought up any more: its last day is over. No rule of the file: a destroy still reads it."""
    if config.expires is None or datetime.date.fromisoformat(config.expires) >= today:
        return None
    return Problem("expires", config.expires, "is over", "write a later day, or pulumi destroy without --run-program")


def ending(config: StackConfig, today: datetime.date) -> list[str]:
    """A warning while the stack's last day nears; empty before, and after it."""
    left = (datetime.date.fromisoformat(config.expires) - today).days if config.expires else -1
    when = "today" if left == 0 else f"in {left} day{'s'[: left != 1]}"
    return [f"expires: the stack ends {when}, with {config.expires}"] if 0 <= left <= _ENDING_DAYS else []


def _joined(config: StackConfig) -> Iterator[Iterator[Problem]]:
    """Rules that join sections, each apart: if one cannot judge, the others still can."""
    yield from (rule(config) for rule in (_fills, _roles, _single_node, _same_objects, _enough_nodes, _aibrix))
    yield from (rule(config) for rule in (_unused_registry, _unused_mirror, _unused_price, _facts_of_others))
    yield from (_addon(config, name) for name in ("lws", "fluid"))
    yield from (_unused_addon(config, name) for name in _USES)
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


def _streams(config: StackConfig) -> bool:
    return isinstance(config.weights, BucketWeights) and config.weights.read == "stream"


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
        elif _streams(config):
            why = "an engine that streams reads an access key, once"
            instead = "write read: volume, or leave it out: then the sync alone takes a role"
            yield Problem("weights.bucket.auth", "rrsa", why, instead)
    if oidc is not None and not role_takers(config) and (bucket is None or bucket.auth != "rrsa"):
        yield Problem("cluster.oidc", "", "no pod of this stack takes a role to reach a bucket", "leave it out")


def _generations(config: StackConfig, present: frozenset[str]) -> Iterator[Problem]:
    """Generations of keys where the stack makes none."""
    weights = config.weights
    bucket = weights.bucket if isinstance(weights, (BucketWeights, NvmeWeights)) else None
    if bucket is None or bucket.keys == (1,):
        return
    if not made_keys(config, present):
        why = "the stack makes no access keys that have generations"
        yield Problem("weights.bucket.keys", str(list(bucket.keys)), why, "leave it out")


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


def loader_of(config: StackConfig) -> str:
    """What loads the weights of the stack's models."""
    return config.weights.loader or (loaders.STREAMER if _streams(config) else loaders.DEFAULT)


def _loaded(config: StackConfig, name: str) -> Iterator[Problem]:
    """Reasons why an engine cannot load its weights so."""
    engine, loader = config.services[name].engine, loader_of(config)
    asked = flags.read(engine.extra_args, engine.version).get(loaders.FLAG)
    path = f"services.{name}.engine.extraArgs"
    if asked is not None and _streams(config):
        yield Problem(path, loaders.FLAG, "weights.read: stream sets it", "leave it out")
    elif asked in ("auto", *loaders.known()):
        why = "is set by the program from another key"
        yield Problem(path, f"{loaders.FLAG} {asked}", why, "use weights.loader")
    elif asked is not None and loader != loaders.DEFAULT:
        yield Problem(path, f"{loaders.FLAG} {asked}", "weights.loader sets it", "leave one of them out")
    if _streams(config) and loader != loaders.STREAMER:
        why = f"read: stream streams by {loaders.STREAMER}"
        yield Problem("weights.loader", loader, why, "leave it out, or write another read")
        return
    layout = config.services[name].layout
    if wrong := loaders.problem(loader, engine.version, engine.image, layout.nodes if layout else 1):
        key, value = ("weights.read", "stream") if _streams(config) else ("weights.loader", loader)
        instead = "write volume or download, or take a newer engine" if _streams(config) else wrong[1]
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


def _unused_addon(config: StackConfig, name: str) -> Iterator[Problem]:
    choice: AddonChoice | AibrixChoice | None = getattr(config.addons, name)
    unused = choice is not None and choice.install is False and name in CLOUDS[config.cloud.kind].installs
    if unused and not _needs(config, name):
        yield Problem(f"addons.{name}", "", f"nothing in this stack uses it: {_USES[name]}", "leave it out")


def _unused_registry(config: StackConfig) -> Iterator[Problem]:
    if config.registry and not _comes_from_registry(config):
        why = "every image of this stack names its own registry"
        yield Problem("registry", config.registry, why, "leave it out")


def _comes_from_registry(config: StackConfig) -> bool:
    """Whether any image of the stack comes from the stack's registry."""
    weights, lws = config.weights, config.addons.lws
    sync: Sync | None = getattr(weights, "sync", None)
    images = [service.engine.image for service in config.services.values()]
    if sync or (isinstance(weights, NvmeWeights) and weights.bucket):
        images.append((sync.tool_image if sync else None) or fact("sync", "images", "rclone"))
    if sync:
        images.append(sync.python_image or fact("sync", "images", "python"))
    schedules = filter(None, (service.schedule for service in config.services.values()))
    images += [schedule.image or fact("sync", "images", "python") for schedule in schedules]
    images += [fact("sync", "images", "python") for service in config.services.values() if service.verify_after_up]
    downloads = isinstance(weights, BucketWeights) and weights.read == "download"
    by_aibrix = (downloads or installs_aibrix(config)) and not aibrix_choice(config).registry
    by_chart = "lws" in used_addons(config) and (lws is None or (lws.install is True and not lws.chart))
    return by_aibrix or by_chart or not all(map(registry_of, images))


def _unused_mirror(config: StackConfig) -> Iterator[Problem]:
    registry = config.addons.aibrix and config.addons.aibrix.registry
    if registry and not installs_aibrix(config) and getattr(config.weights, "read", None) != "download":
        why = "this stack pulls no AIBrix image"
        yield Problem("addons.aibrix.registry", registry, why, "leave it out")


def _unused_prometheus(config: StackConfig, present: frozenset[str]) -> Iterator[Problem]:
    namespace = config.monitoring.prometheus_namespace
    restricted = API_KEY in present or any(
        service.gateway == "aibrix" or service.clients is not None or service.expose.to != "cluster"
        for service in config.services.values()
    )
    if namespace and not restricted:
        why = "everybody in the cluster reaches the engines, including Prometheus"
        yield Problem("monitoring.prometheusNamespace", namespace, why, "leave it out")


def _unused_price(config: StackConfig) -> Iterator[Problem]:
    price = config.prices.per_cache_worker_hour
    if price is not None and config.cache.engine == "none":
        yield Problem("prices.perCacheWorkerHour", f"{price:g}", "this stack has no cache workers", "leave it out")


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


def _facts_of_others(config: StackConfig) -> Iterator[Problem]:
    """Refuses facts under a name that nothing in the stack has: a misspelt name would have no effect, silently."""
    cloud, known = config.cloud, config.catalog
    models = sorted({service.model for service in config.services.values()})
    series = [cloud.gpu_series] if cloud.gpu_series is not None else []
    regions = [cloud.region] if cloud.region is not None else []
    others = [
        *_of_others("models", known.models, models),
        *_of_others("gpus", known.gpus, [cloud.gpu_name.partition(":")[0]]),
        *((f"gpuPods.{name}", series) for name in known.gpu_pods if name not in series),
        *((f"regions[{i}]", regions) for i, each in enumerate(known.regions) if each not in regions),
    ]
    for path, there in others:
        instead = "leave it out" + (f", or write {' or '.join(there)}" if there else "")
        yield Problem(f"catalog.{path}", "", "nothing in this stack has that name", instead)


def _of_others(
    section: str, known: Mapping[str, ModelFacts] | Mapping[str, GpuFacts], there: list[str]
) -> Iterator[tuple[str, list[str]]]:
    """Entries none of whose names is in `there`."""
    for name, facts in known.items():
        with contextlib.suppress(Unjudged):
            described = {name: facts.given()}
            if not any(overruled(section, name_in_use, described) for name_in_use in there):
                yield f"{section}.{name}", there


def _unused_secrets(config: StackConfig, present: frozenset[str], refused: set[str]) -> Iterator[Problem]:
    """Secrets that nothing in the stack reads. Skips a pair that already has a mistake."""
    weights = config.weights
    bucket = isinstance(weights, (BucketWeights, NvmeWeights)) and weights.bucket is not None
    sync = None if isinstance(weights, HuggingfaceWeights) else weights.sync
    fills, roles = sync is not None and own_bucket(config) is not None, role_takers(config)
    read = {
        "accessKey": (
            bucket and "reader" not in roles,
            "the bucket is read by a role" if bucket else "no bucket is read",
        ),
        "syncAccessKey": (
            fills and "writer" not in roles,
            "the bucket is filled by a role" if fills else "no bucket is filled",
        ),
        "hubToken": (sync is not None or isinstance(weights, HuggingfaceWeights), "no hub is asked"),
    }
    read |= {"secretKey": read["accessKey"], "syncSecretKey": read["syncAccessKey"]}
    mistaken = {key for pair in PAIRS if not refused.isdisjoint(pair) for key in pair} | set(refused)
    for key in present - mistaken:
        is_read, why = read.get(key, (True, ""))
        if not is_read:
            yield Problem(key, "", f"nothing reads this secret: {why}", f"run: pulumi config rm modelserve:{key}")


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


def _validation_context(raw: Mapping[str, Any], secrets: frozenset[str]) -> ValidationContext:
    """The validation context: what rules read of other sections, whatever is wrong there."""
    cloud = _map(raw, "cloud")
    kind, weights = cloud.get("kind"), _map(raw, "weights")
    if not isinstance(kind, str) or kind not in CLOUDS:
        return ValidationContext(secrets=secrets, weights=weights)
    listed = _map(raw, "catalog").get("regions")
    common = ValidationContext(
        kind,
        secrets=secrets,
        lws=_lws_release(_map(raw, "addons", "lws").get("version"), kind),
        more_regions=tuple(region for region in listed if isinstance(region, str)) if isinstance(listed, list) else (),
        weights=weights,
        oidc=bool(_map(raw, "cluster").get("oidc")),
    )
    return _CONTEXTS[kind](common, cloud, raw)


def _local_context(common: ValidationContext, cloud: Mapping[str, Any], raw: Mapping[str, Any]) -> ValidationContext:
    return replace(common, pods={"gpus": fact("clouds", "local", "gpusPerPod")})


def _acs_context(common: ValidationContext, cloud: Mapping[str, Any], raw: Mapping[str, Any]) -> ValidationContext:
    series, described = cloud.get("gpuSeries"), _map(raw, "catalog", "gpuPods")
    pods = None
    if isinstance(series, str):
        with contextlib.suppress(ValidationError):  # reported at its own key
            more = {series: GpuPods.model_validate(described[series])} if series in described else {}
            pods = gpu_pods(series, more)
    notice = fact("clouds", "acs", "evictionNoticeSeconds") if cloud.get("computeQos") == "best-effort" else None
    return replace(common, series=series, pods=pods, more_pods=frozenset(described), notice=notice)


def _volcengine_context(
    common: ValidationContext, cloud: Mapping[str, Any], raw: Mapping[str, Any]
) -> ValidationContext:
    version = _map(raw, "addons", "aibrix").get("version")
    installed = version if isinstance(version, str) else fact("aibrix", "releases", "installed")
    known = gpu_node(str(cloud.get("instanceType")))
    node = {**known, "type": cloud["instanceType"]} if known else None
    pods = {"gpus": list(range(1, known["gpus"] + 1)), "node": node} if known else None
    return replace(common, pods=pods, aibrix=None if aibrix_features.version_problem(installed) else installed)


_CONTEXTS: Mapping[str, Callable[[ValidationContext, Mapping[str, Any], Mapping[str, Any]], ValidationContext]] = (
    MappingProxyType({"local": _local_context, "acs": _acs_context, "volcengine": _volcengine_context})
)


def lws_release(config: StackConfig) -> str:
    """The cluster's LeaderWorkerSet release: from the stack file, else the installed one or the one to install."""
    return _lws_release(config.addons.lws.version if config.addons.lws else None, config.cloud.kind)


def aibrix_choice(config: StackConfig) -> AibrixChoice:
    """The stack file's AIBrix section, with defaults for what it leaves out."""
    return config.addons.aibrix or AibrixChoice.model_construct()


def aibrix_release(config: StackConfig) -> str:
    """The cluster's AIBrix release: from the stack file, else the one to install."""
    return aibrix_choice(config).version or fact("aibrix", "releases", "installed")


def aibrix_registry(config: StackConfig) -> str | None:
    """The registry of AIBrix's images: its own, else the stack's."""
    return aibrix_choice(config).registry or config.registry


def used_addons(config: StackConfig) -> list[str]:
    """The add-ons of the stack: those that it needs, and those that its file names."""
    known = CLOUDS[config.cloud.kind].installs
    return [name for name in known if _needs(config, name) or getattr(config.addons, name) is not None]


def installs_aibrix(config: StackConfig) -> bool:
    """Whether the stack installs AIBrix."""
    return "aibrix" in used_addons(config) and aibrix_choice(config).install


def _needs(config: StackConfig, addon: str) -> bool:
    services = config.services.values()
    if addon == "lws":
        return any(service.workload == "lws" for service in services)
    if addon == "fluid":
        return config.cache.engine == "fluid"
    return any(service.workload == "fleet" or service.gateway == "aibrix" for service in services)


def _lws_release(given: object, cloud: str) -> str:
    if isinstance(given, str) and is_release(given):
        return given
    if "lws" not in CLOUDS[cloud].installs:
        return fact("clouds", cloud, "leaderWorkerSet")
    return fact("addons", "lws", "upstream")["appVersion"]


def _map(raw: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The map at `path`; empty if there is no map."""
    value: Any = raw
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _left_in(value: object, path: tuple[object, ...] = ()) -> list[Problem]:
    """Placeholders and control characters that were left in, at any depth."""
    if isinstance(value, Mapping):
        return [found for key, below in value.items() for found in _left_in(below, (*path, key))]
    if isinstance(value, list):
        return [found for i, below in enumerate(value) for found in _left_in(below, (*path, i))]
    if isinstance(value, str) and re.search(PLACEHOLDER, value):
        return [Problem(join(path), shown(value), "is a placeholder that was left in", "write your own value")]
    if isinstance(value, str) and (control := _CONTROL.search(value)):
        why = f"contains the control character {printable(control[0])}"
        return [Problem(join(path), shown(value), why, "remove it")]
    return []


def _is_coloured(services: Mapping[str, Any], name: str) -> bool:
    return _map(services, name, "rollout").get("strategy") == "blueGreen"


def _names(services: object, cloud: object) -> list[Problem]:
    """Rules on services' names. They run on the raw input, so that other mistakes in a service do not hide them."""
    if not isinstance(services, Mapping):
        return []
    can = CLOUDS.get(cloud) if isinstance(cloud, str) else None
    found = []
    longest_colour = max(len(coloured("", colour)) for colour in COLOURS)
    groups_of = {coloured(str(each), colour) for each in services if _is_coloured(services, each) for colour in COLOURS}
    for name, service in services.items():
        path, text = join(("services", name)), str(name)
        replicas = service.get("replicas", 1) if isinstance(service, Mapping) else 1
        most = _map(services, name, "autoscaling").get("maximum")
        fleet = can is not None and _map(services, name).get("workload", can.workloads[0]) == "fleet"
        groups = max(each for each in (replicas, most, 1) if isinstance(each, int))
        limit = fleet_limit() if fleet else name_limit(groups) - longest_colour * _is_coloured(services, name)
        built = "the names of its Ray pods" if fleet else "the labels of its worker pods"
        if not re.fullmatch(DNS_1035, text):
            found.append(
                Problem(
                    path,
                    shown(text),
                    f"is not a DNS-1035 name, which {'AIBrix' if fleet else 'LeaderWorkerSet'} asks for",
                    "write a lower-case letter, then lower-case letters, digits and '-'",
                )
            )
        if len(text) > limit:
            found.append(
                Problem(
                    path,
                    shown(text),
                    f"has {len(text)} characters; {built}, built from it, would {'be cut' if fleet else 'pass 63'}",
                    f"write at most {limit}",
                )
            )
        if text in {service_object(str(other)) for other in services}:
            found.append(
                Problem(
                    path,
                    shown(text),
                    "is the name of another service's Kubernetes Service",
                    f"rename it or {text.removesuffix('-leader')}",
                )
            )
        if text in groups_of:
            why = "is the name of a group of another service, which is updated blue-green"
            found.append(Problem(path, shown(text), why, f"rename it or {text.rpartition('-')[0]}"))
    return found
