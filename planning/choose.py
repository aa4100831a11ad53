"""The longest context of a layout, the cheapest layout that fits, and the nearest if the requested one does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from planning.engine import Engine
from planning.layout import Layout, broken_rules
from planning.memory import Fit, Request, judge
from planning.models import Model
from planning.problems import NoLayoutError, Problem

# A layout that holds less cannot serve: the answers of reasoning models alone are longer. It is also the smallest
# context that published deployments of DeepSeek-R1 set.
SHORTEST_CONTEXT = 2048
# What a layout must hold to be *proposed*. The default limit of DeepSeek's own API was 8192 tokens an answer when R1
# came out.
PROPOSED_CONTEXT = 8192
MOST_NODES = 16
SHOWN = 3


@dataclass(frozen=True)
class Choice:
    """A layout and how it fits."""

    layout: Layout
    fit: Fit

    def __str__(self) -> str:
        return f"{self.layout} fits and holds {self.fit.kv_tokens} KV tokens"

    def to_json(self) -> dict[str, Any]:
        """The layout under the names of a plan's JSON."""
        return {
            "nodes": self.layout.nodes,
            "tensor": self.layout.tensor,
            "pipeline": self.layout.pipeline,
            "data": self.layout.data,
            "expert_parallel": self.layout.expert_parallel,
            "kv_tokens": self.fit.kv_tokens,
            "max_model_len": self.fit.max_model_len,
        }


# Sorts choices, the cheapest first.
Price = Callable[[Choice], tuple[float, ...]]


def fit(request: Request, max_model_len: int | None) -> Fit:
    """The fit at `max_model_len`, or at the longest context that fits (at least SHORTEST_CONTEXT) where it is None."""
    limit = request.model.max_context
    if max_model_len is not None or request.model.unknown:
        return judge(request, max_model_len or limit)
    whole = judge(request, limit)
    if whole.kv_fits:
        return whole
    # If a step's size does not depend on the context, the longest context is what the cache holds. Before vLLM 0.8 a
    # longer context means larger steps, so the cache holds more at a shorter context: search for it.
    held = judge(request, max(SHORTEST_CONTEXT, min(whole.kv_tokens, limit)))
    if held.kv_tokens == held.max_model_len or (not held.kv_fits and held.max_model_len == SHORTEST_CONTEXT):
        return held
    low, high = (held.max_model_len if held.kv_fits else SHORTEST_CONTEXT), limit
    while high - low > 16:
        middle = (low + high) // 32 * 16
        if middle <= low:
            break
        low, high = (middle, high) if judge(request, middle).kv_fits else (low, middle)
    return judge(request, low)


def wrong_share(utilization: float | None, engine: Engine) -> list[Problem]:
    """What is wrong with the share of a GPU's memory that the engine may use; None is the release's default."""
    if utilization is None or 0 < utilization < 1:
        return []
    instead = f"write the share of a GPU's memory that the engine may use, such as {engine['gpuMemoryUtilization']}"
    return [Problem("utilization", f"{utilization:g}", "is not between 0 and 1", instead)]


def wrong_context(model: Model, max_model_len: int | None) -> list[Problem]:
    """What is wrong with a context for this model, whatever the layout."""
    if max_model_len is None or 0 < max_model_len <= model.max_context:
        return []
    why = f"{model.name} has a context of {model.max_context} tokens"
    return [Problem("max-model-len", str(max_model_len), why, f"write at most {model.max_context}, or auto")]


def cheapest(
    request: Request, max_model_len: int | None, nodes: int | None = None, price: Price | None = None
) -> list[Choice]:
    """The layouts that fit on the fewest GPUs, the best first: by `price` if there is one, else the one that answers a
    single request fastest (`_preference`).

    `nodes` fixes the number of nodes. Raises NoLayoutError if nothing up to MOST_NODES fits.
    """
    least = min(PROPOSED_CONTEXT, request.model.max_context) if max_model_len is None else max_model_len
    for choices in _by_nodes(request, max_model_len, nodes):
        useful = [choice for choice in choices if choice.fit.max_model_len >= least]
        if useful:
            useful.sort(key=_preference, reverse=True)
            return sorted(useful, key=price) if price else useful
    where = f"{nodes}" if nodes else f"up to {MOST_NODES}"
    why = (
        f"{request.model.name} fits on no layout of {where} nodes x "
        f"{request.layout.gpus_per_node} {request.gpu.name} ({request.gpu.usable_gib:g} GiB usable)"
        + (f" at max-model-len {max_model_len}" if max_model_len else "")
    )
    raise NoLayoutError(Problem("layout", "auto", why))


def alternatives(request: Request, max_model_len: int | None) -> list[Choice]:
    """The nearest layouts that fit: by difference in GPUs, then in the order of `cheapest`."""
    fitting: list[Choice] = []
    for choices in _by_nodes(request, max_model_len, None):
        fitting += [choice for choice in choices if choice.layout != request.layout]
        if len(fitting) >= SHOWN and choices and choices[0].layout.nodes > request.layout.nodes:
            break
    nearest = sorted(fitting, key=lambda c: (abs(c.layout.gpus - request.layout.gpus), *(-x for x in _preference(c))))
    return nearest[:SHOWN]


def _preference(choice: Choice) -> tuple[int, int, int, int]:
    """Tensor ranks inside a node first (they talk in every layer), then all of them for one request, then few stages
    (each adds latency), then cache."""
    layout = choice.layout
    inside = layout.tensor <= layout.gpus_per_node
    return inside, -layout.data, -layout.pipeline, choice.fit.kv_tokens * layout.data


def _by_nodes(request: Request, max_model_len: int | None, nodes: int | None) -> Iterator[list[Choice]]:
    for count in [nodes] if nodes else range(1, MOST_NODES + 1):
        choices = []
        for layout in _candidates(replace(request.layout, nodes=count), request.model):
            if broken_rules(request.model, layout, request.engine):
                continue
            memory = fit(replace(request, layout=layout), max_model_len)
            if memory.fits:
                choices.append(Choice(layout, memory))
        yield choices


def _candidates(layout: Layout, model: Model) -> Iterator[Layout]:
    """Splits of the GPUs with as many data ranks as `layout` says. If it says one, also with more for a model with
    experts, which are then spread over all ranks: data ranks of other models are no better than replicas."""
    plain = layout.data == 1 and not layout.expert_parallel and model.moe
    for data in range(1, layout.gpus + 1) if plain else (layout.data,):
        ranks, left_over = divmod(layout.gpus, data)
        spread = layout.expert_parallel or (data > 1 and data != layout.data)
        for tensor in range(1, ranks + 1) if not left_over else ():
            # Engines of several nodes are for those who ask for them: vLLM alone joins them, and Ray does not.
            apart = data > 1 and ranks > layout.gpus_per_node
            if ranks % tensor == 0 and ranks // tensor <= model.layers and not apart:
                yield replace(layout, tensor=tensor, pipeline=ranks // tensor, data=data, expert_parallel=spread)
