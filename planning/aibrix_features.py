"""What a release of AIBrix can do, and what it really reads: routing strategies, metrics, annotation keys, conditions.

Rules return (why, what to write instead); the caller adds the key. Knows no cluster. A release between two known ones
is judged as the older one, a release newer than the catalog as the newest known.
"""

from __future__ import annotations

import json
import re
from typing import Any

from planning import scaling
from planning.catalog import entries, fact
from planning.engine import release_key
from planning.metrics import is_exported
from planning.problems import PlanError, Problem

Reason = tuple[str, str]
"""Why something is refused, and what to write instead."""

ROUTING_HEADER = "routing-strategy"
"""The request header with which a client chooses the strategy of one request."""
MODEL_LABEL = "model.aibrix.ai/name"
"""The label with the model's name; AIBrix finds the pods that serve the model by it."""
_PORT_LABEL = "model.aibrix.ai/port"
_CONFIG_ANNOTATION = "model.aibrix.ai/config"
_GAUGES = ("kv_cache_usage_perc", "gpu_cache_usage_perc")
_LABEL_LENGTH = 63
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def has(version: str, feature: str) -> bool:
    """Whether the release has a feature. Raises KeyError if the catalog does not list the feature."""
    since = fact("aibrix", "features", "since")[feature]
    return since is not None and release_key(since) <= release_key(version)


def version_problem(version: str) -> Reason | None:
    """Why a release of AIBrix, such as `0.7.0`, cannot be used for anything here."""
    oldest, newest = (fact("aibrix", "releases", name) for name in ("oldest", "newest"))
    if not re.fullmatch(r"\d+\.\d+\.\d+([.+-]?\w.*)?", version):
        return "is not a release of AIBrix", f"write three numbers, such as {newest}"
    if release_key(version) < release_key(oldest):
        return f"AIBrix before {oldest} cannot route to a RayClusterFleet", f"write {oldest} or {newest}"
    broken = fact("aibrix", "releases", "broken")
    for release, why in broken.items():
        if release_key(version) == release_key(release):
            return f"this release of AIBrix is broken: {why}", f"write {newest}"
    return None


def model_name_problem(name: str) -> Reason | None:
    """Why a model cannot have this name behind the gateway, which uses it as a label and as the name of a Service and
    an HTTPRoute."""
    if len(name) > _LABEL_LENGTH:
        return f"has {len(name)} characters; a Service's name has at most {_LABEL_LENGTH}", "write a shorter name"
    if not _DNS_1035.fullmatch(name):
        return (
            "AIBrix finds a model by the Service of the same name, and a Service's name has only lower-case letters, "
            "digits and dashes and begins with a letter",
            "write such a name, for example deepseek-r1",
        )
    return None


def lws_problem(version: str) -> Reason | None:
    """Why this release cannot be the gateway in front of a LeaderWorkerSet."""
    if has(version, "lwsRouting"):
        return None
    newest = fact("aibrix", "releases", "newest")
    return f"AIBrix {version} cannot route to a LeaderWorkerSet", f"write version {newest}, or another gateway"


def port_problem(version: str, port: int) -> Reason | None:
    """Why this release cannot send requests to the engine on `port`."""
    if port == 8000 or has(version, "modelPort"):
        return None
    return f"AIBrix {version} always sends requests with a routing strategy to port 8000", "write 8000"


# --- routing


def strategies(version: str) -> tuple[str, ...]:
    """The release's routing strategies that work with our workloads, sorted."""
    first_releases, unfit = (fact("aibrix", "routing", name) for name in ("strategies", "unfit"))
    return tuple(
        name for name, first in sorted(first_releases.items()) if name not in unfit and _is_since(first, version)
    )


def strategy_problem(version: str, strategy: str) -> Reason | None:
    """Why the release cannot route requests by `strategy`."""
    if strategy in strategies(version):
        return None
    instead = f"write one of {', '.join(strategies(version))}"
    first_releases, unfit = (fact("aibrix", "routing", name) for name in ("strategies", "unfit"))
    if strategy not in first_releases:
        return f"AIBrix {version} has no such strategy", instead
    if not _is_since(first_releases[strategy], version):
        return f"AIBrix {version} does not know it yet: it came with {first_releases[strategy]}", instead
    return f"it needs {unfit[strategy]}", instead


def strategy_annotations(version: str, strategy: str | None) -> dict[str, str]:
    """Annotations of a model's serving pods that make `strategy` the default for requests to that model.

    Empty without a strategy, and for a release that knows only one default for all models (an environment variable of
    the gateway's plugins).
    """
    if strategy is None or not has(version, "configProfiles"):
        return {}
    profiles = {"defaultProfile": "default", "profiles": {"default": {"routingStrategy": strategy}}}
    return {_CONFIG_ANNOTATION: json.dumps(profiles, separators=(",", ":"))}


def model_labels(model: str, port: int) -> dict[str, str]:
    """Labels for the pods that serve `model`, and only for them: AIBrix sends requests to every pod that has them."""
    return {MODEL_LABEL: model, _PORT_LABEL: str(port)}


def route_paths(version: str) -> tuple[str, ...]:
    """The engine's paths that the release's gateway forwards."""
    return tuple(_at("gateway", "paths", version))


# --- autoscaling


def metric(version: str, engine_version: str) -> str:
    """The metric of KV cache usage (0 to 1), by the name that this vLLM exports and this AIBrix reads.

    Raises PlanError if there is none: AIBrix counts a metric that it does not find as 0, and scales to the minimum.
    """
    problem = metric_problem(version, engine_version)
    if problem:
        raise PlanError(Problem("autoscaler", "", *problem))
    read_names = _at("autoscaling", "metrics", version)
    return next(name for name in read_names if _exports(engine_version, name))


def metric_problem(version: str, engine_version: str) -> Reason | None:
    """Why this AIBrix cannot scale this vLLM by its KV cache usage."""
    read_names = _at("autoscaling", "metrics", version)
    if any(_exports(engine_version, name) for name in read_names):
        return None
    exported_names = [name for name in _GAUGES if _exports(engine_version, name)]
    exported = " and ".join(exported_names) or "no KV cache usage"
    newest = fact("aibrix", "releases", "newest")
    return (
        f"vLLM {engine_version} exports {exported}, but AIBrix {version} reads only {' and '.join(read_names)}",
        f"take AIBrix {newest} and a vLLM that exports it, or leave the autoscaler out",
    )


def scalers(version: str) -> tuple[str, ...]:
    """The scaling strategies that can act on a gauge from 0 to 1, best first."""
    return tuple(_at("autoscaling", "strategies", version))


def cooldown_annotation(version: str, strategy: str) -> str | None:
    """The annotation that tells the strategy how long to wait before it scales down; None if it reads none."""
    return _at("autoscaling", "annotations", version).get(strategy, {}).get("cooldown")


def scaler_conditions(version: str) -> tuple[str, ...]:
    """The conditions of a working PodAutoscaler, whether or not it is scaling."""
    return tuple(_at("autoscaling", "conditions", version))


def target_problem(version: str, kind: str) -> Reason | None:
    """Why the release cannot scale a workload of `kind`."""
    scalable = fact("aibrix", "autoscaling", "targets")
    if kind in scalable:
        return None
    instead = f"write keda or hpa, or scale a {' or '.join(scalable)}"
    return f"AIBrix {version} has no permission to change a {kind}", instead


def scaler_problems(version: str, engine_version: str, told: scaling.Scaling) -> scaling.Wrong:
    """Everything wrong with an autoscaler of AIBrix's."""
    problems = [("strategy", *wrong) for wrong in [_scaler_problem(version, told.strategy)] if wrong]
    problems += scaling.bounds_problems(told)
    problems += _cooldown_problems(version, told)
    if told.schedules and not has(version, "schedules"):
        why = f"AIBrix {version} cannot change its bounds by time of day; no release can"
        problems.append(("schedules", why, "leave it out"))
    return problems + [("aibrix_version", *wrong) for wrong in [metric_problem(version, engine_version)] if wrong]


def scaler_cautions(version: str, *, minimum: int, maximum: int, engines: int = 1) -> tuple[str, ...]:
    """What a person should know about the release's autoscaler before paying for `maximum` replicas, one sentence each.
    `engines` are those of a replica.

    Since 0.5.0 AIBrix multiplies its average of three minutes by the number of desired replicas, including those that
    are still starting, whose gauge it takes for 0. When it scales down, it takes the smallest recommendation within the
    cooldown (`stabilizeRecommendation`), so a cooldown delays nothing. Seen with the controllers of 0.7.0, target 0.5:
    a gauge of 0.93 brings the second of two replicas after 40 s, if half a minute before was quiet, and without load
    for less than three minutes it is taken away; a new autoscaler asks for all four of four within a second.
    """
    if maximum <= minimum:
        return ()
    # All releases take the first series of the gauge, and each engine has its own.
    first = (f"AIBrix {version} scales by the first of each replica's {engines} engines alone",) if engines > 1 else ()
    if not has(version, "unifiedScaler"):
        return first
    goes = f"AIBrix {version} scales down within {fact('aibrix', 'autoscaling', 'averageSeconds')} s without load"
    if maximum - minimum == 1:
        return (*first, f"{goes}, whatever the cooldown")
    return (
        *first,
        f"{goes}, whatever the cooldown, to the fewest replicas that it wanted within it",
        f"AIBrix {version} counts replicas that are still starting: one burst may ask for all {maximum} at once",
    )


def _scaler_problem(version: str, strategy: str | None) -> Reason | None:
    known = scalers(version)
    if strategy is None or strategy in known:
        return None
    instead = f"write {' or '.join(known)}"
    if strategy == "HPA":
        return f"with it AIBrix {version} rounds the target down to a whole number, and a fraction becomes 0", instead
    if strategy == "KPA":
        return f"with it AIBrix {version} divides the average by the target, which stops at 1/target replicas", instead
    return "is not one of AIBrix's scaling strategies", instead


def _cooldown_problems(version: str, told: scaling.Scaling) -> scaling.Wrong:
    cooldown, start = told.cooldown_seconds, told.cold_start_seconds
    if cooldown is None:
        return []
    chosen = told.strategy or scalers(version)[0]
    if chosen in scalers(version) and cooldown_annotation(version, chosen) is None:
        why = f"strategy {chosen} of AIBrix {version} has no cooldown"
        return [("cooldown_seconds", why, f"leave it out, or write strategy {scalers(version)[0]}")]
    return [scaling.short_cooldown(start, start)] if start is not None and cooldown < start else []


def _exports(engine_version: str, name: str) -> bool:
    return is_exported(entries("vllm_metrics")["metrics"][f"vllm:{name}"], release_key(engine_version))


def _is_since(first: str, version: str) -> bool:
    return release_key(first) <= release_key(version)


def _at(section: str, name: str, version: str) -> Any:
    """The value that a fact has at this release, for facts that change between releases."""
    steps = fact("aibrix", section, name)
    return [step["is"] for step in steps if _is_since(step["since"], version)][-1]
