"""How one replica is split over GPUs, and the rules that a layout must keep. Knows shapes, not memory."""

from __future__ import annotations

from dataclasses import dataclass

from planning.engine import Engine
from planning.models import MLP, Model
from planning.problems import Problem


@dataclass(frozen=True)
class Layout:
    """`tensor` GPUs split every layer, `pipeline` stages split the layers, `data` copies split the requests.

    tensor x pipeline x data = nodes x gpus_per_node. With `expert_parallel`, each of a stage's tensor x data ranks
    holds whole experts. `context` (decode context parallel) spreads one sequence's KV over that many tensor ranks.
    """

    nodes: int
    gpus_per_node: int
    tensor: int
    pipeline: int
    data: int = 1
    expert_parallel: bool = False
    context: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.nodes * self.gpus_per_node

    def __str__(self) -> str:
        data = f" DP{self.data}" if self.data > 1 else ""
        expert = " EP" if self.expert_parallel else ""
        return f"{self.nodes} x {self.gpus_per_node} GPUs as TP{self.tensor} PP{self.pipeline}{data}{expert}"


def split(layers: int, stages: int, engine: Engine) -> list[int]:
    """Layers of each pipeline stage, first to last, as this release distributes them."""
    base, remainder = divmod(layers, stages)
    counts = [base] * stages
    if engine["pipelineRemainder"] == "last":
        counts[-1] += remainder
    else:
        for stage in range(stages - 2, stages - 2 - remainder, -1):
            counts[stage] += 1
    return counts


def broken_rules(model: Model, layout: Layout) -> list[Problem]:
    """Every rule of the engine that the layout breaks, each with its arithmetic. Empty if the engine may start."""
    numbers = {
        "nodes": layout.nodes,
        "gpus-per-node": layout.gpus_per_node,
        "tensor": layout.tensor,
        "pipeline": layout.pipeline,
        "data": layout.data,
        "context": layout.context,
    }
    if below := [below_one(name, value) for name, value in numbers.items() if value < 1]:
        return below
    broken = []
    ranks = layout.tensor * layout.pipeline * layout.data
    if ranks != layout.gpus:
        why = (
            f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data} = {ranks} ranks, but "
            f"{layout.nodes} nodes x {layout.gpus_per_node} = {layout.gpus} GPUs"
        )
        broken.append(Problem("layout", "", why))
    if layout.pipeline > model.layers:
        why = f"more stages than the model's {model.layers} layers"
        broken.append(Problem("pipeline", str(layout.pipeline), why))
    if layout.expert_parallel and model.moe is None:
        broken.append(Problem("expert-parallel", "", f"{model.name} has no experts"))
    return broken + _tensor_rules(model, layout) + _context_rules(model, layout)


def below_one(name: str, value: int) -> Problem:
    """The refusal of a number that must be 1 or more."""
    return Problem(name, str(value), "is not 1 or more")


def _tensor_rules(model: Model, layout: Layout) -> list[Problem]:
    tensor, broken = layout.tensor, []
    if model.heads % tensor:
        broken.append(f"{model.heads} attention heads / {tensor} = {model.heads / tensor:g}, not a whole number")
    for kv in sorted({*model.heads_kept}) if model.mla is None else ():
        if max(kv, tensor) % min(kv, tensor):
            broken.append(f"{kv} KV heads and {tensor} ranks: neither divides the other")
    state = model.state
    if state and (state.heads % tensor or (state.groups % tensor and state.groups > 1)):
        broken.append(f"{state.heads} heads and {state.groups} groups of the state / {tensor}: not whole numbers")
    if model.compressed and model.compressed.output_groups % tensor:
        broken.append(f"{model.compressed.output_groups} groups of outputs / {tensor}: not a whole number")
    padded = padded_vocab(model)
    if padded % tensor:
        broken.append(f"vocabulary of {padded} (padded to 64s) / {tensor} = {padded / tensor:g}, not a whole number")
    unit, why = _unit(model)
    for name, width, ranks in _widths(model, layout):
        if width % ranks:
            broken.append(f"{name} {width} / {ranks} = {width / ranks:g}, not a whole number")
        elif ranks > 1 and width // ranks % unit:
            broken.append(f"{name} {width} / {ranks} = {width // ranks}, not a multiple of {unit} ({why})")
    return [Problem("tensor", str(tensor), why) for why in broken]


def _widths(model: Model, layout: Layout) -> list[tuple[str, int, int]]:
    """The widths that ranks split: (name, elements, ranks)."""
    widths = []
    if model.count(MLP):
        widths.append(("MLP width", model.intermediate, layout.tensor))
    # Expert parallelism does not split experts. mxfp4 pads a rank's part instead of requiring a multiple.
    if model.moe and not layout.expert_parallel and model.experts_in != "mxfp4":
        widths.append(("expert width", model.moe.intermediate, layout.tensor * layout.data))
    if model.moe and model.moe.shared:
        shared = model.moe.shared_width or model.moe.intermediate
        widths.append(("shared expert width", model.moe.shared * shared, layout.tensor))
    return widths


def _unit(model: Model) -> tuple[int, str]:
    if model.quantisation == "fp8-block":
        return 128, "FP8 blocks are 128 wide"
    if model.quantisation == "nvfp4":
        return 16, "quantisation groups are 16 wide"
    if not model.quantisation.startswith(("int4", "int8")):
        return 1, ""
    smaller = model.quantisation.rpartition("-")[2]
    width = int(smaller) if smaller.isdecimal() else 128
    return width, f"quantisation groups are {width} wide"


def _context_rules(model: Model, layout: Layout) -> list[Problem]:
    context, copies = layout.context, layout.tensor // (1 if model.mla else min(model.kv_heads, layout.tensor))
    if layout.tensor % context:
        return [Problem("context", str(context), f"tensor {layout.tensor} / {context} is not a whole number")]
    if context > copies:
        return [Problem("context", str(context), f"only {copies} tensor ranks hold the same KV heads")]
    return []


def padded_vocab(model: Model) -> int:
    """Rows of the embedding as vLLM allocates it: the vocabulary, rounded up to a multiple of 64."""
    return -(-model.vocab // 64) * 64
