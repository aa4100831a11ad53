"""A service of the stack file as the planner asks for it: which key becomes which part of the request.

The planner knows no stack files. Here, and only here, each value goes from the stack file into its request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from config.clouds import LocalCloud
from config.errors import NAMESPACE
from config.facts import GpuFacts, ModelFacts, gpu_pods
from config.services import Service
from config.stack import StackConfig, drops_cache, keeps_weights, loader_of, own_bucket
from config.types import gibibytes
from config.weights import HuggingfaceWeights, NvmeWeights, PvcWeights
from planning import flags, loaders
from planning.cache import CacheSize
from planning.catalog import fact
from planning.cost import Prices
from planning.files import Needed, needed
from planning.layout import PARTITION
from planning.planner import Ask
from planning.problems import Unjudged
from planning.settings import Settings, settings
from planning.startup import Storage, Supply
from planning.throughput import Load

_T = TypeVar("_T")
_AskT = TypeVar("_AskT", bound=Ask)


class _Read(Protocol):
    """Reads a part of a request. `neutral` replaces a refused part that does not affect whether the model fits."""

    def __call__(self, part: Callable[[], _T], neutral: _T = ...) -> _T: ...


_REFUSED: Any = object()


def _now(part: Callable[[], _T], neutral: _T = _REFUSED) -> _T:
    return part()


def _if_judged(part: Callable[[], _T], neutral: _T = _REFUSED) -> _T:
    try:
        return part()
    except Unjudged:
        return neutral


class PartialAsk(Ask):
    """A request with refused parts: a rule that reads one gets Unjudged."""

    @property
    def whole(self) -> bool:
        """Whether no part is refused."""
        return _REFUSED not in vars(self).values()

    def __getattribute__(self, part: str) -> Any:
        value = super().__getattribute__(part)
        if value is _REFUSED:
            raise Unjudged(part)
        return value


def request(config: StackConfig, service: Service) -> Ask:
    """The request of a service. Raises Unjudged if the stack file's value of a part is refused."""
    return _ask(config, service, _now, Ask)


def partial_request(config: StackConfig, service: Service) -> PartialAsk:
    """The request of a service of which some values are refused."""
    return _ask(config, service, _if_judged, PartialAsk)


def needed_files(config: StackConfig, model: str) -> Needed:
    """The files of a model that its services read; they share bucket and cache."""
    return needed(
        flags.read(each.engine.extra_args, each.engine.version)
        for each in config.services.values()
        if each.model == model
    )


def _ask(config: StackConfig, service: Service, read: _Read, kind: type[_AskT]) -> _AskT:
    """The request of a service. Each part is read on its own, so that one refused value leaves the others judged."""
    return kind(
        model=read(lambda: service.model),
        described=read(lambda: service.described),
        partition=read(lambda: service.engine.env.get(PARTITION)),
        gpu=read(lambda: config.cloud.gpu_name),
        engine_version=read(lambda: service.engine.version),
        gpus_per_node=read(lambda: service.layout.gpus_per_node if service.layout else max(pod_sizes(config))),
        nodes=read(lambda: service.layout.nodes if service.layout else None),
        tensor=read(lambda: service.layout.tensor if service.layout else None),
        pipeline=read(lambda: service.layout.pipeline if service.layout else None),
        max_model_len=read(lambda: service.max_model_len),
        utilization=read(lambda: service.engine.gpu_memory_utilization),
        eager=read(lambda: settings_of(service).eager),
        kv_dtype=read(lambda: settings_of(service).kv_dtype),
        data=read(lambda: service.layout.data if service.layout else 1),
        expert_parallel=read(lambda: service.layout.expert_parallel if service.layout else False),
        context=read(lambda: service.layout.decode_context if service.layout else 1),
        redundant=read(lambda: settings_of(service).redundant),
        speculative=read(lambda: settings_of(service).speculative),
        batched_tokens=read(lambda: settings_of(service).batched_tokens),
        sequences=read(lambda: settings_of(service).sequences),
        overrides=read(lambda: settings_of(service).overrides),
        supply=read(lambda: _supply(config, service), Supply()),
        cache_size=read(lambda: _cache_size(config), CacheSize()),
        memory_gib=read(lambda: gibibytes(service.resources.memory), None),
        prices=read(
            lambda: Prices(
                config.prices.currency,
                config.prices.per_gpu_hour,
                config.prices.per_cache_worker_hour,
                config.prices.per_gib_month,
                config.prices.as_of,
            ),
            Prices(),
        ),
        load=read(lambda: _load(service), None),
        replicas=read(lambda: service.first_replicas, 1),
        most_replicas=read(lambda: service.most_replicas, None),
        kept=read(lambda: keeps_weights(config), True),
        has_cache=read(lambda: not drops_cache(config, service.model), True),
        share=read(lambda: service.schedule.planned.share if service.schedule else None, None),
        more_models=read(lambda: _frozen(config.catalog.models)),
        more_gpus=read(lambda: _frozen(config.catalog.gpus)),
        other_models=read(lambda: f"its facts in {NAMESPACE}:catalog.models"),
    )


def settings_of(service: Service) -> Settings:
    """What the engine's arguments change in the plan."""
    return settings(service.engine.extra_args, service.engine.version, service.model)


def _load(service: Service) -> Load | None:
    asked = service.load
    if asked is None:
        return None
    return Load(asked.input, asked.output, asked.rate, asked.concurrency, asked.ttft_seconds, asked.tpot_seconds)


def pod_sizes(config: StackConfig) -> list[int]:
    """How many GPUs one pod may have; eight if the catalog does not describe the series or the nodes."""
    cloud = config.cloud
    if isinstance(cloud, LocalCloud):
        return fact("clouds", "local", "gpusPerPod")
    if cloud.gpu_series is not None:
        return (gpu_pods(cloud.gpu_series, config.catalog.gpu_pods) or {}).get("gpus") or [8]
    # Whole nodes: nobody else could use half a node's RDMA devices.
    return [cloud.node["gpus"] if cloud.node else 8]


def _supply(config: StackConfig, service: Service) -> Supply:
    """How weights reach the nodes. Pulumi fills buckets and caches before it creates the pods."""
    engine, loader = service.engine, loader_of(config)
    # From a hub each engine downloads only what it reads.
    copies = 1 if isinstance(config.weights, HuggingfaceWeights) else needed_files(config, service.model).copies
    arguments = flags.read(engine.extra_args, engine.version)
    each_rank = loaders.read_by_each_rank(loader, arguments, engine.version)
    kept = config.cache.compile is not None
    return replace(_supply_of_one(config), copies=copies, loader=loader, each_rank=each_rank, keeps_kernels=kept)


def _supply_of_one(config: StackConfig) -> Supply:
    weights, rate = config.weights, config.weights.gbit_per_second
    sync = None if isinstance(weights, HuggingfaceWeights) else weights.sync
    hub = fact("startup", "cold", "hubGbitPerSecond")
    fill = (sync.gbit_per_second or hub) if sync else None
    if isinstance(weights, HuggingfaceWeights):
        return Supply("copy", rate or hub)
    if isinstance(weights, PvcWeights):
        return Supply("volume", rate, fill_gbit=fill, warm_first=sync is not None)
    link = rate or _quota(config)
    if isinstance(weights, NvmeWeights):
        return Supply("copy" if weights.bucket else "volume", link, fill_gbit=fill, warm_first=True)
    usual: Storage = "cache" if config.cache.engine == "fluid" else "mount"
    ways: dict[str | None, Storage] = {"download": "copy", "stream": "stream"}
    return Supply(ways.get(weights.read, usual), link, fill_gbit=fill, warm_first=True)


def _quota(config: StackConfig) -> float | None:
    """How fast one account may read from the cloud's buckets, in Gbit/s; None for a foreign store."""
    cloud = config.cloud
    if own_bucket(config) is None or cloud.region is None:
        return None
    quotas = fact("clouds", cloud.kind, "bucketGbitPerSecond")
    mainland = cloud.region.startswith("cn-") and cloud.region != "cn-hongkong"
    return quotas.get(cloud.region) or quotas.get("mainland" if mainland else "abroad") or quotas["any"]


def _cache_size(config: StackConfig) -> CacheSize:
    asked = config.cache
    return CacheSize(
        workers=asked.workers,
        limit_gib=int(gibibytes(asked.memory)) if asked.memory else None,
        quota_gib=int(gibibytes(asked.quota)) if asked.quota else None,
        vcpu=asked.cpu,
        high=asked.high,
        low=asked.low,
        cloud=config.cloud.kind,
    )


def _frozen(facts: Mapping[str, ModelFacts] | Mapping[str, GpuFacts]) -> Mapping[str, Any] | None:
    return MappingProxyType({name: each.given() for name, each in facts.items()}) if facts else None
