"""Keys and secrets that have no effect beside the others: accepted, they would silently do nothing.

Keys that a cloud has no use for at all are in `config.abilities`.
"""

import contextlib
from collections.abc import Iterator, Mapping

from config.abilities import CLOUDS
from config.clouds import (
    AddonChoice,
    AibrixChoice,
)
from config.facts import GpuFacts, ModelFacts
from config.secrets import PAIRS
from config.stack import (
    StackConfig,
    aibrix_choice,
    installs_aibrix,
    made_keys,
    needs_addon,
    own_bucket,
    role_takers,
    used_addons,
)
from config.weights import (
    BucketWeights,
    HuggingfaceWeights,
    NvmeWeights,
    Sync,
)
from planning.catalog import fact, overruled
from planning.images import registry_of
from planning.names import API_KEY
from planning.problems import Problem, Unjudged

# Why an add-on is unused.
_USES = {
    "lws": "no service is a LeaderWorkerSet",
    "fluid": "cache.engine is none",
    "aibrix": "no service is a fleet or behind its gateway",
}


def rules(config: StackConfig, present: frozenset[str], refused: set[str]) -> Iterator[Iterator[Problem]]:
    """The rules, each apart: if one cannot judge, the others still can. `present` are the file's secrets, `refused` the
    keys that have a mistake already."""
    yield from (rule(config) for rule in (_unused_registry, _unused_mirror, _unused_price, _facts_of_others))
    yield from (_unused_addon(config, name) for name in _USES)
    yield _unused_secrets(config, present, refused)
    yield from (rule(config, present) for rule in (_unused_prometheus, _generations))


def _generations(config: StackConfig, present: frozenset[str]) -> Iterator[Problem]:
    """Generations of keys where the stack makes none."""
    weights = config.weights
    bucket = weights.bucket if isinstance(weights, (BucketWeights, NvmeWeights)) else None
    if bucket is None or bucket.keys == (1,):
        return
    if not made_keys(config, present):
        why = "the stack makes no access keys that have generations"
        yield Problem("weights.bucket.keys", str(list(bucket.keys)), why, "leave it out")


def _unused_addon(config: StackConfig, name: str) -> Iterator[Problem]:
    choice: AddonChoice | AibrixChoice | None = getattr(config.addons, name)
    unused = choice is not None and choice.install is False and name in CLOUDS[config.cloud.kind].installs
    if unused and not needs_addon(config, name):
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
