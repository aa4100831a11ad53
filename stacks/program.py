"""What Pulumi runs: reads the stack's config, refuses bad input before it registers anything, calls the builder."""

from __future__ import annotations

import asyncio
import datetime
import functools
import importlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pulumi
from pulumi.runtime import config as engine_config

from components.cluster.kubernetes import RELEASE
from config.abilities import CLOUDS
from config.errors import NAMESPACE, ConfigError
from config.judge import decoded, judge
from config.kubeconfig import check_context
from config.plans import Planned, judge_services
from config.secrets import SECRETS, is_empty
from config.stack import StackConfig, expired
from planning.names import CLUSTER, model_object
from planning.problems import Problem, Refused
from stacks.plan_summary import briefly, of_access, outputs, warnings
from stacks.registrations import Registration, held
from watch import preflight

if TYPE_CHECKING:
    from components.cluster.cluster_addons import HelmRelease


def run() -> dict[str, pulumi.Input[Any]]:
    """Build the stack that is selected and return its outputs. Raises RunError, without a traceback, on bad input."""
    try:
        config, wrong, secrets, plain = _load()
        plans, unfit = judge_services(config)
        over = [] if wrong else [expired(config, datetime.date.today())]
        if found := {*wrong, *unfit, *filter(None, over)}:
            raise ConfigError(sorted(found))
        check_context(config.cluster.context, pulumi.Config(NAMESPACE).get("kubeconfig"))
        _look_around(config)
        for line in (line for name, planned in plans.items() for line in briefly(name, planned)):
            pulumi.log.info(line)
        for line in of_access(config):
            pulumi.log.info(line)
        for warning in warnings(config, plans, secrets, plain):
            pulumi.log.warn(warning)
        attempts = _attempts(config, plans)
        plans = _live(config, plans)
    except Refused as error:
        raise _refusal(error) from None
    with held(functools.partial(_look_around_cluster, config)) as cluster:
        try:
            return build(config, plans, attempts) | {CLUSTER: cluster}
        except Refused as error:  # the same words when a component refuses
            raise _refusal(error) from None


def _refusal(error: Refused) -> pulumi.RunError:
    return pulumi.RunError(f"Pulumi.{pulumi.get_stack()}.yaml is refused:\n{error}")


def build(
    config: StackConfig, plans: Mapping[str, Planned], attempts: Mapping[str, int] = MappingProxyType({})
) -> dict[str, pulumi.Input[Any]]:
    """Register the resources of `config` with its cloud's builder, the only one imported. Return the outputs.

    `attempts` numbers the warm-up of each model's cache, from 1; a higher number follows failed ones.
    """
    # Pulumi deletes what is no longer registered.
    if lost := config.services.keys() ^ plans.keys():
        raise RuntimeError(f"neither planned nor refused: {', '.join(sorted(lost))}")
    made = importlib.import_module(f"stacks.{config.cloud.kind}").build(config, plans, attempts)
    return made | outputs(config, plans)


def _look_around(config: StackConfig) -> None:
    """Refuses what only this machine can judge: charts that are missing or cannot be fetched."""
    if CLOUDS[config.cloud.kind].installs:
        from stacks import addon_charts

        addon_charts.provide_charts(config)


async def _look_around_cluster(config: StackConfig, made: Sequence[Registration]) -> str | None:
    """Refuses another cluster than the stack's, and objects that already exist in the cluster and belong to somebody
    else, before anything is registered. Returns which cluster it is, if that is known."""
    objects = [each.props for each in made if each.type_.startswith("kubernetes:") and "kind" in each.props]
    wanted = [found for manifest in objects if (found := preflight.wanted_of(manifest))]
    addons = [cast("HelmRelease", each.resource).addon for each in made if each.type_ == RELEASE]
    kubeconfig = pulumi.Config(NAMESPACE).get("kubeconfig")
    recorded, (refused, unread, seen) = await asyncio.gather(
        _recorded_cluster(),
        asyncio.to_thread(preflight.check, config, pulumi.get_stack(), kubeconfig, wanted, addons),
    )
    if wrong := preflight.elsewhere(config, pulumi.get_stack(), recorded, seen):
        refused = [wrong]  # names in another cluster say nothing
    if unread:
        pulumi.log.warn(unread)
    if refused:
        raise _refusal(ConfigError(refused))
    return seen or recorded


async def _recorded_cluster() -> str | None:
    """The cluster in which the last run has put the stack, from the stack's outputs; None before the first."""
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    try:
        found = await pulumi.runtime.invoke_async("pulumi:pulumi:readStackOutputs", {"name": name})
    except Exception:  # the SDK raises nothing narrower; a stack without a state has no outputs
        return None
    return (found.get("outputs") or {}).get(CLUSTER)


def _live(config: StackConfig, plans: dict[str, Planned]) -> dict[str, Planned]:
    """The plans, each with the group that has the requests of a service that is updated blue-green. In an `up` it has
    all of them from now on, also if a run before ended amid its shares.

    Raises ConfigError in an `up` if that is unknown.
    """
    names = [name for name, planned in plans.items() if planned.service.rollout.strategy == "blueGreen"]
    if not names:
        return plans
    from watch import switchover

    kubeconfig = pulumi.Config(NAMESPACE).get("kubeconfig")
    found, unknown = switchover.live(config, kubeconfig, names)
    divided = [] if pulumi.runtime.is_dry_run() else [name for name, live in found.items() if live.divided]
    for name in divided:
        pulumi.log.info(f"{name}: a run has ended amid its shares: the old group gets all requests again")
        unknown |= switchover.take_back(config, kubeconfig, name)
    if unknown and not pulumi.runtime.is_dry_run():
        # The group that serves could be taken for the other one, and changed in place.
        raise ConfigError(
            Problem(
                f"services.{name}.rollout.strategy",
                "blueGreen",
                f"the cluster does not tell which group has the requests ({error})",
                "let this kubeconfig read Services and HTTPRoutes, or try again",
            )
            for name, error in unknown.items()
        )
    for name, error in unknown.items():
        pulumi.log.warn(f"{name}: which group has the requests is unknown ({error}): this shows the first up")
    return plans | {name: replace(plans[name], live=live) for name, live in found.items()}


def _attempts(config: StackConfig, plans: Mapping[str, Planned]) -> Mapping[str, int]:
    """The next number of each warm-up, from the cluster: Pulumi would not repeat one that failed."""
    if config.cache.engine != "fluid":
        return {}
    from watch.cache_state import CacheReader

    look = CacheReader(config.cluster.context, config.cluster.namespace, pulumi.Config(NAMESPACE).get("kubeconfig"))
    return {name: look.attempt(name) for name in {model_object(planned.service.model) for planned in plans.values()}}


def _load() -> tuple[StackConfig, list[Problem], Set[str], Mapping[str, Any]]:
    """The valid part of the stack's config, what is wrong with the rest, the keys of its secrets, and every value that
    is not encrypted, other programs' too."""
    prefix = f"{NAMESPACE}:"
    given = engine_config.CONFIG.get()
    encrypted = {key for key in given if engine_config.is_config_secret(key)}
    values = {key: decoded(value) for key, value in given.items() if key.removeprefix(prefix) not in SECRETS}
    ours = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    kept = {key.removeprefix(prefix) for key in encrypted if key.startswith(prefix)}
    empty = {key for key in ours.keys() & SECRETS if is_empty(ours[key])}
    config, wrong = judge(
        {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)},
        plain_secrets=(ours.keys() & SECRETS) - kept - empty,
        secrets=kept - empty,
        empty_secrets=empty,
    )
    return config, wrong, kept, {key: value for key, value in values.items() if key not in encrypted}
