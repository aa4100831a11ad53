"""The seconds from an empty cluster to the first token: named steps on a critical path, each with its source.

Also computes what each node reads: its stages' files, or all. `planning.timeouts` turns the sum into limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from planning import loaders
from planning.catalog import entries, fact
from planning.layout import experts, whole_shared_experts
from planning.memory import Fit, Request, Stage, batch
from planning.units import GIB

Storage = Literal["cache", "mount", "volume", "copy", "stream"]

_WORTH = 0.9  # a smaller gain is not worth a key

FILL, WARM, NODE = "fill the bucket", "warm the cache", "node and image"
TO_NODES, TO_GPU = "weights to nodes", "host to GPU"
COMPILE, DEEP_GEMM = "compile", "DeepGEMM kernels"


@dataclass(frozen=True)
class Supply:
    """Where weights come from. `cache`: warmed once, then nodes read from its workers. `mount`: nodes read the bucket.
    `volume`: they read a volume, or a disk of their own. `copy`: each node downloads every file first. `stream`:
    engines read the bucket themselves. `link_gbit` is the bandwidth out of the bucket or volume, in Gbit/s. The files
    hold the model `copies` times; an engine reads one copy, or with `each_rank` every rank that streams does.
    `keeps_kernels`: what an engine compiles outlives its pods."""

    storage: Storage = "mount"
    link_gbit: float | None = None
    cache_gbit: float | None = None
    fill_gbit: float | None = None  # bandwidth into an empty bucket; None if the files are already there
    node_ready: bool = False  # nodes and image are already there
    warm_first: bool = False  # request nodes only when the cache is warm, so that no GPU waits and bills
    copies: int = 1
    loader: str = loaders.DEFAULT
    each_rank: bool = False
    keeps_kernels: bool = False


@dataclass(frozen=True)
class Step:
    """One step. It begins `start` seconds after the beginning and cannot take less than `floor` seconds. In a later
    start, with what was kept of this one, it takes `again` seconds; None if nothing of it is kept."""

    name: str
    start: float
    seconds: float
    floor: float
    bytes: int
    source: str
    again: float | None = None

    @property
    def end(self) -> float:
        """Seconds after the beginning."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Startup:
    """The steps in order of their start. `floor_seconds` is the same path at the links' full speed."""

    steps: tuple[Step, ...]
    first_token_seconds: float
    floor_seconds: float

    @property
    def pod_seconds(self) -> float:
        """Seconds from the pods' creation to the first token."""
        return self.first_token_seconds - next((s.start for s in self.steps if s.name == NODE), 0)

    @property
    def again_seconds(self) -> float | None:
        """As `pod_seconds`, with the kernels of an earlier start; None if none are kept."""
        saved = [step.seconds - step.again for step in self.steps if step.again is not None]
        return self.pod_seconds - sum(saved) if saved else None

    def seconds(self, name: str) -> float:
        """How long the step of that name takes; 0 if there is none."""
        return sum(step.seconds for step in self.steps if step.name == name)


def file_bytes(request: Request, fit: Fit) -> int:
    """Bytes of the files in one format; if unknown, the weights of all stages, not split."""
    return request.model.file_bytes or round(sum(_whole(stage, request) for stage in fit.stages))


def node_bytes(request: Request, fit: Fit) -> list[int]:
    """Bytes that each node reads if the loader skips other stages' tensors (vLLM's safetensors loaders do).

    Nodes get ranks in order, tensor ranks first. A node with a rank of a stage reads the whole stage.
    """
    layout = request.layout
    shares = [_whole(stage, request) for stage in fit.stages]
    total = file_bytes(request, fit)
    reads = []
    for node in range(layout.nodes):
        ranks = range(node * layout.gpus_per_node, (node + 1) * layout.gpus_per_node)
        stages = {rank // layout.tensor % layout.pipeline for rank in ranks}
        reads.append(round(total * sum(shares[stage] for stage in stages) / sum(shares)))
    return reads


def plan(request: Request, fit: Fit, supply: Supply) -> Startup:
    """The critical path of one replica with this memory plan."""
    total = file_bytes(request, fit) * supply.copies
    link = supply.link_gbit or fact("startup", "cold", "defaultLinkGbitPerSecond")
    steps: list[Step] = []
    filled = (0.0, 0.0)
    if supply.fill_gbit:
        seconds = _seconds(total, supply.fill_gbit)
        filled = _add(steps, (0.0, 0.0), FILL, seconds, seconds, total, f"{supply.fill_gbit:g} Gbit/s in")
    warm = filled
    if supply.storage == "cache":
        rate = min(link, fact("startup", "cold", "bucketReadGbitPerSecond"))
        warm = _add(
            steps,
            filled,
            WARM,
            _seconds(total, rate),
            _seconds(total, link),
            total,
            f"one copy at {rate:g} of {link:g} Gbit/s: {_source('bucketReadGbitPerSecond')}",
        )
    node = (0.0, 0.0)
    if not supply.node_ready:
        node = _ranged(steps, warm if supply.warm_first else filled, NODE, "nodeAndImageSeconds")
    begin = (max(node[0], warm[0], filled[0]), max(node[1], warm[1], filled[1]))
    weights = _weights(steps, begin, request, fit, supply, link)
    to_gpu = _to_gpu(steps, weights, request, fit, supply)
    ready = _engine(steps, to_gpu, request, fit)
    if supply.keeps_kernels:
        kept = {
            COMPILE: fact("startup", "cold", "keptSeconds")["layer"] * _layers(fit),
            DEEP_GEMM: fact("startup", "cold", "deepGemmSeconds")["floor"],
        }
        steps = [
            replace(step, again=kept[step.name], source=f"{kept[step.name]:.0f} s with kept kernels; {step.source}")
            if step.name in kept
            else step
            for step in steps
        ]
    return Startup(tuple(sorted(steps, key=lambda step: step.start)), ready[0], ready[1])


def loading_seconds(path: Startup) -> float:
    """From weights at their source to weights in the GPUs."""
    return path.seconds(TO_NODES) + path.seconds(TO_GPU)


def faster(request: Request, fit: Fit, supply: Supply, now: float) -> tuple[str, float] | None:
    """The loader of the release's own image that loads fastest, and its seconds, if that is faster than the `now`
    seconds of the supply's own."""
    if supply.storage == "stream":
        return None
    version, nodes = request.engine.version, request.layout.nodes
    image = fact("loaders", "loaders", "image")
    able = [each for each in loaders.known() if loaders.problem(each, version, image, nodes) is None]
    seconds = {each: loading_seconds(plan(request, fit, replace(supply, loader=each))) for each in able}
    best = min(seconds, key=seconds.__getitem__, default=None)
    return (best, seconds[best]) if best is not None and seconds[best] < _WORTH * now else None


def _weights(
    steps: list[Step], begin: tuple[float, float], request: Request, fit: Fit, supply: Supply, link: float
) -> tuple[float, float]:
    reads, nodes = _read(request, fit, supply), request.layout.nodes
    if supply.storage == "copy":
        everything = file_bytes(request, fit) * supply.copies * nodes
        seconds = _seconds(everything, link)
        return _add(
            steps,
            begin,
            TO_NODES,
            seconds,
            seconds,
            everything,
            f"{nodes} whole copies over one link of {link:g} Gbit/s",
        )
    rate = supply.cache_gbit or link if supply.storage == "cache" else link
    if supply.storage in ("mount", "stream"):
        rate = min(rate, fact("startup", "cold", "bucketReadGbitPerSecond"))
    best = rate if supply.storage == "cache" else link
    kind = {"cache": "the cache's workers", "volume": "the volume"}.get(supply.storage, "the bucket")
    stages = "only its stages" if max(reads) < file_bytes(request, fit) else "every file"
    if supply.storage == "stream" and supply.each_rank and request.layout.gpus_per_node > 1:
        stages += f" {request.layout.gpus_per_node} times, once for each GPU"
    return _add(
        steps,
        begin,
        TO_NODES,
        _seconds(sum(reads), rate),
        _seconds(sum(reads), best),
        sum(reads),
        f"{nodes} node{'s'[: nodes != 1]}, each reads {stages}, from {kind} at {rate:g} Gbit/s in all",
    )


def _read(request: Request, fit: Fit, supply: Supply) -> list[int]:
    """Bytes that each node's loader gets from where the weights are. Only the default loader skips other stages."""
    if supply.loader == loaders.DEFAULT:
        return node_bytes(request, fit)
    times = request.layout.gpus_per_node if supply.storage == "stream" and supply.each_rank else 1
    return [file_bytes(request, fit) * times] * request.layout.nodes


def _to_gpu(
    steps: list[Step], begin: tuple[float, float], request: Request, fit: Fit, supply: Supply
) -> tuple[float, float]:
    """From the node's memory to the GPUs: what a loader takes beyond the reading, which it overlaps with."""
    read = node_bytes(request, fit) if supply.loader == loaders.DEFAULT else [file_bytes(request, fit)]
    rate = loaders.gb_per_second(supply.loader, request.layout.gpus_per_node)
    before = next(step for step in steps if step.name == TO_NODES)
    overlapped = (0.0, 0.0) if supply.storage == "copy" else (before.seconds, before.floor)
    floor = max(stage.weights_gib for stage in fit.stages) / request.gpu.host_gib_per_second
    loading = max(read) / (rate * 1e9) - overlapped[0]
    if supply.loader == loaders.DEFAULT:
        hot = max(floor, max(read) / GIB / fact("startup", "cold", "hotReadGibPerSecond"))
        if supply.storage == "copy" or loading <= hot:
            return _add(steps, begin, TO_GPU, hot, floor, max(read), _source("hotReadGibPerSecond"))
    else:
        floor = max(0.0, floor - overlapped[1])
    source = f"{supply.loader} loads {rate:g} GB/s in all: {entries('loaders')['loaders']['gbPerSecond']['source']}"
    return _add(steps, begin, TO_GPU, max(loading, floor), floor, max(read), source)


def _engine(steps: list[Step], begin: tuple[float, float], request: Request, fit: Fit) -> tuple[float, float]:
    """What the engine does after the weights are loaded, until it answers."""
    model, engine, runner = request.model, request.engine, request.runners[-1]
    at, v0 = begin, engine["engine"] == "V0"
    if v0:
        at = _ranged(steps, at, "engine init", "engineInitSeconds")
    else:
        at = _ranged(steps, at, "engine processes", "engineProcessesSeconds")
        if request.layout.nodes > 1:
            at = _ranged(steps, at, "nodes join", "nodesJoinSeconds")
        if not request.eager:
            compiling, layers = engine.as_of(fact("startup", "cold", "compileSeconds")), _layers(fit)
            seconds = compiling["base"] + compiling["layer"] * layers
            source = f"{layers} layers: {_source('compileSeconds')}"
            at = _add(steps, at, COMPILE, seconds, fact("startup", "cold", "keptSeconds")["floor"], 0, source)
        measures = "V1 with graphs" if runner == "V1" and engine["graphsInBudget"]["V1"] else runner
        at = _fixed(steps, at, "profile", "profileSeconds", measures)
        if (model.quantisation == "fp8-block" or model.unknown) and request.gpu.family in engine["deepGemm"]:
            at = _ranged(steps, at, DEEP_GEMM, "deepGemmSeconds")
    if not request.eager:
        told, sequences = request.overrides, batch(request, fit.max_model_len)[1]
        sizes = told.graph_sizes or engine.graph_sizes(sequences, model.architecture, told.largest_graph)
        per_kind = engine.as_of(fact("startup", "cold", "captureSecondsPerSize"))
        per_size = per_kind["moe" if (model.moe or model.unknown) and not v0 else "dense"]
        source = f"{sizes} batch sizes: {_source('captureSecondsPerSize')}"
        at = _add(steps, at, "CUDA graphs", sizes * per_size, sizes * per_size, 0, source)
    return at if v0 else _fixed(steps, at, "warm-up", "warmUpSeconds", runner)


def _layers(fit: Fit) -> int:
    """Layers of the longest stage: every rank compiles its own."""
    return max(stage.layers for stage in fit.stages)


def _whole(stage: Stage, request: Request) -> float:
    """Bytes of a stage's tensors in the files: each rank's share times the ranks, and what is replicated once."""
    weights, model, layout = stage.read or stage.weights, request.model, request.layout
    once, parts = weights.replicated, float(layout.expert_ranks)
    if model.moe and layout.expert_parallel:
        parts = model.moe.experts / experts(model, layout)[0][1]
    if whole_shared_experts(layout, request.engine):
        once += weights.shared_experts
    split = weights.total - once - weights.absorbed - weights.balancing - weights.experts
    return split * layout.tensor + weights.experts * parts + once


def _add(
    steps: list[Step], begin: tuple[float, float], name: str, seconds: float, floor: float, size: int, source: str
) -> tuple[float, float]:
    steps.append(Step(name, begin[0], seconds, floor, size, source))
    return begin[0] + seconds, begin[1] + floor


def _ranged(steps: list[Step], begin: tuple[float, float], name: str, key: str) -> tuple[float, float]:
    value = fact("startup", "cold", key)
    return _add(steps, begin, name, value["usual"], value["floor"], 0, _source(key))


def _fixed(steps: list[Step], begin: tuple[float, float], name: str, key: str, runner: str) -> tuple[float, float]:
    seconds = fact("startup", "cold", key)[runner]
    return _add(steps, begin, name, seconds, seconds, 0, _source(key))


def _source(key: str) -> str:
    return entries("startup")["cold"][key]["source"]


def _seconds(size: float, gbit: float) -> float:
    return size * 8 / (gbit * 1e9)
