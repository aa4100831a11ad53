"""What Pulumi runs: reads the stack's config, refuses bad input before anything is registered, calls the builder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.runtime import config as engine_config

from stacks.cluster import check_context
from stacks.config import SECRETS, StackConfig, parse
from stacks.plans import Planned, briefly, plan_services, summary
from stacks.refusals import NAMESPACE, ConfigError


def run() -> dict[str, pulumi.Input[Any]]:
    """Build the stack that is selected and return its outputs. Raises RunError, without a traceback, on bad input."""
    try:
        config = _load()
        plans = plan_services(config)
    except ConfigError as error:
        raise pulumi.RunError(f"Pulumi.{pulumi.get_stack()}.yaml is refused:\n{error}") from None
    for name, planned in plans.items():
        for line in briefly(name, planned):
            pulumi.log.info(line)
        if planned.warning:
            pulumi.log.warn(f"{name}: deployed unproven: {planned.warning}")
    return build(config, plans)


def build(config: StackConfig, plans: Mapping[str, Planned]) -> dict[str, pulumi.Input[Any]]:
    """Register the resources of `config` with its cloud's builder, whose SDK alone is imported; give the outputs."""
    outputs = importlib.import_module(f"stacks.{config.cloud.kind}").build(config, plans)
    return outputs | {"plan": {name: summary(planned) for name, planned in plans.items()}}


def _load() -> StackConfig:
    prefix = f"{NAMESPACE}:"
    given = {
        key.removeprefix(prefix): value for key, value in engine_config.CONFIG.get().items() if key.startswith(prefix)
    }
    plain = {
        key: value
        for key in SECRETS
        if (value := given.pop(key, None)) and not engine_config.is_config_secret(prefix + key)
    }
    config = parse({key: _decoded(value) for key, value in given.items()}, plain_secrets=plain)
    check_context(config.cluster.context, pulumi.Config(NAMESPACE).get("kubeconfig"))
    return config


def _decoded(value: str) -> Any:
    """The engine hands structured values over as JSON, and the rest as the text that it is."""
    try:
        return json.loads(value)
    except ValueError:
        return value
