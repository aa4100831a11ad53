"""Whether a layout fits: weights, overhead and KV cache of every pipeline stage against the GPU's budget.

Two verdicts: `kv_fits` (vLLM's own check: the cache holds one request of the full length) and `starts` (memory is left
for what vLLM takes after the cache: graphs or the sampler's warm-up). Overheads are estimates and say so. Where equal
starts of an engine differ, the plan takes the one that leaves less for the cache.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import lru_cache

from planning.catalog import fact
from planning.engine import Engine
from planning.gpus import Gpu
from planning.layout import Layout
from planning.layout import stages as stages_of
from planning.models import ATTENTION, EXPERTS, MLP, STATE, Compressed, Model
from planning.settings import Overrides
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
    overrides: Overrides = Overrides()
    published: Model | None = None
    """The model as its files hold it, where the engine holds another."""

    @property
    def runners(self) -> tuple[str, ...]:
        """The model runners that may run this model on this GPU; the plan takes the worst of them."""
        model, quantised = self.model, self.model.quantisation != "none"
        return self.engine.runners(model.architecture, model.moe is not None, quantised, self.gpu.family)

    @property
    def share(self) -> float:
        """The share of a GPU's memory that the engine may use."""
        return self.engine["gpuMemoryUtilization"] if self.utilization is None else self.utilization


@dataclass(frozen=True)
class Stage:
    """One pipeline stage's memory, in GiB per GPU.

    `outside` does not count against the budget. `late` is taken after the cache, beyond what profiling left free.
    `offloaded` weights stay in the node's memory. `loading` is the most that the weights take while they are read.
    `given_kv` is the size of the cache where the arguments say it. `read` is what the files hold, where the engine
    holds the weights in another format.
    """

    layers: int
    weights: Weights
    non_torch: float
    activation: float
    graphs: float
    graphs_in_budget: bool
    budget: float
    outside: float
    late: float
    offloaded: float = 0.0
    loading: float = 0.0
    given_kv: float | None = None
    read: Weights | None = None
    first: int = 0
    cached: int = 0
    """Layers with a cache per token."""
    states: int = 0
    """Layers with a state per request."""

    @property
    def weights_gib(self) -> float:
        """Weights, without those in the node's memory."""
        return self.weights.total / GIB - self.offloaded

    @property
    def overhead(self) -> float:
        """What the budget loses in addition to the weights."""
        return self.non_torch + self.activation + (self.graphs if self.graphs_in_budget else 0)

    @property
    def kv(self) -> float:
        """What is left for the KV cache, or what it is told to take; negative if weights and overhead alone exceed the
        budget."""
        return self.given_kv if self.given_kv is not None else self.budget - self.weights_gib - self.overhead

    @property
    def peak(self) -> float:
        """The most that the GPU holds during the start, after the cache is taken."""
        graphs = 0 if self.graphs_in_budget else self.graphs
        least = self.weights_gib + self.overhead
        planned = max(self.budget, least) if self.given_kv is None else least + self.given_kv
        return max(planned + self.outside + graphs + self.late, self.loading + self.non_torch + self.outside)

    @property
    def spare(self) -> float:
        """What must stay free on top of `peak`: capturing graphs takes a little more than planned."""
        return fact("vllm", "overhead", "safetyMib") / 1024 if self.graphs else 0.0


@dataclass(frozen=True)
class Fit:
    """The memory of a layout at one context length. `kv_tokens` counts one engine (one data rank)."""

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
    if request.model.unknown:
        return _of_bytes(request, max_model_len)
    counts = stages_of(request.model.layers, request.layout, request.engine)
    stages, first, cache = [], 0, {}
    for index, layers in enumerate(counts):
        parts = tuple(request.model.count(part, first, layers) for part in (ATTENTION, STATE, EXPERTS, MLP))
        whole = first if request.model.compressed or request.model.widths else min(first, 1)
        edge = (whole, index == len(counts) - 1, parts)
        if edge not in cache:
            cache[edge] = _worst([_stage(request, max_model_len, first, layers, name) for name in request.runners])
        stages.append(cache[edge])
        first += layers
    tokens = min(_tokens(request, stage, max_model_len) for stage in stages)
    starts = all(stage.peak + stage.spare <= request.gpu.usable_gib for stage in stages)
    return Fit(tuple(stages), tokens, max_model_len, tokens / max_model_len, tokens >= max_model_len, starts)


def _of_bytes(request: Request, max_model_len: int) -> Fit:
    """What is known of a model without a shape: each GPU holds its share of the files at least."""
    model, layout = request.model, request.layout
    each = (model.file_bytes or 0) / (layout.expert_ranks if layout.expert_parallel else layout.tensor)
    budget = request.share * request.gpu.usable_gib
    stages = [
        Stage(layers, Weights(attention=each / layout.pipeline), 0.0, 0.0, 0.0, True, budget, 0.0, 0.0)
        for layers in stages_of(max(model.layers, layout.pipeline), layout, request.engine)
    ]
    return Fit(tuple(stages), 0, max_model_len, 0.0, False, False)


def _worst(stages: list[Stage]) -> Stage:
    """One stage, planned for several model runners: takes the smallest cache and the highest peak."""
    least = min(stages, key=lambda stage: stage.kv)
    return replace(least, late=least.late + max(stage.peak for stage in stages) - least.peak)


def _stage(request: Request, max_model_len: int, first: int, layers: int, runner: str) -> Stage:
    model, layout, engine = request.model, request.layout, request.engine
    weights = stage_weights(model, layout, engine, first, layers, request.speculative, request.gpu.family)
    told, published = request.overrides, request.published or model
    read = None
    if told.wide or published.quantisation != model.quantisation:
        read = stage_weights(published, layout, engine, first, layers, request.speculative, request.gpu.family)
    wide = 2 if told.wide else 1
    weights *= wide
    offloaded = min(told.offload_bytes, weights.total - weights.embeddings - weights.head)
    loading = read.total - offloaded if read and told.loads_whole(engine, published) else 0.0
    tokens, sequences = batch(request, max_model_len)
    inside, outside = _non_torch(request)
    last, experts = first + layers == model.layers, model.count(EXPERTS, first, layers) > 0
    cached, states = model.count(ATTENTION, first, layers), model.count(STATE, first, layers)
    buffers = _expert_buffers(request, tokens) if experts and engine["moeWorkspaceStays"] else 0.0
    gathers = model.indexer if model.mla else None  # an index beside plain keys is read where it is
    index = engine["indexerRows"] * max_model_len * gathers.cache_bytes if gathers else 0
    gathered = _gathered(model.compressed, max_model_len, tokens) * model.head_dim * 2
    workspace = max(buffers, index, gathered)  # shared: it grows to the largest use
    context = _context(request, max_model_len, sequences)
    rows = min(tokens, sequences) if last else 0
    sampler = engine["samplerBytesV2" if runner == "V2" else "samplerBytes"]
    beside = tokens * model.hidden * 2 + workspace
    body = wide * _body(request, tokens, experts) + context + workspace
    profiled = max(body, rows * model.vocab * sampler["least"] + beside)
    promised = max(body + _margin(request, runner, tokens, experts), rows * model.vocab * sampler["most"] + beside)
    graphs, counted = (0.0, 0.0) if request.eager else _graphs(request, runner, layers, sequences, context)
    late = _after(request, runner, last, rows, sequences) + workspace + _chunks(request, states, tokens)
    if engine["contextInCapture"] and last and context:
        # The last dummy run allocates the context again. By then the memory of the profiling run is fragmented, and
        # little is reused (6.0 of 6.5 and 9.9 of 7.4 GiB stayed in two logged starts), unless no graph was captured.
        late = late + context if request.eager else profiled + context
    return Stage(
        layers,
        weights,
        inside,
        promised / GIB,
        (graphs if counted is None else counted) / GIB,
        counted is not None,
        request.share * request.gpu.usable_gib,
        outside,
        (max(0.0, graphs - (graphs if counted is None else counted)) + max(0.0, late - profiled)) / GIB,
        offloaded / GIB,
        loading / GIB,
        _given_kv(request, first, layers),
        read,
        first,
        cached,
        states,
    )


def _given_kv(request: Request, first: int, layers: int) -> float | None:
    """GiB of the KV cache on one GPU where the arguments say it; blocks overrule bytes, as in vLLM."""
    told = request.overrides
    if told.blocks is not None and request.model.count(STATE):
        return told.blocks * _group_size(request.model, first, layers) * _page(request).bytes / GIB
    if told.blocks is not None:
        layers = request.model.count(ATTENTION, first, layers)
        return told.blocks * _block(request) * request.layout.context * kv_bytes(request) * layers / GIB
    return None if told.kv_bytes is None else told.kv_bytes / GIB


def _after(request: Request, runner: str, last: bool, rows: int, sequences: int) -> float:
    """Bytes of the sampler's run after the cache is taken, and of the runner's state, which vLLM does not count."""
    model, engine = request.model, request.engine
    state = sequences * model.vocab * engine["runnerStateV2"]["perLogit"] if runner == "V2" and last else 0.0
    return state + rows * (model.vocab * engine["samplerWarmUpBytes"][runner] + model.hidden * 2)


def _margin(request: Request, runner: str, tokens: int, experts: bool) -> float:
    """Bytes by which profiling differs between equal starts."""
    if request.engine["engine"] == "V0":
        return 0.0
    margin = fact("vllm", "overhead", "profileMarginGib")
    # Without compilation less can differ: as little as with V1.
    least = margin["V1" if request.eager else runner] * GIB * max(1.0, tokens / margin["tokens"])
    own_tokens = tokens / request.layout.data  # what other data ranks send is the same in every start
    return max(least, _expert_buffers(request, own_tokens) if experts and request.engine["moeWorkspaceStays"] else 0.0)


def _graphs(request: Request, runner: str, layers: int, sequences: int, context: float) -> tuple[float, float | None]:
    """Bytes that capturing takes, and how many of them the budget counts; None if it counts none."""
    model, engine, mib = request.model, request.engine, 1024**2
    told = request.overrides
    sizes = told.graph_sizes or engine.graph_sizes(sequences, model.architecture, told.largest_graph)
    of, counts = fact("vllm", "overhead", "graphMib"), engine["graphsInBudget"][runner]
    full = engine["fullGraphs"]
    nodes = of["fullFirst"] + of["fullEach"] * layers * sizes if full else of["first"] + of["each"] * layers * sizes
    context = context if engine["contextInCapture"] else 0.0
    split = _split(request, sequences)
    taken = nodes * mib + context + 2 * split  # the split's output: once before full graphs, and once in them
    if counts != "largest":
        return taken, taken if counts == "all" else None
    counted = fact("vllm", "overhead", "countedGraphMib")
    further = counted["block"] * math.ceil(layers / counted["layersEachMib"] / counted["block"]) + counted["full"]
    return taken, (of["countedFirst"] + (sizes - 1) * further) * mib + max(context, split)


def _split(request: Request, sequences: int) -> float:
    """Bytes of the split outputs with which the attention kernel reads a latent cache, at the largest graph."""
    model, layout, engine = request.model, request.layout, request.engine
    splits = engine["mlaSplits"]
    count = splits.get(request.gpu.family or "hopper", 0)  # an unknown GPU counts as the worst
    if model.mla is None or model.indexer or request.kv_dtype.startswith("fp8"):
        return 0.0
    heads = model.heads / layout.tensor * layout.context
    largest = request.overrides.largest_graph or engine.largest_graph(sequences, model.architecture)
    return count * heads * largest * model.mla.kv_rank * 4


def _context(request: Request, max_model_len: int, sequences: int) -> float:
    """Upper limit, in bytes, of the keys and values that chunked prefill projects up from a latent cache."""
    model, engine = request.model, request.engine
    if model.mla is None:
        return 0.0
    block = _block(request)
    rows = min(max(8 * max_model_len, 4 * sequences * block), engine["contextWorkspaceRows"])
    rows = max(rows, sequences * block) if engine["contextWorkspaceRows"] else 0
    return 2 * rows * model.heads / request.layout.tensor * (model.mla.nope + model.mla.value)


def _block(request: Request) -> int:
    """Tokens of a block of the KV cache."""
    if request.model.indexer:
        return 64
    return request.engine["blockSizeMla" if request.model.mla else "blockSize"]


def batch(request: Request, max_model_len: int) -> tuple[int, int]:
    """Tokens and requests of one step: as requested, else the release's defaults for this GPU."""
    tokens, sequences = request.engine.batch(request.gpu, max_model_len, request.model.mla is not None)
    return request.batched_tokens or tokens, request.sequences or sequences


@lru_cache(maxsize=1024)
def _non_torch(request: Request) -> tuple[float, float]:
    """GiB held outside torch: (counted in the budget, not counted)."""
    layout, engine, link = request.layout, request.engine, request.gpu.link
    inside, outside = engine["kernelsGib"][link], 0.0
    context = fact("vllm", "overhead", "cudaContextGib")[link]
    inside, outside = (inside + context, outside) if engine["startCountsAgainstBudget"] else (inside, outside + context)
    if layout.gpus > 1:
        base, per_rank = fact("vllm", "overhead", "collectivesGib")[engine["engine"]][link]
        inside += base + per_rank * min(layout.tensor, layout.gpus_per_node)  # it does not grow across nodes
        groups = fact("vllm", "overhead", "communicatorsGib")[link]
        further = (layout.pipeline > 1 and layout.tensor > 1) + (layout.data > 1)
        further += engine["expertGroup"] and request.model.moe is not None and layout.tensor * layout.data > 1
        groups += further * fact("vllm", "overhead", "extraGroupGib") * (1 if link == "nvlink" else groups)
        inside, outside = (inside + groups, outside) if engine["communicatorsCounted"] else (inside, outside + groups)
    return inside, outside


def _body(request: Request, tokens: int, has_experts: bool) -> float:
    """Bytes alive at the widest point of one layer when `tokens` tokens pass through it (16-bit activations).

    Excludes what outlives the layer: the experts' workspace where it stays, and MLA's context.
    """
    model, layout, engine = request.model, request.layout, request.engine
    hidden = (fact("vllm", "overhead", "hiddenCopies") + model.residuals) * model.hidden * tokens
    if model.mla:
        mla, heads = model.mla, model.heads / layout.tensor
        # V1 profiles without attention: it makes no keys and values.
        tensors = 2 if engine["engine"] == "V0" else 1
        attention = tokens * (tensors * heads * (mla.nope + mla.rope + mla.value) + mla.kv_rank + mla.rope)
        attention += tokens * ((mla.query_rank or 0) + (heads * mla.value if model.gated else 0))
    else:
        kv = max(model.kv_heads / layout.tensor, 1)
        heads = max(model.heads, model.window_heads) / layout.tensor
        attention = tokens * model.head_dim * ((3 if model.gated else 2) * heads + 2 * kv)
    if model.compressed:  # queries and outputs are padded to 64 heads
        attention = tokens * model.head_dim * (2 * max(64, model.heads / layout.tensor) + model.heads / layout.tensor)
        hidden *= model.compressed.streams
    if model.state:  # what goes in, what the convolution gives, and the output
        attention = max(attention, tokens * (2 * model.state.convolved + 3 * model.state.inner) / layout.tensor)
    widest = max(attention, tokens * 3 * model.intermediate / layout.tensor)
    if model.moe and has_experts:
        routed: float = tokens * layout.data * model.hidden
        routed += 0 if engine["moeWorkspaceStays"] else _expert_buffers(request, tokens) / 2
        # The result of the shared experts waits for that of the routed ones.
        routed += tokens * model.hidden if model.moe.shared else 0
        widest = max(widest, routed)
    quantised_input = tokens * model.hidden if model.quantisation in ("fp8-block", "fp8", "w8a8") else 0
    return 2 * (hidden + widest) + quantised_input


def _expert_buffers(request: Request, tokens: float) -> float:
    """Bytes of the two buffers between the experts' products."""
    model, layout, engine = request.model, request.layout, request.engine
    if model.moe is None:
        return 0.0
    moe, ranks = model.moe, layout.tensor * layout.data
    width = moe.intermediate / (1 if layout.expert_parallel else ranks)
    rows: float = min(tokens * layout.data, engine["moeChunkTokens"] or math.inf) * moe.per_token
    if not engine["moeWorkspaceStays"]:
        # The first and the last product share a buffer; the activation between them has its own.
        return 2 * rows * (max(2 * width, model.hidden) + width)
    deep = model.quantisation == "fp8-block" and request.gpu.family in engine["deepGemm"]
    if deep and (layout.expert_parallel or request.gpu.family != "hopper"):
        # DeepGEMM pads each expert's rows to 128. For tensor ranks on Hopper, vLLM prefers Triton's kernel.
        rows += 127 * math.ceil(moe.experts / (ranks if layout.expert_parallel else 1))
    return 2 * rows * (max(width, model.hidden) + max(2 * width, model.hidden))


def kv_bytes(request: Request) -> float:
    """Bytes of KV cache for one token in one layer on one GPU."""
    model, layout, engine = request.model, request.layout, request.engine
    byte = 1 if request.kv_dtype.startswith("fp8") else 4 if request.overrides.wide else 2
    if model.compressed:
        return compressed_row() / 2  # a layer with each ratio takes so much
    if model.mla is None:
        row = max(model.kv_heads / layout.tensor, 1) * (model.head_dim + model.value) * byte
        return (row + (model.indexer.cache_bytes if model.indexer else 0)) / layout.context
    kind, row = engine["mlaCache"], (model.mla.kv_rank + model.mla.rope) * byte
    if kind == "per-head":  # before vLLM supported MLA: keys and values of every head, padded to 256
        return 2 * max(model.heads / layout.tensor, 1) * 256 * byte
    if kind == "latent-padded":
        row = -(-row // 256) * 256
    if model.indexer:
        sparse = engine["sparseCacheFp8Bytes"]
        row = (sparse if byte == 1 and sparse else row) + model.indexer.cache_bytes
    return row / layout.context


def _tokens(request: Request, stage: Stage, max_model_len: int) -> int:
    """Tokens that the stage's cache holds, in whole blocks, if requests are `max_model_len` long."""
    model = request.model
    if stage.kv <= 0:
        return 0
    block = _block(request)
    if not (stage.cached or stage.states):
        return sys.maxsize  # the other stages limit it
    if stage.states or model.compressed:
        return int(requests_held(request, stage, max_model_len) * max_model_len / block) * block
    windowed = stage.cached * model.window_layers / max(model.count(ATTENTION), 1)
    window = min(max_model_len, model.window + batch(request, max_model_len)[0]) if windowed else 0
    # A layer with a sliding window keeps only the window and the current step, whatever the length.
    full, near = (
        max(heads / request.layout.tensor, 1) * row
        for heads, row in zip(model.heads_kept, model.rows_kept, strict=True)
    )
    equal_layers = stage.cached - windowed + windowed * near / full * window / max_model_len
    return int(stage.kv * GIB / (kv_bytes(request) * equal_layers) / block) * block


def _gathered(told: Compressed | None, max_model_len: int, tokens: int) -> float:
    """Rows that a prefill gathers at once."""
    if told is None:
        return 0.0
    return fact("vllm", "compressed", "gathered") * (max_model_len / 4 + told.window + tokens)


@dataclass(frozen=True)
class _Page:
    """One layer's part of a block: `tokens` of a cache, or one state."""

    tokens: int
    bytes: float


def _page(request: Request) -> _Page:
    """A page holds a state, so a block has more tokens than usual (vLLM, `platforms/interface.py`
    update_block_size_for_backend)."""
    align = fact("vllm", "state", "alignTokens")
    row = kv_bytes(request)
    tokens = align * math.ceil(state_bytes(request) / (align * row))
    return _Page(tokens, tokens * row)


@lru_cache(maxsize=64)
def _groups(model: Model) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """The layers of each table of blocks: those of attention, and those of states.

    Of both kinds as many as the rarer has make up a group, unless the other has hardly more; layers go to the groups in
    turn, over all pipeline stages (vLLM, `v1/core/kv_cache_utils.py` _get_kv_cache_groups_uniform_page_size).
    """
    attended, states = (
        [layer for layer, kind in enumerate(model.kinds) if part in kind] for part in (ATTENTION, STATE)
    )
    least, most = sorted(len(layers) for layers in (attended, states))
    size = most if most < fact("vllm", "state", "oneGroupBelow") * least or not least else least

    def grouped(layers: list[int]) -> tuple[tuple[int, ...], ...]:
        count = math.ceil(len(layers) / size)
        return tuple(tuple(layers[index::count]) for index in range(count))

    return grouped(attended), grouped(states)


def _group_size(model: Model, first: int, layers: int) -> int:
    """Pages of a block in the stage with these layers: it has those of its largest group for every group."""
    attended, states = _groups(model)
    return max(sum(first <= layer < first + layers for layer in group) for group in attended + states)


def requests_held(request: Request, stage: Stage, tokens: int) -> float:
    """How many requests of so many tokens the cache of a stage with states, or compressed attention, holds."""
    if request.model.compressed:
        return max(0.0, stage.kv) * GIB / _compressed_bytes(request, request.model.compressed, stage, tokens)
    page, each = _page(request), fact("vllm", "state", "perRequest")
    attended, states = _groups(request.model)
    blocks = len(attended) * math.ceil(tokens / page.tokens)
    blocks += len(states) * (each["one"] + (each["draft"] if request.speculative else 0))
    size = _group_size(request.model, stage.first, stage.layers) * page.bytes
    return max(0.0, stage.kv) * GIB / size / blocks if size else math.inf


def _compressed_bytes(request: Request, told: Compressed, stage: Stage, tokens: int) -> float:
    """Bytes of the blocks of one request. Rows, windows, and what is yet to be compressed share blocks of one size: a
    request that a step fills takes them for all tokens of that step (vLLM, `layers/deepseek_compressor.py`,
    `v1/kv_cache_interface.py` SlidingWindowMLASpec)."""
    sizes = fact("vllm", "compressed", "blockTokens")
    fours, long = (told.count(ratio, stage.first, stage.layers) for ratio in (4, 128))
    each = max(fours, long, math.ceil(stage.layers / 2))
    step = batch(request, tokens)[0]

    def sliding(window: int, block: int) -> int:
        return math.ceil(min(window - 1 + step, tokens) / block) + 1

    blocks = math.ceil(tokens / sizes["rows"]) + math.ceil(stage.layers / each) * sliding(told.window, sizes["window"])
    blocks += sliding(2 * 4, sizes["states4"]) * (fours > 0) + sliding(128, sizes["states128"]) * (long > 0)
    return blocks * sizes["rows"] * compressed_row() * each


def compressed_row() -> float:
    """Bytes that a token takes in blocks of one layer with each ratio, and an index."""
    of, rows = fact("vllm", "compressed", "bytes"), fact("vllm", "compressed", "blockTokens")["rows"]
    pages = (rows // 4 * of["row"], rows // 4 * of["index"], rows // 128 * of["row"])
    return sum(math.ceil(page / of["align"]) * of["align"] for page in pages) / rows


def state_bytes(request: Request) -> float:
    """Bytes of one request's state in one layer on one GPU: of the convolution, in 16 bits, and of the heads."""
    state, tensor = request.model.state, request.layout.tensor
    if state is None:
        return 0.0
    before = max(state.conv - 1, 0) + (fact("vllm", "state", "perRequest")["draft"] if request.speculative else 0)
    groups = max(state.groups, tensor)  # a rank holds at least one
    convolved = (state.inner + 2 * groups * state.dim) / tensor
    return convolved * before * 2 + state.inner * state.dim / tensor * state.bytes


def _chunks(request: Request, states: int, tokens: int) -> float:
    """Bytes of the states between chunks of a prefill, which profiling does not see."""
    state = request.model.state
    if state is None or not states:
        return 0.0
    chunks = math.ceil(tokens / fact("vllm", "state", "chunkTokens"))
    return chunks * state.inner * state.dim / request.layout.tensor * 4
