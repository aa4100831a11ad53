"""What a model is made of, as far as memory goes: shapes, expert counts, storage format of its weights.

Looks models up by name: in the catalog, or as a quantised variant of a catalogued model by its suffix. A config.json is
read in `planning.config_json`. Does not know GPUs or engines. A PlanError names missing facts; none is guessed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from planning.catalog import entries, fact, overruled
from planning.problems import PlanError, Problem

Facts = Mapping[str, Mapping[str, Any]]
CONFIG = "the path of the model's config.json"

# Bytes of one weight in a linear layer, by storage format. Embeddings, norms and routers have 16 bits in every format.
# Scales: one fp32 per 128 x 128 block (fp8-block); an fp16 scale and a 4-bit zero per group of 128 (int4, as in AWQ);
# only the scale (int4-symmetric, as in GPTQ and compressed-tensors; a number names a smaller group); fp8 per group of
# 16 (nvfp4); 8 bits per group of 32 (mxfp4, mxfp8); for bitsandbytes' nf4 an 8-bit constant per block of 64, and an
# fp32 per 256 of those.
FORMATS = {
    "none": 2.0,
    "fp8-block": 1 + 4 / 128**2,
    "fp8": 1.0,
    "fp8-mlp": 1.0,
    "w8a8": 1.0,
    "int8-symmetric": 1 + 2 / 128,
    "int4": 0.5 + 2.5 / 128,
    "int4-64": 0.5 + 2.5 / 64,
    "int4-32": 0.5 + 2.5 / 32,
    "int4-symmetric": 0.5 + 2 / 128,
    "int4-symmetric-64": 0.5 + 2 / 64,
    "int4-symmetric-32": 0.5 + 2 / 32,
    "nvfp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
    "mxfp8": 1 + 1 / 32,
    "nf4": 0.5 + 1 / 64 + 4 / (64 * 256),
}
# Values of `quant_method` in a config.json, and the format that each means by default.
METHODS = {"fbgemm_fp8": "fp8-mlp", "mxfp4": "mxfp4", "awq": "int4", "gptq": "int4-symmetric", "bitsandbytes": "nf4"}
# Keys of a config.json, and the catalog's names for the same facts.
CONFIG_WORDS = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "vocab_size": "vocab",
    "max_position_embeddings": "maxContext",
    "num_key_value_heads": "kvHeads",
    "head_dim": "headDim",
    "intermediate_size": "intermediate",
    "tie_word_embeddings": "tiedEmbeddings",
    "attention_bias": "qkvBias",
    "num_nextn_predict_layers": "mtpLayers",
    "sliding_window": "slidingWindow.tokens",
    "q_lora_rank": "mla.queryRank",
    "kv_lora_rank": "mla.kvRank",
    "qk_nope_head_dim": "mla.nope",
    "qk_rope_head_dim": "mla.rope",
    "v_head_dim": "mla.value",
    "n_routed_experts": "moe.experts",
    "num_experts": "moe.experts",
    "num_local_experts": "moe.experts",
    "num_experts_per_tok": "moe.perToken",
    "moe_intermediate_size": "moe.intermediate",
    "n_shared_experts": "moe.shared",
    "first_k_dense_replace": "moe.denseLayers",
    "index_n_heads": "indexer.heads",
    "index_head_dim": "indexer.dim",
    "quantization_config": "quantisation",
    "quant_method": "quantisation",
    "quantization": "quantisation",
    "quantize": "quantisation",
    "text_config": "its facts themselves",
    "layer_types": "slidingWindow",
}
# Models whose makers publish FP8 with a scale for each row or matrix (GLM-4.5, 4.6 and 4.7: compressed-tensors; vLLM's
# recipes split their experts into widths that are no multiple of a block).
_WHOLE_ROWS = ("llama", "meta-", "mistral", "nvidia-", "glm-4.")
# Repositories of quantised variants end in these.
_SUFFIXES = {
    r"-fp8-dynamic$": "fp8",
    r"-fp8$": None,  # published by the maker, in blocks of 128 unless it is one of _WHOLE_ROWS
    r"-nvfp4(a16|-v2)?$": "nvfp4",
    r"-fp4$": "nvfp4",
    r"-(awq|awq-int4|int4-awq|int4)$": "int4",
    r"-(gptq|gptq-int4|quantized\.w4a16|w4a16)$": "int4-symmetric",
    r"-(int8|w8a8|quantized\.w8a8|gptq-int8)$": "w8a8",
    r"-(bnb-4bit|unsloth-bnb-4bit|bitsandbytes|nf4)$": "nf4",
    r"-bf16$": "none",
}


@dataclass(frozen=True)
class Mla:
    """Latent attention: ranks and head sizes, in elements. `query_rank` is None where queries are not compressed."""

    query_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True)
class Moe:
    """Mixture of experts: `experts` routed ones of width `intermediate`, `shared` of them always on."""

    experts: int
    per_token: int
    intermediate: int
    shared: int = 0
    dense_layers: int = 0
    expert_bias: bool = False
    every: int = 1
    """Of the layers after the dense ones, each `every`-th has experts."""
    latent: int = 0
    """The width to which tokens are projected for the routed experts; 0 if they are not."""
    shared_width: int = 0
    """The width of a shared expert; 0 if it is that of the others."""

    def routed(self, layers: int) -> int:
        """How many of the first so many layers have experts."""
        return max(0, layers // self.every - self.dense_layers // self.every)


@dataclass(frozen=True)
class Indexer:
    """Sparse attention's indexer: heads of width `dim`, and the bytes that its own cache takes per token and layer."""

    heads: int
    dim: int
    cache_bytes: int


@dataclass(frozen=True)
class State:
    """Layers that keep a state per request in place of a cache per token (gated delta net, Mamba 2, lightning
    attention, Kimi's delta attention).

    `heads` of width `head_dim`; `groups` of queries and keys (B and C) of width `dim`; a convolution over `conv`
    tokens (0: none); `gates` numbers a token and head. Each of the heads x head_dim x dim elements of a state has
    `bytes`. The output's gate, and a decay of the same width, have rank `gate_rank`; 0 is a gate of full rank alone.
    `full_gates` says how many of these two have full rank all the same.
    """

    heads: int
    head_dim: int
    groups: int
    dim: int
    conv: int
    gates: int = 2
    bytes: int = 2
    gate_rank: int = 0
    full_gates: int = 0

    @property
    def inner(self) -> int:
        """Width of all heads."""
        return self.heads * self.head_dim

    @property
    def convolved(self) -> int:
        """Width of what the convolution sees."""
        return self.inner + 2 * self.groups * self.dim


@dataclass(frozen=True)
class Compressed:
    """DeepSeek V4's attention: each layer keeps `window` tokens, and one latent row of all tokens for every `ratio` of
    them (0: none). Queries have rank `query_rank`, outputs `output_rank` in each of `output_groups`. Layers with the
    ratio 4 choose `chosen` rows by an index of `index_heads` heads of width `index_dim`. `streams` residuals run side
    by side."""

    ratios: tuple[int, ...]
    window: int
    query_rank: int
    output_rank: int
    output_groups: int
    index_heads: int
    index_dim: int
    chosen: int
    streams: int

    def count(self, ratio: int, first: int, layers: int) -> int:
        """How many of `layers` layers from `first` on have that ratio."""
        return self.ratios[first : first + layers].count(ratio)


# What a layer has. A layer without a kind of its own has attention, and experts or an MLP.
ATTENTION, STATE, EXPERTS, MLP = "A", "S", "E", "D"


@dataclass(frozen=True)
class Model:
    """A model's shape, in elements. `file_bytes` counts the published files; None if unknown.

    `architecture` is the class that its config.json names; empty if unknown.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    vocab: int
    max_context: int
    source: str
    kv_heads: int = 0
    head_dim: int = 0
    intermediate: int = 0
    tied_embeddings: bool = False
    qkv_bias: bool = False
    mla: Mla | None = None
    moe: Moe | None = None
    indexer: Indexer | None = None
    window: int = 0
    window_layers: int = 0
    window_kv_heads: int = 0
    """Heads of keys and values of the layers with a window; 0 if they have as many as the others."""
    window_heads: int = 0
    """Heads of queries of the layers with a window; 0 if they have as many as the others."""
    window_head_dim: int = 0
    """The width of a head of the layers with a window; 0 if it is that of the others."""
    value_dim: int = 0
    """The width of a head's value; 0 if it is that of its key. Latent attention says its own."""
    mtp_layers: int = 0
    quantisation: str = "none"
    other_bytes: int = 0
    file_bytes: int | None = None
    parameters: int | None = None
    architecture: str = ""
    state: State | None = None
    kinds: tuple[str, ...] = ()
    """For each layer what it has (ATTENTION, STATE, EXPERTS, MLP), where layers differ in more than experts."""
    widths: tuple[int, ...] = ()
    """For each layer the width of its MLP (0: none), where they differ; `intermediate` is the widest then."""
    compressed: Compressed | None = None
    expert_format: str = ""
    """The storage format of the experts, if it is not that of the rest."""
    part_formats: tuple[tuple[str, str], ...] = ()
    """Parts (as in `sixteen_bit`, and head: the output embedding) with an own storage format, and that."""
    gated: bool = False
    """Queries carry a gate of the same width, or latent attention's output one of its own."""
    residuals: int = 0
    """Earlier outputs of layers that are kept for later ones, each as wide as the model."""
    matrices: int = 3
    """Matrices of an MLP or expert: 2 if it has no gate."""
    draft_tables: int = 2
    """Embedding tables that the files hold for the draft layers."""
    unknown: str = ""
    """Why the shape is not known; empty if it is. Then `layers` may be a guess, and other sizes say nothing."""
    sixteen_bit: frozenset[str] = frozenset()
    """Parts that a quantised model keeps in 16 bits: attention (all but its output), output, mlp (of dense layers),
    experts, shared (experts), indexer, draft (layers), state."""

    def count(self, part: str, first: int = 0, layers: int | None = None) -> int:
        """How many of `layers` layers from `first` on have that part; of all if `layers` is None."""
        end = self.layers if layers is None else first + layers
        if self.kinds:
            return sum(part in kind for kind in self.kinds[first:end])
        routed = self.moe.routed(end) - self.moe.routed(first) if self.moe else 0
        return {ATTENTION: end - first, STATE: 0, EXPERTS: routed, MLP: end - first - routed}[part]

    @property
    def value(self) -> int:
        """The width of a head's value."""
        return self.mla.value if self.mla else self.value_dim or self.head_dim

    @property
    def heads_kept(self) -> tuple[int, int]:
        """Heads of keys and values: of layers that see everything, and of those with a window."""
        return self.kv_heads, self.window_kv_heads or self.kv_heads

    @property
    def rows_kept(self) -> tuple[int, int]:
        """Elements that a token has in one head's cache: of layers that see everything, and of those with a window."""
        near = 2 * self.window_head_dim or self.head_dim + self.value
        return self.head_dim + self.value, near

    @property
    def plain(self) -> Model:
        """The same model with all of its weights in 16 bits."""
        return replace(self, quantisation="none", expert_format="", part_formats=(), sixteen_bit=frozenset())

    def form(self, part: str) -> str:
        """The storage format of a part (as in `sixteen_bit`): some formats quantise only the MLP or only the experts,
        some files leave parts in 16 bits or have several formats."""
        if part in self.sixteen_bit:
            return "none"
        if own := dict(self.part_formats).get(part) or (self.expert_format if part == "experts" else ""):
            return own
        only = {"fp8-mlp": ("mlp", "experts"), "mxfp4": ("experts",)}.get(self.quantisation)
        return "none" if only and part not in only else self.quantisation


def knows(name: str, more: Facts | None = None) -> bool:
    """Whether the catalog, or `more`, has a model of that very name, in any case."""
    key = name.lower()
    return key in _names() or overruled("models", key, more or {}) is not None


def find(name: str, more: Facts | None = None, otherwise: str = CONFIG) -> Model:
    """The model called `name`: a public repository name in any case (owner optional).

    `more` adds models to the catalog or overrides its facts, under the catalog's keys. Raises PlanError if there is no
    such model, or if facts are missing. `otherwise` says what to give instead of a known name.
    """
    key = name.rpartition("/")[2].lower()
    catalog = _names()
    if described := overruled("models", key, more or {}):
        return _of_the_stack_file(*described)
    if key in catalog:
        return catalog[key]
    for suffix, kind in _SUFFIXES.items():
        base = re.sub(suffix, "", key)
        if base != key and base in catalog and not catalog[base].expert_format:  # a mixture says its formats itself
            model = catalog[base]
            makers_format = "fp8" if base.startswith(_WHOLE_ROWS) else "fp8-block"
            source = f"{model.source}; storage format read from the name's ending"
            # Every published NVFP4 file of a model with latent attention leaves attention in 16 bits; those of models
            # with states leave all but the experts.
            kept = frozenset({"attention", "output"}) if kind == "nvfp4" and model.mla else frozenset[str]()
            if model.state and kind not in (None, "none"):
                kept = frozenset({"attention", "output", "state", "shared", "draft"})
            return replace(
                model,
                name=name.rpartition("/")[2],
                quantisation=kind or makers_format,
                sixteen_bit=kept,
                file_bytes=None,
                source=source,
            )
    sizes = fact("recipes", "recipes", "repositories")
    recipes = {each.rpartition("/")[2].lower(): each for each in sizes}
    if repository := recipes.get(key):
        why = "is in vLLM's recipes, and the catalog does not have its shape"
        instead = (
            f"run python -m ops model {repository} --write STACK, or write {otherwise}; to deploy it without a plan"
        )
        instead += (
            f", write unproven: true, and model: {{repository: {repository}, fileBytes: …, context: …}} with the "
        )
        instead += f"bytes of its files ({sizes[repository] / 1e9:g} billion parameters) and its longest context"
        raise PlanError(Problem("model", name, why, instead))
    named = recipes | {each: model.name for each, model in catalog.items()}
    near = difflib.get_close_matches(key, named, n=3, cutoff=0.6)
    alike = f"did you mean {' or '.join(named[each] for each in near)}? " if near else ""
    known = "a name such as DeepSeek-R1, Qwen3-32B or Llama-3.3-70B-Instruct"
    raise PlanError(Problem("model", name, "is not in the catalog", f"{alike}write {known}, or {otherwise}"))


def _of_the_stack_file(name: str, facts: Mapping[str, Any], listed: bool) -> Model:
    try:
        return from_facts(name, facts, "the stack file" + (", over the catalog" if listed else ""))
    except PlanError as error:
        key = f"catalog.models.{name}"
        raise PlanError(*(replace(problem, key=key, value="") for problem in error.problems)) from None


@cache
def _names() -> dict[str, Model]:
    models: dict[str, Model] = {}
    for name, entry in entries("models")["models"].items():
        model = from_facts(name, entry["value"], entry["source"])
        for alias in (name, *entry["value"].get("alsoNamed", ())):
            models[alias.lower()] = replace(model, name=alias)
    return models


def from_facts(name: str, facts: Mapping[str, Any], source: str) -> Model:
    """A model from the catalog's keys (camelCase). Raises PlanError with the missing facts."""
    mla, moe, indexer, window, state, compressed = (
        facts.get(key) for key in ("mla", "moe", "indexer", "slidingWindow", "state", "compressed")
    )
    window, kinds = window or {}, facts.get("layerKinds") or ()
    needed = ["layers", "hidden", "heads", "vocab", "maxContext"]
    needed += [] if mla else ["kvHeads", "headDim"]
    dense = any(MLP in kind for kind in kinds) if kinds else not moe or moe.get("denseLayers")
    needed += ["intermediate"] if dense else []
    missing = [key for key in needed if facts.get(key) is None]
    missing += [f"mla.{key}" for key in ("kvRank", "nope", "rope", "value") if mla and mla.get(key) is None]
    missing += [f"moe.{key}" for key in ("experts", "perToken", "intermediate") if moe and moe.get(key) is None]
    sparse = ("heads", "dim", "cacheBytesPerToken")
    missing += [f"indexer.{key}" for key in sparse if indexer and indexer.get(key) is None]
    missing += [f"state.{key}" for key in _STATE if state and state.get(key) is None]
    missing += [f"compressed.{key}" for key in ("ratios", *_COMPRESSED) if compressed and compressed.get(key) is None]
    missing += ["state"] if not state and any(STATE in kind for kind in kinds) else []
    missing += [f"slidingWindow.{key}" for key in ("tokens", "layers") if window and window.get(key) is None]
    if missing:
        why = f"the plan also needs {', '.join(missing)}"
        raise PlanError(Problem("model", name, why, "add them to the catalog entry"))
    quantisation = facts.get("quantisation", "none")
    parts = {part: form for part, form in (facts.get("partFormats") or {}).items() if form}
    told = [quantisation, facts.get("expertFormat") or quantisation, *parts.values()]
    if strange := [each for each in told if each not in FORMATS]:
        why = f"storage format {strange[0]} is unknown"
        raise PlanError(Problem("model", name, why, f"write one of {', '.join(FORMATS)}"))
    if wrong := _impossible(facts):
        raise PlanError(*(Problem("model", name, why, "correct one of them") for why in wrong))
    return Model(
        name=name,
        source=source,
        layers=facts["layers"],
        hidden=facts["hidden"],
        heads=facts["heads"],
        vocab=facts["vocab"],
        max_context=facts["maxContext"],
        kv_heads=facts.get("kvHeads") or 0,
        head_dim=facts.get("headDim") or 0,
        intermediate=facts.get("intermediate") or 0,
        tied_embeddings=facts.get("tiedEmbeddings", False),
        qkv_bias=facts.get("qkvBias", False),
        mla=Mla(mla.get("queryRank"), mla["kvRank"], mla["nope"], mla["rope"], mla["value"]) if mla else None,
        moe=Moe(
            moe["experts"],
            moe["perToken"],
            moe["intermediate"],
            moe.get("shared", 0),
            moe.get("denseLayers", 0),
            moe.get("expertBias", False),
            moe.get("every", 1),
            moe.get("latent", 0),
            moe.get("sharedWidth", 0),
        )
        if moe
        else None,
        indexer=Indexer(indexer["heads"], indexer["dim"], indexer["cacheBytesPerToken"]) if indexer else None,
        window=window.get("tokens", 0),
        window_layers=window.get("layers", 0),
        window_kv_heads=window.get("kvHeads") or 0,
        window_heads=window.get("heads") or 0,
        window_head_dim=window.get("headDim") or 0,
        value_dim=facts.get("valueDim") or 0,
        mtp_layers=facts.get("mtpLayers", 0),
        quantisation=quantisation,
        other_bytes=facts.get("otherBytes", 0),
        file_bytes=facts.get("fileBytes"),
        parameters=facts.get("parameters"),
        state=replace(
            State(*(state[key] for key in _STATE)),
            gate_rank=state.get("gateRank") or 0,
            full_gates=state.get("fullGates") or 0,
        )
        if state
        else None,
        kinds=tuple(kinds),
        widths=tuple(facts.get("mlpWidths") or ()),
        compressed=Compressed(tuple(compressed["ratios"]), *(compressed[key] for key in _COMPRESSED))
        if compressed
        else None,
        expert_format=facts.get("expertFormat") or "",
        part_formats=tuple(sorted(parts.items())),
        residuals=facts.get("residuals") or 0,
        gated=facts.get("gatedQueries", False),
        matrices=facts.get("mlpMatrices", 3),
        draft_tables=facts.get("draftTables", 2),
        sixteen_bit=frozenset(facts.get("sixteenBit") or ()),
        architecture=facts.get("architecture") or fact("models", "architectures", "byModel").get(name, ""),
    )


# The facts of compressed attention and of a state, in the order of `Compressed` and `State`.
_COMPRESSED = (
    "window",
    "queryRank",
    "outputRank",
    "outputGroups",
    "indexHeads",
    "indexDim",
    "chosen",
    "streams",
)
_STATE = ("heads", "headDim", "groups", "dim", "conv", "gates", "bytes")


def _impossible(facts: Mapping[str, Any]) -> list[str]:
    """Facts that contradict each other."""
    moe, window, layers = facts.get("moe") or {}, facts.get("slidingWindow") or {}, facts["layers"]
    pairs = [
        ("kvHeads", facts.get("kvHeads"), "heads", facts["heads"]),
        ("moe.perToken", moe.get("perToken"), "moe.experts", moe.get("experts")),
        ("moe.denseLayers", moe.get("denseLayers"), "layers", layers),
        ("slidingWindow.layers", window.get("layers"), "layers", layers),
    ]
    wrong = [
        f"{name} {less} is more than {whole} {most}" for name, less, whole, most in pairs if (less or 0) > (most or 0)
    ]
    for key in ("layerKinds", "mlpWidths"):
        if (listed := len(facts.get(key) or ())) not in (0, layers):
            wrong.append(f"{key} has {listed} layers, layers says {layers}")
    ratios = (facts.get("compressed") or {}).get("ratios")
    if ratios is not None and (len(ratios) < layers or not {*ratios} <= {0, 4, 128}):
        wrong.append("compressed.ratios is not a 0, 4 or 128 for each layer")
    return wrong
