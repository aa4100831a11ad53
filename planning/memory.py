"""Whether a layout fits: weights, overhead and KV cache of every pipeline stage against the GPU's budget.

Two verdicts: `kv_fits` (vLLM's own check: one request of the full length fits into the cache) and `starts` (what it
takes after the cache, graphs or the sampler's warm-up, still finds memory). Overheads are estimates and say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from planning.catalog import fact
from planning.engine import Engine
from planning.gpus import Gpu
from planning.layout import Layout, split
from planning.models import Model
from planning.stage_weights import Weights, stage_weights
from planning.units import GIB


@dataclass(frozen=True)
class Request:
    """What to plan. `utilization`, `batched_tokens` and `sequences` are the release's own defaults where None."""

    model: Model
    gpu: Gpu
    layout: Layout
    engine: Engine
    utilization: float | None = None
    kv_dtype: str = "auto"
    eager: bool = False
    speculative: bool = False
    batched_tokens: int | None = None
    sequences: int | None = None

    @property
    def share(self) -> float:
        """The part of a GPU's memory that the engine may use."""
        return self.engine["gpuMemoryUtilization"] if self.utilization is None else self.utilization


@dataclass(frozen=True)
class Stage:
    """One pipeline stage's memory, in GiB per GPU. `outside` lies beyond the budget."""

    layers: int
    weights: Weights
    non_torch: float
    activation: float
    graphs: float
    graphs_in_budget: bool
    budget: float
    outside: float
    late: float

    @property
    def weights_gib(self) -> float:
        """Weights."""
        return self.weights.total / GIB

    @property
    def overhead(self) -> float:
        """What the budget loses besides weights."""
        return self.non_torch + self.activation + (self.graphs if self.graphs_in_budget else 0)

    @property
    def kv(self) -> float:
        """What is left for the KV cache; negative where the weights alone are too much."""
        return self.budget - self.weights_gib - self.overhead

    @property
    def peak(self) -> float:
        """The most the GPU holds while starting, once the cache is taken."""
        graphs = 0 if self.graphs_in_budget else self.graphs
        planned = max(self.budget, self.weights_gib + self.overhead)
        return planned + self.outside + graphs + max(0.0, self.late - self.activation)

    @property
    def spare(self) -> float:
        """What must stay free beside `peak`: capturing graphs takes a little more than is planned for it."""
        return fact("vllm", "overhead", "safetyMib") / 1024 if self.graphs else 0.0


@dataclass(frozen=True)
class Fit:
    """The memory of a layout at one context length. `kv_tokens` is of one engine (one data rank)."""

    stages: tuple[Stage, ...]
    kv_tokens: int
    max_model_len: int
    max_concurrency: float
    kv_fits: bool
    starts: bool

    @property
    def fits(self) -> bool:
        """Both verdicts."""
        return self.kv_fits and self.starts


def judge(request: Request, max_model_len: int) -> Fit:
    """The fit at a context of `max_model_len` tokens. The layout must keep the rules (`layout.broken_rules`)."""
    counts = split(request.model.layers, request.layout.pipeline, request.engine)
    stages, first, cache = [], 0, {}
    for index, layers in enumerate(counts):
        edge = (layers, index == 0, index == len(counts) - 1, min(first, _dense_layers(request.model)))
        if edge not in cache:
            cache[edge] = _stage(request, max_model_len, first, layers)
        stages.append(cache[edge])
        first += layers
    tokens = min(_tokens(request, stage, max_model_len) for stage in stages)
    starts = all(stage.peak + stage.spare <= request.gpu.usable_gib for stage in stages)
    return Fit(tuple(stages), tokens, max_model_len, tokens / max_model_len, tokens >= max_model_len, starts)


def _dense_layers(model: Model) -> int:
    return model.moe.dense_layers if model.moe else 0


def _stage(request: Request, max_model_len: int, first: int, layers: int) -> Stage:
    model, layout, engine = request.model, request.layout, request.engine
    weights = stage_weights(model, layout, engine, first, layers, request.speculative)
    tokens, sequences = batch(request, max_model_len)
    inside, outside = _non_torch(request)
    rows = min(tokens, sequences) if first + layers == model.layers else 0
    greedy = engine["samplerProfiled"] == "greedy"
    sampler = rows * model.vocab * (6 if greedy else engine["samplerBytes"]) + tokens * model.hidden * 2
    body = _body(request, tokens, first + layers > _dense_layers(model))
    warm_up = rows * (model.vocab * engine["samplerBytes"] + model.hidden * 2) if engine["samplerWarmUp"] else 0
    sizes = 0 if request.eager else engine.graph_sizes(sequences)
    graphs = layers * sizes * fact("vllm", "overhead", "graphMib") / 1024
    return Stage(
        layers,
        weights,
        inside,
        max(body, sampler) / GIB,
        graphs,
        engine["graphsInBudget"],
        request.share * request.gpu.usable_gib,
        outside,
        warm_up / GIB,
    )


def batch(request: Request, max_model_len: int) -> tuple[int, int]:
    """Tokens of one step and requests in it: as asked for, else the release's defaults for this GPU."""
    tokens, sequences = request.engine.batch(request.gpu, max_model_len, request.model.mla is not None)
    return request.batched_tokens or tokens, request.sequences or sequences


@lru_cache(maxsize=1024)
def _non_torch(request: Request) -> tuple[float, float]:
    """GiB that torch does not hold: (counted in the budget, beside it)."""
    layout, engine, link = request.layout, request.engine, request.gpu.link
    inside, outside = fact("vllm", "overhead", "kernelsGib")[link], 0.0
    context = fact("vllm", "overhead", "cudaContextGib")
    inside, outside = (inside + context, outside) if engine["startCountsAgainstBudget"] else (inside, outside + context)
    if layout.gpus > 1:
        base, per_rank = fact("vllm", "overhead", "collectivesGib")[engine["engine"]][link]
        inside += base + per_rank * min(layout.tensor, layout.gpus_per_node)  # between nodes it grows no more
        groups = fact("vllm", "overhead", "communicatorsGib")[link]
        further = (layout.pipeline > 1 and layout.tensor > 1) + (layout.data > 1)
        groups += further * fact("vllm", "overhead", "extraGroupGib") * (1 if link == "nvlink" else groups)
        inside, outside = (inside + groups, outside) if engine["communicatorsCounted"] else (inside, outside + groups)
    return inside, outside


def _body(request: Request, tokens: int, has_experts: bool) -> float:
    """Bytes alive at the widest point of one layer when `tokens` tokens pass through it (16-bit activations)."""
    model, layout, engine = request.model, request.layout, request.engine
    hidden = fact("vllm", "overhead", "hiddenCopies") * model.hidden * tokens
    if model.mla:
        mla, heads = model.mla, model.heads / layout.tensor
        attention = tokens * heads * (2 * (mla.nope + mla.rope) + 2 * mla.value)
        attention += engine["contextWorkspaceRows"] * heads * (mla.nope + mla.value)
    else:
        kv = max(model.kv_heads / layout.tensor, 1)
        attention = tokens * model.head_dim * (2 * model.heads / layout.tensor + 2 * kv)
    widest = max(attention, tokens * 3 * model.intermediate / layout.tensor)
    if model.moe and has_experts:
        moe, gathered = model.moe, tokens * layout.data
        chunk = min(gathered, fact("vllm", "overhead", "moeChunkTokens"))
        width = moe.intermediate / (1 if layout.expert_parallel else layout.tensor * layout.data)
        # The first product and the last share a buffer; the activation between them has its own.
        routed = chunk * moe.per_token * (max(2 * width, model.hidden) + width) + gathered * model.hidden
        # The shared experts' result waits for the routed ones'.
        routed += tokens * model.hidden if moe.shared else 0
        widest = max(widest, routed)
    quantised_input = tokens * model.hidden if model.quantisation in ("fp8-block", "fp8", "w8a8") else 0
    return 2 * (hidden + widest) + quantised_input


def kv_bytes(request: Request) -> float:
    """Bytes of KV cache of one token in one layer on one GPU."""
    model, layout, engine = request.model, request.layout, request.engine
    byte = 1 if request.kv_dtype.startswith("fp8") else 2
    if model.mla is None:
        return 2 * max(model.kv_heads / layout.tensor, 1) * model.head_dim * byte / layout.context
    kind, row = engine["mlaCache"], (model.mla.kv_rank + model.mla.rope) * byte
    if kind == "per-head":  # before vLLM knew MLA: keys and values of every head, padded to 256
        return 2 * max(model.heads / layout.tensor, 1) * 256 * byte
    if kind == "latent-padded":
        row = -(-row // 256) * 256
    if model.indexer:
        sparse = engine["sparseCacheFp8Bytes"]
        row = (sparse if byte == 1 and sparse else row) + model.indexer.cache_bytes
    return row / layout.context


def _tokens(request: Request, stage: Stage, max_model_len: int) -> int:
    """Tokens that the stage's cache holds, in whole blocks, when requests are `max_model_len` long."""
    model = request.model
    if stage.kv <= 0:
        return 0
    block = request.engine["blockSizeMla" if model.mla else "blockSize"]
    windowed = stage.layers * model.window_layers / model.layers
    window = min(max_model_len, model.window + batch(request, max_model_len)[0]) if windowed else 0
    # A layer with a sliding window keeps the window and the step in flight, whatever the length.
    equal_layers = stage.layers - windowed + windowed * window / max_model_len
    return int(stage.kv * GIB / (kv_bytes(request) * equal_layers) / block) * block
