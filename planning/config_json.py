"""A model from its published config.json (and hf_quant_config.json beside it), read whole.

Every key that changes weights, cache or activations is either understood or named in a refusal. The catalog
(`config_json`) lists the keys that change nothing and the classes that the planner knows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planning import models
from planning.catalog import entries, fact
from planning.models import ATTENTION, CONFIG, EXPERTS, MLP, STATE, Facts, Model, from_facts
from planning.problems import Findings, PlanError, Problem
from planning.quantised import QUANT_FILE, description, ignored, leaves, says_nothing, storage_format
from planning.vision import tower_bytes

_INSTEAD = "write the model's facts in catalog.models, or take another"
_SOURCE = "the model's own config.json"
TOLERANCE = 0.01
"""The part by which the weights that a config.json makes may differ from those of its files."""
_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")
# Values of `quant_method` that define what stays in 16 bits.
_DEFINED = ("mxfp4", "fbgemm_fp8")
# Keys of `block_configs` that are read.
_BLOCK = {"no_op", "n_heads_in_group", "ffn_mult"}
# What precedes `layers.N.` in module names; wrappers with a vision tower use one of the longer ones.
_ROOTS = ("model", "language_model.model", "model.language_model", "language_model", "backbone")


def find(name: str, more: Facts | None = None, otherwise: str = CONFIG) -> Model:
    """As `planning.models.find`; `name` may be the path of a config.json, or of its folder, as well."""
    path = Path(name)
    if name.endswith(".json") or ("/" in name and path.exists()):
        return from_file(path / "config.json" if path.is_dir() else path)
    return models.find(name, more, otherwise)


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


def layers_of(config: Mapping[str, Any]) -> int | None:
    """The number of layers that a config.json says, understood or not; None if it says none that can be."""
    text = config.get("text_config", config)
    said = text.get("num_hidden_layers") if isinstance(text, Mapping) else None
    return said if type(said) is int and 0 < said <= 1000 else None


def facts(
    config: Mapping[str, Any], quantised: Mapping[str, Any] | None, name: str, other_bytes: int | None = None
) -> dict[str, Any]:
    """The catalog's facts about the model of a config.json.

    `other_bytes` are the bytes of a vision tower and of what else is in no layer, if they are known from the files.
    Raises PlanError with every key that is wrong or not understood.
    """
    found = Findings()
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        raise _refusal(name, "text_config is no map")
    kind = _kind(config)
    if kind is None:
        raise _refusal(name, "architectures names no class")
    if isinstance(kind, str):
        unknown = _unknown_keys(config, text, {})
        found.wrong += _shapes(text, {})
        found.strange.append(kind + (f", nor {', '.join(unknown)}" if unknown else ""))
        found.require_none("model", name, _INSTEAD)
    assert isinstance(kind, Mapping)
    named = _in_common_words(text, kind, found)
    config, text = (named if text is config else config), named
    found.wrong += _shapes(text, kind)
    found.strange += [f"{key} is not understood" for key in _unknown_keys(config, text, kind)]
    if other_bytes is None and not says_nothing(config.get("vision_config")) and "vision" not in kind:
        found.strange.append("vision_config is not understood")
    quant = description(config, text, quantised)
    form: str | dict[str, str] = "none"
    if isinstance(quant, str):
        found.wrong.append(quant)
    elif quant is not None:
        told = storage_format(quant)
        form = form if isinstance(told, list) else told
        found.strange += told if isinstance(told, list) else []
    if found.wrong:
        found.require_none("model", name, _INSTEAD)
    shape = _facts(config, text, kind, other_bytes, found)
    found.require_none("model", name, _INSTEAD)
    if not isinstance(quant, Mapping) or str(quant.get("quant_method")).lower() in _DEFINED:
        return {**shape, "quantisation": form}
    model = from_facts(name, shape, _SOURCE)
    if isinstance(form, str):
        return {**shape, **_in_facts(form, _kept(model, kind, ignored(quant), form, name))}
    return {**shape, **_in_facts(None, _mixed(model, kind, form, name))}


def _refusal(name: str, why: str) -> PlanError:
    return PlanError(Problem("model", name, why, _INSTEAD))


def _kind(config: Mapping[str, Any]) -> Mapping[str, Any] | str | None:
    """What the catalog knows of the architecture, or that it knows nothing; None if the config names none."""
    classes = config.get("architectures")
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        return None
    known = fact("config_json", "architectures", "known")
    return known.get(classes[0], f"the architecture {classes[0]} is not understood")


def _in_common_words(text: Mapping[str, Any], kind: Mapping[str, Any], found: Findings) -> dict[str, Any]:
    """The config with the keys of its sections at its top, as `section.key`, and under the words of most classes where
    this class has its own for a thing. Adds sections that are none, and keys that contradict each other, to `wrong`."""
    flat = dict(text)
    for section in kind.get("sections", ()):
        inside = flat.pop(section, None)
        if not isinstance(inside, Mapping):
            found.wrong.append(f"{section} is no map")
            continue
        flat |= {f"{section}.{key}": value for key, value in inside.items()}
    for own, common in kind.get("words", {}).items():
        value = flat.pop(own, None)
        if value is None:
            continue
        if flat.setdefault(common, value) != value:
            found.wrong.append(f"{own} {_short(value)} and {common} {_short(flat[common])} contradict each other")
    return flat


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
    outer, each = {} if text is config else config, kind.get("each", {})
    unknown = []
    for key, value in (*outer.items(), *text.items()):
        if key in each and any(part not in each[key] for part in value or ()):
            unknown.append(f"{key} {_short(value)}")
        elif key in only and key not in kind.get("lists", ()):
            unknown += [] if value is None or value in only[key] else [f"{key} {_short(value)}"]
        elif key not in known and not key.endswith(suffixes) and not says_nothing(value):
            unknown.append(key)
    return list(dict.fromkeys(unknown))


def _facts(
    config: Mapping[str, Any],
    text: Mapping[str, Any],
    kind: Mapping[str, Any],
    other_bytes: int | None,
    found: Findings,
) -> dict[str, Any]:
    """The catalog's facts about the model. Adds whatever contradicts them to `wrong`."""
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    facts: dict[str, Any] = {
        "layers": text.get("num_hidden_layers") or len(text.get("layers_block_type") or ()) or None,
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
        "otherBytes": _tower(config, kind, hidden, found) if other_bytes is None else other_bytes,
        "slidingWindow": _window(text, kind, found),
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
        facts |= {"kvHeads": None, "headDim": None}  # every rank holds one row for all heads
    if text.get("index_n_heads"):
        dim = text.get("index_head_dim") or 0
        facts["indexer"] = {"heads": text["index_n_heads"], "dim": dim, "cacheBytesPerToken": dim + 4 * dim // 128}
        # Layers that share an index are planned as if each had its own: releases differ in what they allocate for it.
        if set(text.get("indexer_types") or ()) - {"full", "shared"}:
            found.strange.append("indexer_types is not understood where layers are neither full nor shared")
    if set(text.get("attn_type_list") or ()) - {1} and "state" not in kind:
        found.strange.append("attn_type_list is not understood where not every layer is 1 (full attention)")
    for key in ("indexer_types", "attn_type_list", *kind.get("each", ())):
        if text.get(key) and len(text[key]) != facts["layers"]:
            found.wrong.append(f"{key} has {len(text[key])} layers, num_hidden_layers says {facts['layers']}")
    told = {key: text[key] for key in _EXPERTS if text.get(key)}
    if len({*told.values()}) > 1:
        found.wrong.append(f"{' and '.join(told)} contradict each other")
    tied = [part["tie_word_embeddings"] for part in (config, text) if part.get("tie_word_embeddings") is not None]
    if len({*map(bool, tied)}) > 1:
        found.strange.append("tie_word_embeddings is not understood where text_config contradicts it")
    experts = next(iter(told.values()), 0)
    if text.get(kind.get("expertSwitch", "")) and not experts:
        found.wrong.append(f"{kind['expertSwitch']} says that there are experts, and num_experts says none")
    if experts and text.get(kind.get("expertSwitch", "")) is not False:
        facts["moe"] = _moe(text, kind, experts, facts["layers"], found)
    if "window" in kind:
        facts |= _own_window(text, kind["window"], found)
    if "global" in kind and facts["slidingWindow"]:
        # The common keys speak of the layers with a window, which are the most.
        facts["slidingWindow"] |= {"kvHeads": facts["kvHeads"], "headDim": facts["headDim"]}
        facts |= {key: text.get(own) for key, own in kind["global"].items()}
    if "headsEach" in kind and facts["slidingWindow"]:
        facts |= _heads_each(text, kind["headsEach"], facts["slidingWindow"], found)
    if "besideExperts" in kind and facts.get("moe"):  # each layer has an MLP and experts
        facts["layerKinds"] = [ATTENTION + EXPERTS + MLP] * (facts["layers"] or 0)
    if "blocks" in kind:
        facts |= _blocks(text.get(kind["blocks"]), heads or 0, hidden or 0, found)
    if "compressed" in kind:
        facts["compressed"] = {key: text.get(name) for key, name in kind["compressed"].items()}
        facts["expertFormat"] = kind["expertFormats"].get(str(text.get("expert_dtype") or "fp4"))
        facts |= {"slidingWindow": None, "indexer": None}  # they say the same of other models
    if "state" in kind:
        named = kind["state"]
        facts["state"] = {key: text.get(name) for key, name in named["numbers"].items()}
        facts["state"] |= {"bytes": 4 if text.get(named.get("dtype")) == "float32" else 2, **named["always"]}
        facts["layerKinds"] = _layer_kinds(text, named, facts, found)
    return facts


def _own_window(text: Mapping[str, Any], told: Mapping[str, Any], found: Findings) -> dict[str, Any]:
    """Layers with a window that have another number of heads of keys and values."""
    found.strange += [
        f"{key} {_short(text.get(key))} is not understood where {as_key} is {_short(text.get(as_key))}"
        for key, as_key in told["same"].items()
        if text.get(key) != text.get(as_key)
    ]
    if text.get(told["kvHeads"]) is None:
        found.wrong.append(f"{told['kvHeads']} is missing")
    marks = text.get(told["layers"]) or []
    if len(marks) != text.get("num_hidden_layers") or {*marks} - {0, 1}:
        found.wrong.append(f"{told['layers']} is not a 0 or 1 for each layer")
    window = {"tokens": text.get("sliding_window"), "layers": marks.count(1), "kvHeads": text.get(told["kvHeads"])}
    return {"slidingWindow": window, "valueDim": text.get("v_head_dim")}


def _heads_each(text: Mapping[str, Any], key: str, window: dict[str, Any], found: Findings) -> dict[str, Any]:
    """Heads of queries that a list has for each layer: one number where there is a window, another where not."""
    near = [kind == "sliding_attention" for kind in text.get("layer_types") or ()]
    told = text.get(key) or []
    numbers = [
        {heads for heads, is_near in zip(told, near, strict=False) if is_near == which} for which in (True, False)
    ]
    if len(told) != len(near) or any(len(number) != 1 for number in numbers):
        found.strange.append(f"{key} is not understood where it is not one number for each kind of layer")
        return {}
    window["heads"] = numbers[0].pop()
    return {"heads": numbers[1].pop()}


def _layer_kinds(
    text: Mapping[str, Any], named: Mapping[str, Any], facts: Mapping[str, Any], found: Findings
) -> list[str]:
    """For each layer of a model with states what it has."""
    layers: int = facts["layers"] or 0
    if key := next((key for key in named.get("alone", ()) if text.get(key) is not None), None):
        return _alone(key, text[key], layers, found)
    each, listed = text.get("full_attention_interval"), text.get("layer_types") or ()
    full = [kind == "full_attention" for kind in listed]
    if not full and isinstance(each, int) and each > 0:
        full = [(layer + 1) % each == 0 for layer in range(layers)]
    if key := named.get("ones"):  # 1 for each layer with attention
        full = [mark == 1 for mark in text.get(key) or ()]
        if len(full) != layers or {*text.get(key, ())} - {0, 1}:
            found.wrong.append(f"{key} is not a 0 or 1 for each layer")
    if "numbered" in named:  # lists of both kinds of layers, the first of which is 1
        attend, keep = (text.get(key) or [] for key in named["numbered"])
        full = [layer + 1 in attend for layer in range(layers)]
        if Counter([*attend, *keep]) != Counter(range(1, layers + 1)):
            found.wrong.append(f"{' and '.join(named['numbered'])} are not every layer once")
    if not full:
        found.wrong.append("layer_types is missing, and full_attention_interval does not say it")
    moe = facts.get("moe")
    dense = moe["denseLayers"] if moe else layers
    return [
        (ATTENTION if attends else STATE) + (MLP if layer < dense else EXPERTS) for layer, attends in enumerate(full)
    ]


def _alone(key: str, told: Any, layers: int, found: Findings) -> list[str]:
    """For each layer the one thing that it has, by letters or by words."""
    words = {"mamba": STATE, "attention": ATTENTION, "moe": EXPERTS, "mlp": MLP}
    kinds = {"M": STATE, "*": ATTENTION, "E": EXPERTS, "-": MLP} if isinstance(told, str) else words
    if isinstance(told, list | str) and len(told) == layers and all(str(each) in kinds for each in told):
        return [kinds[str(each)] for each in told]
    names = f"a letter of {''.join(kinds)}" if isinstance(told, str) else f"one of {', '.join(kinds)}"
    found.wrong.append(f"{key} {_short(told)} is not {names} for each layer")
    return []


def _blocks(blocks: Any, heads: int, hidden: int, found: Findings) -> dict[str, Any]:
    """Layers of which each says whether it has attention, with how many heads of keys and values, and how wide its MLP
    is (vllm/model_executor/models/nemotron_nas.py)."""
    kinds, widths, groups = [], [], set()
    try:
        for block in blocks:
            attention, mlp = block["attention"], block["ffn"]
            odd = [key for part in (attention, mlp) for key, value in part.items() if key not in _BLOCK and value]
            if odd:
                found.strange.append(f"block_configs.{odd[0]} is not understood")
            attends, inside = attention["no_op"] is False, mlp["no_op"] is False
            groups |= {attention["n_heads_in_group"]} if attends else set()
            width = int(2 * mlp["ffn_mult"] * hidden / 3) if inside else 0
            widths.append(-(-width // 256) * 256)
            kinds.append(ATTENTION * attends + MLP * inside)
        if len(groups) > 1:
            found.strange.append("block_configs is not understood where layers differ in heads of keys and values")
        group = groups.pop()
        return {
            "layerKinds": kinds,
            "mlpWidths": widths,
            "kvHeads": heads // group,
            "intermediate": max(widths),
        }
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError):
        found.wrong.append("block_configs is not a map of attention and ffn for each layer, or a value in it is wrong")
        return {}


def _moe(
    text: Mapping[str, Any], kind: Mapping[str, Any], experts: int, layers: int | None, found: Findings
) -> dict[str, Any]:
    dense = text.get("first_k_dense_replace") or 0
    for key in ("mlp_only_layers", "mlp_layer_types", "moe_layer_freq"):
        told = text.get(key)
        given: list[Any] = told if isinstance(told, list) else []
        if key == "moe_layer_freq":  # 0 for a dense layer
            given = [layer for layer, routed in enumerate(given) if not routed]
        listed = [i for i, kept in enumerate(given) if kept == "dense"] if key == "mlp_layer_types" else list(given)
        if given and listed != list(range(len(listed))):
            found.strange.append(f"{key} is not understood where dense layers follow others")
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


def _window(text: Mapping[str, Any], kind: Mapping[str, Any], found: Findings) -> dict[str, int] | None:
    """Tokens of the sliding window, and how many layers use it."""
    kinds = list(text.get("layer_types") or ())
    known = {"full_attention", "sliding_attention", *kind.get("layerTypes", ())}
    if "state" in kind:
        known = {"full_attention", "linear_attention"}
    if strange := sorted({str(each) for each in kinds} - known):
        found.strange.append(f"layer_types is not understood where layers are {', '.join(strange)}")
    if kinds and text.get("num_hidden_layers") != len(kinds):
        found.wrong.append(
            f"layer_types has {len(kinds)} layers, num_hidden_layers says {text.get('num_hidden_layers')}"
        )
    window, off = text.get("sliding_window"), text.get("use_sliding_window") is False
    if not window or off:
        return None
    if not kinds and text.get("max_window_layers") not in (None, text.get("num_hidden_layers")):
        found.strange.append("max_window_layers is not understood where only some layers have a window")
    layers = kinds.count("sliding_attention") if kinds else text.get("num_hidden_layers")
    return {"tokens": window, "layers": layers or 0} if layers else None


def _tower(config: Mapping[str, Any], kind: Mapping[str, Any], hidden: int | None, found: Findings) -> int:
    tower = config.get("vision_config")
    return (
        0
        if says_nothing(tower) or not hidden or "vision" not in kind
        else tower_bytes(tower, kind["vision"], hidden, found)
    )


def _in_facts(form: str | None, parts: Mapping[str, str]) -> dict[str, Any]:
    """The catalog's facts about storage formats, of which each part has one; `form` is what the file says of all."""
    main = form or next(parts[part] for part in ("experts", "mlp", *parts) if parts.get(part, "none") != "none")
    # What has the main format without being told: all parts but the output embedding, in MXFP4 the experts only.
    silent = ("experts", "draft") if main == "mxfp4" else tuple(part for part in parts if part != "head")
    others = {part: own for part, own in parts.items() if own != "none" and (own != main or part not in silent)}
    told = {"quantisation": main, "sixteenBit": sorted(part for part, own in parts.items() if own == "none")}
    return {**told, "partFormats": others} if others else told


def _mixed(model: Model, kind: Mapping[str, Any], forms: Mapping[str, str], name: str) -> dict[str, str]:
    """The storage format of each part of a model whose file says it of each module."""
    found, wrong, seen = {}, [], set()

    def of(module: str) -> str:
        words = module.split(".")
        holds = next((own for own in (".".join(words[:end]) for end in range(len(words), 0, -1)) if own in forms), None)
        seen.add(holds)
        return forms[holds] if holds else "none"

    for part, modules, layers in _parts(model, kind):
        own = part == "draft" and kind.get("draftRoot")
        roots, first = ((own,), model.layers) if own else (_ROOTS, 0)
        names = [[f"{root}.layers.{layer - first}.{each}" for root in roots] for layer in layers for each in modules]
        told = {next((form for form in map(of, each) if form != "none"), "none") for each in names}
        found[part] = told.pop()
        if told:
            wrong.append(f"the formats of modules are not understood: those of {part} differ")
    if found.get("draft", "none") not in ("none", found.get("attention")):
        wrong.append("the formats of modules are not understood: those of draft layers differ from those of others")
    elif found.get("draft", "none") != "none":
        del found["draft"]  # its parts are as those of the others
    if head := next((module for module in forms if module.rpartition(".")[2] == "lm_head"), None):
        found["head"] = of(head)
    if not wrong and (more := sorted({*forms} - seen)):
        wrong.append(f"the format of {more[0]} is not understood: no part of this class has that module")
    Findings(strange=wrong).require_none("model", name, _INSTEAD)
    return found


def _kept(model: Model, kind: Mapping[str, Any], patterns: Sequence[str], form: str, name: str) -> dict[str, str]:
    """The storage format of each part of the model: 16 bits for those that lists of ignored modules name."""
    kept, wrong = {}, []
    try:
        left_out = leaves(patterns)
    except re.error as error:
        raise _refusal(name, f"the modules that quantisation leaves out are no patterns ({error})") from None
    for part, modules, layers in _parts(model, kind):
        own = part == "draft" and kind.get("draftRoot")  # its layers are counted anew
        roots, first = ((own,), model.layers) if own else (_ROOTS, 0)
        found = {
            any(left_out(f"{root}.layers.{layer - first}.{module}") for root in roots)
            for layer in layers
            for module in modules
        }
        kept[part] = "none" if found == {True} else form
        if len(found) == 2:
            wrong.append(f"the modules that quantisation leaves out are not understood: a part of {part} only")
    Findings(strange=wrong).require_none("model", name, _INSTEAD)
    return kept


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
