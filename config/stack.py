"""The stack file as types, and its rules. The one place for defaults.

`StackConfig` is plain and frozen; secrets are separate keys (`config.secrets`) that never enter it. Nothing here
imports Pulumi, so that a check of a stack file costs a fraction of a second.
"""

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError

from config import secrets as secret_keys
from config.clouds import (
    AcsCloud,
    Addons,
    AibrixChoice,
    Cloud,
    Cluster,
    LocalCloud,
    Monitoring,
    Surroundings,
    VolcengineCloud,
    gpu_node,
)
from config.errors import ConfigError, from_pydantic, join, shown, unknown_key
from config.facts import Catalog, GpuPods, foreign_words, gpu_pods
from config.secrets import SECRETS
from config.services import Service
from config.types import Day, InSchema, Strict, is_release
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
from planning import addons, aibrix_features, aibrix_install, flags
from planning.catalog import fact
from planning.fleet import name_limit as fleet_limit
from planning.names import model_object, service_object
from planning.problems import PlanError, Problem

_CLOUDS = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in (LocalCloud, AcsCloud, VolcengineCloud)}

DNS_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
PLACEHOLDER = r"<[^<>]+>"


def name_limit(replicas: int) -> int:
    """The longest name of a service with so many replicas, in characters."""
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
    """What things cost, and when that was read. Nothing is guessed: what is absent is unknown."""

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
    services: Annotated[dict[str, Service], _Names] = Field(
        min_length=1, description="a map of services: name to model, engine, layout"
    )
    monitoring: Monitoring = Field(Monitoring.model_construct(), description="a map with enabled")
    catalog: Catalog = Field(Catalog.model_construct(), description="a map with models and gpus")
    prices: Prices = Field(Prices.model_construct(), description="a map with currency, perGpuHour and asOf")


def parse(
    raw: Mapping[str, Any],
    *,
    plain_secrets: Collection[str] = (),
    secrets: Collection[str] = (),
    empty_secrets: Collection[str] = (),
) -> StackConfig:
    """The typed config of `raw` (top-level key without namespace -> decoded value, secrets left out).

    `secrets` names the secret keys that the stack file has, encrypted; `plain_secrets` those that are not encrypted;
    `empty_secrets` those that hold nothing. Raises ConfigError with every refusal.
    """
    refusals = [*secret_keys.problems(plain_secrets, secrets, empty_secrets)]
    present = frozenset((*secrets, *plain_secrets, *empty_secrets))
    refusals += [
        Problem(key, "(encrypted)", "only secrets are kept encrypted", "write it in plain, without --secret")
        for key in secrets
        if key in _top_level()
    ]
    refusals += [unknown_key(key, raw[key], key, [*_top_level(), *SECRETS]) for key in raw if key not in _top_level()]
    refusals += _placeholders(raw)
    refusals += _names(raw.get("services"), _map(raw, "cloud").get("kind"))
    refusals += foreign_words(_map(raw, "catalog", "models"))
    config = None
    try:
        config = StackConfig.model_validate(
            {key: value for key, value in raw.items() if key in _top_level()}, context=_surroundings(raw, present)
        )
    except ValidationError as error:
        said = {refusal.key for refusal in refusals}
        refusals += [refusal for refusal in from_pydantic(error, StackConfig) if refusal.key not in said]
    if config is not None:
        refusals += _joined(config)
    if refusals or config is None:
        raise ConfigError(sorted(refusals))
    return config


def repository(given: Mapping[str, str], model: str) -> str | None:
    """The hub's repository of `model`, with its owner, out of those `given` or the catalog; None where neither says."""
    owner = fact("models", "owners", "byModel").get(model)
    return given.get(model) or (f"{owner}/{model}" if owner else None)


def own_bucket(config: StackConfig) -> Bucket | None:
    """The bucket of this stack's cloud that weights come from; None where there is none, or a foreign store's."""
    bucket = config.weights.bucket if isinstance(config.weights, (BucketWeights, NvmeWeights)) else None
    return bucket if bucket is not None and bucket.store not in FOREIGN else None


def keeps_weights(config: StackConfig) -> bool:
    """Whether a destroy leaves weights that this stack has put somewhere, which go on billing."""
    if isinstance(config.weights, PvcWeights):
        return config.weights.create is not None and config.weights.create.keep
    bucket = own_bucket(config)
    return bucket is not None and bucket.create and bucket.keep


def _joined(config: StackConfig) -> list[Problem]:
    """Rules that join sections. They need all of them typed, so they are said when each is right in itself."""
    weights, found = config.weights, []
    streams = isinstance(weights, BucketWeights) and weights.read == "stream"
    if config.cache.engine == "fluid" and (streams or not isinstance(weights, BucketWeights)):
        why = (
            "vLLM streams weights from the bucket itself"
            if streams
            else "it caches a bucket, and weights are on a claim"
        )
        found.append(Problem("cache.engine", "fluid", why, "write none"))
    if isinstance(weights, (BucketWeights, NvmeWeights)) and weights.sync and own_bucket(config) is None:
        why = "a stack fills buckets of its own cloud only"
        found.append(Problem("weights.sync", "", why, "leave it out, and fill the bucket yourself"))
    found += [*_addons(config), *_behind_gateway(config), *_nodes(config)]
    single = isinstance(weights, PvcWeights) and weights.create and weights.create.access_mode == "ReadWriteOnce"
    services = config.services.values()
    if single and (any(each.layout is None for each in services) or sum(_most_nodes(each)[0] for each in services) > 1):
        who = " and ".join(f"services.{name}" for name in config.services)
        why = f"{who} may run on more than one node, which cannot mount it"
        found.append(Problem("weights.create.accessMode", "ReadWriteOnce", why, "write ReadWriteMany"))
    objects: dict[str, str] = {}
    for name, service in config.services.items():
        other = objects.setdefault(model_object(service.model), service.model)
        if other != service.model:
            why = f"its volume and cache would have the same names as those of {other}"
            found.append(Problem(f"services.{name}.model", service.model, why, "put one of them into another stack"))
        found += _named(f"services.{name}.model", service.model, config)
        found += _weights_of(name, service, weights)
        if streams:
            found += _streamed(name, service)
    return found


def _named(path: str, model: str, config: StackConfig) -> list[Problem]:
    """What the objects that belong to a model make of its name: they carry it, shortened to small letters."""
    called, fluid = model_object(model), config.cache.engine == "fluid"
    # A Job's pods carry its whole name in a label.
    most = (
        fact("fluid", "fluid", "nameLimit") if fluid else fact("kubernetes", "names", "label")["limit"] - len("-sync")
    )
    instead = "write cache.engine: none" if fluid else "publish it under a shorter name"
    found = []
    if len(called) > most:
        whose = "Fluid's workers take" if fluid else "the labels of what belongs to it take"
        found.append(Problem(path, model, f"{called} has {len(called)} characters, {whose} {most}", instead))
    if fluid and not re.fullmatch(fact("fluid", "fluid", "namePattern"), called):
        found.append(Problem(path, model, f"{called} begins with a digit, which Fluid refuses", instead))
    return found


def _weights_of(name: str, service: Service, weights: Weights) -> list[Problem]:
    """What a service asks of the place where its weights are."""
    found = []
    sync: Sync | None = getattr(weights, "sync", None)
    named = {"weights.sync.repositories": sync.repositories} if sync else {}
    if isinstance(weights, HuggingfaceWeights):
        named["weights.repositories"] = weights.repositories
    for path, given in named.items():
        if repository(given, service.model) is None:
            why = f"is missing: who publishes {service.model} is not known"
            found.append(Problem(f"{path}.{service.model}", "", why, f"write owner/{service.model}"))
    return found


def _streamed(name: str, service: Service) -> list[Problem]:
    """What keeps an engine from streaming its weights."""
    found, version = [], service.engine.version
    if "--load-format" in [given.spelling for given in flags.parse(service.engine.extra_args)]:
        why = "weights.read: stream says it"
        found.append(Problem(f"services.{name}.engine.extraArgs", "--load-format", why, "leave it out"))
    if "runai_streamer" not in (flags.choices("--load-format", version) or ["runai_streamer"]):
        why = f"vLLM {version} of services.{name} has no runai_streamer"
        found.append(Problem("weights.read", "stream", why, "write volume or download, or take a newer engine"))
    return found


def _behind_gateway(config: StackConfig) -> list[Problem]:
    """A model behind the gateway has one name for everything: label, Kubernetes Service, and the requests' «model»."""
    found: list[Problem] = []
    for name, service in config.services.items():
        if service.gateway != "aibrix":
            if service.routing.strategy:
                why = "nothing routes this service's requests but its Kubernetes Service"
                found.append(
                    Problem(f"services.{name}.routing.strategy", service.routing.strategy, why, "leave it out")
                )
            continue
        called = service.served_model_name or name
        if called != name:
            why = "AIBrix finds a model by its service's own name"
            path = f"services.{name}.servedModelName"
            found.append(Problem(path, called, why, "leave it out, and name the service so"))
        if service.expose.to != "cluster":
            why = "the gateway's load balancer is in front of it already"
            found.append(Problem(f"services.{name}.expose.to", service.expose.to, why, "write addons.aibrix.address"))
    return found


def _nodes(config: StackConfig) -> list[Problem]:
    """What services ask of Volcengine's nodes."""
    cloud, found = config.cloud, []
    if not isinstance(cloud, VolcengineCloud):
        return []
    for name, service in config.services.items():
        gpus = service.layout.gpus_per_node if service.layout else None
        if cloud.rdma_devices and gpus and cloud.rdma_devices != gpus:
            why = f"the pods of services.{name} have {gpus} GPUs, and each talks through a device of its own"
            found.append(Problem("cloud.rdmaDevices", str(cloud.rdma_devices), why, f"write {gpus}, or leave it out"))
        surge = service.rollout.max_surge
        if surge and service.workload != "fleet":
            why = "a LeaderWorkerSet is updated without surge here"
            found.append(Problem(f"services.{name}.rollout.maxSurge", str(surge), why, "write 0"))
    if cloud.nodes is not None:
        asked = {name: _most_nodes(service) for name, service in config.services.items() if service.layout}
        wanted = sum(steady for steady, _ in asked.values())
        for name, (_, surging) in asked.items():
            if wanted <= cloud.nodes < wanted + surging:
                why = f"an update needs {wanted + surging} nodes, and there are {cloud.nodes}"
                path = f"services.{name}.rollout.maxSurge"
                found.append(Problem(path, str(config.services[name].rollout.max_surge), why, "write 0"))
        if wanted > cloud.nodes:
            why = f"the services need {wanted} nodes at most"
            found.append(Problem("cloud.nodes", str(cloud.nodes), why, "write fewer replicas, or smaller layouts"))
    return found


def _most_nodes(service: Service) -> tuple[int, int]:
    """Nodes that a service may hold, and those beyond it during an update."""
    nodes = service.layout.nodes if service.layout else 1
    return nodes * service.most_replicas, nodes * service.rollout.max_surge


def _addons(config: StackConfig) -> list[Problem]:
    """Releases of add-ons that would harm the cluster, or not work on this cloud."""
    found = []
    if installs_aibrix(config):
        try:
            aibrix_install.release(aibrix_release(config))
        except PlanError as error:
            found += [replace(problem, key="addons.aibrix.version") for problem in error.problems]
    for name, choice in (("lws", config.addons.lws), ("fluid", config.addons.fluid)):
        if choice is None or choice.version is None:
            continue
        try:
            addons.require_minimum(name, config.cloud.kind, choice.version)
            if choice.install is True:
                addons.require_lasting_crds(name, choice.version)
        except PlanError as error:
            found += [replace(problem, key=f"addons.{name}.version") for problem in error.problems]
    return found


def _surroundings(raw: Mapping[str, Any], secrets: frozenset[str]) -> Surroundings:
    """What rules read of other sections."""
    cloud = _map(raw, "cloud")
    kind = cloud.get("kind")
    if not isinstance(kind, str) or kind not in _CLOUDS:
        return Surroundings(secrets=secrets)
    lws = _lws_release(_map(raw, "addons", "lws").get("version"), kind)
    given = _map(raw, "catalog").get("regions")
    regions = tuple(each for each in given if isinstance(each, str)) if isinstance(given, list) else ()
    if kind == "volcengine":
        given = _map(raw, "addons", "aibrix").get("version")
        installed = given if isinstance(given, str) else fact("clouds", "volcengine", "aibrix")
        known = gpu_node(str(cloud.get("instanceType")))
        node = {**known, "type": cloud["instanceType"]} if known else None
        pods = {"gpus": list(range(1, known["gpus"] + 1)), "node": node} if known else None
        release = None if aibrix_features.version_problem(installed) else installed
        return Surroundings(kind, None, pods, secrets, lws, more_regions=regions, aibrix=release)
    if kind == "local":
        return Surroundings(kind, None, {"gpus": fact("clouds", "local", "gpusPerPod")}, secrets, lws)
    more: dict[str, GpuPods] = {}
    for name, facts in _map(raw, "catalog", "gpuPods").items():
        with contextlib.suppress(ValidationError):  # said where it stands
            more[name] = GpuPods.model_validate(facts)
    series = cloud.get("gpuSeries")
    pods = gpu_pods(series, more) if isinstance(series, str) else None
    described = frozenset(_map(raw, "catalog", "gpuPods"))
    return Surroundings(kind, series, pods, secrets, lws, described, regions)


def lws_release(config: StackConfig) -> str:
    """The LeaderWorkerSet release of the cluster: what the stack file says, else what is there or gets installed."""
    return _lws_release(config.addons.lws.version if config.addons.lws else None, config.cloud.kind)


def aibrix_choice(config: StackConfig) -> AibrixChoice:
    """What the stack file says of AIBrix, with the defaults of what it does not say."""
    return config.addons.aibrix or AibrixChoice.model_construct()


def aibrix_release(config: StackConfig) -> str:
    """The AIBrix release of the cluster: what the stack file says, else the one that gets installed."""
    return aibrix_choice(config).version or fact("clouds", "volcengine", "aibrix")


def uses_aibrix(config: StackConfig) -> bool:
    """Whether a service is a fleet, or behind AIBrix's gateway."""
    return any(service.workload == "fleet" or service.gateway == "aibrix" for service in config.services.values())


def installs_aibrix(config: StackConfig) -> bool:
    """Whether the stack brings AIBrix along."""
    return uses_aibrix(config) and aibrix_choice(config).install


def _lws_release(given: object, cloud: str) -> str:
    if isinstance(given, str) and is_release(given):
        return given
    if cloud == "local":
        return fact("clouds", "local", "leaderWorkerSet")
    return fact("addons", "lws", "upstream")["appVersion"]


def _map(raw: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The map below `path`, empty where something else is there."""
    value: Any = raw
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _top_level() -> list[str]:
    return [field.alias or name for name, field in StackConfig.model_fields.items()]


def _placeholders(value: object, path: tuple[object, ...] = ()) -> list[Problem]:
    if isinstance(value, Mapping):
        return [found for key, below in value.items() for found in _placeholders(below, (*path, key))]
    if isinstance(value, list):
        return [found for i, below in enumerate(value) for found in _placeholders(below, (*path, i))]
    if isinstance(value, str) and re.search(PLACEHOLDER, value):
        return [Problem(join(path), shown(value), "is a placeholder that was left in", "write your own value")]
    return []


def _names(services: object, cloud: object) -> list[Problem]:
    """Rules of the services' names. They run on raw input, so that other mistakes in a service do not hide them."""
    if not isinstance(services, Mapping):
        return []
    refusals = []
    for name, service in services.items():
        path, text = join(("services", name)), str(name)
        replicas = service.get("replicas", 1) if isinstance(service, Mapping) else 1
        fleet = cloud == "volcengine" and not (isinstance(service, Mapping) and service.get("workload") == "lws")
        groups = replicas if isinstance(replicas, int) else 1
        limit = fleet_limit() if fleet else name_limit(groups)
        built = "the names of its Ray pods" if fleet else "the labels of its worker pods"
        if not re.fullmatch(DNS_1035, text):
            refusals.append(
                Problem(
                    path,
                    shown(text),
                    f"is not a DNS-1035 name, which {'AIBrix' if fleet else 'LeaderWorkerSet'} asks for",
                    "write a lower-case letter, then lower-case letters, digits and '-'",
                )
            )
        if len(text) > limit:
            refusals.append(
                Problem(
                    path,
                    shown(text),
                    f"has {len(text)} characters; {built}, built from it, would {'be cut' if fleet else 'pass 63'}",
                    f"write at most {limit}",
                )
            )
        if text in {service_object(str(other)) for other in services}:
            refusals.append(
                Problem(
                    path,
                    shown(text),
                    "is the name of another service's Kubernetes Service",
                    f"rename it or {text.removesuffix('-leader')}",
                )
            )
    return refusals
