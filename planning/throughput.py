"""What a layout does per second: time to first token and per output token, tokens, cost per million, replicas.

Each time is a range. Its floor is the roofline: the bytes that a step reads over the memory's bandwidth, or its
arithmetic over the peak where that takes longer, plus what GPUs send each other over their links. The estimate is what
engines were measured to need for such floors (`bench/fit_throughput.py` fits it). Where nothing similar was measured,
the estimate is carried over and says so, and its upper end tells how far off that was elsewhere.

Times are means for requests of one length in steady state. What speculative decoding or a prefix cache saves is not
counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from planning.catalog import entries, fact
from planning.engine import release_key
from planning.gpus import Speeds
from planning.layout import stages, whole_shared_experts
from planning.memory import Fit, Request, batch, kv_bytes, requests_held, state_bytes
from planning.models import ATTENTION, STATE, Model
from planning.problems import Problem
from planning.stage_weights import Weights, stage_weights

ALONE, FULL, LOADED = "alone", "full", "load"
# The GPU peak at which a format's linear layers are multiplied, the fastest possible one; everything else uses bf16.
_ARITHMETIC = {"fp8-block": "fp8", "fp8": "fp8", "fp8-mlp": "fp8", "w8a8": "int8", "nvfp4": "fp4", "mxfp4": "fp4"}
# Bytes of an activation that GPUs send each other, and of one that is quantised before it goes to its experts.
_ACTIVATION, _DISPATCHED = 2, 1
_MILLION = 1e6


@dataclass(frozen=True)
class Load:
    """What clients ask for: tokens of a request and of its answer, and the requests over all replicas, as `rate` per
    second or as `concurrency` at once. `ttft_seconds` and `tpot_seconds` are upper limits for the means."""

    input: int
    output: int
    rate: float | None = None
    concurrency: float | None = None
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None


@dataclass(frozen=True)
class Range:
    """Seconds: the roofline, the estimate, and the upper end of the estimate."""

    floor: float
    expected: float
    most: float

    def to_json(self) -> dict[str, float]:
        """The three under the names of a plan's JSON."""
        return {name: round(getattr(self, name), 6) for name in ("floor", "expected", "most")}


@dataclass(frozen=True)
class Point:
    """One replica with `at_once` requests in it. Tokens are per second and replica; costs are per million tokens, None
    if the price is unknown."""

    name: str
    at_once: float
    input: int
    output: int
    first: Range
    each: Range
    gpus: int
    requests_per_second: float
    input_cost: float | None
    output_cost: float | None

    @property
    def output_tokens(self) -> float:
        """Output tokens per second."""
        return self.requests_per_second * self.output

    @property
    def input_tokens(self) -> float:
        """Input tokens per second."""
        return self.requests_per_second * self.input

    def to_json(self) -> dict[str, Any]:
        """The point under the names of a plan's JSON."""
        return {
            "name": self.name,
            "concurrency": round(self.at_once, 2),
            "input": self.input,
            "output": self.output,
            "ttft_seconds": self.first.to_json(),
            "tpot_seconds": self.each.to_json(),
            "requests_per_second": round(self.requests_per_second, 4),
            "output_tokens_per_second": round(self.output_tokens, 1),
            "output_tokens_per_second_and_gpu": round(self.output_tokens / self.gpus, 2),
            "input_tokens_per_second": round(self.input_tokens, 1),
            "cost_per_million_input": _rounded(self.input_cost),
            "cost_per_million_output": _rounded(self.output_cost),
        }


def _rounded(money: float | None) -> float | None:
    return None if money is None else round(money, 4)


@dataclass(frozen=True)
class Throughput:
    """The points of a plan; none if they are unknown. `replicas_needed` is for the load: None without one, or if no
    number is enough. `problems` are the demands of the load that cannot be met; `reasons` say where the numbers are
    from."""

    points: tuple[Point, ...] = ()
    load: Load | None = None
    replicas: int = 1
    replicas_needed: int | None = None
    carried_over: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    reasons: tuple[str, ...] = ()

    def point(self, name: str) -> Point | None:
        """The point of that name."""
        return next((point for point in self.points if point.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """The throughput under the names of a plan's JSON."""
        load = self.load
        return {
            "points": [point.to_json() for point in self.points],
            "load": None
            if load is None
            else {
                "rate": load.rate,
                "concurrency": load.concurrency,
                "ttft_seconds": load.ttft_seconds,
                "tpot_seconds": load.tpot_seconds,
                "replicas": self.replicas,
                "replicas_needed": self.replicas_needed,
            },
            "carried_over": list(self.carried_over),
            "warnings": [str(problem) for problem in self.problems],
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class Floors:
    """The roofline of an engine, in seconds: of one decode step, a token for each of `others` + 1 requests, and of one
    request's prefill. Both pass the pipeline's stages one after the other; each stage is busy for 1/`stages` of it."""

    step: float
    prefill: float
    layers: int
    stages: int
    others: float


@dataclass(frozen=True)
class Efficiency:
    """How close an engine on a family of GPUs comes to the roofline: fractions of one, and seconds beyond the roofline.

    `waiting` is how much of each other request's prefill a first token waits for. `tpot_spread` and `ttft_spread` are
    the fractions by which the truth may exceed the estimate.
    """

    layer_seconds: float
    step: float
    prefill: float
    first_seconds: float
    first: float
    waiting: float
    tpot_spread: float = 0.0
    ttft_spread: float = 0.0
    carried_over: tuple[str, ...] = ()
    source: str = ""
    most_at_once: float = math.inf

    def each_seconds(self, floors: Floors, output: int) -> float:
        """Seconds per output token."""
        prefills = floors.prefill * floors.others / floors.stages / output
        return self.layer_seconds * floors.layers + floors.step / self.step + prefills / self.prefill

    def first_token_seconds(self, floors: Floors) -> float:
        """Seconds to the first token."""
        waiting = self.waiting * floors.others / floors.stages
        return self.first_seconds + floors.prefill * (1 / self.first + waiting)


def problems(load: Load | None, max_context: int) -> list[Problem]:
    """Why a load cannot be planned for a model with that maximum context."""
    if load is None:
        return []
    wrong = [
        Problem(f"load.{name}", f"{value:g}", "is not above zero", "write what clients ask for")
        for name, value in (("input", load.input), ("output", load.output), *_wanted(load))
        if value is not None and not 0 < value < math.inf
    ]
    wrong += _too_long(load, max_context)
    asked = [load.rate, load.concurrency]
    if asked.count(None) == 0:
        why = f"concurrency {load.concurrency:g} follows from it"
        wrong.append(Problem("load.rate", f"{load.rate:g}", why, "keep one of them"))
    elif asked.count(None) == 2:
        limits = [name for name, value in _limits(load) if value is not None]
        why = (
            f"{' and '.join(limits)} limit{'s'[: len(limits) == 1]} no load"
            if limits
            else "says how long, not how many"
        )
        wrong.append(Problem("load", "", why, "write rate (requests a second) or concurrency (requests at once)"))
    return wrong


def _too_long(load: Load, context: int) -> list[Problem]:
    if load.input + load.output <= context:
        return []
    why = f"{load.input} + {load.output} tokens are more than the context of {context}"
    return [Problem("load.input", str(load.input), why, "write shorter requests, or take a longer context")]


def _wanted(load: Load) -> Iterator[tuple[str, float | None]]:
    yield from (("rate", load.rate), ("concurrency", load.concurrency))
    yield from _limits(load)


def _limits(load: Load) -> Iterator[tuple[str, float | None]]:
    yield from (("ttftSeconds", load.ttft_seconds), ("tpotSeconds", load.tpot_seconds))


def plan(
    request: Request,
    fit: Fit,
    load: Load | None = None,
    *,
    replicas: int = 1,
    per_gpu_hour: float | None = None,
) -> Throughput:
    """The points of one replica, and how `replicas` of them cope with the load."""
    speeds = request.gpu.speeds
    if request.model.unknown:
        why = "tokens a second are unknown, as the model's shape is"
        return Throughput(load=load, replicas=replicas, reasons=(why,))
    if speeds is None:
        name = request.gpu.name
        why = f"tokens a second are unknown: the catalog has no bandwidth and no peak of {name}"
        return Throughput(load=load, replicas=replicas, reasons=(f"{why}; catalog.gpus.{name}.speeds says them",))
    shape = load or _usual(fit.max_model_len)
    if load and load.input + load.output > fit.max_model_len:
        return Throughput(load=load, replicas=replicas, problems=tuple(_too_long(load, fit.max_model_len)))
    most = _most_at_once(request, fit, shape)
    if most < 1:
        why = f"tokens a second are unknown: the cache does not hold a request of {shape.input} + {shape.output} tokens"
        return Throughput(load=load, replicas=replicas, reasons=(why,))
    efficiency = find(request)

    def point(name: str, at_once: float) -> Point:
        return _point(request, efficiency, name, at_once, shape, per_gpu_hour)

    points = [point(ALONE, 1.0), point(FULL, float(most))]
    needed, found = None, list[Problem]()
    if load is not None:

        def loaded(at_once: float) -> Point:
            return point(LOADED, at_once)

        needed, found = _needed(load, loaded, most)
        if replicas:
            points.append(loaded(_held(load, replicas, loaded, most)))
        if needed is not None and needed > replicas > 0:
            why = f"{replicas} replica{'s'[: replicas != 1]} cannot keep it up{_limited(load)}"
            found.append(Problem("load", "", why, f"write replicas: {needed}"))
    reasons = tuple(_reasons(request, efficiency, shape, most))
    return Throughput(tuple(points), load, replicas, needed, efficiency.carried_over, tuple(found), reasons)


def _usual(max_model_len: int) -> Load:
    """The request length assumed if none is given, cut to the context."""
    usual = fact("throughput", "load", "usual")
    half = max(1, max_model_len // 2)
    return Load(min(usual["input"], half), min(usual["output"], half))


def _most_at_once(request: Request, fit: Fit, load: Load) -> int:
    """Requests of that length in one replica: what the KV cache holds and the engine accepts."""
    length = load.input + load.output
    held = fit.kv_tokens // length
    if request.model.compressed:
        held = int(min(requests_held(request, stage, length) for stage in fit.stages))
    if request.model.state:  # a short request takes as much for its states as a long one
        held = int(min(requests_held(request, stage, length) if stage.states else held for stage in fit.stages))
    return min(held, batch(request, fit.max_model_len)[1]) * request.layout.data


def _needed(load: Load, point: Callable[[float], Point], most: int) -> tuple[int | None, list[Problem]]:
    """Replicas that keep the load within its limits, None if no number does, and why."""
    alone = point(1.0)
    found = []
    for key, limit, seconds in (
        ("ttftSeconds", load.ttft_seconds, alone.first),
        ("tpotSeconds", load.tpot_seconds, alone.each),
    ):
        if limit is None or seconds.expected <= limit:
            continue
        least = f"takes {seconds.expected:.3g} s with one request at a time, at best {seconds.floor:.3g}"
        what = "a first token" if key == "ttftSeconds" else "an output token"
        why = f"{what} {least}, so that no number of replicas keeps it"
        instead = f"write at least {_up(seconds.expected):g}, or take more tensor ranks or a faster GPU"
        found.append(Problem(f"load.{key}", f"{limit:g}", why, instead))
    if found:
        return None, found
    best = _search(lambda at_once: _within(load, point(at_once)), float(most))
    if load.concurrency is not None:
        return max(1, math.ceil(load.concurrency / max(1, math.floor(best)))), []
    assert load.rate is not None
    return max(1, math.ceil(load.rate / point(best).requests_per_second)), []


def _within(load: Load, point: Point) -> bool:
    first = load.ttft_seconds is None or point.first.expected <= load.ttft_seconds
    return first and (load.tpot_seconds is None or point.each.expected <= load.tpot_seconds)


def _limited(load: Load) -> str:
    limits = [f"{name} {value:g}" for name, value in _limits(load) if value is not None]
    return f" within {' and '.join(limits)}" if limits else ""


def _held(load: Load, replicas: int, point: Callable[[float], Point], most: int) -> float:
    """Requests at once in each replica under the load; the most that it holds if the load is too much for it."""
    if load.concurrency is not None:
        return max(1.0, min(load.concurrency / replicas, most))
    assert load.rate is not None
    rate = load.rate / replicas
    # By Little's law, as many requests are in the replica as make them leave as fast as they arrive.
    return _search(lambda at_once: point(at_once).requests_per_second <= rate, float(most))


def _search(holds: Callable[[float], bool], most: float) -> float:
    """The largest number of requests from 1 to `most` for which `holds` is true; it is true for 1."""
    if holds(most):
        return most
    low, high = 1.0, most
    while high - low > max(0.01, low / 1000):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _up(seconds: float) -> float:
    """Rounded up to two significant digits."""
    step = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / step) * step


def _point(
    request: Request, efficiency: Efficiency, name: str, at_once: float, load: Load, per_gpu_hour: float | None
) -> Point:
    floors = roofline(request, at_once, load.input, load.output)
    each, first = efficiency.each_seconds(floors, load.output), efficiency.first_token_seconds(floors)
    least = floors.step + floors.prefill * floors.others / floors.stages / load.output
    rate = at_once / (first + load.output * each)
    gpus, input_cost, output_cost = request.layout.gpus, None, None
    if per_gpu_hour is not None:
        second = per_gpu_hour * gpus / 3600
        # Split a request's cost: the time for which its prefill keeps the GPUs busy, and the rest.
        prefill = min(1 / rate, floors.prefill / efficiency.prefill / floors.stages / request.layout.data)
        input_cost = second * prefill / load.input * _MILLION
        output_cost = second * (1 / rate - prefill) / load.output * _MILLION
    return Point(
        name,
        at_once,
        load.input,
        load.output,
        Range(floors.prefill, first, first * (1 + efficiency.ttft_spread)),
        Range(least, each, each * (1 + efficiency.tpot_spread)),
        gpus,
        rate,
        input_cost,
        output_cost,
    )


def find(request: Request, engine: str = "vllm") -> Efficiency:
    """The engine's efficiency for a model and a GPU: as measured, or carried over from the nearest measured one."""
    kind = kind_of(request.model)
    measured = {
        (value["engine"], value["family"], value["kind"]): entry
        for entry in entries("throughput")["efficiency"].values()
        for value in (entry["value"],)
    }
    family = request.gpu.family
    own = (engine, family, kind) in measured
    entry = measured[engine, family if own else "hopper", kind]
    value, far = entry["value"], entries("throughput")["carriedOver"]
    carried = [
        *([] if own and request.gpu.name in value["gpus"] else ["gpu"]),
        *([] if request.model.name in value["models"] else ["model"]),
        *([] if request.layout.nodes == 1 else ["nodes"]),
        *(["release"] if release_key(request.engine.version) < release_key(value["oldest"]) else []),
    ]
    words = {
        "gpu": f"to {request.gpu.name} from {' and '.join(value['gpus'])}",
        "model": f"to {request.model.name} from {' and '.join(value['models'])}",
        "nodes": f"to {request.layout.nodes} nodes from one",
        "release": f"to {request.engine.version} from {value['oldest']} and later",
    }
    spread = [far[key]["value"] for key in carried]
    return Efficiency(
        value["layerMicroseconds"] / _MILLION,
        value["step"],
        value["prefill"],
        value["firstMilliseconds"] / 1e3,
        value["first"],
        value["waiting"],
        max([value["tpotError90"], *(each["tpot"] for each in spread)]),
        max([value["ttftError90"], *(each["ttft"] for each in spread)]),
        tuple(words[key] for key in carried),
        entry["source"],
        value["mostAtOnce"],
    )


def kind_of(model: Model) -> str:
    """The kinds for which engines have their own kernels: `mla` (latent attention), `moe` (experts), or `dense`."""
    return "mla" if model.mla else "moe" if model.moe else "dense"


def _reasons(request: Request, efficiency: Efficiency, load: Load, most: int) -> Iterator[str]:
    yield (
        f"tokens a second for requests of {load.input} tokens and answers of {load.output}; a replica holds {most} such"
    )
    yield f"measured: {efficiency.source}"
    for each in efficiency.carried_over:
        yield f"carried over {each}: the upper ends are what that was off by elsewhere"
    if most / request.layout.data > efficiency.most_at_once:
        yield f"nothing was measured with more than {efficiency.most_at_once:g} requests at once in an engine"
    if request.speculative:
        yield "what speculative decoding saves is not counted"


@lru_cache(maxsize=4096)
def roofline(request: Request, at_once: float, input: int, output: int) -> Floors:
    """The floors of a replica with `at_once` requests, each with `input` tokens and an answer of `output`."""
    layout = request.layout
    own = max(1.0, at_once / layout.data)
    together = max(1.0, own / layout.pipeline)  # requests that are in a stage at the same time
    decode = _Pass(together, together * layout.data, input + output / 2, prefill=False)
    prefill = _Pass(float(input), float(input), float(input), prefill=True)
    return Floors(_seconds(request, decode), _seconds(request, prefill), request.model.layers, layout.pipeline, own - 1)


@dataclass(frozen=True)
class _Pass:
    """One pass through the layers: tokens of one data rank and of all, and the context that each token attends to
    (in a prefill, half of its tokens on average)."""

    tokens: float
    all_tokens: float
    context: float
    prefill: bool


@dataclass(frozen=True)
class _Part:
    """One GPU's part of a stage: bytes of its weights and their number of elements, by part of the model."""

    first: int
    layers: int
    cached: int
    states: int
    weights: Weights
    elements: Weights


@lru_cache(maxsize=64)
def _parts(request: Request) -> tuple[_Part, ...]:
    model, layout, release, family = request.model, request.layout, request.engine, request.gpu.family
    text = replace(model, other_bytes=0)  # no token passes the rest of the files, such as a vision tower
    parts, first = [], 0
    for layers in stages(model.layers, layout, release):
        held, plain = (
            stage_weights(each, layout, release, first, layers, False, family) for each in (text, text.plain)
        )
        cached, states = model.count(ATTENTION, first, layers), model.count(STATE, first, layers)
        parts.append(_Part(first, layers, cached, states, held, plain))
        first += layers
    return tuple(parts)


def _seconds(request: Request, run: _Pass) -> float:
    """The roofline of one pass through all stages."""
    return sum(_stage_seconds(request, part, run) for part in _parts(request)) + _hops(request, run)


def _stage_seconds(request: Request, part: _Part, run: _Pass) -> float:
    model, speeds = request.model, _speeds(request)
    held, elements = part.weights, part.elements
    # Ranks that hold shared experts whole split the tokens between them instead.
    parts = request.layout.tensor if whole_shared_experts(request.layout, request.engine) else 1
    always = held.attention + held.mlp + held.shared_experts + held.replicated
    width = model.heads * model.value
    if model.compressed:
        width = model.compressed.output_groups * model.compressed.output_rank
    output = 2 * part.cached * width * model.hidden / request.layout.tensor
    # Elements have two bytes; each takes a multiplication and an addition per token.
    multiplied = (
        ("attention", elements.attention - output + elements.replicated),
        ("output", output),
        ("mlp", elements.mlp),
        ("shared", elements.shared_experts / parts),
    )
    seconds = max(always / speeds.memory, run.tokens * sum(size / _peak(request, name) for name, size in multiplied))
    seconds += max(held.head / speeds.memory, elements.head * (1 if run.prefill else run.tokens) / speeds.peak("bf16"))
    if model.moe:
        share = model.moe.per_token / model.moe.experts
        read = held.experts * (1 - (1 - share) ** run.all_tokens)
        seconds += max(read / speeds.memory, elements.experts * run.all_tokens * share / _peak(request, "experts"))
    return seconds + _attention(request, part, run) + part.layers * _exchange(request, run)


def _peak(request: Request, part: str) -> float:
    """Operations a second for the products of a part: those that the model keeps in 16 bits use bf16."""
    speeds, model = _speeds(request), request.model
    return speeds.peak(_ARITHMETIC.get(model.form(part), "bf16"))


def _compressed(request: Request, part: _Part, run: _Pass) -> float:
    """Seconds for the attention of DeepSeek V4, as `_attention` counts them."""
    model, told, speeds = request.model, request.model.compressed, _speeds(request)
    assert told is not None
    fours, long = (told.count(ratio, part.first, part.layers) for ratio in (4, 128))
    index = fours * run.context / 4
    rows = part.layers * min(run.context, told.window) + fours * min(run.context / 4, told.chosen)
    rows += long * run.context / 128
    size = fact("vllm", "compressed", "bytes")
    read = (1.0 if run.prefill else run.tokens) * (rows * size["row"] + index * size["index"])
    width = 2 * model.heads / request.layout.tensor * model.head_dim
    products = 2 * run.tokens * (rows * width + index * told.index_heads * told.index_dim)
    return max(read / speeds.memory, products / (2 if run.prefill else 1) / speeds.peak("fp8"))


def _attention(request: Request, part: _Part, run: _Pass) -> float:
    """Seconds to read the KV cache, or for the arithmetic between queries and cache where that takes longer."""
    model, layout, speeds = request.model, request.layout, _speeds(request)
    if model.compressed:
        return _compressed(request, part, run)
    windowed = part.cached * model.window_layers / model.layers
    row, index = kv_bytes(request), 0.0
    seen = run.context
    if model.indexer:
        index = model.indexer.cache_bytes / layout.context * run.context
        row -= model.indexer.cache_bytes / layout.context
        seen = min(seen, fact("throughput", "attention", "sparseTokens"))
    near = min(seen, model.window) if windowed else 0.0
    context = (part.cached - windowed) * seen + windowed * near
    copies = 1.0 if run.prefill else run.tokens  # a prefill reads its request's cache once for all of its tokens
    read = copies * (row * context + index * part.cached)
    read += 2 * copies * part.states * state_bytes(request)  # a state is read and written
    if model.mla:
        width = (
            model.mla.nope + model.mla.rope + model.mla.value if run.prefill else 2 * model.mla.kv_rank + model.mla.rope
        )
    else:
        width = model.head_dim + model.value
    heads = model.heads / layout.tensor / (1 if run.prefill else layout.context)
    products = 2 * heads * width * run.tokens * context / (2 if run.prefill else 1)
    peak = speeds.peak("fp8" if request.kv_dtype.startswith("fp8") else "bf16")
    return max(read / speeds.memory, products / peak)


def _exchange(request: Request, run: _Pass) -> float:
    """Seconds for what one layer sends: two all-reduces over the tensor ranks; with data ranks and experts, one
    all-reduce plus sending the tokens to their experts and back."""
    model, layout = request.model, request.layout
    size = run.tokens * model.hidden * _ACTIVATION
    if layout.data == 1 or model.moe is None:
        return 2 * _all_reduce(request, size)
    token = model.hidden * (_DISPATCHED + _ACTIVATION)
    return _all_reduce(request, size) + (_gathered if _gathers(request) else _sent)(request, run.tokens * token)


def _gathers(request: Request) -> bool:
    """Whether every rank gets every token, rather than those for its experts."""
    known = entries("throughput")["exchange"]
    backend = request.overrides.all2all or request.engine.as_of(known["backend"]["value"])
    return not request.layout.expert_parallel or backend in known["gather"]["value"]


def _gathered(request: Request, size: float) -> float:
    """Seconds until each rank has all tokens, of which each data rank has `size` bytes: those of other nodes come to a
    node once, over the adapters of all of its GPUs."""
    layout = request.layout
    ranks, whole = layout.expert_ranks, size * layout.data
    near = min(ranks, layout.gpus_per_node)
    nodes = ranks / near
    return max(whole * (ranks - 1) / ranks / _speeds(request).link, whole * (1 - 1 / nodes) / near / _between_nodes())


def _sent(request: Request, size: float) -> float:
    """Seconds to send tokens to the ranks of their experts alone, of which each data rank has `size` bytes. A token
    comes to another node once, and is handed on there."""
    layout, moe = request.layout, request.model.moe
    assert moe is not None
    ranks = layout.expert_ranks
    copies = min(moe.per_token, ranks) * (ranks - 1) / ranks
    near = min(1.0, layout.gpus_per_node / ranks)
    far = min(copies * (1 - near), 1 / near - 1)
    share = size / layout.tensor
    return max(share * copies * near / _speeds(request).link, share * far / _between_nodes())


def _all_reduce(request: Request, size: float) -> float:
    """Seconds in which each tensor rank gets the sum of `size` bytes; between nodes each GPU sends its own share."""
    layout, speeds = request.layout, _speeds(request)
    near = min(layout.tensor, layout.gpus_per_node)
    nodes = layout.tensor / near
    seconds = 2 * (near - 1) / near * size / speeds.link
    return seconds + 2 * (nodes - 1) / nodes * size / near / _between_nodes()


def _hops(request: Request, run: _Pass) -> float:
    """Seconds to send activations from stage to stage."""
    layout = request.layout
    size = run.tokens * request.model.hidden * _ACTIVATION / layout.tensor
    link = _between_nodes() if layout.nodes > 1 else _speeds(request).link
    return (layout.pipeline - 1) * size / link


def _between_nodes() -> float:
    return fact("throughput", "links", "betweenNodesGbPerSecond") * 1e9


def _speeds(request: Request) -> Speeds:
    assert request.gpu.speeds is not None, "asked for without them"
    return request.gpu.speeds
