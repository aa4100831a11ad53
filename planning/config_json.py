"""A model from its published config.json (and hf_quant_config.json beside it), read whole.

Every key that changes weights, cache or activations is either understood or named in a refusal. The catalog
(`config_json`) lists the keys that change nothing and the classes that the planner knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from planning.catalog import entries, fact
from planning.models import ATTENTION, EXPERTS, MLP, STATE, Model, from_facts
from planning.problems import PlanError, Problem

_INSTEAD = "write the model's facts in catalog.models, or take another"
_SOURCE = "the model's own config.json"
QUANT_FILE = "hf_quant_config.json"
_LISTS = ("ignore", "ignored_layers", "exclude_modules", "modules_to_not_convert", "llm_int8_skip_modules")
_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")
# Keys of one entry in `config_groups`, and of its weights.
_SCHEME = {"num_bits", "type", "group_size", "strategy", "symmetric", "block_structure"}
# What precedes `layers.N.` in module names; wrappers with a vision tower use one of the longer ones.
_ROOTS = ("model", "language_model.model", "model.language_model", "language_model", "backbone")


def from_file(path: Path) -> Model:
    """The model whose config.json is at `path`. Raises PlanError with every key that is wrong or not understood."""
    name = path.parent.resolve().name or str(path)
    return from_facts(name, facts(*read(path), name), _SOURCE)


def read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The config.json at `path`, and the hf_quant_config.json beside it if there is one."""
    beside = path.with_name(QUANT_FILE)
    return _read(path), _read(beside) if beside.exists() else None


def from_config(config: Mapping[str, Any], name: str, quantised: Mapping[str, Any] | None = None) -> Model:
    """The model from a config.json. `quantised` is the hf_quant_config.json of the same folder."""
    return from_facts(name, facts(config, quantised, name), _SOURCE)


def facts(
    config: Mapping[str, Any], quantised: Mapping[str, Any] | None, name: str, other_bytes: int | None = None
) -> dict[str, Any]:
    """The catalog's facts about the model of a config.json.

    `other_bytes` are the bytes of a vision tower and of what else is in no layer, if they are known from the files.
    Raises PlanError with every key that is wrong or not understood.
    """
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        raise _refusal(name, "text_config is no map")
    kind = _kind(config)
    unknown = _unknown_keys(config, text, {} if isinstance(kind, str) else kind)
    if isinstance(kind, str):
        raise _refusal(name, kind + (f", nor {', '.join(unknown)}" if unknown else ""))
    wrong = [*_shapes(text, kind), *(f"{key} is not understood" for key in unknown)]
    if other_bytes is None and not _says_nothing(config.get("vision_config")) and "vision" not in kind:
        wrong.append("vision_config is not understood")
    quant = _quantization(config, text, quantised)
    form = "none"
    if isinstance(quant, str):
        wrong.append(quant)
    elif quant is not None:
        found = _format(quant)
        form = found if isinstance(found, str) else form
        wrong += found if isinstance(found, list) else []
    if wrong:
        raise PlanError(*(Problem("model", name, why, _INSTEAD) for why in wrong))
    shape = {**_facts(config, text, kind, other_bytes, wrong), "quantisation": form}
    if wrong:
        raise PlanError(*(Problem("model", name, why, _INSTEAD) for why in wrong))
    model = from_facts(name, shape, _SOURCE)
    if isinstance(quant, Mapping) and form not in ("none", "mxfp4", "fp8-mlp"):  # these define what stays in 16 bits
        shape["sixteenBit"] = sorted(_kept(model, kind, _ignored(quant), name))
    return shape


def _refusal(name: str, why: str) -> PlanError:
    return PlanError(Problem("model", name, why, _INSTEAD))


def _kind(config: Mapping[str, Any]) -> Mapping[str, Any] | str:
    """What the catalog knows of the architecture, or why it knows nothing."""
    classes = config.get("architectures")
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        return "architectures names no class"
    known = fact("config_json", "architectures", "known")
    return known.get(classes[0], f"the architecture {classes[0]} is not understood")


def _shapes(text: Mapping[str, Any], kind: Mapping[str, Any]) -> list[str]:
    """Values whose type does not fit their key."""
    keys = entries("config_json")["keys"]
    wrong = []
    for names, least in ((keys["numbers"]["value"], 1), ([*keys["counts"]["value"], *kind.get("counts", ())], 0)):
        for key in names:
            value = text.get(key)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                wrong.append(f"{key} {_short(value)} is not a whole number from {least} up")
    for key in (*keys["lists"]["value"], *kind.get("lists", ())):
        value = text.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(each, (int, str)) for each in value)):
            wrong.append(f"{key} {_short(value)} is not a list")
    return wrong


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _unknown_keys(config: Mapping[str, Any], text: Mapping[str, Any], kind: Mapping[str, Any]) -> list[str]:
    """The keys that the planner does not understand, unless their value says that the model has no such feature."""
    keys = entries("config_json")["keys"]
    known = {key for part in ("numbers", "counts", "lists", "understood", "harmless") for key in keys[part]["value"]}
    known |= {key for part in ("keys", "counts", "lists") for key in kind.get(part, ())}
    only, suffixes = {**keys["only"]["value"], **kind.get("only", {})}, tuple(keys["harmless"]["suffixes"])
    outer = {} if text is config else config
    unknown = []
    for key, value in {**outer, **text}.items():
        if key in only and key not in kind.get("lists", ()):
            unknown += [] if value is None or value in only[key] else [f"{key} {_short(value)}"]
        elif key not in known and not key.endswith(suffixes) and not _says_nothing(value):
            unknown.append(key)
    return unknown


def _says_nothing(value: object) -> bool:
    return value is None or value is False or value in ("", 0) or value == [] or value == {}


def _facts(
    config: Mapping[str, Any],
    text: Mapping[str, Any],
    kind: Mapping[str, Any],
    other_bytes: int | None,
    wrong: list[str],
) -> dict[str, Any]:
    """The catalog's facts about the model. Adds whatever contradicts them to `wrong`."""
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    facts: dict[str, Any] = {
        "layers": text.get("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "vocab": text.get("vocab_size"),
        "maxContext": text.get("max_position_embeddings"),
        "intermediate": text.get("intermediate_size_mlp") or text.get("intermediate_size"),
        "kvHeads": text.get("num_key_value_heads", heads),
        "headDim": text.get("head_dim")
        or text.get("attention_head_dim")
        or (hidden // heads if hidden and heads else None),
        "tiedEmbeddings": bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        "qkvBias": bool(text.get("qkv_bias") or text.get("attention_bias") or kind.get("qkvBias")),
        "mtpLayers": text.get("num_nextn_predict_layers")
        or text.get("mtp_num_hidden_layers")
        or kind.get("mtpLayers", 0),
        "architecture": config["architectures"][0],
        "otherBytes": _vision(config.get("vision_config"), kind, wrong) if other_bytes is None else other_bytes,
        "slidingWindow": _window(text, kind, wrong),
        **{key: kind[key] for key in ("gatedQueries", "mlpMatrices", "draftTables") if key in kind},
    }
    if text.get("kv_lora_rank"):
        facts["mla"] = {
            "queryRank": text.get("q_lora_rank"),
            "kvRank": text["kv_lora_rank"],
            "nope": text.get("qk_nope_head_dim"),
            "rope": text.get("qk_rope_head_dim"),
            "value": text.get("v_head_dim"),
        }
    if text.get("index_n_heads"):
        dim = text.get("index_head_dim") or 0
        facts["indexer"] = {"heads": text["index_n_heads"], "dim": dim, "cacheBytesPerToken": dim + 4 * dim // 128}
        if set(text.get("indexer_types") or ()) - {"full"}:
            wrong.append("indexer_types is not understood where not every layer is full")
    if set(text.get("attn_type_list") or ()) - {1}:
        wrong.append("attn_type_list is not understood where not every layer is 1 (full attention)")
    experts = next((text[key] for key in _EXPERTS if text.get(key)), 0)
    if experts:
        facts["moe"] = _moe(text, kind, experts, facts["layers"], wrong)
    if "window" in kind:
        facts |= _own_window(text, kind["window"], wrong)
    if "compressed" in kind:
        facts["compressed"] = {key: text.get(name) for key, name in kind["compressed"].items()}
        facts["expertFormat"] = kind["expertFormats"][text.get("expert_dtype") or "fp4"]
        facts |= {"slidingWindow": None, "indexer": None}  # they say the same of other models
    if "state" in kind:
        named = kind["state"]
        facts["state"] = {key: text.get(name) for key, name in named["numbers"].items()}
        facts["state"] |= {"gates": named["gates"], "bytes": 4 if text.get(named["dtype"]) == "float32" else 2}
        facts["layerKinds"] = _layer_kinds(text, facts, wrong)
    return facts


def _own_window(text: Mapping[str, Any], told: Mapping[str, Any], wrong: list[str]) -> dict[str, Any]:
    """Layers with a window that have another number of heads of keys and values."""
    wrong += [
        f"{key} {_short(text.get(key))} is not understood where {as_key} is {_short(text.get(as_key))}"
        for key, as_key in told["same"].items()
        if text.get(key) != text.get(as_key)
    ]
    if text.get(told["kvHeads"]) is None:
        wrong.append(f"{told['kvHeads']} is missing")
    marks = text.get(told["layers"]) or []
    if len(marks) != text.get("num_hidden_layers") or {*marks} - {0, 1}:
        wrong.append(f"{told['layers']} is not a 0 or 1 for each layer")
    window = {"tokens": text.get("sliding_window"), "layers": marks.count(1), "kvHeads": text.get(told["kvHeads"])}
    return {"slidingWindow": window, "valueDim": text.get("v_head_dim")}


def _layer_kinds(text: Mapping[str, Any], facts: Mapping[str, Any], wrong: list[str]) -> list[str]:
    """For each layer of a model with states what it has."""
    pattern, layers = text.get("hybrid_override_pattern"), facts["layers"] or 0
    if pattern is not None:
        kinds = {"M": STATE, "*": ATTENTION, "E": EXPERTS, "-": MLP}
        if not isinstance(pattern, str) or len(pattern) != layers or {*pattern} - {*kinds}:
            wrong.append(
                f"hybrid_override_pattern {_short(pattern)} is not a letter of {''.join(kinds)} for each layer"
            )
            return []
        return [kinds[letter] for letter in pattern]
    each = text.get("full_attention_interval")
    listed = text.get("layer_types") or ()
    full = [kind == "full_attention" for kind in listed]
    if not full and isinstance(each, int) and each > 0:
        full = [(layer + 1) % each == 0 for layer in range(layers)]
    if not full:
        wrong.append("layer_types is missing, and full_attention_interval does not say it")
    inside = EXPERTS if facts.get("moe") else MLP
    return [(ATTENTION if attends else STATE) + inside for attends in full]


def _moe(
    text: Mapping[str, Any], kind: Mapping[str, Any], experts: int, layers: int | None, wrong: list[str]
) -> dict[str, Any]:
    dense = text.get("first_k_dense_replace") or 0
    for key in ("mlp_only_layers", "mlp_layer_types", "moe_layer_freq"):
        told = text.get(key)
        given: list[Any] = told if isinstance(told, list) else []
        if key == "moe_layer_freq":  # 0 for a dense layer
            given = [layer for layer, routed in enumerate(given) if not routed]
        listed = [i for i, kept in enumerate(given) if kept == "dense"] if key == "mlp_layer_types" else list(given)
        if given and listed != list(range(len(listed))):
            wrong.append(f"{key} is not understood where dense layers follow others")
        dense = max(dense, len(listed))
    shared = text.get("shared_expert_intermediate_size") or text.get("moe_shared_expert_intermediate_size") or 0
    return {
        "experts": experts,
        "perToken": text.get("num_experts_per_tok"),
        "intermediate": text.get("moe_intermediate_size") or text.get("intermediate_size"),
        "shared": text.get("n_shared_experts") or kind.get("sharedExperts", 0),
        "sharedWidth": shared,
        "latent": text.get("moe_latent_size") or 0,
        "denseLayers": dense,
        "every": text.get("interleave_moe_layer_step") or 1,
        "expertBias": kind.get("expertBias", False),
    }


def _window(text: Mapping[str, Any], kind: Mapping[str, Any], wrong: list[str]) -> dict[str, int] | None:
    """Tokens of the sliding window, and how many layers use it."""
    kinds, known = list(text.get("layer_types") or ()), {"full_attention", "sliding_attention"}
    if "state" in kind:
        known = {"full_attention", "linear_attention"}
    if strange := sorted({str(each) for each in kinds} - known):
        wrong.append(f"layer_types is not understood where layers are {', '.join(strange)}")
    if kinds and text.get("num_hidden_layers") != len(kinds):
        wrong.append(f"layer_types has {len(kinds)} layers, num_hidden_layers says {text.get('num_hidden_layers')}")
    window, off = text.get("sliding_window"), text.get("use_sliding_window") is False
    if not window or off:
        return None
    layers = kinds.count("sliding_attention") if kinds else text.get("num_hidden_layers")
    return {"tokens": window, "layers": layers or 0} if layers else None


def _vision(tower: object, kind: Mapping[str, Any], wrong: list[str]) -> int:
    """Bytes of the vision tower and its projector, in 16 bits."""
    if _says_nothing(tower):
        return 0
    try:
        return 2 * {"moonvit": _moonvit, "qwen3vl": _qwen3vl}[kind["vision"]](tower)
    except (AttributeError, TypeError, ValueError):
        wrong.append("vision_config is not understood: a size is missing or wrong")
        return 0


def _moonvit(tower: Any) -> int:
    width, text, inner, layers, patch, high, wide = _sizes(
        tower,
        "vt_hidden_size",
        "text_hidden_size",
        "vt_intermediate_size",
        "vt_num_hidden_layers",
        "patch_size",
        "init_pos_emb_height",
        "init_pos_emb_width",
    )
    down, right = tower.get("merge_kernel_size")
    merged = width * int(down) * int(right)
    return layers * _block(width, inner) + merged**2 + merged * text + high * wide * width + 3 * patch**2 * width


def _qwen3vl(tower: Any) -> int:
    width, text, inner, layers, patch, frames, colours, merge, table = _sizes(
        tower,
        "hidden_size",
        "out_hidden_size",
        "intermediate_size",
        "depth",
        "patch_size",
        "temporal_patch_size",
        "in_channels",
        "spatial_merge_size",
        "num_position_embeddings",
    )
    merged, mergers = width * merge**2, 1 + len(tower.get("deepstack_visual_indexes") or ())
    patches = colours * frames * patch**2 * width
    return layers * _block(width, inner) + mergers * (merged**2 + merged * text) + table * width + patches


def _block(width: int, inner: int) -> int:
    """Parameters of one layer of a vision tower: attention, and an MLP of two matrices."""
    return 4 * width**2 + 2 * width * inner


def _sizes(tower: Any, *keys: str) -> list[int]:
    sizes = [tower.get(key) for key in keys]
    if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError
    return sizes


def _quantization(
    config: Mapping[str, Any], text: Mapping[str, Any], beside: Mapping[str, Any] | None
) -> Mapping[str, Any] | str | None:
    """The description of the weights' format, wherever it is; why it cannot be read; or None if there is none."""
    quant = config.get("quantization_config") or text.get("quantization_config")
    if not quant and beside is not None:
        quant = beside.get("quantization")
        if not isinstance(quant, Mapping):
            return f"{QUANT_FILE} has no map quantization"
        quant = {"quant_method": "modelopt", **quant}
    if not quant:
        return None
    if not isinstance(quant, Mapping):
        return "quantization_config is no map"
    odd = [key for key in _LISTS if not isinstance(quant.get(key) or [], list)]
    return f"quantization_config.{odd[0]} is not a list" if odd else quant


def _format(quant: Mapping[str, Any]) -> str | list[str]:
    """The planner's name for the storage format, or everything that is not understood."""
    method = str(quant.get("quant_method", "")).lower().replace("_", "-")
    readers: dict[str, tuple[Callable[[Mapping[str, Any]], str | None], set[str]]] = {
        "fp8": (_fp8, {"weight_block_size"}),
        "fbgemm-fp8": (lambda _: "fp8-mlp", set()),
        "mxfp4": (lambda _: "mxfp4", set()),
        "awq": (_awq, {"bits", "w_bit", "group_size", "q_group_size", "zero_point"}),
        "gptq": (_gptq, {"bits", "group_size", "sym"}),
        "bitsandbytes": (
            _bitsandbytes,
            {"load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"},
        ),
        "compressed-tensors": (_groups, {"config_groups"}),
        "modelopt": (_modelopt, {"quant_algo", "group_size", "config_groups"}),
    }
    if method not in readers:
        return [f"quantisation {method or 'without a method'} is not understood"]
    reader, keys = readers[method]
    known = {*keys, *_LISTS, "quant_method", *fact("config_json", "quantisation", "harmless")}
    wrong = [
        f"quantization_config.{key} is not understood"
        for key, value in quant.items()
        if key not in known and not _says_nothing(value)
    ]
    try:
        form = reader(quant)
    except (AttributeError, KeyError, TypeError, ValueError):
        form = None
    if form is None:
        told = json.dumps({key: quant[key] for key in sorted(keys) if key in quant})
        wrong.append(f"quantisation {method} with {told[:200]} is not understood")
    return wrong or str(form)


def _fp8(quant: Mapping[str, Any]) -> str | None:
    block = quant.get("weight_block_size")
    return "fp8" if block is None else "fp8-block" if block == [128, 128] else None


def _awq(quant: Mapping[str, Any]) -> str | None:
    bits, group = quant.get("bits", quant.get("w_bit")), quant.get("group_size", quant.get("q_group_size", 128))
    return _int(bits, group, quant.get("zero_point", True) is False)


def _gptq(quant: Mapping[str, Any]) -> str | None:
    return _int(quant.get("bits"), quant.get("group_size", 128), quant.get("sym", True) is True)


def _int(bits: object, group: object, symmetric: bool) -> str | None:
    """Integers of `bits` bits with one scale per `group` weights (-1: per row)."""
    if bits == 8 and group in (-1, None):
        return "w8a8"
    if bits == 8 and symmetric and group == 128:
        return "int8-symmetric"
    if bits != 4 or group not in (32, 64, 128):
        return None
    return ("int4-symmetric" if symmetric else "int4") + ("" if group == 128 else f"-{group}")


def _bitsandbytes(quant: Mapping[str, Any]) -> str | None:
    four, eight = quant.get("load_in_4bit") is True, quant.get("load_in_8bit") is True
    if four == eight:
        return None
    return "w8a8" if eight else "nf4"


def _modelopt(quant: Mapping[str, Any]) -> str | None:
    algorithm, group = str(quant.get("quant_algo", "")).upper(), quant.get("group_size")
    if quant.get("config_groups"):
        form = _groups(quant)
        return form if algorithm in ("NVFP4", "FP8", "") else None
    if algorithm == "NVFP4":
        return "nvfp4" if group in (None, 16) else None
    return {"FP8": "fp8", "FP8_PB_WO": "fp8-block"}.get(algorithm)


def _groups(quant: Mapping[str, Any]) -> str | None:
    """The one format of `config_groups`; None if there are several, or if a group does not cover all linear layers."""
    forms = {
        _scheme(group["weights"], group.get("input_activations")) if group["targets"] == ["Linear"] else None
        for group in quant["config_groups"].values()
    }
    return forms.pop() if len(forms) == 1 else None


def _scheme(weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> str | None:
    known = _SCHEME | set(fact("config_json", "quantisation", "harmless"))
    if any(key not in known and not _says_nothing(value) for key, value in weights.items()):
        return None
    bits, kind, group = weights["num_bits"], weights.get("type", "int"), weights.get("group_size")
    if kind == "float":
        if bits == 8:
            return _fp8({"weight_block_size": weights.get("block_structure")}) if group is None else None
        return "nvfp4" if (bits, group) == (4, 16) else None
    if bits == 8 and activations is not None and group is None:
        return "w8a8"
    return _int(bits, -1 if group is None else group, weights.get("symmetric", True) is True)


def _ignored(quant: Mapping[str, Any]) -> list[str]:
    return [str(each) for key in _LISTS for each in (quant.get(key) or ())]


def _kept(model: Model, kind: Mapping[str, Any], patterns: Sequence[str], name: str) -> frozenset[str]:
    """The parts of the model that the lists of ignored modules leave in 16 bits."""
    kept, wrong = set(), []
    if not patterns:
        return frozenset()
    try:
        leaves = _leaves(patterns)
    except re.error as error:
        raise _refusal(name, f"the modules that quantisation leaves out are no patterns ({error})") from None
    for part, modules, layers in _parts(model, kind):
        own = part == "draft" and kind.get("draftRoot")  # its layers are counted anew
        roots, first = ((own,), model.layers) if own else (_ROOTS, 0)
        found = {
            any(leaves(f"{root}.layers.{layer - first}.{module}") for root in roots)
            for layer in layers
            for module in modules
        }
        if found == {True}:
            kept.add(part)
        elif len(found) == 2:
            wrong.append(f"the modules that quantisation leaves out are not understood: a part of {part} only")
    if wrong:
        raise PlanError(*(Problem("model", name, why, _INSTEAD) for why in wrong))
    return frozenset(kept)


def _leaves(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether these entries of an ignore list exclude a module, or a module that contains it.

    An entry is a module's whole name, one word of it, a pattern with `*`, or `re:` and a regular expression.
    """
    plain = {each for each in patterns if "*" not in each and not each.startswith("re:")}
    words = {each for each in plain if "." not in each}
    parts = [each[3:] for each in patterns if each.startswith("re:")]
    globs = [each for each in patterns if "*" in each and not each.startswith("re:")]
    parts += [".*".join(re.escape(text) for text in each.split("*")) + r"(\.|$)" * (each[-1] != "*") for each in globs]
    joined = re.compile("|".join(f"(?:{part})" for part in parts)) if parts else None

    def left_out(module: str) -> bool:
        if joined and joined.match(module):
            return True
        split = module.split(".")
        if not words.isdisjoint(split):
            return True
        return any(".".join(split[:count]) in plain for count in range(len(split), 2, -1))

    return left_out


def _parts(model: Model, kind: Mapping[str, Any]) -> list[tuple[str, list[str], Sequence[int]]]:
    """The parts whose format may differ, with the modules of one layer and the layers that have them."""
    mlp, attention = kind.get("mlp", "mlp"), kind.get("attention", "self_attn")
    attends, states, routed, dense = (
        [layer for layer in range(model.layers) if model.count(letter, layer, 1)]
        for letter in (ATTENTION, STATE, EXPERTS, MLP)
    )
    if model.mla:
        query = ["q_a_proj", "q_b_proj"] if model.mla.query_rank else ["q_proj"]
        inner = [*query, "kv_a_proj_with_mqa", "kv_b_proj"]
    else:
        inner = ["q_proj", "k_proj", "v_proj"]
    names = ["gate_proj", "up_proj", "down_proj"][3 - model.matrices :]
    experts = kind.get("experts", f"{mlp}.experts")
    shared = kind.get("shared", f"{mlp}.shared_experts")
    each = ["w1", "w2", "w3"] if experts.startswith("block_sparse") else names
    parts: list[tuple[str, list[str], Sequence[int]]] = [
        ("attention", [f"{attention}.{module}" for module in inner], attends),
        ("output", [f"{attention}.o_proj"], attends),
        ("state", kind["state"]["modules"] if model.state else [], states),
        ("mlp", [f"{mlp}.{module}" for module in names], dense),
        ("experts", [f"{experts}.0.{module}" for module in each], routed),
        ("shared", [f"{shared}.{module}" for module in names], routed if model.moe and model.moe.shared else ()),
        ("indexer", ["self_attn.indexer.wq_b", "self_attn.indexer.wk"], attends if model.indexer else ()),
        # The draft layers follow the others.
        (
            "draft",
            [f"{attention}.{module}" for module in inner],
            range(model.layers, model.layers + model.mtp_layers),
        ),
    ]
    return [(part, modules, layers) for part, modules, layers in parts if layers]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return decoded(path.read_bytes(), str(path))
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    raise PlanError(Problem("model", str(path), why, "write the path of a config.json"))


def decoded(text: bytes, place: str) -> Mapping[str, Any]:
    """The JSON object in `text`, which is at `place`. Raises PlanError if it is none."""
    why = "holds no JSON object"
    try:
        config = json.loads(text)
    except ValueError as error:
        why = f"is not JSON ({error})"
    except RecursionError:
        why = "is nested too deeply"
    else:
        if isinstance(config, dict):
            return config
    raise PlanError(Problem("model", place, why, "write the path of a config.json"))
