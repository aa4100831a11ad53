"""One plan from one request: layout, memory, start-up, cost, and the reasons, as data and as JSON.

Scripts read the JSON, so its names are an interface: names may be added but not renamed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planning import choose, config_json, cost, engine, gpus, models, startup, throughput, unknown
from planning.cache import CachePlan, CacheSize, HostPlan, cache, cache_problems, host
from planning.catalog import fact
from planning.layout import Layout, below_one, broken_rules, experts, whole_shared_experts
from planning.memory import Fit, Request, Stage, kv_bytes, requests_held, state_bytes
from planning.problems import PlanError, Problem, Unjudged
from planning.settings import Overrides
from planning.units import GIB
from planning.unknown import Described


@dataclass(frozen=True)
class Ask:
    """What to plan, by names. If `tensor` or `pipeline` is None, the planner chooses the layout; if `nodes` is None, it
    chooses the number of nodes.

    `max_model_len` None is the longest context that fits. `other_models` tells the user what to give for a model that
    the catalog does not know. `kept`: whether the weights stay, and bill, after a destroy. `has_cache`: whether a cache
    runs, if there is one. `share` is the part of the time in which a schedule runs the replicas; None without one.
    """

    model: str
    gpu: str
    gpus_per_node: int = 8
    nodes: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    data: int = 1
    expert_parallel: bool = False
    context: int = 1
    redundant: int | None = None
    utilization: float | None = None
    max_model_len: int | None = None
    engine_version: str | None = None
    kv_dtype: str = "auto"
    eager: bool = False
    speculative: bool = False
    batched_tokens: int | None = None
    sequences: int | None = None
    supply: startup.Supply = startup.Supply()
    prices: cost.Prices = cost.Prices()
    load: throughput.Load | None = None
    replicas: int = 1
    most_replicas: int | None = None
    kept: bool = True
    has_cache: bool = True
    share: float | None = None
    memory_gib: float | None = None
    cache_size: CacheSize = CacheSize()
    more_models: models.Facts | None = None
    other_models: str = models.CONFIG
    more_gpus: models.Facts | None = None
    overrides: Overrides = Overrides()
    partition: str | None = None
    """Layers of each pipeline stage, as VLLM_PP_LAYER_PARTITION says them to the engine."""
    described: Described | None = None
    """What the user says of a model that the catalog does not have; its name is `model`."""


@dataclass(frozen=True)
class Plan:
    """The answer. `fits` combines both verdicts of `fit`; `alternatives` are the nearest layouts that fit."""

    request: Request
    fit: Fit
    reasons: tuple[str, ...]
    alternatives: tuple[choose.Choice, ...]
    startup: startup.Startup
    cost: cost.Cost
    throughput: throughput.Throughput
    host: HostPlan
    cache: CachePlan | None
    file_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the layout holds the context and starts."""
        return self.fit.fits

    @property
    def misfit(self) -> str:
        """Why a plan does not fit, with the arithmetic; of a model that is not understood, why nobody knows."""
        if self.request.model.unknown:
            return f"whether it fits is unknown: {self.request.model.unknown}"
        return _start_line(self.request, self.fit) if self.fit.kv_fits else _kv_line(self.request, self.fit)

    def to_json(self) -> dict[str, Any]:
        """The plan under the names that scripts read. Memory in GiB per GPU, time in seconds."""
        layout, fit = self.request.layout, self.fit
        return {
            "fits": fit.fits,
            "kv_fits": fit.kv_fits,
            "starts": fit.starts,
            "model": self.request.model.name,
            "unknown": self.request.model.unknown or None,
            "gpu": self.request.gpu.name,
            "usable_gib": self.request.gpu.usable_gib,
            "engine_version": self.request.engine.version,
            "utilization": self.request.share,
            "layout": {
                "nodes": layout.nodes,
                "gpus_per_node": layout.gpus_per_node,
                "tensor": layout.tensor,
                "pipeline": layout.pipeline,
                "data": layout.data,
                "expert_parallel": layout.expert_parallel,
                "decode_context": layout.context,
                "redundant_experts": layout.redundant,
            },
            "stages": [_stage(s, self.request) | {"ranks": ranks(self.request, s)} for s in fit.stages],
            "kv_tokens": None if self.request.model.unknown else fit.kv_tokens,
            "kv_tokens_all": None if self.request.model.unknown else fit.kv_tokens * layout.data,
            "max_model_len": fit.max_model_len,
            "max_concurrency": None if self.request.model.unknown else round(fit.max_concurrency, 2),
            "reasons": list(self.reasons),
            "alternatives": [choice.to_json() for choice in self.alternatives],
            "startup": {
                "steps": [_step(s) for s in self.startup.steps],
                "first_token_seconds": round(self.startup.first_token_seconds, 1),
                "floor_seconds": round(self.startup.floor_seconds, 1),
            },
            "host": {
                "read_gib": round(self.host.read_gib, 1),
                "shm_gib": self.host.shm_gib,
                "ephemeral_gib": round(self.host.ephemeral_gib, 1),
                "page_cache_holds": self.host.page_cache_holds,
            },
            "cache": None
            if self.cache is None
            else {
                "workers": self.cache.workers,
                "quota_gib": self.cache.quota_gib,
                "limit_gib": self.cache.limit_gib,
                "usable_gib": round(self.cache.usable_gib, 1),
                "gbit_per_second": self.cache.gbit_per_second,
            },
            "cost": {
                "per_hour": self.cost.per_hour,
                "most_per_hour": self.cost.most_per_hour,
                "kept_per_hour": self.cost.kept_per_hour,
                "cold_start": self.cost.cold_start,
                "per_month": self.cost.per_month,
                "scheduled_per_month": self.cost.scheduled_per_month,
                "currency": self.cost.currency,
                "as_of": self.cost.as_of,
            },
            "throughput": self.throughput.to_json(),
        }


def _stage(stage: Stage, request: Request) -> dict[str, Any]:
    known = {
        "overhead_gib": round(stage.overhead, 3),
        "kv_gib": round(stage.kv, 3),
        "non_torch_gib": round(stage.non_torch, 3),
        "activation_gib": round(stage.activation, 3),
        "graphs_gib": round(stage.graphs, 3),
        "graphs_in_budget": stage.graphs_in_budget,
        "peak_gib": round(stage.peak, 3),
    }
    return {
        "layers": stage.layers,
        "weights_gib": round(stage.weights_gib, 3),
        "budget_gib": round(stage.budget, 3),
    } | (dict.fromkeys(known) if request.model.unknown else known)


def ranks(request: Request, stage: Stage) -> list[dict[str, Any]]:
    """The stage's GPUs by what they hold: `gpus`, `experts` of each layer (None without whole experts), and the GiB of
    weights. All have the same KV cache: vLLM takes the smallest of all."""
    layout, moe = request.layout, request.model.moe
    if moe is None or not layout.expert_parallel or not stage.weights.experts:
        return [{"gpus": layout.expert_ranks, "experts": None, "weights_gib": round(stage.weights_gib, 3)}]
    spread = experts(request.model, layout)
    each = stage.weights.experts / GIB / spread[0][1]
    return [
        {"gpus": count, "experts": held, "weights_gib": round(stage.weights_gib - each * (spread[0][1] - held), 3)}
        for count, held in spread
    ]


def _step(step: startup.Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "seconds": round(step.seconds, 1),
        "bytes": step.bytes,
        "source": step.source,
        "start_seconds": round(step.start, 1),
        "floor_seconds": round(step.floor, 1),
        "again_seconds": None if step.again is None else round(step.again, 1),
    }


def plan(ask: Ask) -> Plan:
    """The plan for `ask`. Raises PlanError with every rule that it breaks, and the nearest layouts that break none."""
    if wrong := problems(ask):
        # A mistake that does not depend on the layout must not be reported as «no layout fits».
        others = () if set(wrong) - set(_judged(_layout_rules, ask)) else _alternatives(ask)
        raise PlanError(*wrong, alternatives=others)
    request, chosen = _request(ask), list[str]()
    if ask.tensor is None or ask.pipeline is None:
        choices = choose.cheapest(request, ask.max_model_len, ask.nodes, _price(request, ask.load))
        chosen = _why(request, ask.load, choices)
        request, fit = replace(request, layout=choices[0].layout), choices[0].fit
    else:
        fit = choose.fit(request, ask.max_model_len)
    others = () if fit.fits or request.model.unknown else tuple(choose.alternatives(request, ask.max_model_len))
    supply, cached = ask.supply, None
    files = startup.file_bytes(request, fit) * supply.copies
    if supply.storage == "cache":
        cached = cache(files, ask.cache_size, estimated=request.model.file_bytes is None)
        supply = replace(supply, cache_gbit=supply.cache_gbit or cached.gbit_per_second)
    path = startup.plan(request, fit, supply)
    downloads = supply.storage == "copy"
    reads = files if downloads else max(startup.node_bytes(request, fit))
    money = cost.cost(
        ask.prices,
        request.layout.gpus,
        replicas=ask.replicas,
        most_replicas=ask.most_replicas,
        cache_workers=cached.workers if cached and ask.has_cache else 0,
        kept_bytes=files if ask.kept else 0,
        start_seconds=path.first_token_seconds,
        share=ask.share,
    )
    speed = throughput.plan(
        request, fit, ask.load, replicas=ask.most_replicas or ask.replicas, per_gpu_hour=ask.prices.per_gpu_hour
    )
    node = host(reads, memory_gib=ask.memory_gib, downloads=downloads)
    reasons = (
        *_reasons(request, fit),
        *chosen,
        *_loader(request, fit, supply, path),
        *node.reasons,
        *((*cached.reasons, *cached.doubts) if cached else ()),
    )
    return Plan(request, fit, reasons, others, path, money, speed, node, cached, files)


def _loader(request: Request, fit: Fit, supply: startup.Supply, path: startup.Startup) -> list[str]:
    """Which other loader would be faster. The plan never chooses one: vLLM leaves that to its users."""
    now = startup.loading_seconds(path)
    found = startup.faster(request, fit, supply, now)
    if found is None:
        return []
    return [
        f"weights.loader {found[0]} would load the weights in {found[1]:.0f} s rather than {now:.0f}; "
        f"vLLM's own image of {request.engine.version} has it"
    ]


def _speed(request: Request, choice: choose.Choice, load: throughput.Load | None) -> throughput.Throughput:
    return throughput.plan(replace(request, layout=choice.layout), choice.fit, load)


def _price(request: Request, load: throughput.Load | None) -> choose.Price | None:
    """What a layout costs for the load: the GPUs of all replicas that it needs; among equals, one request's time per
    token."""
    if load is None or request.gpu.speeds is None:
        return None

    def price(choice: choose.Choice) -> tuple[float, ...]:
        speed = _speed(request, choice, load)
        alone = speed.point(throughput.ALONE)
        if speed.replicas_needed is None or alone is None:
            return (math.inf,)
        return speed.replicas_needed * choice.layout.gpus, alone.each.expected

    return price


def _why(request: Request, load: throughput.Load | None, choices: Sequence[choose.Choice]) -> list[str]:
    """Why the first of several layouts is chosen, and what the best with data ranks, or without, would do."""
    first = choices[0]
    others = [choice for choice in choices[1:] if (choice.layout.data > 1) != (first.layout.data > 1)]
    if not others or request.gpu.speeds is None:
        return []
    if load is not None:
        needs = [_speed(request, choice, load).replicas_needed for choice in (first, others[0])]
        said = [f"{count or 'no number of'} replica{'s'[: count != 1]}" for count in needs]
        return [f"layout auto: {first.layout} needs {said[0]} for the load, {others[0].layout} needs {said[1]}"]
    full = [_speed(request, choice, None).point(throughput.FULL) for choice in (first, *others)]
    tokens = [point.output_tokens if point else 0.0 for point in full]
    most = max(range(1, len(tokens)), key=tokens.__getitem__)
    return [
        f"layout auto: {first.layout} answers one request fastest; when full it makes {tokens[0]:.0f} tokens/s and "
        f"{others[most - 1].layout} {tokens[most]:.0f}: with a load, the one that is cheaper for it is chosen"
    ]


def problems(ask: Ask) -> list[Problem]:
    """Every rule that a request breaks. Does not judge whether it fits.

    A rule that meets `Unjudged` while it reads `ask` is skipped, so that the valid part of a request can be judged.
    """
    return list(dict.fromkeys(problem for rule in _RULES for problem in _judged(rule, ask)))


def _judged(rule: Callable[[Ask], Sequence[Problem]], ask: Ask) -> Sequence[Problem]:
    try:
        return rule(ask)
    except PlanError as error:
        return error.problems
    except Unjudged:
        return ()


def _layout_rules(ask: Ask) -> list[Problem]:
    if ask.tensor is None or ask.pipeline is None:
        return []
    numbers = (ask.gpus_per_node, ask.nodes, ask.data)
    if any(number is not None and number < 1 for number in numbers):
        return []  # their own rules report them
    return broken_rules(_model(ask), _layout(ask), engine.find(ask.engine_version))


def _alternatives(ask: Ask) -> Sequence[choose.Choice]:
    return choose.alternatives(_request(ask), ask.max_model_len)


def _published(ask: Ask) -> models.Model:
    if ask.described is not None:
        return unknown.find(ask.described, ask.more_models)
    return config_json.find(ask.model, ask.more_models, ask.other_models)


def _model(ask: Ask) -> models.Model:
    """The model as the engine holds it."""
    return ask.overrides.of(_published(ask))


def _names(look_up: Callable[[Ask], object]) -> Callable[[Ask], list[Problem]]:
    """The rule that a name must be known."""

    def judged(ask: Ask) -> list[Problem]:
        look_up(ask)
        return []

    return judged


def _release(ask: Ask) -> list[Problem]:
    """Whether the release has the model's class at all."""
    release, architecture = engine.find(ask.engine_version), _published(ask).architecture
    key, wrong = engine.release_key(release.version), []
    since, until = (fact("config_json", "architectures", name).get(architecture) for name in ("since", "until"))
    if since is not None and key < engine.release_key(since):
        wrong.append((f"does not know {architecture}", f"write {since} or later"))
    if until is not None and key > engine.release_key(until):
        wrong.append((f"has {architecture} no more", f"write {until} or earlier"))
    return [Problem("engine version", release.version, *each) for each in wrong]


def _kv_dtype(ask: Ask) -> list[Problem]:
    if ask.kv_dtype == "auto" or ask.kv_dtype.startswith("fp8"):
        return []
    return [Problem("kv-dtype", ask.kv_dtype, "is unknown", "write auto or fp8")]


def _one_or_more(name: str, field: str) -> Callable[[Ask], list[Problem]]:
    def judged(ask: Ask) -> list[Problem]:
        value = getattr(ask, field)
        return [below_one(name, value)] if value is not None and value < 1 else []

    return judged


def _partition(ask: Ask) -> list[Problem]:
    if ask.partition is None:
        return []
    why = None if re.fullmatch(r"\s*\d{1,4}\s*(,\s*\d{1,4}\s*)*", ask.partition) else "is no list of whole numbers"
    if ask.pipeline is None:
        why = "says the stages of a layout that is to be chosen"
    return [Problem("partition", ask.partition, why, "write a layout, and one such as 30,31")] if why else []


def _own_layout(ask: Ask) -> list[Problem]:
    if (ask.tensor is not None and ask.pipeline is not None) or not _model(ask).unknown:
        return []
    why = "none can be chosen for a model that is not understood"
    return [Problem("layout", "auto", why, "write a map with nodes, tensor and pipeline")]


_RULES: tuple[Callable[[Ask], list[Problem]], ...] = (
    _names(_model),
    _names(lambda ask: gpus.find(ask.gpu, ask.more_gpus)),
    _names(lambda ask: engine.find(ask.engine_version)),
    _release,
    _kv_dtype,
    _one_or_more("max-num-batched-tokens", "batched_tokens"),
    _one_or_more("max-num-seqs", "sequences"),
    _one_or_more("gpus-per-node", "gpus_per_node"),
    _one_or_more("nodes", "nodes"),
    _one_or_more("data", "data"),
    lambda ask: cost.problems(ask.prices),
    lambda ask: [] if _published(ask).unknown else ask.overrides.problems(_published(ask)),
    lambda ask: choose.wrong_share(ask.utilization, engine.find(ask.engine_version)),
    lambda ask: choose.wrong_context(_model(ask), ask.max_model_len),
    lambda ask: throughput.problems(ask.load, ask.max_model_len or _model(ask).max_context),
    lambda ask: cache_problems(ask.cache_size) if ask.supply.storage == "cache" else [],
    _own_layout,
    _partition,
    _layout_rules,
)


def _layout(ask: Ask) -> Layout:
    tensor, pipeline = ask.tensor or 1, ask.pipeline or 1
    told = () if ask.partition is None or _partition(ask) else tuple(map(int, ask.partition.split(",")))
    return Layout(
        ask.nodes or max(1, -(-tensor * pipeline * ask.data // ask.gpus_per_node)),
        ask.gpus_per_node,
        tensor if ask.tensor is None else ask.tensor,
        pipeline if ask.pipeline is None else ask.pipeline,
        ask.data,
        ask.expert_parallel,
        ask.context,
        ask.redundant,
        told,
    )


def _request(ask: Ask) -> Request:
    """The request, with every name looked up."""
    return Request(
        _model(ask),
        gpus.find(ask.gpu, ask.more_gpus),
        _layout(ask),
        engine.find(ask.engine_version),
        ask.utilization,
        ask.kv_dtype,
        ask.eager,
        ask.speculative,
        ask.batched_tokens,
        ask.sequences,
        ask.overrides,
        _published(ask),
    )


def _kv_line(request: Request, fit: Fit) -> str:
    smallest = min(fit.stages, key=lambda stage: stage.kv / max(stage.cached, 1))
    row = kv_bytes(request)
    if fit.kv_fits:
        return (
            f"KV: {row:g} B a token and layer x {smallest.cached} layers{_states(request, smallest)}: "
            f"{fit.kv_tokens} tokens, {fit.max_concurrency:.2f} x the context of {fit.max_model_len}"
        )
    if smallest.kv <= 0:
        return f"KV does not fit: weights and overhead exceed the budget by {-smallest.kv:.2f} GiB per GPU"
    needed = fit.max_model_len * row * smallest.cached / GIB
    if smallest.states:
        needed = smallest.kv / requests_held(request, smallest, fit.max_model_len)
    return (
        f"KV does not fit: one request of {fit.max_model_len} tokens needs "
        f"{needed:.2f} GiB, {smallest.kv:.2f} GiB hold {fit.kv_tokens}"
    )


def _states(request: Request, stage: Stage) -> str:
    if not stage.states:
        return ""
    return f" and {state_bytes(request) * stage.states / 2**20:.1f} MiB of states a request"


def _start_line(request: Request, fit: Fit) -> str:
    peak = max(stage.peak for stage in fit.stages)
    given = fit.stages[0].given_kv is not None  # then the share of memory does not matter
    lower = None if fit.starts or not fit.kv_fits or given else _lower(request, fit, peak + fit.stages[0].spare)
    return (
        f"{'starts' if fit.starts else 'does not start'}: at most {peak:.2f} GiB with CUDA context, graphs and "
        f"warm-up, {fit.stages[0].spare:.2f} to spare wanted, of {request.gpu.usable_gib:g} GiB"
        + (f"; at a utilization of {lower:g} it would" if lower else "")
    )


def _lower(request: Request, fit: Fit, wanted: float) -> float | None:
    """The utilization, in hundredths, at which this layout holds the same context and starts; None if there is none."""
    usable = request.gpu.usable_gib
    lower = math.floor((request.share - (wanted - usable) / usable) * 100) / 100
    starts = lower > 0 and choose.fit(replace(request, utilization=lower), fit.max_model_len).fits
    return lower if starts else None


def _reasons(request: Request, fit: Fit) -> list[str]:
    model, layout, release = request.model, request.layout, request.engine
    if model.unknown:
        held = max(stage.weights_gib for stage in fit.stages)
        return [
            f"whether it fits is unknown: {model.unknown}",
            f"{held:.2f} GiB of weights per GPU at least, of {request.gpu.usable_gib:g}; cache, activations and speed "
            "are unknown",
        ]
    lines = [
        f"stage {number} ({stage.layers} layers): "
        + (
            f"{stage.weights_gib:.2f} GiB of weights, {stage.overhead:.2f} overhead (an estimate) and {stage.kv:.2f} "
            "for KV as the arguments say"
            if stage.given_kv is not None
            else f"{request.share:g} x {request.gpu.usable_gib:g} = {stage.budget:.2f} GiB - {stage.weights_gib:.2f} "
            f"weights - {stage.overhead:.2f} overhead (an estimate) = {stage.kv:.2f} for KV"
        )
        for number, stage in enumerate(fit.stages)
    ]
    lines += [_kv_line(request, fit), _start_line(request, fit)]
    if model.mla and layout.tensor > 1:
        lines.append("every tensor rank holds the same latent KV cache: more tensor ranks do not hold more tokens")
    elif model.mla is None and layout.tensor > model.kv_heads:
        lines.append(f"{model.kv_heads} KV heads over {layout.tensor} ranks: each keeps one, so more save no memory")
    if model.moe and layout.expert_parallel:
        each = " and ".join(f"{held} on {count}" for count, held in experts(model, layout))
        extra = f" and {layout.redundant} copies" if layout.redundant else ""
        lines.append(f"{model.moe.experts} experts{extra} over {layout.expert_ranks} GPUs: {each}")
    if layout.data > 1:
        lines.append(f"{layout.data} engines hold {fit.kv_tokens} KV tokens each; a request stays in one of them")
    if whole_shared_experts(layout, release):
        lines.append(f"vLLM {release.version} keeps shared experts whole on each GPU of tensor x data")
    if layout.tensor > layout.gpus_per_node:
        lines.append(f"tensor {layout.tensor} spans nodes of {layout.gpus_per_node}: every layer waits for the network")
    lines += _notes(request, fit.stages)
    lines.append(f"model: {model.source}")
    lines.append(f"GPU: {request.gpu.source}; vLLM {release.version}")
    return lines


def _notes(request: Request, stages: Sequence[Any]) -> list[str]:
    notes, release = [], request.engine
    first = stages[0]
    if first.offloaded:
        notes.append(f"{first.offloaded:.2f} GiB of weights per GPU stay in the node's memory, read at every step")
    if first.loading:
        notes.append(
            f"vLLM {release.version} reads all 16-bit weights ({first.loading:.2f} GiB) before it quantises them"
        )
    if not request.eager and not stages[0].graphs_in_budget:
        notes.append(f"vLLM {release.version} takes CUDA graphs ({stages[0].graphs:.2f} GiB) on top of the budget")
    if request.model.mla and release["mlaCache"] == "latent-padded":
        notes.append(f"vLLM {release.version} pads a row of the latent cache to a multiple of 256 bytes")
    if request.model.mla and release["mlaCache"] == "per-head":
        notes.append(f"vLLM {release.version} has no latent cache: it keeps the keys and values of every head")
    if request.model.mtp_layers and not request.speculative:
        notes.append("without speculative decoding vLLM does not load the multi-token prediction layer")
    return notes
