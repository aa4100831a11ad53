"""What an engine's arguments change in its plan: GPU memory and node memory. Arguments whose effect cannot be computed
are reported, not ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from planning import flags
from planning.catalog import fact
from planning.engine import Engine, release_key
from planning.models import Model
from planning.problems import Problem
from planning.units import GIB

# `Problem.key` of the problems here: the caller knows where the arguments were written.
ARGUMENTS = "arguments"
_LEAVE_OUT = "leave it out, or write unproven: true"
_WIDE = ("float32", "float")


@dataclass(frozen=True)
class Overrides:
    """What an engine is told instead of working it out itself. None and 0 change nothing.

    `kv_bytes` and `offload_bytes` are per GPU; `blocks` are blocks of the KV cache. `rope` is the scaling factor of the
    position table and the length that it multiplies (None: the model's own). `all2all` sends tokens to their experts.
    """

    wide: bool = False
    quantization: str | None = None
    kv_bytes: int | None = None
    blocks: int | None = None
    offload_bytes: float = 0.0
    positions: int | None = None
    rope: tuple[float, int | None] | None = None
    largest_graph: int | None = None
    graph_sizes: int | None = None
    all2all: str | None = None

    def problems(self, model: Model) -> list[Problem]:
        """What an engine would refuse for this model."""
        asked, form = self.quantization, model.quantisation
        wrong = []
        if self.wide and (form != "none" or asked):
            wrong.append(("--dtype float32", "quantised weights need 16 bits beside them", "write --dtype auto"))
        if asked and form == "none" and asked not in fact("vllm", "arguments", "onlineFormats"):
            why = f"what it makes of the 16-bit weights of {model.name} is not known"
            wrong.append((f"--quantization {asked}", why, _LEAVE_OUT))
        if (
            asked
            and form != "none"
            and asked
            not in fact("vllm", "arguments", "ownFormats").get(form.removesuffix("-32").removesuffix("-64"), ())
        ):
            why = f"the weights of {model.name} are {form} already, and the engine would refuse another method"
            wrong.append((f"--quantization {asked}", why, "leave it out"))
        return [Problem(ARGUMENTS, *each) for each in wrong]

    def of(self, model: Model) -> Model:
        """The model as this engine holds it."""
        online = fact("vllm", "arguments", "onlineFormats").get(self.quantization)
        if online and model.quantisation == "none":
            model = replace(model, quantisation=online, file_bytes=model.file_bytes)
        length = self.positions or model.max_context
        if self.rope:
            length = int(self.rope[0] * (self.rope[1] or length))
        return model if length == model.max_context else replace(model, max_context=length)

    def loads_whole(self, engine: Engine, model: Model) -> bool:
        """Whether all 16-bit weights are on the GPU before any is quantised, for a model as published."""
        online = self.quantization and model.quantisation == "none" and self.quantization != "bitsandbytes"
        return bool(online) and release_key(engine.version) < release_key(fact("vllm", "arguments", "onlineStreams"))


@dataclass(frozen=True)
class Settings:
    """An engine's arguments in the planner's terms. `problems` are those whose effect cannot be computed."""

    eager: bool = False
    kv_dtype: str = "auto"
    redundant: int | None = None
    speculative: bool = False
    batched_tokens: int | None = None
    sequences: int | None = None
    overrides: Overrides = Overrides()
    problems: tuple[Problem, ...] = ()
    trusts_code: bool = False


@lru_cache(maxsize=256)
def settings(arguments: tuple[str, ...], version: str, model: str) -> Settings:
    """What these arguments mean in that release. `model` is the name of the served model; it may be its own draft."""
    said = flags.read(arguments, version)
    wrong: list[Problem] = []
    for flag, why in fact("vllm", "arguments", "notPlanned").items():
        if said.get(flag) not in (None, False, "0", "1", "None"):
            wrong.append(_unknown(flag, "" if said[flag] is True else said[flag], why))
    asked_graphs, eager = _graphs(said, wrong)
    rope, positions = _hf_overrides(said, wrong)
    offload = _float(said, "--cpu-offload-gb", wrong)
    dtype, kv = str(said.get("--dtype", "auto")), str(said.get("--kv-cache-dtype", "auto"))
    if kv not in fact("vllm", "arguments", "kvCacheBytes"):
        wrong.append(_unknown("--kv-cache-dtype", kv, "the size of its scales is not known"))
    return Settings(
        eager=eager or said.get("--enforce-eager") is True,
        kv_dtype="fp8" if fact("vllm", "arguments", "kvCacheBytes").get(kv) == 1 else "auto",
        redundant=_redundant(said, wrong),
        speculative=_speculative(said, version, model, wrong),
        batched_tokens=_whole(said, "--max-num-batched-tokens", wrong),
        sequences=_whole(said, "--max-num-seqs", wrong),
        overrides=Overrides(
            wide=dtype in _WIDE,
            quantization=None if said.get("--quantization") in (None, "None") else str(said["--quantization"]),
            kv_bytes=_whole(said, "--kv-cache-memory-bytes", wrong),
            blocks=_whole(said, "--num-gpu-blocks-override", wrong),
            offload_bytes=offload * GIB,
            positions=positions,
            rope=rope,
            largest_graph=max(asked_graphs) if asked_graphs else None,
            graph_sizes=len(asked_graphs) if asked_graphs and len(asked_graphs) > 1 else None,
            all2all=None if said.get("--all2all-backend") in (None, "None") else str(said["--all2all-backend"]),
        ),
        problems=tuple(wrong),
        trusts_code=said.get("--trust-remote-code") is True,
    )


def _unknown(flag: str, value: object, why: str) -> Problem:
    return Problem(ARGUMENTS, f"{flag} {value}".strip(), f"cannot be planned: {why}", _LEAVE_OUT)


def _whole(said: Mapping[str, Any], flag: str, wrong: list[Problem]) -> int | None:
    if said.get(flag) in (None, "None"):
        return None
    number = flags.number(said[flag])
    if number is None:
        wrong.append(Problem(ARGUMENTS, f"{flag} {said[flag]}", "is not a whole number", "write one such as 8192"))
    return number


def _float(said: Mapping[str, Any], flag: str, wrong: list[Problem]) -> float:
    try:
        return float(said.get(flag) or 0)
    except (TypeError, ValueError):
        wrong.append(Problem(ARGUMENTS, f"{flag} {said[flag]}", "is not a number", "write GiB, such as 8"))
        return 0.0


def _speculative(said: Mapping[str, Any], version: str, model: str, wrong: list[Problem]) -> bool:
    """Whether the model's own draft layer is loaded."""
    config = said.get("--speculative-config")
    method = said.get("--spec-method")
    draft = said.get("--speculative-model") or said.get("--spec-model")
    if isinstance(config, Mapping):
        method, draft = config.get("method") or method, config.get("model") or draft
    elif config not in (None, "None"):
        wrong.append(_unknown("--speculative-config", config, "it is not a JSON object"))
    if method is None and draft is None:
        return False
    known = fact("vllm", "arguments", "speculativeMethods")
    # Without a method vLLM reads the draft's config: the model itself can only offer its own layer.
    named = str(method or draft)
    own_layer = draft is None or str(draft).rpartition("/")[2].lower() == model.rpartition("/")[2].lower()
    if named in known["none"]:
        return False
    if own_layer and (method is None or method in known["own"]):
        return True
    wrong.append(_unknown("--speculative-config", named, "the size of its draft model is not known"))
    return False


def _redundant(said: Mapping[str, Any], wrong: list[Problem]) -> int | None:
    """Copies of experts that load balancing adds; None without it."""
    config = said.get("--eplb-config")
    if config not in (None, "None") and not isinstance(config, Mapping):
        wrong.append(_unknown("--eplb-config", config, "it is not a JSON object"))
    flag, inside = "--num-redundant-experts", "--eplb-config.num_redundant_experts"
    asked = {flag: said.get(flag), inside: config.get("num_redundant_experts") if isinstance(config, Mapping) else None}
    copies = _whole(asked, flag, wrong) or _whole(asked, inside, wrong) or 0
    if said.get("--enable-eplb") is True:
        return copies
    if copies:
        why = "the engine copies experts only while it balances their load"
        wrong.append(Problem(ARGUMENTS, f"{inside} {copies}", why, "add --enable-eplb, or leave it out"))
    return None


def _graphs(said: Mapping[str, Any], wrong: list[Problem]) -> tuple[tuple[int, ...] | None, bool]:
    """The batch sizes of CUDA graphs (if only one: the largest), and whether graphs are off."""
    config = said.get("--compilation-config")
    inside = config if isinstance(config, Mapping) else {}
    if str(inside.get("cudagraph_mode", "")).upper() == "NONE" or inside.get("use_cudagraph") is False:
        return None, True
    given = [
        said.get("--cudagraph-capture-sizes"),
        said.get("--cuda-graph-sizes"),
        said.get("--max-cudagraph-capture-size"),
        inside.get("cudagraph_capture_sizes"),
        inside.get("max_cudagraph_capture_size"),
    ]
    for sizes in given:
        if sizes in (None, "None"):
            continue
        each = sizes if isinstance(sizes, list) else [sizes]
        numbers = tuple(number for size in each if (number := flags.number(size)) is not None)
        if len(numbers) == len(each):
            return (numbers, False) if numbers else (None, True)
        wrong.append(_unknown("--cudagraph-capture-sizes", sizes, "it is not a list of whole numbers"))
    return None, False


def _hf_overrides(said: Mapping[str, Any], wrong: list[Problem]) -> tuple[tuple[float, int | None] | None, int | None]:
    """The rope factor with the length that it multiplies, and the model's length, if they are overridden."""
    given = said.get("--hf-overrides") or {}
    if not isinstance(given, Mapping):
        wrong.append(_unknown("--hf-overrides", given, "it is not a JSON object"))
        given = {}
    text = given.get("text_config", {})
    keys = {**given, **(text if isinstance(text, Mapping) else {"text_config": text})}
    keys.pop("text_config", None)
    if old := said.get("--rope-scaling"):
        keys["rope_scaling"] = old
    rope, positions = None, None
    for key, value in keys.items():
        if key in ("rope_scaling", "rope_parameters"):
            rope = _rope(key, value, wrong)
        elif key == "max_position_embeddings" and isinstance(value, int) and value > 0:
            positions = value
        elif key != "rope_theta":
            wrong.append(_unknown("--hf-overrides", key, "what it changes is not known"))
    return rope, positions


def _rope(key: str, value: object, wrong: list[Problem]) -> tuple[float, int | None] | None:
    if value is None:
        return None
    kind = str(value.get("rope_type", value.get("type"))) if isinstance(value, Mapping) else ""
    if kind in fact("vllm", "arguments", "ropeUnscaled"):
        return None
    factor, length = (
        (value.get("factor"), value.get("original_max_position_embeddings")) if isinstance(value, Mapping) else (0, 0)
    )
    if not isinstance(factor, (int, float)) or factor <= 0 or not isinstance(length, (int, type(None))):
        wrong.append(_unknown("--hf-overrides", key, "it has no factor"))
        return None
    if kind == "yarn" and not length:
        wrong.append(_unknown("--hf-overrides", key, "yarn needs original_max_position_embeddings"))
        return None
    return float(factor), (length if kind == "yarn" else None)


@dataclass(frozen=True)
class HostMemory:
    """GiB of node memory that one pod's engine takes besides weights: `parts` by name; `shm_gib` of it in /dev/shm."""

    parts: tuple[tuple[str, float], ...]
    shm_gib: float

    @property
    def gib(self) -> float:
        """All parts plus the engine's own processes; 0 if there are no parts."""
        return sum(size for _, size in self.parts)


def host_memory(arguments: Sequence[str], env: Mapping[str, str], engine: Engine, gpus: int, ranks: int) -> HostMemory:
    """What buffers take in a pod of `gpus` GPUs, for an engine with `ranks` tensor and pipeline ranks."""
    said, parts, shm = flags.read(arguments, engine.version), [], 0.0
    ignored: list[Problem] = []
    kv, cpu = fact("vllm", "hostMemory", "kvOffloading"), fact("vllm", "hostMemory", "cpuOffloading")
    swap, lmcache = fact("vllm", "hostMemory", "swap"), fact("vllm", "hostMemory", "lmcache")
    native = said.get("--kv-offloading-backend") != lmcache["backend"]
    if size := _float(said, "--kv-offloading-size", ignored):
        taken = size * gpus / ranks * (kv["factor"] if native else 1)
        parts.append(("--kv-offloading-size", taken))
        if native and release_key(engine.version) >= release_key(kv["inShmSince"]):
            shm = taken
    if size := _float(said, "--cpu-offload-gb", ignored):
        parts.append(("--cpu-offload-gb", size * gpus * cpu["factor"]))
    said.setdefault("--swap-space", swap["gib"])
    if engine["engine"] == swap["engine"] and (size := _float(said, "--swap-space", ignored)):
        parts.append(("--swap-space", size * gpus))
    connector = lmcache["connector"] in str(said.get("--kv-transfer-config", ""))
    if "--kv-offloading-size" not in said and (connector or lmcache["variable"] in env):
        try:
            each = float(env.get(lmcache["variable"], lmcache["gib"]))
        except ValueError:
            each = lmcache["gib"]
        parts.append((lmcache["variable"], each * gpus))
    if parts:
        parts.append(("the engine's processes", fact("vllm", "hostMemory", "processGib") * gpus))
    return HostMemory(tuple(parts), shm)
