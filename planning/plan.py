"""One plan from one request: layout, memory, start-up, cost, and the reasons, as data and as JSON.

The JSON's names are an interface: scripts read them. Adding a name is fine, renaming one is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from planning import choose, cost, engine, gpus, models, startup
from planning.cache import CachePlan, CacheSize, HostPlan, cache, host
from planning.errors import PlanError
from planning.layout import Layout
from planning.memory import Fit, Request, Stage, kv_bytes
from planning.units import GIB


@dataclass(frozen=True)
class Ask:
    """What to plan, in words. `tensor` or `pipeline` None: the planner picks the layout; `nodes` None: their number.

    `max_model_len` None is the longest context that fits.
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
    replicas: int = 1
    most_replicas: int | None = None
    memory_gib: float | None = None
    cache_size: CacheSize = CacheSize()
    more_models: models.Facts | None = None
    more_gpus: models.Facts | None = None


@dataclass(frozen=True)
class Plan:
    """The answer. `fits` is both verdicts of `fit`; `alternatives` are the nearest layouts that fit."""

    request: Request
    fit: Fit
    reasons: tuple[str, ...]
    alternatives: tuple[choose.Choice, ...]
    startup: startup.Startup
    cost: cost.Cost
    host: HostPlan
    cache: CachePlan | None
    file_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the layout holds the context and starts."""
        return self.fit.fits

    def to_json(self) -> dict[str, Any]:
        """The plan under the names that scripts read. Memory in GiB per GPU, time in seconds."""
        layout, fit = self.request.layout, self.fit
        return {
            "fits": fit.fits,
            "kv_fits": fit.kv_fits,
            "starts": fit.starts,
            "model": self.request.model.name,
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
            },
            "stages": [_stage(s) for s in fit.stages],
            "kv_tokens": fit.kv_tokens,
            "kv_tokens_all": fit.kv_tokens * layout.data,
            "max_model_len": fit.max_model_len,
            "max_concurrency": round(fit.max_concurrency, 2),
            "reasons": list(self.reasons),
            "alternatives": [_alternative(choice) for choice in self.alternatives],
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
                "currency": self.cost.currency,
                "as_of": self.cost.as_of,
            },
        }


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "layers": stage.layers,
        "weights_gib": round(stage.weights_gib, 3),
        "overhead_gib": round(stage.overhead, 3),
        "kv_gib": round(stage.kv, 3),
        "budget_gib": round(stage.budget, 3),
        "non_torch_gib": round(stage.non_torch, 3),
        "activation_gib": round(stage.activation, 3),
        "graphs_gib": round(stage.graphs, 3),
        "graphs_in_budget": stage.graphs_in_budget,
        "peak_gib": round(stage.peak, 3),
    }


def _step(step: startup.Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "seconds": round(step.seconds, 1),
        "bytes": step.bytes,
        "source": step.source,
        "start_seconds": round(step.start, 1),
        "floor_seconds": round(step.floor, 1),
    }


def _alternative(choice: choose.Choice) -> dict[str, int]:
    return {
        "nodes": choice.layout.nodes,
        "tensor": choice.layout.tensor,
        "pipeline": choice.layout.pipeline,
        "kv_tokens": choice.fit.kv_tokens,
        "max_model_len": choice.fit.max_model_len,
    }


def plan(ask: Ask) -> Plan:
    """The plan of `ask`. Raises PlanError with every rule that it breaks, and the nearest layouts that break none."""
    request = _request(ask)
    prices = cost.checked(ask.prices)
    if ask.max_model_len is not None or ask.utilization is not None:
        # What is wrong whatever the layout must not be reported as «no layout fits».
        lone = replace(request, layout=Layout(1, 1, 1, 1))
        if wrong := [line for line in choose.refusals(lone, ask.max_model_len) if line.startswith(("util", "max-"))]:
            raise PlanError(*wrong)
    if ask.tensor is None or ask.pipeline is None:
        chosen = choose.cheapest(request, ask.max_model_len, ask.nodes)
        request, fit = replace(request, layout=chosen.layout), chosen.fit
    elif lines := choose.refusals(request, ask.max_model_len):
        raise _broken(request, ask.max_model_len, lines)
    else:
        fit = choose.fit(request, ask.max_model_len)
    others = () if fit.fits else tuple(choose.alternatives(request, ask.max_model_len))
    supply, cached = ask.supply, None
    files = startup.file_bytes(request, fit) * supply.copies
    if supply.storage == "cache":
        cached = cache(files, ask.cache_size, estimated=request.model.file_bytes is None)
        supply = replace(supply, cache_gbit=supply.cache_gbit or cached.gbit_per_second)
    path = startup.plan(request, fit, supply)
    downloads = supply.storage == "copy"
    reads = files if downloads else max(startup.node_bytes(request, fit))
    money = cost.cost(
        prices,
        request.layout.gpus,
        replicas=ask.replicas,
        most_replicas=ask.most_replicas,
        cache_workers=cached.workers if cached else 0,
        kept_bytes=files,
        start_seconds=path.first_token_seconds,
    )
    node = host(reads, memory_gib=ask.memory_gib, downloads=downloads)
    reasons = (*_reasons(request, fit), *node.reasons, *((*cached.reasons, *cached.doubts) if cached else ()))
    return Plan(request, fit, reasons, others, path, money, node, cached, files)


def _request(ask: Ask) -> Request:
    """The request with every name looked up; all names that are wrong are said at once."""
    lines: list[str] = []

    def found(look_up: Any, *names: Any) -> Any:
        try:
            return look_up(*names)
        except PlanError as error:
            lines.extend(error.lines)

    model, gpu = found(models.find, ask.model, ask.more_models), found(gpus.find, ask.gpu, ask.more_gpus)
    release = found(engine.find, ask.engine_version)
    if ask.kv_dtype != "auto" and not ask.kv_dtype.startswith("fp8"):
        lines.append(f"kv-dtype {ask.kv_dtype}: is unknown; write auto or fp8")
    for name, value in (
        ("max-num-batched-tokens", ask.batched_tokens),
        ("max-num-seqs", ask.sequences),
        ("gpus-per-node", ask.gpus_per_node),
        ("nodes", ask.nodes),
        ("data", ask.data),
    ):
        if value is not None and value < 1:
            lines.append(f"{name} {value}: is not 1 or more")
    if lines:
        raise PlanError(*lines)
    tensor, pipeline = ask.tensor or 1, ask.pipeline or 1
    nodes = ask.nodes or max(1, -(-tensor * pipeline * ask.data // ask.gpus_per_node))
    layout = Layout(
        nodes,
        ask.gpus_per_node,
        tensor if ask.tensor is None else ask.tensor,
        pipeline if ask.pipeline is None else ask.pipeline,
        ask.data,
        ask.expert_parallel,
        ask.context,
    )
    return Request(
        model,
        gpu,
        layout,
        release,
        ask.utilization,
        ask.kv_dtype,
        ask.eager,
        ask.speculative,
        ask.batched_tokens,
        ask.sequences,
    )


def _broken(request: Request, max_model_len: int | None, lines: Sequence[str]) -> PlanError:
    """The refusal of a layout that breaks rules, with the nearest that break none."""
    useless = not 0 < request.share < 1 or request.layout.gpus_per_node < 1
    nearest = [] if useless else choose.alternatives(request, max_model_len)
    instead = (f"instead, {choice.layout} fits and holds {choice.fit.kv_tokens} KV tokens" for choice in nearest)
    return PlanError(*lines, *instead, alternatives=[_alternative(choice) for choice in nearest])


def _reasons(request: Request, fit: Fit) -> list[str]:
    model, layout, release = request.model, request.layout, request.engine
    lines = [
        f"stage {number} ({stage.layers} layers): {request.share:g} x {request.gpu.usable_gib:g} = "
        f"{stage.budget:.2f} GiB - {stage.weights_gib:.2f} weights - {stage.overhead:.2f} overhead (an estimate) "
        f"= {stage.kv:.2f} for KV"
        for number, stage in enumerate(fit.stages)
    ]
    smallest = min(fit.stages, key=lambda stage: stage.kv / stage.layers)
    row = kv_bytes(request)
    if fit.kv_fits:
        lines.append(
            f"KV: {row:g} B a token and layer x {smallest.layers} layers: {fit.kv_tokens} tokens, "
            f"{fit.max_concurrency:.2f} x the context of {fit.max_model_len}"
        )
    elif smallest.kv <= 0:
        lines.append(f"KV does not fit: weights and overhead exceed the budget by {-smallest.kv:.2f} GiB per GPU")
    else:
        lines.append(
            f"KV does not fit: one request of {fit.max_model_len} tokens needs "
            f"{fit.max_model_len * row * smallest.layers / GIB:.2f} GiB, {smallest.kv:.2f} GiB hold "
            f"{fit.kv_tokens}"
        )
    peak = max(stage.peak for stage in fit.stages)
    word = "starts" if fit.starts else "does not start"
    lines.append(
        f"{word}: at most {peak:.2f} GiB with CUDA context, graphs and "
        f"warm-up, {fit.stages[0].spare:.2f} to spare wanted, of {request.gpu.usable_gib:g} GiB"
    )
    if model.mla and layout.tensor > 1:
        lines.append("the latent KV cache is the same on every tensor rank: more tensor ranks do not hold more tokens")
    elif model.mla is None and layout.tensor > model.kv_heads:
        lines.append(f"{model.kv_heads} KV heads over {layout.tensor} ranks: each keeps one, so it shrinks no more")
    if layout.tensor > layout.gpus_per_node:
        lines.append(f"tensor {layout.tensor} spans nodes of {layout.gpus_per_node}: every layer waits for the network")
    lines += _notes(request, fit.stages)
    lines.append(f"model: {model.source}")
    lines.append(f"GPU: {request.gpu.source}; vLLM {release.version}")
    return lines


def _notes(request: Request, stages: Sequence[Any]) -> list[str]:
    notes, release = [], request.engine
    if not request.eager and not stages[0].graphs_in_budget:
        notes.append(f"vLLM {release.version} takes CUDA graphs ({stages[0].graphs:.2f} GiB) beside the budget")
    if request.model.mla and release["mlaCache"] == "latent-padded":
        notes.append(f"vLLM {release.version} pads a row of the latent cache to a multiple of 256 bytes")
    if request.model.mla and release["mlaCache"] == "per-head":
        notes.append(f"vLLM {release.version} knows no latent cache: keys and values of every head are kept")
    if request.model.mtp_layers and not request.speculative:
        notes.append("the multi-token prediction layer is not loaded without speculative decoding")
    return notes
