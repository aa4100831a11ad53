"""Weights that one GPU of a pipeline stage holds, in bytes, part by part, as vLLM lays them out.

Computed from the architecture. Published logs of "model loading took" agree to within 3 %, measured starts to within
0.5 % (tests/unit/planning/test_truth.py, test_measured.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from planning.engine import Engine, find
from planning.layout import Layout, padded_vocab, whole_shared_experts
from planning.layout import experts as spread
from planning.models import ATTENTION, EXPERTS, FORMATS, MLP, STATE, Model

# Norms, routers, embeddings and position caches have 16 bits.
_HALF = 2.0
# Extra bytes of each weight if its group of 128 has a 16-bit zero instead of a 4-bit one.
_WIDE_ZERO = 1.5 / 128
# For tensors of 10 MiB and more, torch allocates whole blocks of 2 MiB, and reuses a remainder only if it is over 1 MiB
# (c10/cuda/CUDACachingAllocator: kMinLargeAlloc, kRoundLarge, should_split).
_MIB = 1024**2


@dataclass(frozen=True)
class Weights:
    """Bytes on one GPU, by part. `replicated` is what every tensor rank holds in full; `balancing` is the buffer in
    which load balancing receives a layer's experts."""

    attention: float = 0.0
    absorbed: float = 0.0
    mlp: float = 0.0
    experts: float = 0.0
    shared_experts: float = 0.0
    replicated: float = 0.0
    embeddings: float = 0.0
    head: float = 0.0
    speculative: float = 0.0
    balancing: float = 0.0

    @property
    def total(self) -> float:
        """All parts."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Weights) -> Weights:
        return Weights(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Weights:
        return Weights(*(getattr(self, f.name) * times for f in fields(self)))


def stage_weights(
    model: Model,
    layout: Layout,
    engine: Engine,
    first_layer: int,
    layers: int,
    speculative: bool = False,
    family: str = "",
) -> Weights:
    """Bytes on one GPU of that family (`Gpu.family`) in the stage that holds `layers` layers from `first_layer` on."""
    first, last = first_layer == 0, first_layer + layers == model.layers
    attended, states, routed, dense = (
        model.count(part, first_layer, layers) for part in (ATTENTION, STATE, EXPERTS, MLP)
    )
    wide = model.quantisation in ("int4", "int4-64", "int4-32") and family in engine["awqZerosInHalf"]
    padding = engine["mxfp4Padding"]
    shared = 1 if whole_shared_experts(layout, engine) else layout.tensor
    experts = _moe(model, layout, shared, wide, tuple(padding.get(family, padding["other"])))
    attention = _attention(model, layout.tensor, engine["mlaWeights"], wide)
    total = _compressed(model, layout.tensor, first_layer, layers) if model.compressed else attention * attended
    if model.widths:
        for width in filter(None, model.widths[first_layer : first_layer + layers]):
            total += _dense(replace(model, intermediate=width), layout.tensor, wide)
    else:
        total += _dense(model, layout.tensor, wide) * dense
    if states:
        total += _state(model, layout.tensor) * states
    if routed:
        total += experts * routed
    if model.quantisation == "fp8-mlp":  # the first and the last layer keep 16 bits
        total += Weights(
            mlp=(first + last) * _mlp_elements(model, layout.tensor) * (_HALF - FORMATS[model.quantisation])
        )
    elements = padded_vocab(model) * model.hidden / layout.tensor
    table, own = elements * _HALF, dict(model.part_formats).get("head")
    if first:
        total += Weights(embeddings=table, replicated=model.other_bytes)
    if last and not (model.tied_embeddings and first):
        total += Weights(head=elements * FORMATS[own] if own else table)
    if last and speculative and model.mtp_layers:
        # The draft layer, its projection of two hidden states, and its own embedding tables.
        if "draft" in model.sixteen_bit:
            attention = _attention(model.plain, layout.tensor, engine["mlaWeights"])
            experts = _moe(model.plain, layout, shared, False, (1, 1))
        if model.compressed:  # its own attention has a window only
            plain = replace(model, compressed=replace(model.compressed, ratios=(0,)))
            attention = _compressed(plain, layout.tensor, 0, 1)
        inside = experts if model.moe else _dense(model, layout.tensor, wide)
        draft = (attention + inside).total + 2 * model.hidden**2 * _HALF
        draft += (model.draft_tables or layout.pipeline > 1) * table
        total += Weights(speculative=draft * model.mtp_layers)
    if layout.redundant is not None and routed:
        total += Weights(balancing=experts.experts)
    return total + Weights(replicated=_positions(model))


def file_weights(model: Model, *, draft: bool = True) -> float:
    """Bytes of the tensors in the model's files, without what the engine adds to them."""
    alone, engine = Layout(1, 1, 1, 1), find(None)
    held = stage_weights(model, alone, engine, 0, model.layers, draft)
    padding = engine["mxfp4Padding"]["other"]  # the engine pads experts, the files do not
    padded, exact = (_moe(model, alone, 1, False, (*each,)).experts for each in (padding, (1, 1)))
    layers = model.count(EXPERTS) + (model.mtp_layers if draft else 0)
    return held.total - held.absorbed - _positions(model) - layers * (padded - exact)


def _positions(model: Model) -> float:
    """The table of rotary cosines and sines, which a stage's layers share; heads of another width have their own."""
    return model.max_context * (model.mla.rope if model.mla else model.head_dim + model.window_head_dim) * _HALF


@lru_cache(maxsize=64)
def _compressed(model: Model, tensor: int, first: int, layers: int) -> Weights:
    """Attention and norms of these layers of DeepSeek V4, and what mixes their residuals (in 32 bits)."""
    told, hidden, byte = model.compressed, model.hidden, _linear(model, "attention")
    assert told is not None
    width = model.heads * model.head_dim
    inside = told.query_rank * width + told.output_rank * (width + told.output_groups * hidden)
    mixed = 2 * (2 + told.streams) * told.streams * (told.streams * hidden) * 4
    whole = hidden * (told.query_rank + model.head_dim) * byte + mixed + 2 * hidden * _HALF
    total = Weights(attention=inside * byte / tensor, replicated=whole) * layers
    for ratio, rows in ((4, 2), (128, 1)):
        compressing = 2 * rows * hidden * model.head_dim * _HALF + ratio * rows * model.head_dim * 4
        if ratio == 4:
            heads = told.index_heads
            compressing += told.query_rank * heads * told.index_dim * _linear(model, "indexer")
            compressing += (heads + 2 * rows * told.index_dim) * hidden * _HALF
        total += Weights(replicated=compressing) * told.count(ratio, first, layers)
    return total


def _linear(model: Model, part: str, wide_zeros: bool = False) -> float:
    """Bytes of one weight of a part."""
    form = model.form(part)
    return FORMATS[form] + (wide_zeros and form != "none") * _WIDE_ZERO


def _taken(elements: float, byte: float) -> float:
    """Bytes that a tensor of weights and its scales take in torch's allocator."""
    packed = elements * (_HALF if byte >= _HALF else 1 if byte >= 1 else 0.5)
    padding = -packed % (2 * _MIB) if packed >= 10 * _MIB else 0.0
    return elements * byte + (padding if padding <= _MIB else 0.0)


@lru_cache(maxsize=256)
def _attention(model: Model, tensor: int, mla_weights: str, wide_zeros: bool = False) -> Weights:
    """One layer's attention and norms."""
    if model.window_head_dim or model.window_heads:  # of the mean layer
        general = replace(model, window_kv_heads=0, window_head_dim=0, window_heads=0)
        near_by = replace(
            general,
            heads=model.window_heads or model.heads,
            kv_heads=model.heads_kept[1],
            head_dim=model.window_head_dim or model.head_dim,
            value_dim=0 if model.window_head_dim else model.value_dim,
        )
        share = model.window_layers / model.layers
        seeing, nearby = (_attention(each, tensor, mla_weights, wide_zeros) for each in (general, near_by))
        return seeing * (1 - share) + nearby * share
    byte, norms = _linear(model, "attention", wide_zeros), 2 * model.hidden * _HALF
    output = _linear(model, "output", wide_zeros)
    if model.mla is None:
        query = model.heads * model.head_dim / tensor
        full, near = (max(heads / tensor, 1) for heads in model.heads_kept)  # a rank holds at least one KV head
        kept = full + (near - full) * model.window_layers / model.layers  # of the mean layer
        kv = kept * (model.head_dim + model.value)
        bias = (query + kv) * _HALF if model.qkv_bias else 0
        asked = query * (2 if model.gated else 1)
        joined = _taken((asked + kv) * model.hidden, byte)
        joined += _taken(model.heads * model.value / tensor * model.hidden, output)
        if model.indexer:  # one key for all heads
            joined += (model.indexer.heads / tensor + 1) * model.indexer.dim * model.hidden * _linear(model, "indexer")
        return Weights(attention=joined + bias, replicated=norms)
    mla, heads = model.mla, model.heads / tensor
    query_in = mla.query_rank or model.hidden
    sharded = (query_in * heads * (mla.nope + mla.rope) + mla.kv_rank * heads * (mla.nope + mla.value)) * byte
    sharded += heads * mla.value * model.hidden * (output + (byte if model.gated else 0))
    index = 0.0
    whole = model.hidden * (mla.query_rank or 0) + model.hidden * (mla.kv_rank + mla.rope)
    if model.indexer:  # not split by tensor ranks; the small projection of head weights stays in 16 bits
        index = query_in * model.indexer.heads * model.indexer.dim + model.hidden * model.indexer.dim
        index *= _linear(model, "indexer", wide_zeros)
        norms += model.hidden * model.indexer.heads * _HALF
    absorbed = 0.0
    if mla_weights == "absorbed":
        merged = heads * mla.kv_rank * (query_in + model.hidden)
        absorbed = merged * byte + query_in * heads * mla.rope * _HALF
    elif mla_weights == "up-projections":
        absorbed = heads * mla.kv_rank * (mla.nope + mla.value) * _HALF
    return Weights(attention=sharded, absorbed=absorbed, replicated=whole * byte + index + norms)


@lru_cache(maxsize=64)
def _state(model: Model, tensor: int) -> Weights:
    """One layer with a state: its projections, convolution and norms."""
    state, hidden = model.state, model.hidden
    assert state is not None
    byte = _linear(model, "state")
    if state.gate_rank:  # what goes down to a low rank is not split
        low = 2 - state.full_gates
        gates = state.inner * (low * state.gate_rank + state.full_gates * hidden)
        down = low * state.gate_rank * hidden * byte
    else:
        gates, down = state.inner * hidden * max(1, state.full_gates), 0.0
    projected = (state.convolved + state.inner) * hidden + gates  # in and out
    small = state.gates * state.heads * hidden + state.convolved * state.conv + 3 * state.heads + state.inner
    return Weights(attention=(projected * byte + small * _HALF) / tensor, replicated=2 * hidden * _HALF + down)


def _mlp_elements(model: Model, tensor: int) -> float:
    return model.matrices * model.hidden * model.intermediate / tensor


def _dense(model: Model, tensor: int, wide_zeros: bool) -> Weights:
    byte = _linear(model, "mlp", wide_zeros)
    each = _mlp_elements(model, tensor) / model.matrices
    return Weights(mlp=_taken((model.matrices - 1) * each, byte) + _taken(each, byte))


@lru_cache(maxsize=256)
def _moe(model: Model, layout: Layout, shared_ranks: int, wide_zeros: bool, padding: tuple[int, int]) -> Weights:
    """One layer's experts, shared experts and router."""
    moe = model.moe
    if moe is None:
        return Weights()
    experts = spread(model, layout)[0][1]
    width = moe.intermediate if layout.expert_parallel else moe.intermediate / layout.expert_ranks
    hidden: float = moe.latent or model.hidden
    if model.form("experts") == "mxfp4":
        width, hidden = _up(width, padding[0]), _up(hidden, padding[1])
    byte = _linear(model, "experts")
    routed = _taken(experts * (model.matrices - 1) * hidden * width, byte) + _taken(experts * hidden * width, byte)
    if moe.expert_bias:
        routed += experts * (2 * width + hidden) * _HALF
    shared = model.matrices * model.hidden * moe.shared * (moe.shared_width or moe.intermediate) / shared_ranks
    shared *= _linear(model, "shared", wide_zeros)
    whole = model.hidden * moe.experts * _HALF + 2 * model.hidden * moe.latent * _linear(model, "shared")
    return Weights(experts=routed, shared_experts=shared, replicated=whole)


def _up(value: float, step: int) -> float:
    return math.ceil(value / step) * step
