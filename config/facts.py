"""The stack file's section on facts that the program's own catalog lacks or has wrong, in the shape it has them.

Every fact may be left out: a description overrules the catalog's, fact by fact, and the planner says what is missing.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from config.strict import Strict
from config.types import Positive
from planning.models import FORMATS


class _Facts(Strict):
    def given(self) -> dict[str, Any]:
        """What is said, under the catalog's keys."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class MlaFacts(_Facts):
    """Latent attention."""

    query_rank: Positive | None = Field(None, description="the rank of queries; null where they are not compressed")
    kv_rank: Positive | None = Field(None, description="the rank of keys and values")
    nope: Positive | None = Field(None, description="elements of a head without position")
    rope: Positive | None = Field(None, description="elements of a head with position")
    value: Positive | None = Field(None, description="elements of a head's value")


class MoeFacts(_Facts):
    """Mixture of experts."""

    experts: Positive | None = Field(None, description="the number of routed experts")
    per_token: Positive | None = Field(None, description="experts of each token")
    intermediate: Positive | None = Field(None, description="the width of an expert")
    shared: int = Field(0, ge=0, description="experts that are always on")
    dense_layers: int = Field(0, ge=0, description="layers without experts")
    expert_bias: bool = Field(False, description="true where experts have biases")


class IndexerFacts(_Facts):
    """Sparse attention's indexer."""

    heads: Positive = Field(description="the number of its heads")
    dim: Positive = Field(description="the width of a head")
    cache_bytes_per_token: Positive = Field(description="bytes of its own cache for one token of one layer")


class WindowFacts(_Facts):
    """Layers whose attention has a window."""

    tokens: Positive = Field(description="tokens of the window")
    layers: Positive = Field(description="the number of such layers")


class ModelFacts(_Facts):
    """A model, sizes in elements."""

    layers: Positive | None = Field(None, description="the number of layers")
    hidden: Positive | None = Field(None, description="the hidden size")
    heads: Positive | None = Field(None, description="the number of attention heads")
    vocab: Positive | None = Field(None, description="the number of words")
    max_context: Positive | None = Field(None, description="the longest context in tokens")
    kv_heads: Positive | None = Field(None, description="the number of heads of keys and values")
    head_dim: Positive | None = Field(None, description="the width of a head")
    intermediate: Positive | None = Field(None, description="the width of the MLP")
    tied_embeddings: bool = Field(False, description="true where input and output share their embedding")
    qkv_bias: bool = Field(False, description="true where the projections of attention have biases")
    mla: MlaFacts | None = Field(None, description="a map for latent attention")
    moe: MoeFacts | None = Field(None, description="a map for a mixture of experts")
    indexer: IndexerFacts | None = Field(None, description="a map for sparse attention's indexer")
    sliding_window: WindowFacts | None = Field(None, description="a map for layers with a window")
    mtp_layers: int = Field(0, ge=0, description="layers that predict further tokens")
    quantisation: str = Field("none", description=f"the weights' format: {', '.join(FORMATS)}")
    other_bytes: int = Field(0, ge=0, description="bytes of further weights")
    file_bytes: Positive | None = Field(None, description="bytes of the published files")
    parameters: Positive | None = Field(None, description="the number of parameters")


class GpuFacts(_Facts):
    """A GPU."""

    usable_gib: float | None = Field(None, gt=0, le=10**6, description="the memory that the driver reports, in GiB")
    link: Literal["nvlink", "pcie"] | None = Field(None, description="what joins the GPUs of a node")
    host_gib_per_second: float = Field(25.0, gt=0, description="what a GPU takes from its host, in GiB/s")


class GpuPods(_Facts):
    """The pods of a GPU series."""

    gpus: tuple[Positive, ...] | None = Field(
        None, strict=False, min_length=1, description="a list of how many GPUs a pod may have"
    )
    memory_gib: dict[str, Annotated[tuple[Positive, ...], Field(strict=False)]] | None = Field(
        None, description="a map of vCPU to a list of sizes in GiB"
    )
    ephemeral_gib: Positive | None = Field(None, description="the largest scratch disk of a pod, in GiB")
    rdma: bool | None = Field(None, description="whether they have RDMA")


class Catalog(Strict):
    """Facts that the program's own catalog lacks or has wrong, under the names and in the shape it has them."""

    models: dict[str, ModelFacts] = Field({}, description="a map of models: name to facts")
    gpus: dict[str, GpuFacts] = Field({}, description="a map of GPUs: name to usableGib and link")
    gpu_pods: dict[str, GpuPods] = Field(
        {}, description="a map of GPU series: name to gpus, memoryGib by vCPU, ephemeralGib and rdma of their pods"
    )
