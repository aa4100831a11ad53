"""Models whose layers keep a state per request, or a compressed cache: what vLLM allocates for it, and what it
holds then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planning import choose, engine, gpus, models, throughput
from planning.config_json import from_file
from planning.layout import Layout, broken_rules
from planning.memory import Request, batch, judge, kv_bytes, requests_held, state_bytes
from planning.models import State
from planning.planner import Ask, plan
from planning.problems import PlanError
from planning.stage_weights import file_weights

CONFIGS = Path("tests/data/configs")
QWEN, NEMOTRON = "Qwen3.5-397B-A17B", "NVIDIA-Nemotron-3-Super-120B-A12B-FP8"


def request(name: str = QWEN, tensor: int = 8, pipeline: int = 1, **more: object) -> Request:
    model = from_file(CONFIGS / name / "config.json")
    layout = Layout(pipeline, tensor, tensor, pipeline)
    asked = Request(model, gpus.find("H200-141"), layout, engine.find(None), utilization=0.9)
    return replace(asked, **more)  # type: ignore[arg-type]


def test_blocks_and_pages_are_those_that_vllm_logged():
    """Qwen3.5-4B at TP2 has blocks of 528 tokens, and pages of 1081344 bytes for attention and states alike."""
    small = request(tensor=2)
    shape = State(heads=32, head_dim=128, groups=16, dim=128, conv=4, bytes=4)
    kinds = ("SD", "SD", "SD", "AD") * 8
    model = replace(
        small.model, layers=32, heads=16, kv_heads=4, head_dim=256, state=shape, kinds=kinds, moe=None, hidden=2560
    )
    small = replace(small, model=replace(model, intermediate=9216))
    assert state_bytes(small) == 3 * 4096 * 2 + 16 * 128 * 128 * 4
    stage = judge(small, 4096).stages[0]
    page = 528 * kv_bytes(small)
    assert page == 1081344
    # 8 layers of attention and three groups of states, with two states a request: 1 + 3 x 2 blocks of 8 pages.
    assert requests_held(small, stage, 528) == pytest.approx(stage.kv * 2**30 / (8 * page * 7))
    assert requests_held(small, stage, 529) == pytest.approx(stage.kv * 2**30 / (8 * page * 8))


def test_nemotron_keeps_8192_bytes_a_token_in_its_eight_attention_layers():
    asked = request(NEMOTRON, tensor=1)
    assert asked.model.count("A") * kv_bytes(asked) == 8192


def test_short_requests_take_as_much_for_their_states_as_long_ones():
    asked = request()
    stage = judge(asked, 65536).stages[0]
    short, long = (requests_held(asked, stage, tokens) for tokens in (512, 65536))
    assert short < 65536 / 512 * long / 5
    assert judge(asked, 65536).kv_tokens == pytest.approx(long * 65536, abs=64)


def test_a_draft_takes_further_states():
    plain, drafting = (request(speculative=speculative) for speculative in (False, True))
    held = [requests_held(each, judge(each, 8192).stages[0], 8192) for each in (plain, drafting)]
    assert held[1] < held[0] / 1.5


V4 = "DeepSeek-V4-Flash"


@pytest.mark.parametrize(("tokens", "gib"), [(30_000, 6.66), (13_528, 5.44)])
def test_a_compressed_cache_takes_what_vllm_said(tokens, gib):
    """https://github.com/vllm-project/vllm/issues/44376: 0.22 on two GPUs, 16384 tokens a step."""
    asked = request(V4, tensor=2, batched_tokens=16384)
    stage = judge(asked, tokens).stages[0]
    assert stage.kv / requests_held(asked, stage, tokens) == pytest.approx(gib, abs=0.005)


def test_fewer_tokens_a_step_leave_more_of_a_compressed_cache():
    held = [judge(request(V4, batched_tokens=tokens), 32768).kv_tokens for tokens in (16384, 1024)]
    assert held[1] > 4 * held[0]


@pytest.mark.parametrize(("tensor", "fine"), [(8, True), (16, False)])
def test_ranks_split_the_groups_of_outputs(tensor, fine):
    model = from_file(CONFIGS / V4 / "config.json")
    assert (
        not any("groups of outputs" in each.why for each in broken_rules(model, Layout(1, tensor, tensor, 1)))
    ) == fine


def test_layers_with_a_window_may_have_more_heads_and_values_may_be_narrower():
    """MiMo-V2-Flash: 9 layers of 4 heads, 39 of 8 heads that keep a window of 128 and the step."""
    asked = request("MiMo-V2-Flash", tensor=4, batched_tokens=2048)
    fit = judge(asked, 65536)
    assert kv_bytes(asked) == (192 + 128) * 2
    each = 640 * (9 * 65536 + 39 * 2 * (128 + 2048))
    assert fit.kv_tokens == pytest.approx(fit.stages[0].kv * 2**30 / each * 65536, rel=1e-3)


def test_a_stage_holds_the_weights_of_its_own_kinds_of_layers():
    whole = request(NEMOTRON)
    stages = judge(replace(whole, layout=Layout(2, 8, 8, 2)), 8192).stages
    assert sum(stage.cached for stage in stages) == 8 and sum(stage.states for stage in stages) == 40
    [alone] = judge(whole, 8192).stages
    experts = [stage.weights.experts for stage in stages]
    assert sum(experts) == pytest.approx(alone.weights.experts)


@pytest.mark.parametrize(("tensor", "fine"), [(8, True), (32, False), (3, False)])
def test_ranks_split_the_heads_of_a_state(tensor, fine):
    model = from_file(CONFIGS / NEMOTRON / "config.json")
    wrong = [problem for problem in broken_rules(model, Layout(1, tensor, tensor, 1)) if "state" in problem.why]
    assert (not wrong) == fine


@pytest.mark.parametrize("name", [QWEN, NEMOTRON, "Qwen3-Next-80B-A3B-Thinking", "Nemotron-H-56B-Base-8K", V4])
def test_a_model_with_states_is_planned_whole(name):
    found = plan(Ask(model=str(CONFIGS / name / "config.json"), gpu="H200-141", gpus_per_node=8, max_model_len=8192))
    assert found.fits and (name == V4) != any("MiB of states a request" in reason for reason in found.reasons)
    assert [point.name for point in found.throughput.points] == ["alone", "full"]


def test_a_release_that_lacks_the_models_class_is_refused():
    old = Ask(model=str(CONFIGS / V4 / "config.json"), gpu="H200-141", gpus_per_node=8, engine_version="0.19.0")
    with pytest.raises(PlanError, match="engine version 0.19.0: does not know DeepseekV4ForCausalLM; write 0.20.0"):
        plan(old)
    assert plan(replace(old, engine_version="0.20.0")).fits


def test_states_are_read_and_written_at_every_step():
    asked = request()
    fewer = replace(asked, model=replace(asked.model, state=replace(asked.model.state, bytes=2)))  # type: ignore[type-var]
    alone, many = (throughput.roofline(asked, at_once, 1024, 1024).step for at_once in (1, 64))
    assert (
        many - alone > throughput.roofline(fewer, 64, 1024, 1024).step - throughput.roofline(fewer, 1, 1024, 1024).step
    )


def test_the_stack_files_facts_say_the_same_as_a_config(tmp_path):
    from config.facts import ModelFacts
    from planning.config_json import facts, read

    for name in (QWEN, NEMOTRON, V4):
        path = CONFIGS / name / "config.json"
        told = {key: value for key, value in facts(*read(path), name).items() if value is not None}
        given = ModelFacts.model_validate(told).given()
        model = models.find("x", {"x": given})
        assert replace(model, name=name, source="") == replace(from_file(path), source="")
    assert choose.fit(request(), None).max_model_len == request().model.max_context


@pytest.mark.parametrize(
    ("name", "state", "row", "cached"),
    [
        # Kimi's delta attention: a convolution over 3 x 32 heads of 128, and a matrix of 128 x 128 a head in 32 bits.
        ("Kimi-Linear-48B-A3B-Instruct", 3 * 3 * 4096 * 2 + 32 * 128 * 128 * 4, (512 + 64) * 2, 7),
        # Lightning attention has no convolution.
        ("MiniMax-M1-80k", 64 * 128 * 128 * 4, 2 * 8 * 128 * 2, 10),
        ("Qwen3.5-27B", 3 * (6144 + 2 * 2048) * 2 + 48 * 128 * 128 * 4, 2 * 4 * 256 * 2, 16),
    ],
)
def test_a_request_and_a_token_take_what_the_classes_allocate(name, state, row, cached):
    asked = request(name, tensor=1)
    assert state_bytes(asked) == state and kv_bytes(asked) == row and asked.model.count("A") == cached


def test_layers_share_tables_of_blocks_over_all_stages_in_turn():
    """Kimi Linear: 7 layers of attention and three groups of states, of 7, 7 and 6 layers. Two stages hold 4 and 3 of
    the largest, and a request takes blocks for all four groups in both."""
    asked = request("Kimi-Linear-48B-A3B-Instruct", tensor=1, pipeline=2)
    stages = judge(asked, 8192).stages
    page = 16 * -(-state_bytes(asked) // (16 * 1152))
    blocks = -(-8192 // page) + 3 * 2
    for stage, size in zip(stages, (4, 4), strict=True):
        held = stage.kv * 2**30 / (size * page * 1152) / blocks
        assert requests_held(asked, stage, 8192) == pytest.approx(held)


def test_layers_with_a_window_may_have_heads_of_another_width():
    """Gemma 4: 5 layers of 2 heads of 512, 25 of 8 heads of 256 that keep a window of 1024 and the step."""
    asked = request("gemma-4-26B-A4B", tensor=1, batched_tokens=2048)
    fit = judge(asked, 65536)
    assert kv_bytes(asked) == 2 * 2 * 512 * 2
    each = 4096 * 5 * 65536 + 8192 * 25 * (1024 + 2048)
    assert fit.kv_tokens == pytest.approx(fit.stages[0].kv * 2**30 / each * 65536, rel=1e-3)


def test_layers_without_attention_keep_nothing_and_each_stage_has_its_own_widths():
    """Llama-Nemotron-Super: 49 of 80 layers attend, most of them among the first; MLPs are 2816 to 28672 wide."""
    asked = request("Llama-3_3-Nemotron-Super-49B-v1", tensor=1)
    [alone] = judge(asked, 8192).stages
    assert judge(asked, 8192).kv_tokens == pytest.approx(alone.kv * 2**30 / (49 * 4096), abs=16)
    stages = judge(replace(asked, layout=Layout(4, 1, 1, 4)), 8192).stages
    assert [stage.cached for stage in stages] == [17, 20, 3, 9]
    assert sum(stage.weights.mlp for stage in stages) == pytest.approx(alone.weights.mlp)
    assert stages[1].weights.mlp > 2 * stages[2].weights.mlp


def test_a_release_that_has_a_class_no_more_is_refused_with_the_last_that_had_it():
    asked = Ask(model=str(CONFIGS / "MiniMax-M1-80k" / "config.json"), gpu="H200-141", max_model_len=8192, tensor=8)
    with pytest.raises(PlanError, match=r"has MiniMaxM1ForCausalLM no more; write 0\.23\.0 or earlier"):
        plan(asked)
    assert plan(replace(asked, engine_version="0.23.0", pipeline=1)).fits


@pytest.mark.parametrize(("name", "full", "layers"), [("Ling-3.0-flash", 2, 35), ("Kimi-K3", 1, 69)])
def test_gates_and_decays_of_full_rank_take_more_than_those_of_low_rank(name, full, layers):
    model = models.find(name).plain
    low = replace(model, state=replace(model.state, gate_rank=128, full_gates=0))
    more = model.state.inner * model.hidden - 128 * (model.state.inner + model.hidden)
    assert file_weights(model, draft=False) - file_weights(low, draft=False) == 2 * full * layers * more


def test_a_gate_of_latent_attention_is_as_wide_as_its_output():
    model = models.find("Kimi-K3")
    bare = replace(model, gated=False)
    assert file_weights(model) - file_weights(bare) == 2 * 24 * 96 * 128 * 7168


def test_outputs_that_later_layers_read_are_kept_for_each_token():
    told = Request(models.find("Kimi-K3"), gpus.find("H200-141"), Layout(2, 8, 8, 2), engine.find("0.33.0"))
    bare = replace(told, model=replace(told.model, residuals=0))
    held = [choose.fit(each, 65536).stages[0].activation for each in (told, bare)]
    assert (held[0] - held[1]) * 2**30 == pytest.approx(8 * 7168 * 2 * batch(told, 65536)[0])
