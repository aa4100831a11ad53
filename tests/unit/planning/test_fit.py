"""Weights, KV cache and verdicts, compared with figures calculated by hand, and the properties of every layout."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planning import engine, gpus, models, startup
from planning.catalog import fact
from planning.choose import alternatives, cheapest, fit, wrong_context
from planning.config_json import find
from planning.gpus import Gpu
from planning.layout import Layout, broken_rules, split
from planning.memory import Request, kv_bytes
from planning.planner import ranks
from planning.problems import PlanError
from planning.stage_weights import Weights, file_weights
from planning.units import GIB

NAMES = [
    "DeepSeek-R1",
    "DeepSeek-V3.2",
    "Kimi-K2-Instruct",
    "Qwen3-0.6B",
    "Qwen3-32B",
    "Qwen3-30B-A3B",
    "Qwen3-235B-A22B-FP8",
    "Llama-3.1-405B-Instruct-FP8",
    "Llama-3.3-70B-Instruct",
    "gpt-oss-120b",
]


TWO_NODES = Layout(2, 8, 8, 2)


def _request(
    model: str = "DeepSeek-R1", gpu: str = "H20-96", layout: Layout = TWO_NODES, version: str | None = None, **rest: Any
) -> Request:
    return Request(find(model), gpus.find(gpu), layout, engine.find(version), **rest)


@pytest.mark.parametrize(
    ("layout", "version", "gib"),
    [
        (Layout(2, 8, 8, 2), "0.7.2", (39.3, 44.5)),  # 37.2 and 42.4, and 2.15 of matrices merged for MLA
        (Layout(2, 8, 8, 2), "0.33.0", (38.5, 41.0)),
        (Layout(2, 8, 16, 1), "0.33.0", (40.3,)),
        (Layout(1, 8, 8, 1), "0.33.0", (79.5,)),
    ],
)
def test_weights_of_deepseek_r1_per_gpu(layout: Layout, version: str, gib: tuple[float, ...]) -> None:
    found = fit(_request(layout=layout, version=version), 2048)
    assert [stage.weights_gib for stage in found.stages] == pytest.approx(gib, abs=0.2)


@pytest.mark.parametrize(
    ("layout", "gpu", "tokens"),
    [
        (Layout(2, 8, 8, 2), "H20-96", 1_190_000),
        (Layout(2, 8, 8, 2), "H800-80", 735_000),
        (Layout(1, 8, 8, 1), "H200-141", 614_000),
    ],
)
def test_kv_tokens_of_deepseek_r1_with_some_eight_gib_of_overhead(layout: Layout, gpu: str, tokens: int) -> None:
    found = fit(_request(layout=layout, gpu=gpu), None)
    assert found.fits
    assert found.kv_tokens == pytest.approx(tokens, rel=0.05)


def test_one_node_of_96_gb_holds_deepseek_r1_barely_and_one_of_80_gb_does_not() -> None:
    barely = fit(_request(layout=Layout(1, 8, 8, 1), utilization=0.95), None)
    assert barely.fits
    assert barely.max_model_len < barely.stages[0].layers * 1024 < models.find("DeepSeek-R1").max_context
    assert not fit(_request(layout=Layout(1, 8, 8, 1)), None).fits
    assert not fit(_request(layout=Layout(1, 8, 8, 1), gpu="H800-80", utilization=0.95), None).fits
    assert not fit(_request(gpu="L20-48"), None).fits


def test_more_layers_than_stages_go_where_the_release_puts_them() -> None:
    assert split(61, 2, engine.find("0.7.2")) == [30, 31]
    assert split(61, 2, engine.find("0.8.0")) == [31, 30]
    assert split(61, 4, engine.find("0.8.0")) == [15, 15, 16, 15]
    assert split(62, 4, engine.find("0.8.0")) == [15, 16, 16, 15]


@pytest.mark.parametrize(
    ("model", "layout", "words"),
    [
        ("DeepSeek-R1", Layout(4, 8, 32, 1), "2048 / 32 = 64, not a multiple of 128"),
        ("Qwen3-235B-A22B-FP8", Layout(1, 8, 8, 1), "1536 / 8 = 192, not a multiple of 128"),
        ("Qwen3-14B", Layout(1, 16, 16, 1), "40 attention heads / 16 = 2.5"),
        ("Qwen2.5-7B", Layout(1, 7, 7, 1), "4 KV heads and 7 ranks"),
        ("Qwen3-0.6B", Layout(4, 8, 1, 32), "more stages than the model's 28 layers"),
        ("Qwen3-32B", Layout(1, 8, 8, 2), "tensor 8 x pipeline 2 x data 1 = 16 ranks, but 1 nodes x 8 = 8 GPUs"),
        ("Qwen3-32B", Layout(1, 8, 8, 1, expert_parallel=True), "has no experts"),
        ("Qwen3-32B", Layout(1, 8, 8, 1, context=2), "only 1 tensor ranks hold the same KV heads"),
        ("Qwen3-32B", Layout(1, 8, 0, 1), "tensor 0: is not 1 or more"),
        ("DeepSeek-R1", Layout(3, 8, 4, 3, 2), "tensor 4 x pipeline 3 = 12 GPUs and the 8 of a node do not divide"),
        ("DeepSeek-R1", Layout(1, 8, 8, 1, 1, True, 1, 4), "256 + 4 redundant over 8 GPUs are 32.5 on each; write 0"),
        (
            "DeepSeek-R1",
            Layout(3, 8, 1, 1, 24, True, 1, 0),
            "256 + 0 redundant over 24 GPUs are 10.6667 on each",
        ),
        ("DeepSeek-R1", Layout(1, 8, 8, 1, 1, False, 1, 0), "balances experts that are spread"),
    ],
)
def test_a_broken_rule_is_said_with_its_arithmetic(model: str, layout: Layout, words: str) -> None:
    assert words in "\n".join(map(str, broken_rules(models.find(model), layout)))


@pytest.mark.parametrize(
    ("version", "layout", "first"),
    [
        ("0.8.5", Layout(1, 8, 1, 1, 8, True), "0.9.0"),
        ("0.9.0", Layout(1, 8, 1, 1, 8, True), None),
        ("0.9.0", Layout(2, 8, 1, 1, 16, True), "0.9.1"),
        ("0.7.3", Layout(1, 8, 8, 1, 1, True), "0.8.0"),
        ("0.10.1", Layout(1, 8, 8, 1, context=8), "0.10.2"),
    ],
)
def test_a_layout_that_a_release_lacks_names_the_first_that_has_it(
    version: str, layout: Layout, first: str | None
) -> None:
    broken = broken_rules(models.find("DeepSeek-R1"), layout, engine.find(version))
    assert [each.why.rpartition(" ")[2] for each in broken] == ([first] if first else [])


def test_whole_experts_on_ranks_need_no_multiple_of_the_block() -> None:
    assert broken_rules(models.find("Qwen3-235B-A22B-FP8"), Layout(1, 8, 8, 1, expert_parallel=True)) == []


def test_kv_cache_of_a_token() -> None:
    assert kv_bytes(_request()) == 1152  # the latent row, on every tensor rank whole
    assert kv_bytes(_request(version="0.7.2")) == 1280
    assert kv_bytes(_request(version="0.6.6")) == 2 * 128 / 8 * 256 * 2
    assert kv_bytes(_request(kv_dtype="fp8")) == 576
    assert kv_bytes(_request(layout=Layout(2, 8, 8, 2, context=8))) == 1152 / 8
    assert kv_bytes(_request("DeepSeek-V3.2")) == 1152 + 132
    assert kv_bytes(_request("DeepSeek-V3.2", kv_dtype="fp8")) == 656 + 132
    shared = [kv_bytes(_request("Qwen3-235B-A22B", layout=Layout(1, 8, tensor, 8 // tensor))) for tensor in (2, 4, 8)]
    assert shared == [1024, 512, 512]  # 4 KV heads: a rank keeps one at least


def test_ranks_beyond_the_kv_heads_hold_copies_of_them() -> None:
    """Qwen3-235B has 4 KV heads of 128: an eighth of the ranks saves no key or value projection over a fourth."""
    requests = (_request("Qwen3-235B-A22B", layout=Layout(1, tensor, tensor, 1)) for tensor in (8, 4))
    eight, four = (fit(request, 2048).stages[0].weights.attention for request in requests)
    kv = 94 * 2 * 128 * 4096 * 2
    assert eight - kv == pytest.approx((four - kv) / 2)


def test_layers_with_a_window_hold_more_tokens_the_longer_the_context() -> None:
    request = _request("gpt-oss-120b", "H100-80", Layout(1, 2, 2, 1))
    assert fit(request, 131072).kv_tokens > 1.8 * fit(request, 1024).kv_tokens


@pytest.mark.parametrize(
    ("version", "inside"), [("0.19.0", False), ("0.20.0", True), ("0.21.0", True), ("0.22.0", False), ("0.29.0", True)]
)
def test_the_budget_holds_graphs_from_020_on_but_not_those_of_the_first_releases_with_runner_v2(
    version: str, inside: bool
) -> None:
    stage = fit(_request("Qwen3-32B", "H100-80", Layout(1, 2, 2, 1), version), 8192).stages[0]
    assert stage.graphs_in_budget is inside
    assert stage.graphs > 0
    assert stage.overhead == pytest.approx(stage.non_torch + stage.activation + inside * stage.graphs)


def test_a_cache_that_fits_may_leave_no_room_for_graphs() -> None:
    found = fit(_request("Qwen3-8B", "RTX4090-24", Layout(1, 1, 1, 1), "0.12.0", utilization=0.98), 8192)
    assert found.kv_fits and not found.starts and not found.fits


def test_the_draft_layer_is_loaded_for_speculative_decoding_only() -> None:
    plain, draft = (fit(_request(speculative=speculative), 2048).stages[-1] for speculative in (False, True))
    assert draft.weights_gib - plain.weights_gib == pytest.approx(1.85, abs=0.15)


def test_auto_takes_one_node_where_one_is_enough() -> None:
    chosen = cheapest(_request(gpu="H200-141"), None)[0].layout
    assert (chosen.nodes, chosen.tensor, chosen.pipeline) == (1, 8, 1)
    with pytest.raises(PlanError, match="fits on no layout of 1 nodes"):
        cheapest(_request(gpu="L20-48"), None, nodes=1)


def test_a_model_from_a_config_file_weighs_what_the_catalogued_one_does(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "vocab_size": 129280,
        "max_position_embeddings": 163840,
        "intermediate_size": 18432,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "num_nextn_predict_layers": 1,
        "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    path.write_text(json.dumps(config))
    local, known = fit(_request(str(path)), 8192), fit(_request(), 8192)
    assert [s.weights for s in local.stages] == [s.weights for s in known.stages]
    path.write_text(json.dumps({key: config[key] for key in config if key not in ("v_head_dim", "vocab_size")}))
    with pytest.raises(PlanError, match="the plan also needs vocab, mla.value"):
        find(str(path))


@pytest.mark.parametrize(
    ("name", "quantisation"),
    [
        ("qwen/qwen3-14b-awq", "int4"),
        ("Qwen3-32B-FP8", "fp8-block"),
        ("Llama-3.1-8B-Instruct-FP8", "fp8"),
        ("Llama-3.3-70B-Instruct-FP8-dynamic", "fp8"),
        ("Qwen3-8B-NVFP4", "nvfp4"),
        ("Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "w8a8"),
        ("GPT-OSS-20B", "mxfp4"),
    ],
)
def test_a_quantised_variant_is_known_by_its_ending(name: str, quantisation: str) -> None:
    assert models.find(name).quantisation == quantisation


def test_every_catalogued_parameter_count_is_what_the_shape_gives() -> None:
    wrong = []
    for name, entry in models.entries("models")["models"].items():
        model = models.find(name)
        if not model.parameters:
            continue
        bare = replace(
            model, quantisation="none", expert_format="", moe=model.moe and replace(model.moe, expert_bias=False)
        )
        whole = fit(Request(bare, gpus.find("H200-141"), Layout(1, 1, 1, 1), engine.find("0.6.6")), 2048)
        counted = whole.stages[0].weights.total / 2
        if abs(counted / model.parameters - 1) > 0.03:
            wrong.append((name, counted, model.parameters))
        assert entry["source"] and entry["date"]
    assert wrong == []


# Limits of real deployments: enough to break every rule somewhere.
layouts = st.builds(
    lambda tensor, pipeline: Layout(pipeline, tensor, tensor, pipeline),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(1, 24),
)
memories = st.floats(8, 192, allow_nan=False)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(NAMES), layouts, memories, st.floats(1, 2), st.sampled_from(["0.7.2", "0.12.0", "0.33.0"]))
def test_more_memory_never_fits_less(name: str, layout: Layout, gib: float, factor: float, version: str) -> None:
    """At one step size: vLLM itself takes larger steps, and more memory for them, from 70 GiB on."""
    small, large = (
        Request(
            models.find(name),
            Gpu("CARD", memory, "nvlink", ""),
            layout,
            engine.find(version),
            batched_tokens=8192,
            sequences=256,
        )
        for memory in (gib, gib * factor)
    )
    if broken_rules(small.model, small.layout, small.engine):
        return
    before, after = fit(small, 4096), fit(large, 4096)
    assert after.kv_tokens >= before.kv_tokens
    assert after.fits or not before.fits


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(NAMES), st.sampled_from([1, 2, 4, 8]), st.integers(1, 27))
def test_more_stages_never_raise_the_weights_of_a_gpu(name: str, tensor: int, pipeline: int) -> None:
    """From 0.8.0 on. Before, the last stage took the whole remainder, and 31 stages of 61 layers were 30 x 1 and 31."""
    fewer, more = (
        fit(_request(name, layout=Layout(stages, tensor, tensor, stages)), 2048) for stages in (pipeline, pipeline + 1)
    )
    heaviest = [max(stage.weights_gib for stage in found.stages) for found in (fewer, more)]
    assert heaviest[1] <= heaviest[0] + 1 / GIB


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(NAMES),
    st.floats(20, 192, allow_nan=False),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([None, 4096, 32768]),
    st.sampled_from(["0.7.2", "0.12.0", "0.33.0"]),
)
def test_auto_never_proposes_what_the_check_refuses(
    name: str, gib: float, per_node: int, length: int | None, version: str
) -> None:
    card = Gpu("CARD", gib, "nvlink", "")
    request = Request(models.find(name), card, Layout(1, per_node, 1, 1), engine.find(version))
    try:
        proposed = [cheapest(request, length)[0]]
    except PlanError:
        proposed = []
    proposed += alternatives(request, length)
    for choice in proposed:
        again = replace(request, layout=choice.layout)
        assert broken_rules(again.model, again.layout, again.engine) + wrong_context(again.model, length) == []
        assert fit(again, choice.fit.max_model_len).fits


def test_a_stack_file_may_add_models_and_gpus_or_overrule_the_catalog() -> None:
    facts = {
        "layers": 2,
        "hidden": 64,
        "heads": 4,
        "kvHeads": 2,
        "headDim": 16,
        "intermediate": 128,
        "vocab": 640,
        "maxContext": 4096,
    }
    assert models.find("My-Model", {"my-model": facts}).layers == 2
    assert models.find("deepseek-r1", {"DeepSeek-R1": {"maxContext": 8192}}).max_context == 8192
    assert gpus.find("H20-96", {"H20-96": {"usableGib": 94.5}}).usable_gib == 94.5
    assert gpus.find("mine", {"Mine": {"usableGib": 40.0, "link": "pcie"}}).link == "pcie"
    with pytest.raises(PlanError, match="the plan also needs hidden"):
        models.find("My-Model", {"my-model": {key: facts[key] for key in facts if key != "hidden"}})
    with pytest.raises(PlanError, match="link"):
        gpus.find("mine", {"Mine": {"usableGib": 40.0}})


def test_every_large_model_of_vllms_recipes_is_planned_or_named_with_the_command_that_reads_it() -> None:
    """The larger half by parameters, in any case, with or without owner. Those that are planned have the size that the
    recipe says; 5 % is what recipes round to."""
    sizes = fact("recipes", "recipes", "repositories")
    large, planned = [name for name, size in sizes.items() if size >= statistics.median(sizes.values())], 0
    for name in large:
        try:
            model = models.find(name.upper())
        except PlanError as error:
            said = (
                f"run python -m ops model {name} --write STACK",
                f"unproven: true, and model: {{repository: {name}, ",
            )
            assert all(each in str(error) for each in said)
        else:
            planned += 1
            assert file_weights(model.plain, draft=False) / 2 == pytest.approx(sizes[name], rel=0.05), name
    assert planned >= 0.88 * len(large)


def test_the_shape_of_a_catalogued_model_makes_the_bytes_of_its_published_files() -> None:
    sizes = {name: models.find(name) for name in models.entries("models")["models"]}
    known = {name: model for name, model in sizes.items() if model.file_bytes}
    made = {
        name: min(abs(file_weights(m, draft=d) / m.file_bytes - 1) for d in (True, False)) for name, m in known.items()
    }
    assert {name: part for name, part in made.items() if part > 0.01} == {} and len(made) > 15


@pytest.mark.parametrize(("name", "tensor"), [("GLM-4.6-FP8", 8), ("GLM-4.5V-FP8", 4), ("GLM-4.7-FP8", 8)])
def test_a_layout_of_vllms_recipes_is_not_refused(name: str, tensor: int) -> None:
    assert broken_rules(models.find(name), Layout(1, tensor, tensor, 1), engine.find("0.33.0")) == []


def test_a_draft_layer_has_the_size_that_its_maker_says() -> None:
    for name, parameters in (("Hy3", 3.8e9), ("Ling-3.0-flash", 3.1e9)):
        model = models.find(name)
        assert (file_weights(model) - file_weights(model, draft=False)) / 2 == pytest.approx(parameters, rel=0.02)


def test_an_index_beside_plain_keys_takes_its_own_cache_in_every_layer() -> None:
    one = kv_bytes(_request("MiniMax-M3", "H200-141", Layout(1, 4, 4, 1)))
    assert one == 2 * 128 * 2 + 256  # one head's key and value, and a key of 128, in 16 bits


@pytest.mark.parametrize(
    ("name", "meant"),
    [("GLM5", "GLM-5"), ("qwen3.5-397b", "Qwen3.5-397B-A17B"), ("DeepSeek-V4-Flush", "DeepSeek-V4-Flash")],
)
def test_a_name_that_is_almost_one_is_answered_with_it(name: str, meant: str) -> None:
    with pytest.raises(PlanError, match=f"did you mean .*{meant}"):
        models.find(name)


DATA = Layout(3, 8, 1, 1, 24, expert_parallel=True)


def test_uneven_experts_make_two_classes_of_gpus_and_no_larger_files() -> None:
    request = replace(_request(layout=DATA), engine=engine.find("0.33.0"))
    (stage,) = fit(request, 8192).stages
    fullest, others = ranks(request, stage)
    assert [(each["gpus"], each["experts"]) for each in (fullest, others)] == [(16, 11), (8, 10)]
    assert fullest["weights_gib"] == round(stage.weights_gib, 3) > others["weights_gib"]
    unknown = replace(request, model=replace(request.model, file_bytes=None))
    alike = replace(unknown, layout=Layout(2, 8, 8, 2))
    sizes = [startup.file_bytes(each, fit(each, 8192)) for each in (unknown, alike)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_balanced_experts_take_their_copies_and_a_buffer_of_one_layer() -> None:
    def weights(redundant: int | None) -> Weights:
        layout = Layout(2, 8, 1, 1, 16, expert_parallel=True, redundant=redundant)
        return fit(replace(_request(layout=layout), engine=engine.find("0.33.0")), 8192).stages[0].weights

    plain, even, more = weights(None), weights(0), weights(32)
    assert even.experts == plain.experts and even.total - plain.total == pytest.approx(even.experts / 58, rel=0.001)
    assert more.experts == pytest.approx(plain.experts * 18 / 16, rel=0.001)


def test_shared_experts_are_whole_where_ranks_split_the_tokens() -> None:
    def shared(version: str, layout: Layout) -> float:
        return fit(replace(_request(layout=layout), engine=engine.find(version)), 8192).stages[0].weights.shared_experts

    both = Layout(2, 8, 4, 1, 4, expert_parallel=True)
    assert shared("0.33.0", both) == pytest.approx(4 * shared("0.10.2", both))
    assert shared("0.33.0", replace(both, expert_parallel=False)) == shared("0.10.2", both)
