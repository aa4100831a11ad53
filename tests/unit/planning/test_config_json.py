"""The planner understands all of a config.json: its size matches the published one, or the planner names what it does
not understand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planning import engine
from planning.catalog import entries, fact
from planning.config_json import find, from_config, from_file, read
from planning.layout import Layout, broken_rules
from planning.problems import PlanError
from planning.stage_weights import file_weights, stage_weights

CONFIGS = Path("tests/data/configs")
ALL = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
# Parameters without draft layers, and bytes of the files with them; None: none published was read. Sources: the model
# cards (GLM-5 «744B», MiniMax-M2.5 «230B», Qwen3-Coder «480B», MiniMax-M1 «456B», Nemotron Super «49.9B» by its file
# list, Kimi-K2 as in the catalog), the weight indexes (total_size) of Mixtral, Qwen3-235B, Kimi-Linear, Gemma 4,
# Qwen3-VL-8B, Qwen3.5-27B and Qwen3.8, vLLM's recipes (Laguna «~121GB», Kimi-K2.5 «about 595 GB», V4 «148.66 GiB»,
# GLM-5.2 «743B», Nemotron Ultra «550B»), gpt-oss's card and file list; for models with states the cards (Qwen3.5
# «397B», «122B», Qwen3-Next «80B», Nemotron-H «56B»), and for Nemotron 3 Super the sum of its tensors.
PUBLISHED: dict[str, tuple[float | None, float | None]] = {
    "DeepSeek-V3.1-NVFP4": (671.03e9, None),
    "DeepSeek-V4-Flash": (284e9, 148.66 * 2**30),
    "GLM-5": (744e9, None),
    "GLM-5-FP8": (744e9, None),
    "GLM-5.1-NVFP4": (744e9, None),
    "GLM-5.2": (743e9, None),
    "Gemma-4-26B-A4B-NVFP4": (25.806e9, None),
    "Kimi-Linear-48B-A3B-Instruct": (49.122681728e9, 98.245528576e9),
    "Kimi-K2-Instruct": (1026.41e9, 1029.17e9),
    "Kimi-K2.5": (None, 595e9),
    "Kimi-K2.5-MXFP4": (None, 523 * 2**30),
    "Kimi-K2.6-NVFP4": (1026.9e9, None),
    "Laguna-S-2.1-FP8": (118e9, 121e9),
    "Llama-4-Maverick-17B-128E-Instruct": (400.7e9, 801.4e9),
    "Llama-3_3-Nemotron-Super-49B-v1": (49.867145216e9, None),
    "MiMo-V2-Flash": (309e9, None),
    "MiniMax-M1-80k": (456e9, None),
    "MiniMax-M2.5": (230e9, None),
    "MiniMax-M2.7-NVFP4": (230e9, None),
    "Mixtral-8x22B-v0.1": (140.62e9, 281.24e9),
    "NVIDIA-Nemotron-3-Super-120B-A12B-FP8": (120.7e9, None),
    "NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": (550e9, None),
    "Nemotron-H-56B-Base-8K": (56e9, None),
    "Qwen3-235B-A22B-NVFP4": (235.09e9, None),
    "Qwen3-Coder-480B-A35B-Instruct": (480e9, None),
    "Qwen3-Next-80B-A3B-Thinking": (80e9, None),
    "Qwen3-VL-235B-A22B-Instruct": (236e9, None),
    "Qwen3-VL-8B-Instruct": (8.767123696e9, 17.534247392e9),
    "Qwen3.5-122B-A10B-NVFP4": (122e9, None),
    "Qwen3.5-27B": (27.356728560e9, 55.562855904e9),
    "Qwen3.5-397B-A17B": (397e9, None),
    "Qwen3.6-35B-A3B-NVFP4": (35.1e9, None),
    "Qwen3.8-2.4T-A95B": (None, 4892.365451008e9),
    "gemma-4-26B-A4B": (25.805936206e9, 51.611872412e9),
    "gpt-oss-120b": (116.83e9, 65.22e9),
}
# What the planner must name if it does not understand the model.
REFUSED = {
    "Step-3.7-Flash": "share_expert_dim",
}


def config(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((CONFIGS / name / "config.json").read_text())
    return read


def test_every_config_file_has_a_published_size_or_a_refusal():
    assert {*PUBLISHED, *REFUSED} == {*ALL}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_size_of_a_model_is_within_a_hundredth_of_the_published(name):
    model = from_file(CONFIGS / name / "config.json")
    parameters, size = PUBLISHED[name]
    if parameters:
        assert file_weights(model.plain, draft=False) / 2 == pytest.approx(parameters, rel=0.01)
    if size:
        assert file_weights(model) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_of_the_catalog_has_the_shape_of_its_config_file(name):
    try:
        listed = find(name)
    except PlanError:
        pytest.skip("the catalog does not have it")
    written = from_file(CONFIGS / name / "config.json")
    own = {"name", "source", "file_bytes", "parameters"}
    own |= set() if written.mtp_layers else {"draft_tables"}
    own |= set() if written.count("D") else {"intermediate"}
    assert {key: value for key, value in vars(listed).items() if key not in own and value != vars(written)[key]} == {}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_not_understood_is_refused_by_the_key(name):
    with pytest.raises(PlanError) as caught:
        find(str(CONFIGS / name / "config.json"))
    [line] = caught.value.lines
    assert f"the architecture {config(name)['architectures'][0]} is not understood" in line and REFUSED[name] in line


def test_a_new_key_of_a_known_architecture_is_named_unless_it_says_that_there_is_nothing():
    with pytest.raises(PlanError, match="compress_ratios is not understood"):
        from_config({**config("GLM-5"), "compress_ratios": [4]}, "x")
    assert from_config({**config("GLM-5"), "compress_ratios": [], "new_thing": False}, "x")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("DeepSeek-V3.1-NVFP4", {"attention", "draft"}),
        ("GLM-5-FP8", set()),
        ("GLM-5.1-NVFP4", {"attention", "output", "mlp", "shared", "indexer", "draft"}),
        ("Kimi-K2.5", {"attention", "output", "mlp", "shared"}),
        ("Kimi-K2.6-NVFP4", {"attention", "output", "mlp", "shared"}),
        ("MiniMax-M2.7-NVFP4", {"attention", "output"}),
        ("Qwen3-235B-A22B-NVFP4", set()),
        ("Qwen3.5-122B-A10B-NVFP4", {"attention", "output", "state", "shared", "draft"}),
    ],
)
def test_lists_of_ignored_modules_say_which_parts_keep_sixteen_bits(name, kept):
    assert from_file(CONFIGS / name / "config.json").sixteen_bit == kept


def test_a_format_that_covers_all_layers_is_planned_for_all_of_them():
    model = from_config({**SMALL, "quantization_config": {"quant_method": "quark", **quark("fp4")}}, "x")
    assert {model.form(part) for part in ("attention", "output", "experts")} == {"mxfp4"}


MIXED = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}


def layers(**more: str) -> dict[str, Any]:
    """Of SMALL's modules attention and experts in their formats; more: by another name of a module."""
    names = {f"model.layers.{layer}.self_attn.{word}_proj": "FP8" for layer in range(4) for word in "qkv"}
    names |= {f"model.layers.{layer}.mlp.experts": "NVFP4" for layer in range(4)}
    return {**MIXED, "quantized_layers": {module: {"quant_algo": word} for module, word in {**names, **more}.items()}}


def test_a_file_with_a_format_for_each_module_has_one_for_each_part():
    model = from_config({**SMALL, "quantization_config": layers(lm_head="NVFP4")}, "x")
    assert {part: model.form(part) for part in ("attention", "output", "experts", "head")} == {
        "attention": "fp8",
        "output": "none",
        "experts": "nvfp4",
        "head": "nvfp4",
    }
    bare = from_config({**SMALL, "quantization_config": layers()}, "x")
    assert file_weights(bare) - file_weights(model) == 32000 * 1024 * (2 - 0.5625)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model.layers.2.self_attn.q_proj": "NVFP4"}, "those of attention differ"),
        (
            {"model.layers.1.mlp.experts.1.up_proj": "FP8", "model.layers.1.mlp.experts.2.up_proj": "NVFP4"},
            "experts of",
        ),
        ({"model.layers.1.mlp.router": "FP8"}, "the format of model.layers.1.mlp.router is not understood"),
        ({"lm_head": "W2A16"}, "quantisation of lm_head by"),
    ],
)
def test_what_is_not_understood_of_a_format_for_each_module_is_named(more, said):
    with pytest.raises(PlanError, match=said):
        from_config({**SMALL, "quantization_config": layers(**more)}, "x")


def test_the_draft_layer_of_a_quantised_file_may_keep_sixteen_bits():
    model = from_file(CONFIGS / "GLM-5.1-NVFP4" / "config.json")
    bare = model.plain
    draft = [file_weights(each) - file_weights(each, draft=False) for each in (model, bare)]
    assert draft[0] == draft[1]


SMALL = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 2048,
    "moe_intermediate_size": 512,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def groups(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}


def quark(dtype: str, **weight: Any) -> dict[str, Any]:
    told = {"dtype": dtype, "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0", **weight}
    return {"global_quant_config": {"weight": told}}


@pytest.mark.parametrize(
    ("quant", "form"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, "int4-symmetric"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}, "int4-32"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128, "sym": True}, "int8-symmetric"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}, "int4-64"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "w8a8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        (groups(num_bits=4, type="int", group_size=32, symmetric=True, strategy="group"), "int4-symmetric-32"),
        (groups(num_bits=4, type="float", group_size=16), "nvfp4"),
        (groups(num_bits=4, type="float", group_size=32, scale_dtype="torch.uint8"), "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "mxfp8"),
        ({"quant_method": "quark", **quark("fp4")}, "mxfp4"),
        ({"quant_method": "quark", **quark("fp8_e4m3", qscheme="per_tensor", group_size=None)}, "fp8"),
        (groups(num_bits=8, type="float", strategy="channel"), "fp8"),
        (groups(num_bits=8, type="float", strategy="block", block_structure=[128, 128]), "fp8-block"),
    ],
)
def test_the_storage_format_is_read_with_bits_group_and_zeros(quant, form):
    assert from_config({**SMALL, "quantization_config": quant}, "x").quantisation == form


@pytest.mark.parametrize(
    "quant",
    [
        {"quant_method": "gptq", "bits": 3, "group_size": 128},
        {"quant_method": "gptq", "bits": 4, "group_size": 1024},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "surprise": 1},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
        {"quant_method": "quark"},
        {"quant_method": "quark", **quark("fp4", group_size=16)},
        {"quant_method": "quark", **quark("fp4"), "layer_quant_config": {"*q_proj": {}}},
        {"quant_method": "quark", **quark("fp4"), "export": {"weight_format": "fake_quantized"}},
        {"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "fp8_e4m3"}, {"dtype": "int4"}]}},
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32},
        {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.mlp.experts"]},
        {"quant_method": "fp8", "modules_to_not_convert": "lm_head"},
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["re:.*mlp.*"], "weights": {}}}},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "a": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}},
                "b": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}},
            },
        },
        {"bits": 4},
        [4],
    ],
)
def test_a_storage_format_that_is_not_understood_is_refused(quant):
    with pytest.raises(PlanError, match="understood|is no map|is not a list"):
        from_config({**SMALL, "quantization_config": quant}, "x")


def test_a_file_beside_the_config_says_the_format_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    beside = tmp_path / "hf_quant_config.json"
    beside.write_text(json.dumps({"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["*self_attn*"]}}))
    model = find(str(tmp_path / "config.json"))
    assert (model.quantisation, model.sixteen_bit) == ("nvfp4", {"attention", "output"})
    beside.write_text("{}")
    with pytest.raises(PlanError, match="has no map quantization"):
        find(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": None}, "architectures names no class"),
        ({"architectures": ["NewForCausalLM"]}, "the architecture NewForCausalLM is not understood"),
        ({"text_config": None}, "text_config is no map"),
        ({"num_attention_heads": 0}, "num_attention_heads 0 is not a whole number from 1 up"),
        ({"hidden_size": "1024"}, 'hidden_size "1024" is not a whole number'),
        ({"num_experts": True}, "num_experts true is not a whole number"),
        ({"vocab_size": 3.5}, "vocab_size 3.5 is not a whole number"),
        ({"layer_types": 3}, "layer_types 3 is not a list"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 layers, num_hidden_layers says 4"),
        ({"layer_types": ["linear_attention"] * 4}, "where layers are linear_attention"),
        ({"mlp_only_layers": [2]}, "mlp_only_layers is not understood where dense layers follow others"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step 2 is not understood"),
        ({"hidden_act": "relu2"}, 'hidden_act "relu2" is not understood'),
        ({"vision_config": {"depth": 2}}, "vision_config is not understood"),
        ({"num_key_value_heads": 32}, "kvHeads 32 is more than heads 16"),
        ({"vocab_size": None}, "the plan also needs vocab"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(change, said):
    with pytest.raises(PlanError) as caught:
        from_config({**SMALL, **change}, "x")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"a": ', "[1]", "null", "\x00", "[" * 100000, json.dumps(SMALL)[:-20]])
def test_a_file_that_is_cut_or_no_object_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        find(str(path))
    assert len(caught.value.lines) == 1


SOAK, LONG = pytest.mark.soak, "Kimi-K2.6-NVFP4"
ODD = (None, 0, -1, "8", 2.5, True, [], [None], [{}], {}, {"a": 1})


@pytest.mark.parametrize(
    "name",
    [
        "gpt-oss-120b",
        "Qwen3.5-397B-A17B",
        "NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
        "DeepSeek-V4-Flash",
        *(pytest.param(name, marks=SOAK) for name in ("MiniMax-M2.7-NVFP4", "Kimi-K2.5", "MiMo-V2-Flash")),
    ],
)
@pytest.mark.parametrize("place", [None, "text_config", "quantization_config", "vision_config"])
def test_no_value_of_any_key_breaks_the_reader(name, place):
    """Each key in turn gets values of every kind: a model or a refusal, never a traceback."""
    whole = config(name)
    part = whole if place is None else whole.get(place, {})
    for key in part:
        for value in ODD:
            changed = {**part, key: value}
            accepted_or_refused(changed if place is None else {**whole, place: changed})


def accepted_or_refused(raw: dict[str, Any]) -> None:
    try:
        assert from_config(raw, "x").layers > 0
    except PlanError as error:
        assert error.lines


def test_experts_in_every_second_layer_are_counted_where_they_are():
    model = from_file(CONFIGS / "Llama-4-Maverick-17B-128E-Instruct" / "config.json")
    stages = [stage_weights(model, Layout(1, 8, 8, 1), engine.find(None), first, 24) for first in (0, 24)]
    assert stages[0].experts == stages[1].experts == 12 * stages[0].experts / 12 > 0
    alone = [stage_weights(model, Layout(1, 8, 8, 1), engine.find(None), first, 1).experts for first in (0, 1)]
    assert alone[0] == 0 < alone[1]


@pytest.mark.parametrize(("form", "unit"), [("int4-symmetric-32", 32), ("int4", 128), ("int8-symmetric", 128)])
def test_a_rank_holds_whole_groups_of_the_formats_width(form, unit):
    model = replace(from_config({**SMALL, "moe_intermediate_size": 8 * unit // 2}, "x"), quantisation=form)
    assert any("not a multiple" in problem.why for problem in broken_rules(model, Layout(1, 8, 8, 1)))
    wider = replace(model, moe=replace(model.moe, intermediate=8 * unit))
    assert not any("expert width" in problem.why for problem in broken_rules(wider, Layout(1, 8, 8, 1)))


NEMOTRON = "NVIDIA-Nemotron-3-Super-120B-A12B-FP8"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (NEMOTRON, {"hybrid_override_pattern": "MEM*"}, "is not a letter of M*E- for each layer"),
        (NEMOTRON, {"hybrid_override_pattern": "X" * 88}, "is not a letter of M*E- for each layer"),
        (NEMOTRON, {"mlp_hidden_act": "silu"}, 'mlp_hidden_act "silu" is not understood'),
        (NEMOTRON, {"ssm_state_size": None}, "the plan also needs state.dim"),
        ("Qwen3-Next-80B-A3B-Thinking", {"full_attention_interval": 0}, "full_attention_interval does not say it"),
        ("Qwen3-Next-80B-A3B-Thinking", {"linear_key_head_dim": "128"}, 'linear_key_head_dim "128" is not a whole'),
        ("Qwen3-Next-80B-A3B-Thinking", {"layer_types": ["sliding_attention"] * 48}, "layers are sliding_attention"),
        ("DeepSeek-V4-Flash", {"compress_ratios": [4] * 42}, "is not a 0, 4 or 128 for each layer"),
        ("DeepSeek-V4-Flash", {"compress_ratios": [8] * 43}, "is not a 0, 4 or 128 for each layer"),
        ("DeepSeek-V4-Flash", {"compress_ratios": 4}, "compress_ratios 4 is not a list"),
        ("DeepSeek-V4-Flash", {"expert_dtype": "int4"}, 'expert_dtype "int4" is not understood'),
        ("DeepSeek-V4-Flash", {"o_groups": None}, "the plan also needs compressed.outputGroups"),
        ("MiMo-V2-Flash", {"hybrid_layer_pattern": [0, 1]}, "hybrid_layer_pattern is not a 0 or 1 for each layer"),
        ("MiMo-V2-Flash", {"hybrid_layer_pattern": 3}, "hybrid_layer_pattern 3 is not a list"),
        ("MiMo-V2-Flash", {"swa_head_dim": 128}, "swa_head_dim 128 is not understood where head_dim is 192"),
        ("MiMo-V2-Flash", {"moe_layer_freq": [1, 0] * 24}, "is not understood where dense layers follow others"),
        ("MiMo-V2-Flash", {"swa_num_key_value_heads": None}, "swa_num_key_value_heads is missing"),
        ("GLM-5", {"linear_key_head_dim": 128}, "linear_key_head_dim is not understood"),
        ("GLM-5", {"hybrid_override_pattern": "M"}, "hybrid_override_pattern is not understood"),
    ],
)
def test_layers_with_states_or_a_compressed_cache_are_understood_in_their_own_classes_only(name, change, said):
    with pytest.raises(PlanError) as caught:
        from_config({**config(name), **change}, "x")
    assert said in str(caught.value)


def test_every_architecture_that_is_accepted_has_a_model_of_known_size_here_or_by_name():
    here = {config(name)["architectures"][0] for name in PUBLISHED}
    by_name = {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "DeepseekV2ForCausalLM",
        "Glm4MoeForCausalLM",
    }
    # V3.2 has the tensors of GLM-5, with the numbers of V3.
    assert set(fact("config_json", "architectures", "known")) == here | by_name | {"DeepseekV32ForCausalLM"}


def changes(value: Any) -> list[Any]:
    """Other values of the same kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 2 or 3]
    if isinstance(value, str):
        return ["other"]
    if isinstance(value, list):
        return [value[:-1], value + value[:1]] if value else [[1]]
    return [7] if value is None else [{**value, "surprise": 1}]


# Keys that are understood and change nothing in some models, with the models that they change nothing in, and why.
LATENT = {
    "num_key_value_heads": "a latent cache has one row for all heads",
    "head_dim": "nope, rope and v_head_dim say it",
}
PARTLY: dict[str, tuple[str, str]] = {
    "architectures": ("Kimi-K2", "in text_config: vLLM takes DeepSeek's class whatever it says"),
    "attention_bias": ("gpt-oss", "the class has biases without it"),
    "config_groups": ("Qwen3.6", "quantized_layers says it"),
    "enable_moe_block": ("Gemma-4-31B", "without experts it says nothing"),
    "exclude": ("", "as ignore"),
    "full_attention_interval": ("Qwen3", "layer_types says it"),
    "ignore": ("", "embeddings, head and tower keep 16 bits in every format"),
    "index_topk_freq": ("GLM-5.2", "indexer_types says it"),
    "indexer_types": ("GLM-5", "a shared index is planned as an own one"),
    "intermediate_size": ("Llama-3_3-Nemotron", "block_configs says it"),
    "max_window_layers": ("Qwen3", "there is no window"),
    "mlp_only_layers": ("Qwen3.5-27B", "there are no experts"),
    "modules_to_not_convert": ("", "as ignore"),
    "num_attention_heads": ("Laguna", "num_attention_heads_per_layer says it"),
    "num_key_value_heads": ("Llama-3_3-Nemotron", "block_configs says it"),
    "sliding_window": ("", "use_sliding_window is off, or the class has no windows"),
    "use_sliding_window": ("Qwen3", "there is no window"),
}


def without_effect(name: str, key: str, latent: bool) -> bool:
    """Whether it is known why a key changes nothing in a model."""
    keys = fact("config_json", "keys", "harmless")
    kind = fact("config_json", "architectures", "known")[config(name)["architectures"][0]]
    towers = fact("config_json", "architectures", "towers")
    harmless = {*keys, *kind.get("keys", ()), *fact("config_json", "quantisation", "harmless")}
    harmless |= {*towers[kind["vision"]]["keys"]} if "vision" in kind else set()
    suffixes = tuple(entries("config_json")["keys"]["harmless"]["suffixes"])
    partly = key in PARTLY and name.startswith(PARTLY[key][0])
    return key in harmless or key.endswith(suffixes) or partly or (latent and key in LATENT)


# Its lists of modules take as long as a dozen other files.
@pytest.mark.parametrize("name", [pytest.param(each, marks=SOAK if each == LONG else ()) for each in PUBLISHED])
def test_every_key_changes_the_plan_or_is_refused_or_is_known_to_change_nothing(name):
    raw, beside = read(CONFIGS / name / "config.json")
    base, silent = from_config(raw, "x", beside), set()

    def walk(part: Any, rebuilt: Any) -> None:
        for key, value in part.items():
            if isinstance(value, dict) and key in ("text_config", "vision_config", "quantization_config"):
                walk(value, lambda inner, key=key: rebuilt({**part, key: inner}))
            found = set()
            for other in changes(value):
                try:
                    found.add(from_config(rebuilt({**part, key: other}), "x", beside) != base)
                except PlanError:
                    found.add(True)
            if True not in found:
                silent.add(key)

    walk(raw, lambda whole: whole)
    assert {key for key in silent if not without_effect(name, key, base.mla is not None)} == set()
