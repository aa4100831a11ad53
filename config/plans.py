"""Plans every service of a stack file, and refuses those that cannot work.

`config.plan_request` asks the planner. Here the planner's problems become those of the stack file's keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from config.abilities import CLOUDS
from config.errors import ConfigError
from config.facts import gpu_pods
from config.plan_request import partial_request, pod_sizes, request, settings_of
from config.services import Service
from config.stack import StackConfig, aibrix_release, loader_of
from config.stack_file import StackFile
from config.types import LONGEST, gibibytes
from config.weights import BucketWeights, CompileCache, HuggingfaceWeights, NvmeWeights
from planning import aibrix_features, answers, flags, loaders, planner, timeouts
from planning.catalog import fact
from planning.layout import PARTITION, Layout
from planning.names import Live
from planning.planner import Ask, Plan, problems
from planning.problems import NoLayoutError, PlanError, Problem, Refused, Unjudged
from planning.scaling import cautions
from planning.settings import ARGUMENTS, host_memory
from planning.startup import TO_NODES
from planning.units import GIB, minutes

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
    planned, refused = judge_services(config, refuse_misfits=refuse_misfits)
    if refused:
        raise ConfigError(sorted(refused))
    return planned


def judge_services(config: StackConfig, *, refuse_misfits: bool = True) -> tuple[dict[str, Planned], set[Problem]]:
    """The services that can be planned, and everything that cannot work in any.

    Parts of `config` may be refused already. Services that need them are judged as far as possible, but not planned.
    """
    planned: dict[str, Planned] = {}
    wrong: set[Problem] = set()
    try:
        services = config.services.items()
    except Unjudged:
        return {}, wrong
    for name, service in services:
        try:
            planned[name] = _planned(config, service, refuse_misfits)
        except Unjudged:
            wrong.update(_of_what_is_right(config, name, service, refuse_misfits))
        except PlanError as error:
            wrong.update(_of_the_planner(error.problems, name, [str(each) for each in error.alternatives]))
        except _MisfitError as error:
            wrong.update(_under(name, problem) for problem in error.problems)
    return planned, wrong


def checked(
    file: StackFile, *, with_cluster: bool = True, refuse_misfits: bool = True
) -> tuple[StackConfig, dict[str, Planned]]:
    """A stack file's config and plans. Raises ConfigError with everything that is wrong, in the file and in the plans.

    `with_cluster` is that of `StackFile.judged`, `refuse_misfits` that of `plan_services`.
    """
    config, wrong = file.judged(with_cluster=with_cluster)
    plans, unfit = judge_services(config, refuse_misfits=refuse_misfits)
    file.require_none([*wrong, *unfit])
    return config, plans


class _MisfitError(Refused):
    """A service keeps every rule of the stack file and still cannot work. The keys are those of the service."""


def _planned(config: StackConfig, service: Service, refuse_misfits: bool) -> Planned:
    ask = request(config, service)
    plan = _shaped(config, service, ask)
    if unfit := list(_unfit(service, ask, plan, refuse_misfits)):
        raise _MisfitError(*unfit)
    warnings = [] if plan.fits else [f"deployed unproven: {plan.misfit}"]
    warnings += _about_arguments(service)
    seconds = service.startup_seconds or math.ceil(plan.startup.pod_seconds)
    if seconds > LONGEST:
        why = f"a start takes {seconds} s by the facts of model, GPU and links, more than Kubernetes waits"
        raise _MisfitError(Problem("startupSeconds", "", why, f"correct them, or write at most {LONGEST}"))
    release = aibrix_release(config)
    if wrong := _scaled(service, release, seconds):
        raise _MisfitError(*wrong)
    warnings += _doubts(config, service, plan.request.layout.nodes, seconds)
    warnings += _scratch(config, plan)
    warnings += plan.cache.doubts if plan.cache else ()
    if config.monitoring.enabled and not config.monitoring.prometheus_namespace:
        who = "only the gateway reaches the engine" if service.gateway == "aibrix" else (
            "with an API key only the namespace reaches the engine"
        )  # fmt: skip
        warnings.append(f"{who}, so Prometheus does not: write monitoring.prometheusNamespace")
    warnings += _bounds(service, plan, release, seconds)
    warnings += map(str, plan.throughput.problems)
    copied = math.ceil(plan.startup.seconds(TO_NODES)) if _copied_first(config) else 0
    warnings += _together(service, copied)
    loader = loader_of(config)
    if config.cache.compile is not None and plan.startup.again_seconds is None:
        warnings.append(
            f"cache.compile keeps nothing that the plan knows: vLLM {service.engine.version} compiles nothing"
        )
    warnings += loaders.doubts(loader, service.engine.image, own_disk=isinstance(config.weights, NvmeWeights))
    longest = answers.longest_seconds(plan.fit.max_model_len, _most_tokens(service))
    drain = service.drain_seconds or min(longest, _longest_drain(config.cloud.eviction_notice))
    if drain < longest:
        warnings.append(f"pods that end wait {drain} s for their answers, of which one may take {longest} s")
    if service.gateway == "aibrix":
        limit = f"AIBrix's gateway refuses a request of {fact('aibrix', 'gateway', 'bodyMib')} MiB and more with 413"
        plan = replace(plan, reasons=(*plan.reasons, limit))
    return Planned(
        service,
        plan,
        plan.fit.max_model_len,
        seconds,
        drain,
        copied,
        tuple(warnings),
        longest,
        loader,
        config.cache.compile,
    )


def _longest_drain(notice: int | None) -> int:
    """The longest that a pod may wait for its answers, where the cloud evicts it with this notice, in seconds."""
    return answers.LONGEST_WAIT_SECONDS if notice is None else timeouts.longest_drain(notice)


def _most_tokens(service: Service) -> int | None:
    """The longest answer in tokens, if the engine's arguments limit it."""
    told = flags.read(service.engine.extra_args, service.engine.version).get("--override-generation-config")
    most = told.get("max_new_tokens") if isinstance(told, dict) else None
    return most if isinstance(most, int) and most > 0 else None


def _shaped(config: StackConfig, service: Service, ask: Ask) -> Plan:
    return _auto(ask, pod_sizes(config)) if service.layout is None else _plan(ask)


def _about_arguments(service: Service) -> Iterator[str]:
    """What the engine's arguments do that the plan does not say."""
    told = settings_of(service)
    for problem in told.problems if service.unproven else ():
        yield f"deployed unproven: {problem.value} {problem.why}"
    if told.trusts_code:
        yield f"--trust-remote-code runs Python code of the repository of {service.model} in the engine"


def _unfit(service: Service, ask: Ask, plan: Plan, refuse_misfits: bool) -> Iterator[Problem]:
    """Why a service that keeps the planner's rules still cannot work, under the service's keys."""
    if not plan.fits and refuse_misfits and not service.unproven:
        yield _misfit(ask, plan)
    if refuse_misfits and not service.unproven:
        yield from (replace(problem, key=_KEYS[problem.key]) for problem in settings_of(service).problems)
    yield from _host(service, plan)
    nodes = plan.request.layout.nodes
    engine, loader = service.engine, ask.supply.loader
    # A layout that the file says is judged with the file.
    if service.layout is None and not loaders.problem(loader, engine.version, engine.image, 1):
        wrong = loaders.problem(loader, engine.version, engine.image, nodes)
        if wrong:
            why = f"the layout that fits has {nodes} nodes, and {wrong[0]}"
            yield Problem("layout", "auto", why, f"{wrong[1]}: weights.loader")
    layout = plan.request.layout
    if layout.data > 1 and layout.spans_nodes and engine.launcher == "ray":
        why = f"Ray keeps each engine inside one node, and these have {layout.engine_gpus} GPUs"
        yield Problem("layout.data", str(layout.data), why, "write engine.launcher: native")
    by_ray = nodes > 1 and service.engine.launcher == "ray"
    if by_ray and not plan.request.engine["rayInImage"] and not service.engine.image_has_ray:
        why = f"images of vLLM {service.engine.version} ship without Ray, which joins {nodes} nodes"
        instead = "take an image with Ray and say imageHasRay: true, or write launcher: native"
        yield Problem("engine.image", service.engine.image, why, instead)


def _host(service: Service, plan: Plan) -> Iterator[Problem]:
    """Whether a pod's memory and /dev/shm hold the buffers that the engine's arguments ask for."""
    layout, engine, resources = plan.request.layout, service.engine, service.resources
    per_node, ranks = layout.gpus_per_node, layout.engine_gpus
    asked = host_memory(engine.extra_args, engine.env, plan.request.engine, per_node, ranks)
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
    wrong = service.autoscaling.problems(release, service.engine.version, seconds)
    return [Problem(f"autoscaling.{key}", str(value), why, instead) for key, value, why, instead in wrong]


def _together(service: Service, copied: int) -> Iterator[str]:
    """How several replicas slow down each other's copies. A pod's limits do not include it: otherwise a change of the
    number would restart the running replicas."""
    if copied and service.first_replicas > 1:
        yield (
            f"{service.first_replicas} replicas copy their weights at the same time over one link, which takes up to "
            f"{service.first_replicas} times as long as the plan says"
        )


def _scratch(config: StackConfig, plan: Plan) -> Iterator[str]:
    """How much of a node's own disk the weights take, if each pod keeps a copy there."""
    weights = config.weights
    on_node = isinstance(weights, BucketWeights) and weights.read == "download" and weights.download.node_path is None
    if on_node or isinstance(weights, HuggingfaceWeights):
        size = math.ceil(plan.file_bytes / GIB)
        instead = "weights.download.nodePath" if on_node else "weights.source: nvme"
        yield f"each pod keeps {size} GiB of weights on its node's own disk; {instead} puts them on another"


def _bounds(service: Service, plan: Plan, release: str, seconds: int) -> Iterator[str]:
    """What an autoscaler's bounds cost, and its known faults."""
    scaling, money = service.autoscaling, plan.cost
    if scaling is None:
        return
    if money.per_hour is None:
        price = "at an unknown price: there is none in the stack file"
    else:
        price = f"{money.per_hour:.2f} to {money.most_per_hour:.2f} {money.currency} an hour"
    yield f"autoscaling between {scaling.minimum} and {scaling.maximum} replicas, {price}"
    if scaling.engine == "aibrix":
        yield from aibrix_features.scaler_cautions(
            release, minimum=scaling.minimum, maximum=scaling.maximum, engines=plan.request.layout.data
        )
    else:
        yield from cautions(cold_start_seconds=seconds, cooldown_seconds=scaling.cooldown_seconds)


def _doubts(config: StackConfig, service: Service, nodes: int, seconds: int) -> Iterator[str]:
    """What the cloud may do to a service that keeps every rule."""
    cloud = config.cloud
    notice = cloud.eviction_notice
    if notice is not None and seconds > notice:
        yield (
            f"best-effort pods are evicted with {notice} s of notice, "
            f"and this model takes {minutes(seconds)} to start again"
        )
    pods = gpu_pods(cloud.gpu_series, config.catalog.gpu_pods) if cloud.gpu_series is not None else None
    if cloud.rdma and pods and pods.get("rdma") is None:
        yield (
            f"whether series {cloud.gpu_series} has RDMA is known by ticket only; "
            "without it the pods are not scheduled, or fall back to sockets"
        )
    if CLOUDS[cloud.kind].node_disks or not (disk := service.resources.ephemeral_storage):
        return
    free = fact("clouds", cloud.kind, "freeEphemeralGib")
    if gibibytes(disk) > free:
        yield f"ephemeralStorage {disk}: {free} GiB of each pod are free, the rest of all {nodes} is billed"


def _of_what_is_right(config: StackConfig, name: str, service: Service, refuse_misfits: bool) -> Iterator[Problem]:
    """The planner's problems with a service that has refused parts already."""
    ask = partial_request(config, service)
    wrong = problems(ask)
    yield from _of_the_planner(wrong, name)
    if wrong or not ask.whole:
        return
    try:
        shaped = _shaped(config, service, ask)
        yield from (_under(name, problem) for problem in _unfit(service, ask, shaped, refuse_misfits))
    except PlanError as error:
        yield from _of_the_planner(error.problems, name, [str(each) for each in error.alternatives])
    except Unjudged:
        return


def _under(name: str, problem: Problem) -> Problem:
    return replace(problem, key=f"services.{name}.{problem.key}")


def _plan(ask: Ask) -> Plan:
    """The plan, computed once for equal requests: a stack of two hundred equal services plans one."""
    return planner.plan(ask) if ask.more_models or ask.more_gpus else _remembered(ask)


_remembered = cache(planner.plan)


def _auto(ask: Ask, sizes: Sequence[int]) -> Plan:
    """The cheapest layout that fits: the smallest pod that holds the model, else as few of the largest as possible."""
    for size in sorted(sizes):
        try:
            return _plan(replace(ask, gpus_per_node=size, nodes=1))
        except NoLayoutError:
            continue
    return _plan(replace(ask, gpus_per_node=max(sizes), nodes=None))


def _misfit(ask: Ask, plan: Plan) -> Problem:
    nearest = "; ".join(f"{choice.layout} holds {choice.fit.kv_tokens} tokens" for choice in plan.alternatives)
    others = f"nearest layouts that fit: {nearest}" if nearest else "no layout of this GPU fits"
    if why := plan.request.model.unknown:
        return Problem("model", ask.model, why, "write unproven: true to deploy it without a plan of its memory")
    if ask.max_model_len is not None:
        longest = _plan(replace(ask, max_model_len=None))
        if longest.fits:
            instead = f"write at most {longest.fit.max_model_len}, or auto; {others}"
            return Problem("maxModelLen", str(ask.max_model_len), plan.misfit, instead)
    return Problem("layout", str(plan.request.layout), plan.misfit, others)


def _of_the_planner(wrong: Iterable[Problem], name: str, fitting: Sequence[str] = ()) -> Iterator[Problem]:
    """The planner's problems under the keys of the stack file; the remedy of a broken rule are the layouts that fit."""
    fallback = f"layouts that fit: {'; '.join(fitting)}" if fitting else "write another value"
    for problem in wrong:
        key = problem.key
        if not key.startswith(_SECTIONS):
            service_key = key if key.partition(".")[0] == _OF_THE_SERVICE else None
            key = _FILE_KEYS.get(key) or f"services.{name}.{service_key or _KEYS[key]}"
        yield replace(problem, key=key, instead=problem.instead or fallback)
