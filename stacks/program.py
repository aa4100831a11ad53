"""What Pulumi runs: reads the stack's config, refuses bad input before anything is registered, calls the builder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import Any

import pulumi
from pulumi.runtime import config as engine_config

from config.clouds import VolcengineCloud
from config.errors import NAMESPACE
from config.kubeconfig import check_context
from config.secrets import SECRETS, is_empty
from config.stack import StackConfig, parse
from planning.names import model_object
from planning.problems import Refused
from stacks.service_plans import Planned, briefly, plan_services, summary, warnings


def run() -> dict[str, pulumi.Input[Any]]:
    """Build the stack that is selected and return its outputs. Raises RunError, without a traceback, on bad input."""
    try:
        config, secrets, plain = _load()
        plans = plan_services(config)
        _look_around(config)
        for line in (line for name, planned in plans.items() for line in briefly(name, planned)):
            pulumi.log.info(line)
        for warning in warnings(plans, secrets, plain):
            pulumi.log.warn(warning)
        return build(config, plans, _attempts(config, plans))
    except Refused as error:
        raise pulumi.RunError(f"Pulumi.{pulumi.get_stack()}.yaml is refused:\n{error}") from None


def build(
    config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int] = MappingProxyType({})
) -> dict[str, pulumi.Input[Any]]:
    """Register the resources of `config` with its cloud's builder, which alone is imported; give the outputs.

    `attempts` counts the warm-ups of a model's cache, from 1, where earlier ones failed.
    """
    # What is not registered, the engine deletes.
    if lost := config.services.keys() ^ plans.keys():
        raise RuntimeError(f"neither planned nor refused: {', '.join(sorted(lost))}")
    outputs = importlib.import_module(f"stacks.{config.cloud.kind}").build(config, plans, attempts)
    return outputs | {"plan": {name: summary(planned) for name, planned in plans.items()}}


def _look_around(config: StackConfig) -> None:
    """Refuses what only this machine or the cluster can tell."""
    if config.cloud.kind != "local":
        from stacks import addon_charts

        addon_charts.provide_charts(config)
    if isinstance(config.cloud, VolcengineCloud):
        from watch import kuberay_preflight

        kuberay_preflight.check(config, pulumi.Config(NAMESPACE).get("kubeconfig"))


def _attempts(config: StackConfig, plans: Mapping[str, Planned]) -> Mapping[str, int]:
    """A warm-up runs once, and the engine sees no change in one that failed: so the cluster is asked."""
    if config.cache.engine != "fluid":
        return {}
    from watch.cache_state import CacheLook

    look = CacheLook(config.cluster.context, config.cluster.namespace, pulumi.Config(NAMESPACE).get("kubeconfig"))
    return {name: look.attempt(name) for name in {model_object(planned.service.model) for planned in plans.values()}}


def _load() -> tuple[StackConfig, Set[str], Mapping[str, Any]]:
    """The stack's config, the keys of its secrets, and all that is not encrypted, other programs' too."""
    prefix = f"{NAMESPACE}:"
    given = engine_config.CONFIG.get()
    encrypted = {key for key in given if engine_config.is_config_secret(key)}
    values = {key: _decoded(value) for key, value in given.items() if key.removeprefix(prefix) not in SECRETS}
    ours = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    kept = {key.removeprefix(prefix) for key in encrypted if key.startswith(prefix)}
    empty = {key for key in ours.keys() & SECRETS if is_empty(ours[key])}
    config = parse(
        {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)},
        plain_secrets=(ours.keys() & SECRETS) - kept - empty,
        secrets=kept - empty,
        empty_secrets=empty,
    )
    check_context(config.cluster.context, pulumi.Config(NAMESPACE).get("kubeconfig"))
    return config, kept, {key: value for key, value in values.items() if key not in encrypted}


def _decoded(value: str) -> Any:
    """The engine hands structured values over as JSON, and the rest as the text that it is."""
    try:
        return json.loads(value)
    except ValueError:
        return value
