"""What a release of AIBrix can do, and what it really reads: routing strategies, metrics, annotation keys, conditions.

Rules of the configuration are answered as (why, what to write instead), for whoever names the key. Knows no cluster. A
release between two known ones is judged as the older, one newer than the catalog as the newest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from planning.catalog import entries, fact
from planning.engine import release_key
from planning.problems import PlanError, Problem

Reason = tuple[str, str]
"""Why something cannot be, and what to write instead."""

ROUTING_HEADER = "routing-strategy"
"""The request header by which a client chooses a strategy for one request."""
MODEL_LABEL = "model.aibrix.ai/name"
"""The label with the model's name, by which AIBrix finds what serves it."""
_PORT_LABEL = "model.aibrix.ai/port"
_CONFIG_ANNOTATION = "model.aibrix.ai/config"
_GAUGES = ("kv_cache_usage_perc", "gpu_cache_usage_perc")
_LABEL_LENGTH = 63
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def has(version: str, feature: str) -> bool:
    """Whether the release has a feature of the catalog's table. Raises KeyError for a feature that it does not list."""
    since = fact("aibrix", "features", "since")[feature]
    return since is not None and release_key(since) <= release_key(version)


def version_problem(version: str) -> Reason | None:
    """What is wrong with a release of AIBrix, such as `0.7.0`, for any of our uses."""
    oldest, newest = (fact("aibrix", "releases", name) for name in ("oldest", "newest"))
    if not re.fullmatch(r"\d+\.\d+\.\d+([.+-]?\w.*)?", version):
        return "is no release of AIBrix", f"write three numbers, such as {newest}"
    if release_key(version) < release_key(oldest):
        return f"AIBrix before {oldest} routes to no RayClusterFleet", f"write {oldest} or {newest}"
    broken = fact("aibrix", "releases", "broken")
    for release, why in broken.items():
        if release_key(version) == release_key(release):
            return f"the release of AIBrix is broken: {why}", f"write {newest}"
    return None


def model_name_problem(name: str) -> Reason | None:
    """What is wrong with a model's name behind the gateway: it is a label, a Kubernetes Service and an HTTPRoute."""
    if len(name) > _LABEL_LENGTH:
        return f"has {len(name)} characters, and a Service's name at most {_LABEL_LENGTH}", "write a shorter name"
    if not _DNS_1035.fullmatch(name):
        return (
            "AIBrix finds a model by the Service of that name, which has small letters, digits and dashes only and "
            "begins with a letter",
            "write such a name, for example deepseek-r1",
        )
    return None


def lws_problem(version: str) -> Reason | None:
    """Why the release cannot be the gateway of a LeaderWorkerSet."""
    if has(version, "lwsRouting"):
        return None
    newest = fact("aibrix", "releases", "newest")
    return f"AIBrix {version} routes to no LeaderWorkerSet", f"write version {newest}, or another gateway"


def port_problem(version: str, port: int) -> Reason | None:
    """Why the release cannot send requests to the engine on `port`."""
    if port == 8000 or has(version, "modelPort"):
        return None
    return f"AIBrix {version} sends requests with a routing strategy to port 8000 whatever is said", "write 8000"


# --- routing


def strategies(version: str) -> tuple[str, ...]:
    """The routing strategies of the release that our workloads can be routed by, sorted."""
    known, unfit = (fact("aibrix", "routing", name) for name in ("strategies", "unfit"))
    return tuple(name for name in sorted(known) if name not in unfit and _came(known[name], version))


def strategy_problem(version: str, strategy: str) -> Reason | None:
    """Why requests cannot be routed by `strategy`."""
    if strategy in strategies(version):
        return None
    instead = f"write one of {', '.join(strategies(version))}"
    known, unfit = (fact("aibrix", "routing", name) for name in ("strategies", "unfit"))
    if strategy not in known:
        return f"AIBrix {version} has no such strategy", instead
    if not _came(known[strategy], version):
        return f"AIBrix {version} does not know it yet: it came by {known[strategy]}", instead
    return f"it needs {unfit[strategy]}", instead


def strategy_annotations(version: str, strategy: str | None) -> dict[str, str]:
    """Annotations of a model's serving pods that make `strategy` the default of requests to that model.

    Empty without a strategy, and for a release that knows a default for all models alone, in a variable of the
    gateway's plugins.
    """
    if strategy is None or not has(version, "configProfiles"):
        return {}
    profiles = {"defaultProfile": "default", "profiles": {"default": {"routingStrategy": strategy}}}
    return {_CONFIG_ANNOTATION: json.dumps(profiles, separators=(",", ":"))}


def model_labels(model: str, port: int) -> dict[str, str]:
    """Labels of the pods that serve `model`, and of no other pod: AIBrix sends requests to each that has them."""
    return {MODEL_LABEL: model, _PORT_LABEL: str(port)}


def route_paths(version: str) -> tuple[str, ...]:
    """The paths of the engine that the release's gateway takes requests for."""
    return tuple(_at("gateway", "paths", version))


# --- autoscaling


def metric(version: str, engine_version: str) -> str:
    """The KV cache's use (0 to 1) by the name that this vLLM exports and this AIBrix reads.

    Raises PlanError where there is none: a metric that AIBrix does not find counts as 0, and it scales to the minimum.
    """
    problem = metric_problem(version, engine_version)
    if problem:
        raise PlanError(Problem("autoscaler", "", *problem))
    read = _at("autoscaling", "metrics", version)
    return next(name for name in read if _exports(engine_version, name))


def metric_problem(version: str, engine_version: str) -> Reason | None:
    """Why this AIBrix cannot scale this vLLM by the use of its KV cache."""
    read = _at("autoscaling", "metrics", version)
    if any(_exports(engine_version, name) for name in read):
        return None
    told = [name for name in _GAUGES if _exports(engine_version, name)]
    exported = " and ".join(told) or "no use of its KV cache"
    newest = fact("aibrix", "releases", "newest")
    return (
        f"vLLM {engine_version} exports {exported}, and AIBrix {version} reads {' and '.join(read)} alone",
        f"take AIBrix {newest} and a vLLM that exports it, or leave the autoscaler out",
    )


def scalers(version: str) -> tuple[str, ...]:
    """The scaling strategies that can act on a gauge of 0 to 1, the one to take first."""
    return tuple(_at("autoscaling", "strategies", version))


def cooldown_annotation(version: str, strategy: str) -> str | None:
    """The annotation by which the release's strategy reads how long it waits before it scales down; None without."""
    return _at("autoscaling", "annotations", version).get(strategy, {}).get("cooldown")


def scaler_conditions(version: str) -> tuple[str, ...]:
    """The conditions of a PodAutoscaler that works, whether or not it is scaling."""
    return tuple(_at("autoscaling", "conditions", version))


def target_problem(version: str, kind: str) -> Reason | None:
    """Why the release cannot scale a workload of `kind`."""
    known = fact("aibrix", "autoscaling", "targets")
    if kind in known:
        return None
    return f"AIBrix {version} may not write a {kind}", f"scale a {' or '.join(known)}, or leave the autoscaler out"


def scaler_problems(
    version: str,
    engine_version: str,
    *,
    minimum: int,
    maximum: int,
    target: float,
    cold_start_seconds: int | None,
    cooldown_seconds: int | None = None,
    strategy: str | None = None,
    schedules: Sequence[Any] = (),
) -> list[tuple[str, str, str]]:
    """Everything wrong with an autoscaler, as (field, why, what to write instead), fields by the names of arguments.

    `cold_start_seconds` None judges no cooldown by it. Raises nothing.
    """
    found = [("strategy", *wrong) for wrong in [_scaler_problem(version, strategy)] if wrong]
    if not 0 < target < 1:
        why = "is outside the metric, which is the used part of the KV cache, 0 to 1"
        found.append(("target", why, "write a fraction such as 0.5"))
    if minimum < 1:
        why = "a replica less than one leaves no metric that could scale it up again"
        found.append(("minimum", why, "write 1 or more"))
    if maximum < minimum:
        found.append(("maximum", f"is below the minimum of {minimum}", f"write {minimum} or more"))
    found += _cooldown_problems(version, strategy, cold_start_seconds, cooldown_seconds)
    if schedules and not has(version, "schedules"):
        why = f"AIBrix {version} has no bounds by time of day; no release has"
        found.append(("schedules", why, "leave it out"))
    return found + [("aibrix_version", *wrong) for wrong in [metric_problem(version, engine_version)] if wrong]


def scaler_cautions(version: str, *, minimum: int, maximum: int) -> tuple[str, ...]:
    """What a person should know of the release's autoscaler before paying for `maximum` replicas, one sentence each.

    From 0.5.0 its average over three minutes is multiplied by the replicas that were asked for, also those that only
    start; and of the recommendations inside the cooldown it takes the smallest where it scales down
    (`stabilizeRecommendation`), so that a cooldown delays nothing. Seen with the controllers of 0.7.0, 1 to 4 replicas,
    target 0.5, cooldown 1900 s: a gauge of 0.9 asks for 4 within a second, one of 0.05 for 1 within two minutes.
    """
    if not has(version, "unifiedScaler") or maximum <= minimum:
        return ()
    if maximum - minimum == 1:
        return (f"AIBrix {version} scales down at once, whatever the cooldown",)
    return (
        f"AIBrix {version} scales down at once, whatever the cooldown, to the fewest replicas that it wished inside it",
        f"AIBrix {version} counts replicas that still start: one burst may ask for all {maximum} at once",
    )


def _scaler_problem(version: str, strategy: str | None) -> Reason | None:
    known = scalers(version)
    if strategy is None or strategy in known:
        return None
    instead = f"write {' or '.join(known)}"
    if strategy == "HPA":
        return f"AIBrix {version} cuts its target to a whole number, which makes 0 of a fraction", instead
    if strategy == "KPA":
        return f"AIBrix {version} divides the average by the target with it, which stops at 1/target replicas", instead
    return "is not one of AIBrix's scaling strategies", instead


def _cooldown_problems(
    version: str, strategy: str | None, cold_start_seconds: int | None, cooldown_seconds: int | None
) -> list[tuple[str, str, str]]:
    if cooldown_seconds is None:
        return []
    chosen = strategy or scalers(version)[0]
    if chosen in scalers(version) and cooldown_annotation(version, chosen) is None:
        why = f"strategy {chosen} of AIBrix {version} has no cooldown"
        return [("cooldown_seconds", why, f"leave it out, or write strategy {scalers(version)[0]}")]
    if cold_start_seconds is not None and cooldown_seconds < cold_start_seconds:
        why = f"a replica needs {cold_start_seconds} s to start, and would be taken away before it answers"
        return [("cooldown_seconds", why, f"write {cold_start_seconds} or more, or leave it out")]
    return []


def _exports(engine_version: str, name: str) -> bool:
    entry = entries("vllm_metrics")["metrics"][f"vllm:{name}"]
    at = release_key(engine_version)
    return release_key(entry["first"]) <= at and ("last" not in entry or at <= release_key(entry["last"]))


def _came(first: str, version: str) -> bool:
    return release_key(first) <= release_key(version)


def _at(section: str, name: str, version: str) -> Any:
    """The value of a fact that changed with releases, at this one."""
    steps = fact("aibrix", section, name)
    return [step["is"] for step in steps if _came(step["since"], version)][-1]
