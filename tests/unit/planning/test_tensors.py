"""Headers of safetensors files: read where they describe their file exactly, refused in one line where they lie."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from planning.problems import PlanError
from planning.tensors import counted, header_bytes, read_header
from standins.hub import safetensors


def file(header: Any, data: int, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def tensor(start: int, stop: int, **more: Any) -> dict[str, Any]:
    return {"dtype": "BF16", "shape": [(stop - start) // 2], "data_offsets": [start, stop], **more}


def test_a_header_gives_each_tensors_bytes_and_elements():
    text = file({"__metadata__": {"format": "pt"}, "b": tensor(4, 8), "a": tensor(0, 4, dtype="I8", shape=[2, 2])}, 8)
    found = {each.name: (each.bytes, each.elements) for each in read_header("x", text, len(text))}
    assert found == {"a": (4, 4), "b": (4, 2)}
    whole = safetensors({"a": (3, 5)})
    assert [each.elements for each in read_header("x", whole[: header_bytes("x", whole, len(whole))], len(whole))] == [
        15
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "hold no header"),
        (b"\0" * 7, "hold no header"),
        (file({}, 0, length=1 << 40), "the file has"),
        (file({}, 0, length=3), "the file has 10"),
        (file(b"[]", 0), "no JSON object"),
        (file(b'{"a": ', 0), "no JSON object"),
        (file(b"[" * 100_000, 0), "no JSON object"),
        (file({"a": tensor(0, 4)}, 2), "for 4 bytes of tensors, and the file has 2"),
        (file({"a": tensor(0, 4)}, 6), "for 4 bytes of tensors, and the file has 6"),
        (file({"a": tensor(0, 4), "b": tensor(2, 6)}, 6), "b overlaps the one before it"),
        (file({"a": tensor(0, 4), "b": tensor(6, 8)}, 8), "b leaves 2 bytes before it to nobody"),
        (file({"a": tensor(0, 4, shape=[3])}, 4), "gives a 4 bytes for 3 x 16 bits"),
        (file({"a": tensor(0, 4, dtype="F17")}, 4), "describes a in no known way"),
        (file({"a": tensor(0, 4, shape=[-2])}, 4), "describes a in no known way"),
        (file({"a": tensor(0, 4, shape=["2"])}, 4), "describes a in no known way"),
        (file({"a": tensor(0, 4, data_offsets=[0])}, 4), "describes a in no known way"),
        (file({"a": None}, 0), "describes a in no known way"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line(text, said):
    with pytest.raises(PlanError) as caught:
        read_header("model.safetensors", text, len(text))
    assert len(caught.value.lines) == 1 and said in caught.value.lines[0]


def test_a_header_longer_than_any_reader_takes_is_refused_before_it_is_read():
    with pytest.raises(PlanError, match="of 100000000 at most"):
        header_bytes("x", struct.pack("<Q", 100_000_001), 1 << 40)


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.embed_tokens.weight", None, "embeddings"),
        ("lm_head.weight", None, "head"),
        ("model.norm.weight", None, "norm"),
        ("model.layers.2.self_attn.q_a_layernorm.weight", 2, "norm"),
        ("model.layers.2.self_attn.kv_b_proj.weight_scale_inv", 2, "attention"),
        ("model.layers.2.self_attn.indexer.wq_b.weight", 2, "attention"),
        ("model.layers.2.linear_attn.in_proj_qkvz.weight", 2, "attention"),
        ("model.layers.2.mlp.gate.weight", 2, "router"),
        ("model.layers.2.mlp.gate.e_score_correction_bias", 2, "router"),
        ("model.layers.2.mlp.gate_proj.weight", 2, "mlp"),
        ("model.layers.2.mlp.experts.7.up_proj.weight_scale", 2, "experts"),
        ("model.layers.2.mlp.shared_experts.up_proj.weight", 2, "shared experts"),
        ("language_model.model.layers.2.feed_forward.experts.gate_up_proj", 2, "experts"),
        ("model.layers.2.block_sparse_moe.experts.0.w1.weight", 2, "experts"),
        ("model.layers.3.mlp.experts.0.up_proj.weight", None, "draft"),
        ("model.layers.3.embed_tokens.weight", None, "draft"),
        ("mtp.layers.0.mlp.gate_proj.weight", None, "draft"),
        ("model.visual.blocks.0.attn.qkv.weight", None, "other"),
        ("vision_tower.encoder.layers.1.mlp.fc0.weight", None, "other"),
        ("mm_projector.proj.0.weight", None, "other"),
    ],
)
def test_a_tensors_name_says_its_layer_and_kind(name, layer, kind):
    text = safetensors({name: (4,)})
    found = counted(read_header("x", text, len(text)), layers=3)
    assert (found.layers.get(layer) if layer is not None else found.outside) == {kind: 8}
