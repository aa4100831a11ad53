"""What a preview, the stack's outputs and warnings say of the plans of its services."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from config import secrets as secret_keys
from config.abilities import CLOUDS
from config.plans import Planned
from config.stack import StackConfig, ending, own_bucket, role_takers
from planning import advisories
from planning.planner import Plan
from planning.throughput import ALONE, FULL, LOADED, Point
from planning.units import minutes


def briefly(name: str, planned: Planned) -> list[str]:
    """Lines for a preview: does it fit, when does it answer, how fast, what does it cost."""
    plan, layout = planned.plan, planned.layout
    fit, path, money = plan.fit, plan.startup, plan.cost
    fullest = min(fit.stages, key=lambda stage: stage.kv)
    price = (
        "unknown: no price in the stack file"
        if money.per_hour is None
        else f"{money.per_hour:.2f} {money.currency} an hour, {money.cold_start:.2f} for one cold start "
        f"(prices of {money.as_of})"
    )
    if planned.service.most_replicas == 0:
        answers = f"paused; resumed, it answers {minutes(planned.startup_seconds)} after its pods are created"
    else:
        longest = max(path.steps, key=lambda step: step.seconds).name
        answers = (
            f"answers {minutes(planned.empty_seconds)} after an empty start, at best {minutes(path.floor_seconds)}; "
            f"longest step: {longest}"
        )
        if path.again_seconds is not None:
            answers += f"; with kept kernels {minutes(path.again_seconds)} after its pods are created"
    return [
        f"{name}: {'fits' if plan.fits else _unfitting(plan)}: {plan.request.model.name} on {layout.nodes} x "
        f"{layout.gpus_per_node} {plan.request.gpu.name}, {layout.split}; "
        f"{fullest.weights_gib:.1f} GiB of weights and "
        + (
            "an unknown KV cache"
            if plan.request.model.unknown
            else f"{max(fullest.kv, 0):.1f} of KV cache on the fullest GPU; "
            f"{fit.kv_tokens} KV tokens, {fit.max_concurrency:.1f} requests of {fit.max_model_len}"
        ),
        f"{name}: {answers}",
        f"{name}: {_fast(plan)}",
        f"{name}: costs {price}",
        *_updated(name, planned),
        *_scheduled(name, planned),
    ]


def _unfitting(plan: Plan) -> str:
    return "is not known to fit" if plan.request.model.unknown else "does not fit"


def _updated(name: str, planned: Planned) -> Iterator[str]:
    """What an update means for clients, and what it takes."""
    service, money = planned.service, planned.plan.cost
    replicas, long = service.most_replicas, minutes(planned.startup_seconds)
    if replicas == 0:
        return
    if service.rollout.strategy == "blueGreen":
        gpus = planned.layout.gpus * replicas
        price = "" if money.cold_start is None else f", for {money.cold_start * replicas:.2f} {money.currency}"
        yield f"{name}: an update takes {2 * gpus} GPUs instead of {gpus} for {long}{price}, and no request waits"
        if shares := service.rollout.canary:
            told = f"{' and '.join(map(str, shares))} % of the requests, for {service.rollout.seconds_of_a_step} s each"
            yield f"{name}: before it has all of them, a new version has {told}"
    elif replicas == 1 and not service.rollout.max_surge:
        yield f"{name}: an update answers nothing for {long}, from the old pods' end to the first answer"


def _scheduled(name: str, planned: Planned) -> Iterator[str]:
    schedule, money = planned.service.schedule, planned.plan.cost
    if schedule is None:
        return
    saved = ""
    if money.per_month is not None:
        saved = f"; {money.scheduled_per_month:.2f} instead of {money.per_month:.2f} {money.currency} a month"
    yield f"{name}: on {schedule.planned}{saved}; a first up starts it at any hour, until the schedule's next end"


def _fast(plan: Plan) -> str:
    speed = plan.throughput
    alone, full, loaded = (speed.point(point) for point in (ALONE, FULL, LOADED))
    if alone is None or full is None:
        return speed.reasons[0] if speed.reasons else str(speed.problems[0])
    words = f"a token takes {_milliseconds(alone)} for one request, {_milliseconds(full)} for {full.at_once:g} at once"
    if speed.load is None:
        words += f", {full.output_tokens:.0f} tokens/s a replica ({full.input} in, {full.output} out)"
    elif loaded is not None:
        words += f"; under the load {_milliseconds(loaded)}, {loaded.output_tokens:.0f} tokens/s a replica"
    if speed.load is not None:
        needed = speed.replicas_needed
        many = "no number of replicas is enough" if needed is None else f"it needs {needed} replica{'s'[: needed != 1]}"
        words += f"; {many}"
    return words + ("; carried over, not measured" if speed.carried_over else "")


def _milliseconds(point: Point) -> str:
    floor, expected, most = (
        f"{seconds * 1e3:.3g}" for seconds in (point.each.floor, point.each.expected, point.each.most)
    )
    return f"{expected} ms ({floor} to {most})"


def of_access(config: StackConfig) -> list[str]:
    """A line for a preview on how pods prove to the bucket who they are, where the cloud could give them roles."""
    bucket, roles = own_bucket(config), role_takers(config)
    if bucket is None or "rrsa" not in CLOUDS[config.cloud.kind].auths:
        return []
    users = {"reader": "read"} | ({"writer": "filled"} if getattr(config.weights, "sync", None) else {})
    told = [f"{does} by {'a role' if user in roles else 'an access key'}" for user, does in users.items()]
    line = f"bucket: {' and '.join(told)}"
    if len(roles) == len(users):
        return [line]
    why = "a key lives until it is rotated"
    if config.cluster.oidc is None:
        why += "; with cluster.oidc pods take roles"
    elif bucket.auth is None:
        why += "; its reader takes no role"
    return [f"{line}: {why}"]


def verdict(plans: Mapping[str, Planned]) -> str:
    """All services in one clause. An accepted file may have a service that is deployed unproven."""
    unfit = [f"{name} {_unfitting(planned.plan)}" for name, planned in plans.items() if not planned.plan.fits]
    return f"{', '.join(unfit)}, deployed unproven" if unfit else "fine"


def warnings(
    config: StackConfig, plans: Mapping[str, Planned], secrets: Collection[str], plain: Mapping[str, Any]
) -> list[str]:
    """Doubts that do not prevent the deployment, a sentence each. `secrets` and `plain` are as in `config.secrets`."""
    of_services = [f"{name}: {each}" for name, planned in plans.items() for each in planned.warnings]
    holes = {name: advisories.told(planned.service.engine.version, named=False) for name, planned in plans.items()}
    of_services += [f"{name}: {said}" for name, said in holes.items() if said]
    return [*ending(config, datetime.date.today()), *secret_keys.warnings(plans, secrets, plain), *of_services]


def summary(planned: Planned) -> dict[str, Any]:
    """The plan in few numbers, as a stack output. `python -m ops plan STACK --json` has them all."""
    plan, layout = planned.plan, planned.layout
    known = not plan.request.model.unknown
    return {
        "fits": plan.fits,
        "engine": planned.service.engine.version,
        "kvTokens": plan.fit.kv_tokens if known else None,
        "maxModelLen": planned.max_model_len,
        "maxConcurrency": round(plan.fit.max_concurrency, 2) if known else None,
        "startupSeconds": planned.empty_seconds,
        "floorSeconds": round(plan.startup.floor_seconds),
        "podStartSeconds": planned.startup_seconds,
        "longestAnswerSeconds": planned.longest_seconds,
        "costPerHour": plan.cost.per_hour,
        "currency": plan.cost.currency,
        "pricesAsOf": plan.cost.as_of,
        "layout": f"{layout.nodes} x {layout.gpus_per_node} GPUs, {layout.split}",
    }


def outputs(config: StackConfig, plans: Mapping[str, Planned]) -> dict[str, Any]:
    """What every stack exports of its file and its plans; policies read it."""
    said = {key: value for key in ("owner", "expires") if (value := getattr(config, key)) is not None}
    return said | {"plan": {name: summary(planned) for name, planned in plans.items()}}
