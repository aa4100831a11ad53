"""Judges a stack file: its valid part as a `StackConfig`, and every refusal at once."""

import contextlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from config import secrets as secret_keys
from config import section_rules, unused_keys
from config.abilities import CLOUDS
from config.clouds import (
    ValidationContext,
    gpu_node,
)
from config.errors import ConfigError, join, shown, unknown_key
from config.facts import GpuPods, gpu_pods
from config.secrets import SECRETS
from config.stack import DNS_1035, SECTIONS, StackConfig, lws_release_on, name_limit
from config.strict import refusals
from planning import aibrix_features
from planning.catalog import fact
from planning.fleet import name_limit as fleet_limit
from planning.names import COLOURS, coloured, service_object
from planning.problems import Problem, Unjudged, printable

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

PLACEHOLDER = r"<[^<>]+>"


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
    for of_rule in (*section_rules.rules(config), *unused_keys.rules(config, present, refused)):
        with contextlib.suppress(Unjudged):
            problems += [
                problem for problem in of_rule if not any(f"{key}.".startswith(f"{problem.key}.") for key in refused)
            ]
    return config, problems


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
        lws=lws_release_on(_map(raw, "addons", "lws").get("version"), kind),
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


def _map(raw: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The map at `path`; empty if there is no map."""
    value: Any = raw
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _left_in(value: object, path: tuple[object, ...] = ()) -> list[Problem]:
    """Placeholders and control characters that were left in, at any depth."""
    if isinstance(value, Mapping):
        return [problem for key, below in value.items() for problem in _left_in(below, (*path, key))]
    if isinstance(value, list):
        return [problem for i, below in enumerate(value) for problem in _left_in(below, (*path, i))]
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
    problems = []
    longest_colour = max(len(coloured("", colour)) for colour in COLOURS)
    groups_of = {coloured(str(each), colour) for each in services if _is_coloured(services, each) for colour in COLOURS}
    for name, service in services.items():
        path, text = join(("services", name)), str(name)
        replicas = service.get("replicas", 1) if isinstance(service, Mapping) else 1
        most = _map(services, name, "autoscaling").get("maximum")
        fleet = can is not None and _map(services, name).get("workload", can.workloads[0]) == "fleet"
        groups = max(each for each in (replicas, most, 1) if isinstance(each, int))
        limit = (fleet_limit() if fleet else name_limit(groups)) - longest_colour * _is_coloured(services, name)
        built = "the names of its Ray pods" if fleet else "the labels of its worker pods"
        if not re.fullmatch(DNS_1035, text):
            problems.append(
                Problem(
                    path,
                    shown(text),
                    f"is not a DNS-1035 name, which {'AIBrix' if fleet else 'LeaderWorkerSet'} asks for",
                    "write a lower-case letter, then lower-case letters, digits and '-'",
                )
            )
        if len(text) > limit:
            problems.append(
                Problem(
                    path,
                    shown(text),
                    f"has {len(text)} characters; {built}, built from it, would {'be cut' if fleet else 'pass 63'}",
                    f"write at most {limit}",
                )
            )
        if text in {service_object(str(other)) for other in services}:
            problems.append(
                Problem(
                    path,
                    shown(text),
                    "is the name of another service's Kubernetes Service",
                    f"rename it or {text.removesuffix('-leader')}",
                )
            )
        if text in groups_of:
            why = "is the name of a group of another service, which is updated blue-green"
            problems.append(Problem(path, shown(text), why, f"rename it or {text.rpartition('-')[0]}"))
    return problems
