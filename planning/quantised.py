"""How a model's weights are stored: `quantization_config` of its config.json, or hf_quant_config.json beside it.

Knows formats and lists of modules that keep 16 bits; does not know models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from planning.catalog import fact

QUANT_FILE = "hf_quant_config.json"
_LISTS = ("ignore", "ignored_layers", "exclude_modules", "exclude", "modules_to_not_convert", "llm_int8_skip_modules")
_EXPERT = re.compile(r"\bexperts\.\d+")
# Keys of one entry in `config_groups`, and of its weights.
_SCHEME = {"num_bits", "type", "group_size", "strategy", "symmetric", "block_structure", "scale_dtype"}
# Words of modelopt for a storage format. Those with groups are understood at the group size of the format only.
_ALGORITHMS = {
    "FP8": ("fp8", None),
    "FP8_PB_WO": ("fp8-block", None),
    "MXFP8": ("mxfp8", 32),
    "NVFP4": ("nvfp4", 16),
    "W4A16_NVFP4": ("nvfp4", 16),
}


def says_nothing(value: object) -> bool:
    """Whether the value of a key says that there is no such feature."""
    return value is None or value is False or value in ("", 0) or value == [] or value == {}


def description(
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


def storage_format(quant: Mapping[str, Any]) -> str | dict[str, str] | list[str]:
    """The planner's name for the storage format, or those of all modules, or everything that is not understood."""
    method = str(quant.get("quant_method", "")).lower().replace("_", "-")
    readers: dict[str, tuple[Callable[[Mapping[str, Any]], str | dict[str, str] | list[str] | None], set[str]]] = {
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
        "modelopt": (_modelopt, {"quant_algo", "group_size", "config_groups", "quantized_layers"}),
        "quark": (_quark, {"global_quant_config", "export"}),
    }
    if method not in readers:
        return [f"quantisation {method or 'without a method'} is not understood"]
    reader, keys = readers[method]
    known = {*keys, *_LISTS, "quant_method", *fact("config_json", "quantisation", "harmless")}
    wrong = [
        f"quantization_config.{key} is not understood"
        for key, value in quant.items()
        if key not in known and not says_nothing(value)
    ]
    try:
        form = reader(quant)
    except (AttributeError, KeyError, TypeError, ValueError):
        form = None
    if form is None:
        told = json.dumps({key: quant[key] for key in sorted(keys) if key in quant})
        form = [f"quantisation {method} with {told[:200]} is not understood"]
    return [*wrong, *(form if isinstance(form, list) else ())] or form


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


def _modelopt(quant: Mapping[str, Any]) -> str | dict[str, str] | list[str] | None:
    algorithm, group = str(quant.get("quant_algo", "")).upper(), quant.get("group_size")
    if algorithm == "MIXED_PRECISION":
        return _of_modules(quant) or None
    if quant.get("quantized_layers"):
        return None
    if quant.get("config_groups"):
        form = _groups(quant)
        return form if algorithm in ("NVFP4", "FP8", "") else None
    return _algorithm(algorithm, group)


def _algorithm(word: object, group: object) -> str | None:
    form, size = _ALGORITHMS.get(str(word).upper(), (None, None))
    return form if group in (None, size) else None


def _of_modules(quant: Mapping[str, Any]) -> dict[str, str] | list[str]:
    """The storage format of each module that a file of modelopt names; all experts of a layer count as its first."""
    forms: dict[str, str] = {}
    wrong = []
    for module, value in quant["quantized_layers"].items():
        words = value if isinstance(value, Mapping) else {}
        form = _algorithm(words.get("quant_algo"), words.get("group_size"))
        if form is None or {*words} - {"quant_algo", "group_size"}:
            wrong.append(f"quantisation of {module} by {json.dumps(value)[:80]} is not understood")
        elif forms.setdefault(_EXPERT.sub("experts.0", module), form) != form:
            wrong.append(f"quantisation is not understood where experts of a layer differ, such as {module}")
    return wrong[:3] or forms


def _quark(quant: Mapping[str, Any]) -> str | None:
    """What AMD's Quark says of all modules that it does not exclude."""
    every, packed = quant["global_quant_config"], quant.get("export") or {}
    weight, known = every["weight"], fact("config_json", "quantisation", "quark")
    parts = ((every, "all"), (weight, "weight"), (packed, "export"))
    if any(key not in known[name] and not says_nothing(value) for part, name in parts for key, value in part.items()):
        return None
    if packed.get("weight_format", "real_quantized") != "real_quantized":
        return None
    words = (weight["dtype"], weight.get("qscheme"), weight.get("group_size"), weight.get("scale_format"))
    if words == ("fp4", "per_group", 32, "e8m0"):
        return "mxfp4"
    whole = weight.get("qscheme") in ("per_tensor", "per_channel")
    return {"fp8_e4m3": "fp8", "int8": "w8a8"}.get(weight["dtype"]) if whole else None


def _groups(quant: Mapping[str, Any]) -> str | None:
    """The one format of `config_groups`; None if there are several, or if a group does not cover all linear layers."""
    forms = {
        _scheme(group["weights"], group.get("input_activations")) if group["targets"] == ["Linear"] else None
        for group in quant["config_groups"].values()
    }
    return forms.pop() if len(forms) == 1 else None


def _scheme(weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> str | None:
    known = _SCHEME | set(fact("config_json", "quantisation", "harmless"))
    if any(key not in known and not says_nothing(value) for key, value in weights.items()):
        return None
    bits, kind, group = weights["num_bits"], weights.get("type", "int"), weights.get("group_size")
    if kind == "float":
        if group == 32:
            return {4: "mxfp4", 8: "mxfp8"}.get(bits) if weights.get("scale_dtype") == "torch.uint8" else None
        if bits == 8:
            return _fp8({"weight_block_size": weights.get("block_structure")}) if group is None else None
        return "nvfp4" if (bits, group) == (4, 16) else None
    if bits == 8 and activations is not None and group is None:
        return "w8a8"
    return _int(bits, -1 if group is None else group, weights.get("symmetric", True) is True)


def ignored(quant: Mapping[str, Any]) -> list[str]:
    """Every entry of the lists of modules that keep 16 bits."""
    return [str(each) for key in _LISTS for each in (quant.get(key) or ())]


def leaves(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether these entries of an ignore list exclude a module, or a module that contains it.

    An entry is a module's whole name, one word of it, a pattern with `*`, or `re:` and a regular expression.
    """
    plain = {each for each in patterns if "*" not in each and not each.startswith("re:")}
    words = {each for each in plain if "." not in each}
    paths = plain - words
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
        return bool(paths) and any(".".join(split[:count]) in paths for count in range(len(split), 2, -1))

    return left_out
