"""Parameters of the vision tower beside a language model, with its projector, from its part of a config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from planning.catalog import fact
from planning.problems import Findings
from planning.quantised import says_nothing


def tower_bytes(tower: Any, kind: str, hidden: int, found: Findings) -> int:
    """Bytes of a tower of that kind in 16 bits, projected to `hidden`."""
    if not isinstance(tower, Mapping):
        found.wrong.append("vision_config is no map")
        return 0
    sizes, count = _TOWERS[kind]
    told = fact("config_json", "architectures", "towers")[kind]
    known = {*sizes, *told["keys"]}
    for key, value in tower.items():
        if key in told["only"]:
            known |= {key} if value in told["only"][key] else set()
        if key not in known and not key.startswith(_BOILERPLATE) and not says_nothing(value):
            found.strange.append(f"vision_config.{key} is not understood")
    values = [tower.get(key) for key in sizes]
    bad = [key for key, size in zip(sizes, values, strict=True) if type(size) is not int or size < 1]
    try:
        if bad:
            raise ValueError(bad)
        return 2 * count(tower, hidden, *values)
    except (TypeError, ValueError):
        lacking = bad and all(tower.get(key) is None for key in bad)
        (found.strange if lacking else found.wrong).append(
            "vision_config is not understood: a size is missing or wrong"
        )
        return 0


def _moonvit(
    tower: Any, _: int, width: int, text: int, inner: int, layers: int, patch: int, high: int, wide: int
) -> int:
    down, right = tower.get("merge_kernel_size")
    merged = width * int(down) * int(right)
    return layers * _block(width, inner) + merged**2 + merged * text + high * wide * width + 3 * patch**2 * width


def _qwen3vl(
    tower: Any,
    _: int,
    width: int,
    text: int,
    inner: int,
    layers: int,
    patch: int,
    frames: int,
    colours: int,
    merge: int,
    table: int,
) -> int:
    merged, mergers = width * merge**2, 1 + len(tower.get("deepstack_visual_indexes") or ())
    patches = colours * frames * patch**2 * width
    return layers * _block(width, inner) + mergers * (merged**2 + merged * text) + table * width + patches


def _gemma4(
    _: Any,
    hidden: int,
    width: int,
    inner: int,
    layers: int,
    patch: int,
    table: int,
    heads: int,
    kv_heads: int,
    head: int,
) -> int:
    attention = 2 * width * (heads + kv_heads) * head
    return layers * (attention + 3 * width * inner) + 2 * table * width + 3 * patch**2 * width + width * hidden


def _block(width: int, inner: int) -> int:
    """Parameters of one layer of a tower: attention, and an MLP of two matrices."""
    return 4 * width**2 + 2 * width * inner


# What stands in every part of a config.json that transformers wrote.
_BOILERPLATE = ("id2label", "label2id", "_name_or_path", "return_dict")
# For each kind of tower the keys of its sizes, and how many parameters these make.
_TOWERS: dict[str, tuple[tuple[str, ...], Callable[..., int]]] = {
    "moonvit": (
        (
            "vt_hidden_size",
            "text_hidden_size",
            "vt_intermediate_size",
            "vt_num_hidden_layers",
            "patch_size",
            "init_pos_emb_height",
            "init_pos_emb_width",
        ),
        _moonvit,
    ),
    "qwen3vl": (
        (
            "hidden_size",
            "out_hidden_size",
            "intermediate_size",
            "depth",
            "patch_size",
            "temporal_patch_size",
            "in_channels",
            "spatial_merge_size",
            "num_position_embeddings",
        ),
        _qwen3vl,
    ),
    "gemma4": (
        (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "patch_size",
            "position_embedding_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
        ),
        _gemma4,
    ),
}
