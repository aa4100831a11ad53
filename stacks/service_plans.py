"""Plans every service of a stack file, and refuses those that cannot work.

The planner knows no stack files, and the stack file no memory. This file translates: a service into a request for the
planner, and the planner's problems into those of the stack file's keys.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from config import secrets as secret_keys
from config.abilities import CLOUDS
from config.clouds import AcsCloud, LocalCloud, VolcengineCloud, gpu_node
from config.errors import NAMESPACE, ConfigError
from config.facts import GpuFacts, ModelFacts, gpu_pods
from config.services import Service
from config.stack import (
    StackConfig,
    aibrix_release,
    drops_cache,
    ending,
    keeps_weights,
    loader_of,
    own_bucket,
    role_takers,
)
from config.stack_file import StackFile
from config.types import LONGEST, gibibytes
from config.weights import BucketWeights, CompileCache, HuggingfaceWeights, NvmeWeights, PvcWeights
from planning import advisories, aibrix_features, answers, flags, loaders, timeouts
from planning.cache import CacheSize
from planning.catalog import fact
from planning.cost import Prices
from planning.files import Needed, needed
from planning.layout import PARTITION, Layout
from planning.names import Live
from planning.planner import Ask, Plan, plan, problems
from planning.problems import NoLayoutError, PlanError, Problem, Refused, Unjudged
from planning.scaling import cautions
from planning.settings import ARGUMENTS, Settings, host_memory, settings
from planning.startup import TO_NODES, Storage, Supply
from planning.throughput import ALONE, FULL, LOADED, Load, Point
from planning.units import GIB

# The key of a service for each of the planner's names, or of the whole file. Some sections have the same name in both.
_KEYS = {
    "tensor": "layout.tensor",
    "pipeline": "layout.pipeline",
    "data": "layout.data",
    "nodes": "layout.nodes",
    "gpus-per-node": "layout.gpusPerNode",
    "layout": "layout",
    "max-model-len": "maxModelLen",
    "model": "model",
    "model.context": "model.context",
    "utilization": "engine.gpuMemoryUtilization",
    "kv-dtype": "engine.extraArgs",
    "context": "layout.decodeContext",
    "expert-parallel": "layout.expertParallel",
    "redundant-experts": "engine.extraArgs",
    "partition": f"engine.env.{PARTITION}",
    "max-num-seqs": "engine.extraArgs",
    "engine version": "engine.version",
    "max-num-batched-tokens": "engine.extraArgs",
    ARGUMENTS: "engine.extraArgs",
}
_FILE_KEYS = {"GPU": "cloud.gpu"}
_SECTIONS = ("prices.", "cache.", "catalog.")
_OF_THE_SERVICE = "load"  # a section of a service that the planner calls as the file does
_T = TypeVar("_T")
_AskT = TypeVar("_AskT", bound=Ask)


@dataclass(frozen=True)
class Planned:
    """A service with everything decided: what was `auto` in the stack file is a number here.

    `startup_seconds` is a cold start, from the pods' creation to the first answer; `copy_seconds` of it is the copy of
    the weights to the pods, before the engine starts. A pod that ends waits `drain_seconds` for its answers, of
    which one may take `longest_seconds`. `warnings` are sentences about doubts that do not prevent the deployment.
    `live` is the group that has the requests now, if the service is updated blue-green.
    """

    service: Service
    plan: Plan
    max_model_len: int
    startup_seconds: int
    drain_seconds: int
    copy_seconds: int = 0
    warnings: tuple[str, ...] = ()
    longest_seconds: int = 0
    loader: str = loaders.DEFAULT
    kernels: CompileCache | None = None
    live: Live | None = None

    @property
    def layout(self) -> Layout:
        """The layout as the planner judged or chose it."""
        return self.plan.request.layout

    @property
    def empty_seconds(self) -> int:
        """Seconds from an empty start (an empty bucket, if the stack fills it) to the first answer."""
        path = self.plan.startup
        return self.startup_seconds + round(path.first_token_seconds - path.pod_seconds)


def plan_services(config: StackConfig, *, refuse_misfits: bool = True) -> dict[str, Planned]:
    """Every service, planned. Raises ConfigError with everything that cannot work, of all services at once.

    Without `refuse_misfits` it also plans a layout that keeps the rules but does not fit, for commands that show it.
    """
    planned, found = judge_services(config, refuse_misfits=refuse_misfits)
    if found:
        raise ConfigError(sorted(found))
    return planned


def judge_services(config: StackConfig, *, refuse_misfits: bool = True) -> tuple[dict[str, Planned], set[Problem]]:
    """The services that can be planned, and everything that cannot work in any.

    Parts of `config` may be refused already. Services that need them are judged as far as possible, but not planned.
    """
    planned: dict[str, Planned] = {}
    found: set[Problem] = set()
    try:
        services = config.services.items()
    except Unjudged:
        return {}, found
    for name, service in services:
        try:
            planned[name] = _planned(config, service, refuse_misfits)
        except Unjudged:
            found.update(_of_what_is_right(config, name, service, refuse_misfits))
        except PlanError as error:
            found.update(_of_the_planner(error.problems, name, [str(each) for each in error.alternatives]))
        except _MisfitError as error:
            found.update(_under(name, problem) for problem in error.problems)
    return planned, found


def checked(
    file: StackFile, *, with_cluster: bool = True, refuse_misfits: bool = True
) -> tuple[StackConfig, dict[str, Planned]]:
    """A stack file's config and plans. Raises ConfigError with everything that is wrong, in the file and in the plans.

    `with_cluster` is that of `StackFile.judged`, `refuse_misfits` that of `plan_services`.
    """
    config, found = file.judged(with_cluster=with_cluster)
    plans, unfit = judge_services(config, refuse_misfits=refuse_misfits)
    file.require_none([*found, *unfit])
    return config, plans


def briefly(name: str, planned: Planned) -> list[str]:
    """Lines for a preview: does it fit, when does it answer, how fast, what does it cost."""
    found, layout = planned.plan, planned.layout
    fit, path, money = found.fit, found.startup, found.cost
    fullest = min(fit.stages, key=lambda stage: stage.kv)
    price = (
        "unknown: no price in the stack file"
        if money.per_hour is None
        else f"{money.per_hour:.2f} {money.currency} an hour, {money.cold_start:.2f} for one cold start "
        f"(prices of {money.as_of})"
    )
    if planned.service.most_replicas == 0:
        answers = f"paused; resumed, it answers {_minutes(planned.startup_seconds)} after its pods are created"
    else:
        longest = max(path.steps, key=lambda step: step.seconds).name
        answers = (
            f"answers {_minutes(planned.empty_seconds)} after an empty start, at best {_minutes(path.floor_seconds)}; "
            f"longest step: {longest}"
        )
        if path.again_seconds is not None:
            answers += f"; with kept kernels {_minutes(path.again_seconds)} after its pods are created"
    return [
        f"{name}: {'fits' if found.fits else _unfitting(found)}: {found.request.model.name} on {layout.nodes} x "
        f"{layout.gpus_per_node} {found.request.gpu.name}, {layout.split}; "
        f"{fullest.weights_gib:.1f} GiB of weights and "
        + (
            "an unknown KV cache"
            if found.request.model.unknown
            else f"{max(fullest.kv, 0):.1f} of KV cache on the fullest GPU; "
            f"{fit.kv_tokens} KV tokens, {fit.max_concurrency:.1f} requests of {fit.max_model_len}"
        ),
        f"{name}: {answers}",
        f"{name}: {_fast(found)}",
        f"{name}: costs {price}",
        *_updated(name, planned),
        *_scheduled(name, planned),
    ]


def _unfitting(found: Plan) -> str:
    return "is not known to fit" if found.request.model.unknown else "does not fit"


def _updated(name: str, planned: Planned) -> Iterator[str]:
    """What an update means for clients, and what it takes."""
    service, money = planned.service, planned.plan.cost
    replicas, long = service.most_replicas, _minutes(planned.startup_seconds)
    if replicas == 0:
        return
    if service.rollout.strategy == "blueGreen":
        gpus = planned.layout.gpus * replicas
        price = "" if money.cold_start is None else f", for {money.cold_start * replicas:.2f} {money.currency}"
        yield f"{name}: an update takes {2 * gpus} GPUs instead of {gpus} for {long}{price}, and no request waits"
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


def _fast(found: Plan) -> str:
    speed = found.throughput
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
    found, layout = planned.plan, planned.layout
    known = not found.request.model.unknown
    return {
        "fits": found.fits,
        "engine": planned.service.engine.version,
        "kvTokens": found.fit.kv_tokens if known else None,
        "maxModelLen": planned.max_model_len,
        "maxConcurrency": round(found.fit.max_concurrency, 2) if known else None,
        "startupSeconds": planned.empty_seconds,
        "floorSeconds": round(found.startup.floor_seconds),
        "podStartSeconds": planned.startup_seconds,
        "longestAnswerSeconds": planned.longest_seconds,
        "costPerHour": found.cost.per_hour,
        "currency": found.cost.currency,
        "pricesAsOf": found.cost.as_of,
        "layout": f"{layout.nodes} x {layout.gpus_per_node} GPUs, {layout.split}",
    }


def outputs(config: StackConfig, plans: Mapping[str, Planned]) -> dict[str, Any]:
    """What every stack exports of its file and its plans; policies read it."""
    said = {key: value for key in ("owner", "expires") if (value := getattr(config, key)) is not None}
    return said | {"plan": {name: summary(planned) for name, planned in plans.items()}}


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"


class _MisfitError(Refused):
    """A service keeps every rule of the stack file and still cannot work. The keys are those of the service."""


def _planned(config: StackConfig, service: Service, refuse_misfits: bool) -> Planned:
    ask = _ask(config, service, _now, Ask)
    found = _shaped(config, service, ask)
    if unfit := list(_unfit(service, ask, found, refuse_misfits)):
        raise _MisfitError(*unfit)
    warnings = [] if found.fits else [f"deployed unproven: {found.misfit}"]
    warnings += _about_arguments(service)
    seconds = service.startup_seconds or math.ceil(found.startup.pod_seconds)
    if seconds > LONGEST:
        why = f"a start takes {seconds} s by the facts of model, GPU and links, more than Kubernetes waits"
        raise _MisfitError(Problem("startupSeconds", "", why, f"correct them, or write at most {LONGEST}"))
    release = aibrix_release(config)
    if wrong := _scaled(service, release, seconds):
        raise _MisfitError(*wrong)
    warnings += _doubts(config, service, found.request.layout.nodes, seconds)
    warnings += _scratch(config, found)
    warnings += found.cache.doubts if found.cache else ()
    if config.monitoring.enabled and not config.monitoring.prometheus_namespace:
        who = "only the gateway reaches the engine" if service.gateway == "aibrix" else (
            "with an API key only the namespace reaches the engine"
        )  # fmt: skip
        warnings.append(f"{who}, so Prometheus does not: write monitoring.prometheusNamespace")
    warnings += _bounds(service, found, release, seconds)
    warnings += map(str, found.throughput.problems)
    copied = math.ceil(found.startup.seconds(TO_NODES)) if _copied_first(config) else 0
    warnings += _together(service, copied)
    loader = loader_of(config)
    if config.cache.compile is not None and found.startup.again_seconds is None:
        warnings.append(
            f"cache.compile keeps nothing that the plan knows: vLLM {service.engine.version} compiles nothing"
        )
    warnings += loaders.doubts(loader, service.engine.image, own_disk=isinstance(config.weights, NvmeWeights))
    longest = answers.longest_seconds(found.fit.max_model_len, _most_tokens(service))
    drain = service.drain_seconds or min(longest, _longest_drain(config.cloud))
    if drain < longest:
        warnings.append(f"pods that end wait {drain} s for their answers, of which one may take {longest} s")
    if service.gateway == "aibrix":
        limit = f"AIBrix's gateway refuses a request of {fact('aibrix', 'gateway', 'bodyMib')} MiB and more with 413"
        found = replace(found, reasons=(*found.reasons, limit))
    return Planned(
        service,
        found,
        found.fit.max_model_len,
        seconds,
        drain,
        copied,
        tuple(warnings),
        longest,
        loader,
        config.cache.compile,
    )


def _longest_drain(cloud: LocalCloud | AcsCloud | VolcengineCloud) -> int:
    """The longest that a pod may wait for its answers when the cloud evicts it."""
    if isinstance(cloud, AcsCloud) and (notice := cloud.eviction_notice) is not None:
        return timeouts.longest_drain(notice)
    return answers.LONGEST_WAIT_SECONDS


def _most_tokens(service: Service) -> int | None:
    """The longest answer in tokens, if the engine's arguments limit it."""
    told = flags.read(service.engine.extra_args, service.engine.version).get("--override-generation-config")
    most = told.get("max_new_tokens") if isinstance(told, dict) else None
    return most if isinstance(most, int) and most > 0 else None


def _shaped(config: StackConfig, service: Service, ask: Ask) -> Plan:
    return _auto(ask, _pod_sizes(config)) if service.layout is None else _plan(ask)


def _about_arguments(service: Service) -> Iterator[str]:
    """What the engine's arguments do that the plan does not say."""
    told = _settings(service)
    for problem in told.problems if service.unproven else ():
        yield f"deployed unproven: {problem.value} {problem.why}"
    if told.trusts_code:
        yield f"--trust-remote-code runs Python code of the repository of {service.model} in the engine"


def _unfit(service: Service, ask: Ask, found: Plan, refuse_misfits: bool) -> Iterator[Problem]:
    """Why a service that keeps the planner's rules still cannot work, under the service's keys."""
    if not found.fits and refuse_misfits and not service.unproven:
        yield _misfit(ask, found)
    if refuse_misfits and not service.unproven:
        yield from (replace(problem, key=_KEYS[problem.key]) for problem in _settings(service).problems)
    yield from _host(service, found)
    nodes = found.request.layout.nodes
    engine, loader = service.engine, ask.supply.loader
    # A layout that the file says is judged with the file.
    if service.layout is None and not loaders.problem(loader, engine.version, engine.image, 1):
        wrong = loaders.problem(loader, engine.version, engine.image, nodes)
        if wrong:
            why = f"the layout that fits has {nodes} nodes, and {wrong[0]}"
            yield Problem("layout", "auto", why, f"{wrong[1]}: weights.loader")
    layout = found.request.layout
    if layout.data > 1 and layout.spans_nodes and engine.launcher == "ray":
        why = f"Ray keeps each engine inside one node, and these have {layout.engine_gpus} GPUs"
        yield Problem("layout.data", str(layout.data), why, "write engine.launcher: native")
    by_ray = nodes > 1 and service.engine.launcher == "ray"
    if by_ray and not found.request.engine["rayInImage"] and not service.engine.image_has_ray:
        why = f"images of vLLM {service.engine.version} ship without Ray, which joins {nodes} nodes"
        instead = "take an image with Ray and say imageHasRay: true, or write launcher: native"
        yield Problem("engine.image", service.engine.image, why, instead)


def _host(service: Service, found: Plan) -> Iterator[Problem]:
    """Whether a pod's memory and /dev/shm hold the buffers that the engine's arguments ask for."""
    layout, engine, resources = found.request.layout, service.engine, service.resources
    per_node, ranks = layout.gpus_per_node, layout.engine_gpus
    asked = host_memory(engine.extra_args, engine.env, found.request.engine, per_node, ranks)
    sum_of = " + ".join(f"{size:.0f} for {name}" for name, size in asked.parts)
    if asked.gib > gibibytes(resources.memory):
        why = f"the engine takes {asked.gib:.0f} GiB of a pod's memory: {sum_of}"
        yield Problem(
            "resources.memory", resources.memory, why, f"write at least {math.ceil(asked.gib)}Gi, or ask for less"
        )
    if asked.shm_gib > gibibytes(resources.shm):
        why = f"the engine keeps {asked.shm_gib:.0f} GiB of KV cache in /dev/shm"
        yield Problem(
            "resources.shm", resources.shm, why, f"write at least {math.ceil(asked.shm_gib)}Gi, or ask for less"
        )


def _copied_first(config: StackConfig) -> bool:
    """Whether the pods copy their weights before the engine starts."""
    weights = config.weights
    return isinstance(weights, NvmeWeights) or (isinstance(weights, BucketWeights) and weights.read == "download")


def _scaled(service: Service, release: str, seconds: int) -> list[Problem]:
    if service.autoscaling is None:
        return []
    found = service.autoscaling.problems(release, service.engine.version, seconds)
    return [Problem(f"autoscaling.{key}", str(value), why, instead) for key, value, why, instead in found]


def _together(service: Service, copied: int) -> Iterator[str]:
    """How several replicas slow down each other's copies. A pod's limits do not include it: otherwise a change of the
    number would restart the running replicas."""
    if copied and service.first_replicas > 1:
        yield (
            f"{service.first_replicas} replicas copy their weights at the same time over one link, which takes up to "
            f"{service.first_replicas} times as long as the plan says"
        )


def _scratch(config: StackConfig, found: Plan) -> Iterator[str]:
    """How much of a node's own disk the weights take, if each pod keeps a copy there."""
    weights = config.weights
    own = isinstance(weights, BucketWeights) and weights.read == "download" and weights.download.node_path is None
    if own or isinstance(weights, HuggingfaceWeights):
        size = math.ceil(found.file_bytes / GIB)
        instead = "weights.download.nodePath" if own else "weights.source: nvme"
        yield f"each pod keeps {size} GiB of weights on its node's own disk; {instead} puts them on another"


def _bounds(service: Service, found: Plan, release: str, seconds: int) -> Iterator[str]:
    """What an autoscaler's bounds cost, and its known faults."""
    scaling, money = service.autoscaling, found.cost
    if scaling is None:
        return
    if money.per_hour is None:
        price = "at an unknown price: there is none in the stack file"
    else:
        price = f"{money.per_hour:.2f} to {money.most_per_hour:.2f} {money.currency} an hour"
    yield f"autoscaling between {scaling.minimum} and {scaling.maximum} replicas, {price}"
    if scaling.engine == "aibrix":
        yield from aibrix_features.scaler_cautions(
            release, minimum=scaling.minimum, maximum=scaling.maximum, engines=found.request.layout.data
        )
    else:
        yield from cautions(cold_start_seconds=seconds, cooldown_seconds=scaling.cooldown_seconds)


def _doubts(config: StackConfig, service: Service, nodes: int, seconds: int) -> Iterator[str]:
    """What the cloud may do to a service that keeps every rule."""
    cloud = config.cloud
    if not isinstance(cloud, AcsCloud):
        return
    notice = cloud.eviction_notice
    if notice is not None and seconds > notice:
        yield (
            f"best-effort pods are evicted with {notice} s of notice, "
            f"and this model takes {_minutes(seconds)} to start again"
        )
    pods = gpu_pods(cloud.gpu_series, config.catalog.gpu_pods)
    if cloud.rdma and pods and pods.get("rdma") is None:
        yield (
            f"whether series {cloud.gpu_series} has RDMA is known by ticket only; "
            "without it the pods are not scheduled, or fall back to sockets"
        )
    free, disk = fact("clouds", "acs", "freeEphemeralGib"), service.resources.ephemeral_storage
    if disk and gibibytes(disk) > free:
        yield f"ephemeralStorage {disk}: {free} GiB of each pod are free, the rest of all {nodes} is billed"


def needed_files(config: StackConfig, model: str) -> Needed:
    """The files of a model that its services read; they share bucket and cache."""
    return needed(
        flags.read(each.engine.extra_args, each.engine.version)
        for each in config.services.values()
        if each.model == model
    )


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


class _Partial(Ask):
    """A request with refused parts: a rule that reads one gets Unjudged."""

    def __getattribute__(self, part: str) -> Any:
        value = super().__getattribute__(part)
        if value is _REFUSED:
            raise Unjudged(part)
        return value


def _of_what_is_right(config: StackConfig, name: str, service: Service, refuse_misfits: bool) -> Iterator[Problem]:
    """The planner's problems with a service that has refused parts already."""
    ask = _ask(config, service, _if_judged, _Partial)
    wrong = problems(ask)
    yield from _of_the_planner(wrong, name)
    if wrong or _REFUSED in vars(ask).values():
        return
    try:
        shaped = _shaped(config, service, ask)
        yield from (_under(name, problem) for problem in _unfit(service, ask, shaped, refuse_misfits))
    except PlanError as error:
        yield from _of_the_planner(error.problems, name, [str(each) for each in error.alternatives])
    except Unjudged:
        return


def _ask(config: StackConfig, service: Service, read: _Read, kind: type[_AskT]) -> _AskT:
    """The request of a service. Each part is read on its own, so that one refused value leaves the others judged."""
    return kind(
        model=read(lambda: service.model),
        described=read(lambda: service.described),
        partition=read(lambda: service.engine.env.get(PARTITION)),
        gpu=read(lambda: config.cloud.gpu_name),
        engine_version=read(lambda: service.engine.version),
        gpus_per_node=read(lambda: service.layout.gpus_per_node if service.layout else max(_pod_sizes(config))),
        nodes=read(lambda: service.layout.nodes if service.layout else None),
        tensor=read(lambda: service.layout.tensor if service.layout else None),
        pipeline=read(lambda: service.layout.pipeline if service.layout else None),
        max_model_len=read(lambda: service.max_model_len),
        utilization=read(lambda: service.engine.gpu_memory_utilization),
        eager=read(lambda: _settings(service).eager),
        kv_dtype=read(lambda: _settings(service).kv_dtype),
        data=read(lambda: service.layout.data if service.layout else 1),
        expert_parallel=read(lambda: service.layout.expert_parallel if service.layout else False),
        context=read(lambda: service.layout.decode_context if service.layout else 1),
        redundant=read(lambda: _settings(service).redundant),
        speculative=read(lambda: _settings(service).speculative),
        batched_tokens=read(lambda: _settings(service).batched_tokens),
        sequences=read(lambda: _settings(service).sequences),
        overrides=read(lambda: _settings(service).overrides),
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


def _under(name: str, problem: Problem) -> Problem:
    return replace(problem, key=f"services.{name}.{problem.key}")


def _settings(service: Service) -> Settings:
    return settings(service.engine.extra_args, service.engine.version, service.model)


def _load(service: Service) -> Load | None:
    asked = service.load
    if asked is None:
        return None
    return Load(asked.input, asked.output, asked.rate, asked.concurrency, asked.ttft_seconds, asked.tpot_seconds)


def _pod_sizes(config: StackConfig) -> list[int]:
    """How many GPUs one pod may have; eight if the catalog does not describe the cloud's series."""
    cloud = config.cloud
    if isinstance(cloud, LocalCloud):
        return fact("clouds", "local", "gpusPerPod")
    if isinstance(cloud, VolcengineCloud):
        node = gpu_node(cloud.instance_type)
        # Whole nodes: nobody else could use half a node's RDMA devices.
        return [node["gpus"] if node else 8]
    return (gpu_pods(cloud.gpu_series, config.catalog.gpu_pods) or {}).get("gpus") or [8]


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
    weights, given = config.weights, config.weights.gbit_per_second
    sync = None if isinstance(weights, HuggingfaceWeights) else weights.sync
    hub = fact("startup", "cold", "hubGbitPerSecond")
    fill = (sync.gbit_per_second or hub) if sync else None
    if isinstance(weights, HuggingfaceWeights):
        return Supply("copy", given or hub)
    if isinstance(weights, PvcWeights):
        return Supply("volume", given, fill_gbit=fill, warm_first=sync is not None)
    link = given or _quota(config)
    if isinstance(weights, NvmeWeights):
        return Supply("copy" if weights.bucket else "volume", link, fill_gbit=fill, warm_first=True)
    usual: Storage = "cache" if config.cache.engine == "fluid" else "mount"
    ways: dict[str | None, Storage] = {"download": "copy", "stream": "stream"}
    return Supply(ways.get(weights.read, usual), link, fill_gbit=fill, warm_first=True)


def _quota(config: StackConfig) -> float | None:
    """How fast one account may read from the cloud's buckets, in Gbit/s; None for a foreign store."""
    cloud = config.cloud
    if own_bucket(config) is None or isinstance(cloud, LocalCloud):
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
    )


def _frozen(facts: Mapping[str, ModelFacts] | Mapping[str, GpuFacts]) -> Mapping[str, Any] | None:
    return MappingProxyType({name: each.given() for name, each in facts.items()}) if facts else None


def _plan(ask: Ask) -> Plan:
    """The plan, computed once for equal requests: a stack of two hundred equal services plans one."""
    return plan(ask) if ask.more_models or ask.more_gpus else _remembered(ask)


_remembered = cache(plan)


def _auto(ask: Ask, sizes: Sequence[int]) -> Plan:
    """The cheapest layout that fits: the smallest pod that holds the model, else as few of the largest as possible."""
    for size in sorted(sizes):
        try:
            return _plan(replace(ask, gpus_per_node=size, nodes=1))
        except NoLayoutError:
            continue
    return _plan(replace(ask, gpus_per_node=max(sizes), nodes=None))


def _misfit(ask: Ask, found: Plan) -> Problem:
    nearest = "; ".join(f"{choice.layout} holds {choice.fit.kv_tokens} tokens" for choice in found.alternatives)
    others = f"nearest layouts that fit: {nearest}" if nearest else "no layout of this GPU fits"
    if why := found.request.model.unknown:
        return Problem("model", ask.model, why, "write unproven: true to deploy it without a plan of its memory")
    if ask.max_model_len is not None:
        longest = _plan(replace(ask, max_model_len=None))
        if longest.fits:
            instead = f"write at most {longest.fit.max_model_len}, or auto; {others}"
            return Problem("maxModelLen", str(ask.max_model_len), found.misfit, instead)
    return Problem("layout", str(found.request.layout), found.misfit, others)


def _of_the_planner(found: Iterable[Problem], name: str, fitting: Sequence[str] = ()) -> Iterator[Problem]:
    """The planner's problems under the keys of the stack file; the remedy of a broken rule are the layouts that fit."""
    fallback = f"layouts that fit: {'; '.join(fitting)}" if fitting else "write another value"
    for problem in found:
        key = problem.key
        if not key.startswith(_SECTIONS):
            own = key if key.partition(".")[0] == _OF_THE_SERVICE else None
            key = _FILE_KEYS.get(key) or f"services.{name}.{own or _KEYS[key]}"
        yield replace(problem, key=key, instead=problem.instead or fallback)
