"""Catalog entries as types: for the program's own data files (`planning/catalog`), and for the stack file's section
that adds to them or corrects them. The planner reads both as plain data, so that it does not depend on this room.

Every fact is optional: an entry overrides the catalog's fact by fact, and the planner names what is missing.
"""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from config.errors import refuse, rule
from config.strict import Strict
from config.types import LABEL, MODEL, InSchema, ModelName, Region, names, pattern
from planning.catalog import fact
from planning.kubernetes_names import label_problems
from planning.models import CONFIG_WORDS, FORMATS, METHODS
from planning.problems import Unjudged

# Far above any real model, GPU or pod. The limit on layers is lower, because the planner goes through them one by one.
Layers = Annotated[int, Field(gt=0, le=10**3)]
LayersOrNone = Annotated[int, Field(ge=0, le=10**3)]
Number = Annotated[int, Field(gt=0, le=10**9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Size = Annotated[int, Field(gt=0, le=10**18)]
Part = Literal["attention", "output", "mlp", "experts", "shared", "indexer", "draft", "state"]
Speed = Annotated[float, Field(gt=0, le=10**9)]


def _format(value: str) -> str:
    if value in FORMATS:
        return value
    instead = METHODS.get(value.lower().replace("-", "_")) or f"one of {', '.join(FORMATS)}"
    raise rule(value, "is not a format of weights", f"write {instead}")


def _gpu_name(value: str) -> str:
    if value.strip() and ":" not in value:
        return value
    raise rule(value, "is not a GPU's name", "write one such as H20-96, and its memory as usableGib")


def _series(value: str) -> str:
    if not value or any(label_problems({"series": value})):
        raise rule(value, "is not a GPU series: pods request it by a label", "write one such as GU8TF")
    return value


def _vcpu(value: str) -> str:
    if value.isascii() and value.isdecimal() and not value.startswith("0"):
        return value
    raise rule(value, "is not a number of vCPU", "write whole vCPU, such as 64, before each list of sizes")


def _sizes(value: Any) -> Any:
    if isinstance(value, list | tuple) and value:
        return value
    raise rule(value, "is not a list of sizes", "write whole GiB, such as [128, 256]")


def _each_once(value: dict[str, Any]) -> dict[str, Any]:
    """The planner ignores case when it looks names up, so names must differ by more than case."""
    seen: dict[str, str] = {}
    twice = [(name, seen.setdefault(name.lower(), name)) for name in value]
    refuse(*[(f".{name}", "", f"is also given as {other}", "keep one") for name, other in twice if other != name])
    return value


GpuName = Annotated[str, AfterValidator(_gpu_name)]
Sizes = Annotated[tuple[Number, ...], Field(strict=False), BeforeValidator(_sizes), InSchema({"minItems": 1})]


class _Facts(Strict):
    def given(self) -> dict[str, Any]:
        """The facts that the stack file gives, under the catalog's keys."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class MlaFacts(_Facts):
    """Latent attention."""

    query_rank: Number | None = Field(None, description="the rank of queries; null if they are not compressed")
    kv_rank: Number | None = Field(None, description="the rank of keys and values")
    nope: Number | None = Field(None, description="elements of a head without position")
    rope: Number | None = Field(None, description="elements of a head with position")
    value: Number | None = Field(None, description="elements of a head's value")


class MoeFacts(_Facts):
    """Mixture of experts."""

    experts: Number | None = Field(None, description="the number of routed experts")
    per_token: Number | None = Field(None, description="experts of each token")
    intermediate: Number | None = Field(None, description="the width of an expert")
    shared: Count = Field(0, description="experts that are always on")
    dense_layers: LayersOrNone = Field(0, description="layers without experts")
    expert_bias: bool = Field(False, description="true if experts have biases")
    latent: Count = Field(0, description="the width to which tokens are projected for routed experts")
    shared_width: Count = Field(0, description="the width of a shared expert, if it is not that of the others")
    every: Layers = Field(1, description="each such layer after the dense ones has experts, such as every 2nd")


class IndexerFacts(_Facts):
    """Sparse attention's indexer."""

    heads: Number | None = Field(None, description="the number of its heads")
    dim: Number | None = Field(None, description="the width of a head")
    cache_bytes_per_token: Number | None = Field(None, description="bytes of its own cache for one token of one layer")


class WindowFacts(_Facts):
    """Layers whose attention has a window."""

    tokens: Number | None = Field(None, description="tokens of the window")
    layers: Layers | None = Field(None, description="the number of such layers")
    kv_heads: Number | None = Field(None, description="their heads of keys and values, if not as many as the others'")
    heads: Number | None = Field(None, description="their heads of queries, if not as many as the others'")
    head_dim: Number | None = Field(None, description="the width of their heads, if it is not that of the others")


class StateFacts(_Facts):
    """Layers that keep a state per request: gated delta net, Mamba 2, lightning or Kimi's delta attention."""

    heads: Number | None = Field(None, description="the number of heads (of values)")
    head_dim: Number | None = Field(None, description="the width of a head")
    groups: Number | None = Field(None, description="the number of heads of keys, or of groups")
    dim: Number | None = Field(None, description="the width of a key, or the state's size")
    conv: Count | None = Field(None, description="tokens of the convolution, 0 without one")
    gates: Count | None = Field(None, description="numbers a token and head: 2 for delta nets, 1 for Mamba")
    bytes: Number | None = Field(None, description="bytes of one of the state's numbers")
    gate_rank: Count = Field(0, description="the rank of the output's gate and of the decay, if they are of low rank")
    full_gates: Literal[0, 1, 2] = Field(0, description="how many of these two have full rank all the same")


class CompressedFacts(_Facts):
    """Attention that compresses its cache, as DeepSeek V4 does."""

    ratios: tuple[Literal[0, 4, 128], ...] = Field(
        (), strict=False, description="a list of how many tokens each layer keeps one row for; 0 is none"
    )
    window: Number | None = Field(None, description="tokens that each layer keeps as they are")
    query_rank: Number | None = Field(None, description="the rank of queries")
    output_rank: Number | None = Field(None, description="the rank of outputs, in each group")
    output_groups: Number | None = Field(None, description="the number of groups of outputs")
    index_heads: Number | None = Field(None, description="the heads of the index")
    index_dim: Number | None = Field(None, description="the width of a head of the index")
    chosen: Number | None = Field(None, description="rows that a token looks at")
    streams: Number | None = Field(None, description="residuals side by side")


_Format = Annotated[str, AfterValidator(_format), InSchema({"enum": list(FORMATS)})]
_Part = Literal["attention", "output", "mlp", "experts", "shared", "indexer", "draft", "state"]


class PartFormats(_Facts):
    """Storage formats of parts of a model."""

    attention: _Format | None = Field(None, description="the format of queries, keys and values")
    output: _Format | None = Field(None, description="the format of attention's output")
    state: _Format | None = Field(None, description="the format of layers with a state")
    mlp: _Format | None = Field(None, description="the format of the MLP")
    experts: _Format | None = Field(None, description="the format of the experts")
    shared: _Format | None = Field(None, description="the format of shared experts")
    indexer: _Format | None = Field(None, description="the format of the index")
    head: _Format | None = Field(None, description="the format of the output embedding")


class ModelFacts(_Facts):
    """A model, sizes in elements."""

    also_named: tuple[ModelName, ...] = Field(
        (), strict=False, description="a list of other repositories with the same model"
    )
    layers: Layers | None = Field(None, description="the number of layers")
    hidden: Number | None = Field(None, description="the hidden size")
    heads: Number | None = Field(None, description="the number of attention heads")
    vocab: Number | None = Field(None, description="the size of the vocabulary")
    max_context: Number | None = Field(None, description="the longest context in tokens")
    kv_heads: Number | None = Field(None, description="the number of heads of keys and values")
    head_dim: Number | None = Field(None, description="the width of a head")
    value_dim: Number | None = Field(None, description="the width of a head's value, if it is not that of its key")
    intermediate: Number | None = Field(None, description="the width of the MLP")
    tied_embeddings: bool = Field(False, description="true if input and output share one embedding")
    qkv_bias: bool = Field(False, description="true if the attention projections have biases")
    mla: MlaFacts | None = Field(None, description="a map for latent attention")
    moe: MoeFacts | None = Field(None, description="a map for a mixture of experts")
    indexer: IndexerFacts | None = Field(None, description="a map for sparse attention's indexer")
    sliding_window: WindowFacts | None = Field(None, description="a map for layers with a window")
    state: StateFacts | None = Field(None, description="a map for layers with a state per request")
    layer_kinds: tuple[Annotated[str, pattern("[AS]?E?D?")], ...] = Field(
        (),
        strict=False,
        description="a list of what each layer has, where they differ: A attention, S a state, E experts, D an MLP",
    )
    mlp_widths: tuple[Count, ...] = Field(
        (), strict=False, description="a list of the width of each layer's MLP, where they differ; 0 is none"
    )
    compressed: CompressedFacts | None = Field(None, description="a map for attention that compresses its cache")
    expert_format: _Format | None = Field(None, description="the experts' format, if it is not that of the rest")
    part_formats: PartFormats | None = Field(None, description="a map for parts in another format than the rest")
    gated_queries: bool = Field(False, description="true if queries, or latent attention's output, carry a gate")
    residuals: LayersOrNone = Field(0, description="earlier outputs of layers that are kept for later ones")
    mlp_matrices: Literal[2, 3] = Field(3, description="matrices of an MLP or expert; 2 without a gate")
    draft_tables: Literal[0, 2] = Field(2, description="embedding tables that the files hold for draft layers")
    mtp_layers: LayersOrNone = Field(0, description="layers that predict further tokens")
    quantisation: _Format = Field("none", description=f"the weights' format: {', '.join(FORMATS)}")
    sixteen_bit: tuple[_Part, ...] = Field(
        (), strict=False, description="a list of the parts that a quantised model keeps in 16 bits"
    )
    other_bytes: Annotated[int, Field(ge=0, le=10**18)] = Field(0, description="bytes of further weights")
    file_bytes: Size | None = Field(None, description="bytes of the published files")
    parameters: Size | None = Field(None, description="the number of parameters")
    architecture: str = Field("", description="the class that the model's config.json names")

    @classmethod
    def _elsewhere(cls, key: str) -> str | None:
        return CONFIG_WORDS.get(key)


class PeakFacts(_Facts):
    """TFLOPS without sparsity."""

    bf16: Speed | None = Field(None, description="in bf16")
    fp8: Speed | None = Field(None, description="in fp8, where the GPU multiplies it")
    int8: Speed | None = Field(None, description="in int8")
    fp4: Speed | None = Field(None, description="in fp4, where the GPU multiplies it")


class SpeedFacts(_Facts):
    """What a GPU does at most."""

    memory_gb_per_second: Speed | None = Field(None, description="the bandwidth of its memory, in GB/s")
    link_gb_per_second: Speed | None = Field(
        None, description="the bandwidth to the other GPUs of its node, in GB/s one way"
    )
    tflops: PeakFacts | None = Field(None, description="a map of bf16, fp8, int8, fp4 to TFLOPS without sparsity")


class GpuFacts(_Facts):
    """A GPU."""

    also_named: tuple[GpuName, ...] = Field(
        (), strict=False, description="a list of its other names, such as a cloud's series"
    )
    usable_gib: float | None = Field(
        None, gt=0, le=10**6, description="the memory that the driver reports, in GiB and without a unit"
    )
    link: Literal["nvlink", "pcie"] | None = Field(None, description="nvlink or pcie: what joins the GPUs of a node")
    host_gib_per_second: float = Field(25.0, ge=0.01, le=10**6, description="GiB/s that a GPU reads from its host")
    speeds: SpeedFacts | None = Field(None, description="a map with memoryGbPerSecond, linkGbPerSecond and tflops")


class GpuPods(_Facts):
    """The pods of a GPU series."""

    gpus: Annotated[tuple[Number, ...], Field(strict=False, min_length=1)] | None = Field(
        None, description="a list of how many GPUs a pod may have, such as [1, 2, 4, 8]"
    )
    memory_gib: (
        Annotated[dict[Annotated[str, AfterValidator(_vcpu)], Sizes], Field(min_length=1), names("[1-9][0-9]*")] | None
    ) = Field(None, description="a map of vCPU to a list of sizes in GiB")
    ephemeral_gib: Number | None = Field(None, description="the largest scratch disk of a pod, in GiB")
    rdma: bool | None = Field(None, description="whether they have RDMA")


class Catalog(Strict):
    """Facts that the program's own catalog lacks or has wrong, under the catalog's names and in its shape."""

    models: Annotated[dict[ModelName, ModelFacts], AfterValidator(_each_once), names(MODEL)] = Field(
        {}, description="a map of models: name to facts"
    )
    gpus: Annotated[dict[GpuName, GpuFacts], AfterValidator(_each_once), names(r"[^:]*[^\s:][^:]*")] = Field(
        {}, description="a map of GPUs: name to usableGib and link"
    )
    gpu_pods: Annotated[dict[Annotated[str, AfterValidator(_series)], GpuPods], names(LABEL, maxLength=63)] = Field(
        {}, description="a map of GPU series: name to gpus, memoryGib by vCPU, ephemeralGib and rdma of their pods"
    )
    regions: tuple[Region, ...] = Field((), strict=False, description="a list of regions newer than the catalog")

    @field_validator("gpu_pods")
    @classmethod
    def _a_new_series_has_pods(cls, value: dict[str, GpuPods]) -> dict[str, GpuPods]:
        lacking = []
        for name, pods in value.items():
            with contextlib.suppress(Unjudged):
                lacking += [name] if name not in _known_pods() and pods.gpus is None else []
        refuse(
            *[(f".{name}.gpus", "", "is missing", "write a list of how many GPUs a pod may have") for name in lacking]
        )
        return value


def gpu_pods(series: str, more: Mapping[str, GpuPods]) -> dict[str, Any] | None:
    """What is known about the pods of an ACS series, the stack file's facts first; None if nothing is."""
    described = more[series].given() if series in more else None
    listed = _known_pods().get(series)
    return None if described is None and listed is None else {**(listed or {}), **(described or {})}


def _known_pods() -> Mapping[str, Any]:
    return fact("clouds", "acs", "gpuPods")
