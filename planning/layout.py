"""How one replica is split over GPUs, and the rules that a layout must keep. Knows shapes, not memory."""

from __future__ import annotations

from dataclasses import dataclass

from planning import flags
from planning.engine import Engine, find
from planning.models import MLP, Model
from planning.problems import Problem

PARTITION = "VLLM_PP_LAYER_PARTITION"
"""The variable that tells an engine the layers of each pipeline stage (vllm/envs.py)."""


@dataclass(frozen=True)
class Layout:
    """`tensor` GPUs split every layer, `pipeline` stages split the layers, `data` copies split the requests.

    tensor x pipeline x data = nodes x gpus_per_node. With `expert_parallel`, each of a stage's tensor x data ranks
    holds whole experts. `context` (decode context parallel) spreads one sequence's KV over that many tensor ranks.
    `redundant` counts further copies of experts that load balancing adds; None without load balancing. `partition` are
    the layers of each stage where an engine is told them; empty where it splits them itself.
    """

    nodes: int
    gpus_per_node: int
    tensor: int
    pipeline: int
    data: int = 1
    expert_parallel: bool = False
    context: int = 1
    redundant: int | None = None
    partition: tuple[int, ...] = ()

    @property
    def expert_ranks(self) -> int:
        """GPUs of a stage: the experts of each layer are spread over them."""
        return self.tensor * self.data

    @property
    def engine_gpus(self) -> int:
        """GPUs of one data rank, which is an engine of its own."""
        return self.tensor * self.pipeline

    @property
    def spans_nodes(self) -> bool:
        """Whether one data rank takes more than one node."""
        return self.engine_gpus > self.gpus_per_node

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.nodes * self.gpus_per_node

    @property
    def split(self) -> str:
        """How the GPUs share the work, in the usual letters, such as TP8 PP2."""
        data = f" DP{self.data}" if self.data > 1 else ""
        expert = " EP" if self.expert_parallel else ""
        expert += f"+{self.redundant}" if self.redundant else ""
        context = f" DCP{self.context}" if self.context > 1 else ""
        return f"TP{self.tensor} PP{self.pipeline}{data}{expert}{context}"

    def __str__(self) -> str:
        return f"{self.nodes} x {self.gpus_per_node} GPUs as {self.split}"


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


def stages(layers: int, layout: Layout, engine: Engine) -> list[int]:
    """Layers of each pipeline stage of a layout."""
    return list(layout.partition) or split(layers, layout.pipeline, engine)


def experts(model: Model, layout: Layout) -> list[tuple[int, int]]:
    """How vLLM spreads a layer's experts over the GPUs of a stage, as (GPUs, experts on each), the fullest first."""
    assert model.moe, "asked for a model without experts"
    ranks, copies = layout.expert_ranks, model.moe.experts + (layout.redundant or 0)
    if not layout.expert_parallel:
        return [(ranks, model.moe.experts)]  # a part of each
    each, more = divmod(copies, ranks)
    return [(count, held) for count, held in ((more, each + 1), (ranks - more, each)) if count]


def whole_shared_experts(layout: Layout, engine: Engine) -> bool:
    """Whether each tensor rank holds the shared experts undivided."""
    return engine["sharedExpertsWhole"] and layout.expert_parallel and layout.tensor > 1 and layout.data > 1


def broken_rules(model: Model, layout: Layout, engine: Engine | None = None) -> list[Problem]:
    """Every rule of the engine (None: the newest known release) that the layout breaks, each with its arithmetic. Empty
    if it may start."""
    engine = engine or find(None)
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
    ranks = layout.engine_gpus * layout.data
    if ranks != layout.gpus:
        why = (
            f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data} = {ranks} ranks, but "
            f"{layout.nodes} nodes x {layout.gpus_per_node} = {layout.gpus} GPUs"
        )
        broken.append(Problem("layout", "", why))
    if layout.pipeline > model.layers and not model.unknown:
        why = f"more stages than the model's {model.layers} layers"
        broken.append(Problem("pipeline", str(layout.pipeline), why))
    broken += _partition_rules(model, layout)
    if model.unknown:
        return broken + _release_rules(layout, engine)
    broken += _expert_rules(model, layout) + _release_rules(layout, engine)
    return broken + _tensor_rules(model, layout, engine) + _context_rules(model, layout)


def _partition_rules(model: Model, layout: Layout) -> list[Problem]:
    """As vllm/distributed/utils.py get_pp_indices has them."""
    told = layout.partition
    said, wrong = ",".join(map(str, told)), []
    if told and len(told) != layout.pipeline:
        wrong.append(f"has {len(told)} stages, pipeline says {layout.pipeline}")
    if told and min(told) < 1:
        wrong.append("has a stage without layers")
    if told and sum(told) != model.layers and not model.unknown:
        wrong.append(f"has {sum(told)} layers, the model has {model.layers}")
    instead = f"write {layout.pipeline} numbers that sum up to {model.layers}, or leave it out"
    return [Problem("partition", said, why, instead) for why in wrong]


def below_one(name: str, value: int) -> Problem:
    """The refusal of a number that must be 1 or more."""
    return Problem(name, str(value), "is not 1 or more")


def _expert_rules(model: Model, layout: Layout) -> list[Problem]:
    if layout.expert_parallel and model.moe is None:
        return [Problem("expert-parallel", "", f"{model.name} has no experts", "leave it out")]
    if layout.redundant is None or model.moe is None:
        return []
    if not layout.expert_parallel:
        why = "--enable-eplb balances experts that are spread over GPUs"
        return [Problem("expert-parallel", "", why, "turn expert parallelism on, or leave --enable-eplb out")]
    if layout.expert_ranks == 1:
        return [Problem("expert-parallel", "", "--enable-eplb needs more than one GPU", "leave --enable-eplb out")]
    copies, ranks = model.moe.experts + layout.redundant, layout.expert_ranks
    if not copies % ranks:
        return []
    why = (
        f"--enable-eplb spreads experts evenly: {model.moe.experts} + {layout.redundant} redundant over {ranks} GPUs "
        f"are {copies / ranks:g} on each"
    )
    least = -model.moe.experts % ranks
    return [Problem("redundant-experts", str(layout.redundant), why, f"write {least}, or {least + ranks}")]


def _release_rules(layout: Layout, engine: Engine) -> list[Problem]:
    """What this release cannot start, and what none can."""
    broken = []
    for name, value, flag in (
        ("data", layout.data, "--data-parallel-backend" if layout.nodes > 1 else "--data-parallel-size-local"),
        ("context", layout.context, "--decode-context-parallel-size"),
        ("expert-parallel", 2 if layout.expert_parallel else 1, "--enable-expert-parallel"),
    ):
        if value > 1 and not flags.has(flag, engine.version):
            said = "" if name == "expert-parallel" else str(value)
            why = f"vLLM {engine.version} does not have it: it came with {flags.since(flag)}"
            broken.append(Problem(name, said, why, "leave it out, or take a newer engine"))
    parts = layout.gpus_per_node % layout.engine_gpus and layout.engine_gpus % layout.gpus_per_node
    if layout.data > 1 and layout.nodes > 1 and parts:
        why = (
            f"an engine has a part of a node or whole nodes: tensor {layout.tensor} x pipeline {layout.pipeline} = "
            f"{layout.engine_gpus} GPUs and the {layout.gpus_per_node} of a node do not divide each other"
        )
        broken.append(Problem("data", str(layout.data), why))
    if layout.data > 1 and layout.spans_nodes and not flags.has("--nnodes", engine.version):
        why = f"vLLM {engine.version} has each engine inside one node: others came with {flags.since('--nnodes')}"
        broken.append(Problem("data", str(layout.data), why, "take a newer engine"))
    return broken


# What a split width is called in a refusal, by part.
_WIDTHS = {"mlp": "MLP width", "experts": "expert width", "shared": "shared expert width"}


def _tensor_rules(model: Model, layout: Layout, engine: Engine) -> list[Problem]:
    tensor, broken = layout.tensor, []
    for heads in {model.heads, model.window_heads}:
        if heads % tensor:
            broken.append(f"{heads} attention heads / {tensor} = {heads / tensor:g}, not a whole number")
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
    for part, width, ranks in _widths(model, layout, engine):
        name, (unit, why) = _WIDTHS[part], _unit(model.form(part))
        if width % ranks:
            broken.append(f"{name} {width} / {ranks} = {width / ranks:g}, not a whole number")
        elif ranks > 1 and width // ranks % unit:
            broken.append(f"{name} {width} / {ranks} = {width // ranks}, not a multiple of {unit} ({why})")
    return [Problem("tensor", str(tensor), why) for why in broken]


def _widths(model: Model, layout: Layout, engine: Engine) -> list[tuple[str, int, int]]:
    """The widths that ranks split: (part, elements, ranks)."""
    widths = []
    if model.count(MLP):
        each = sorted({*model.widths} - {0}) or [model.intermediate]
        widths += [("mlp", width, layout.tensor) for width in each]
    # Expert parallelism does not split experts. mxfp4 pads a rank's part instead of requiring a multiple.
    if model.moe and not layout.expert_parallel and model.form("experts") != "mxfp4":
        widths.append(("experts", model.moe.intermediate, layout.expert_ranks))
    if model.moe and model.moe.shared and not whole_shared_experts(layout, engine):
        shared = model.moe.shared_width or model.moe.intermediate
        widths.append(("shared", model.moe.shared * shared, layout.tensor))
    return widths


def _unit(form: str) -> tuple[int, str]:
    if form == "fp8-block":
        return 128, "FP8 blocks are 128 wide"
    if width := {"nvfp4": 16, "mxfp4": 32, "mxfp8": 32}.get(form):
        return width, f"quantisation groups are {width} wide"
    if not form.startswith(("int4", "int8")):
        return 1, ""
    smaller = form.rpartition("-")[2]
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
