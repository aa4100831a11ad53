"""The stack file as one type, and what follows from it in one place.

`StackConfig` is plain and frozen; secrets are separate keys (`config.secrets`) that never enter it. `config.judge`
makes one. Nothing in this room imports Pulumi, so that checking a stack file takes a fraction of a second.
"""

import contextlib
import datetime
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from config.abilities import CLOUDS
from config.clouds import (
    Addons,
    AibrixChoice,
    Cloud,
    Cluster,
    Monitoring,
)
from config.facts import Catalog
from config.services import Service
from config.strict import Strict
from config.types import Day, InSchema, Registry, is_release
from config.weights import (
    FOREIGN,
    Bucket,
    BucketWeights,
    Cache,
    NvmeWeights,
    PvcWeights,
    Weights,
)
from planning import loaders
from planning.catalog import fact
from planning.problems import Problem, Unjudged

DNS_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"

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
    takers = {"reader"} if mounts and config.cache.engine == "none" else set()
    return frozenset(takers | ({"writer"} if getattr(config.weights, "sync", None) else set()))


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


def streams(config: StackConfig) -> bool:
    return isinstance(config.weights, BucketWeights) and config.weights.read == "stream"


def loader_of(config: StackConfig) -> str:
    """What loads the weights of the stack's models."""
    return config.weights.loader or (loaders.STREAMER if streams(config) else loaders.DEFAULT)


def lws_release(config: StackConfig) -> str:
    """The cluster's LeaderWorkerSet release: from the stack file, else the installed one or the one to install."""
    return lws_release_on(config.addons.lws.version if config.addons.lws else None, config.cloud.kind)


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
    return [name for name in known if needs_addon(config, name) or getattr(config.addons, name) is not None]


def installs_aibrix(config: StackConfig) -> bool:
    """Whether the stack installs AIBrix."""
    return "aibrix" in used_addons(config) and aibrix_choice(config).install


def needs_addon(config: StackConfig, addon: str) -> bool:
    services = config.services.values()
    if addon == "lws":
        return any(service.workload == "lws" for service in services)
    if addon == "fluid":
        return config.cache.engine == "fluid"
    return any(service.workload == "fleet" or service.gateway == "aibrix" for service in services)


def lws_release_on(given: object, cloud: str) -> str:
    if isinstance(given, str) and is_release(given):
        return given
    if "lws" not in CLOUDS[cloud].installs:
        return fact("clouds", cloud, "leaderWorkerSet")
    return fact("addons", "lws", "upstream")["appVersion"]
