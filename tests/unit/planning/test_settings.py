"""How an engine's arguments change its plan; the plan names the effects that it cannot compute."""

from __future__ import annotations

from typing import Any

import pytest

from planning import engine
from planning.planner import Ask, Plan, plan
from planning.problems import PlanError
from planning.settings import Overrides, host_memory, settings
from planning.units import GIB

DENSE = "Llama-3.3-70B-Instruct"


def told(line: str, version: str = "0.33.0", model: str = "DeepSeek-R1") -> Any:
    return settings(tuple(line.split()), version, model)


def planned(line: str, version: str = "0.33.0", model: str = DENSE, **more: Any) -> Plan:
    overrides = told(line, version, model).overrides
    return plan(Ask(model, "H200-141", tensor=8, pipeline=1, engine_version=version, overrides=overrides, **more))


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--enable-eplb", "redundant", 0),
        ("--enable-eplb --eplb-config.num_redundant_experts 32", "redundant", 32),
        ("--no-enable-eplb", "redundant", None),
        ("-sc.method mtp", "speculative", True),
        ('-sc {"method":"deepseek_mtp","num_speculative_tokens":1}', "speculative", True),
        ('-sc {"model":"deepseek-ai/DeepSeek-R1","num_speculative_tokens":1}', "speculative", True),
        ('-sc {"method":"ngram","num_speculative_tokens":4}', "speculative", False),
        ("--max-num-batched-tokens 128K", "batched_tokens", 131072),
        ("--max_num_seqs=64", "sequences", 64),
        ("--kv-cache-dtype fp8_e4m3", "kv_dtype", "fp8"),
        ("--kv-cache-dtype bfloat16", "kv_dtype", "auto"),
        ("-cc.cudagraph_mode NONE", "eager", True),
        ("--enforce-eager", "eager", True),
        ("-O3", "eager", False),
        ("--trust-remote-code", "trusts_code", True),
    ],
)
def test_every_spelling_reaches_the_plan(line, field, value):
    found = told(line)
    assert getattr(found, field) == value and found.problems == ()


@pytest.mark.parametrize(
    "line",
    [
        "--enable-lora",
        "--config /engine.yaml",
        "-pcp 2",
        "--enable-dbo",
        "--kv-cache-dtype nvfp4",
        "-sc.method eagle3",
        "-sc.model some/draft",
        "--spec-model some/draft",
        "--hf-overrides.num_hidden_layers 3",
        "--hf-overrides my_function",
        '--hf-overrides {"rope_scaling":{"rope_type":"yarn","factor":4}}',
        "--cudagraph-capture-sizes many",
    ],
)
def test_an_argument_that_changes_memory_in_an_unknown_way_is_named(line):
    [problem] = told(line).problems
    flag = line.split()[0].partition(".")[0]
    long = {"-pcp": "--prefill-context-parallel-size", "-sc": "--speculative-config"}.get(flag, flag)
    assert problem.value.startswith(long.replace("--spec-model", "--speculative-config"))
    assert problem.why.startswith("cannot be planned: ") and "unproven" in problem.instead


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--eplb-config.num_redundant_experts 32", "add --enable-eplb"),
        ("--enable-eplb --eplb-config wide", "not a JSON object"),
        ("--enable-eplb --eplb-config.num_redundant_experts many", "not a whole number"),
    ],
)
def test_redundant_experts_that_no_engine_would_make_are_refused(line, said):
    [problem] = told(line).problems
    assert problem.value.startswith("--eplb-config") and said in str(problem)


@pytest.mark.parametrize("line", ["-pcp 1", "--no-enable-eplb", "-sc None", "--kv-cache-dtype auto", "-q None"])
def test_an_argument_that_says_the_default_is_no_problem(line):
    assert told(line) == told("")


def test_sixteen_bit_weights_that_are_quantised_while_they_load_take_half_of_the_linear_layers():
    plain, online = planned(""), planned("--quantization fp8")
    stage, half = plain.fit.stages[0], online.fit.stages[0]
    layers = stage.weights.attention + stage.weights.mlp
    assert stage.weights.total - half.weights.total == pytest.approx(layers / 2, rel=0.01)
    assert half.loading == 0 and online.file_bytes == plain.file_bytes
    early = planned("-q fp8", version="0.10.2").fit.stages[0]
    assert early.loading == pytest.approx(planned("", version="0.10.2").fit.stages[0].weights_gib)
    whole = plan(Ask(DENSE, "H100-80", 1, 1, 1, 1, engine_version="0.10.2", overrides=Overrides(quantization="fp8")))
    assert not whole.fit.starts and "reads all 16-bit weights" in " ".join(whole.reasons)


@pytest.mark.parametrize(
    ("line", "model", "said"),
    [
        ("--quantization awq", DENSE, "is not known"),
        ("--quantization awq", "DeepSeek-R1", "the weights of DeepSeek-R1 are fp8-block already"),
        ("--dtype float32", "DeepSeek-R1", "quantised weights need 16 bits"),
    ],
)
def test_a_format_that_the_weights_cannot_have_is_refused_by_name(line, model, said):
    with pytest.raises(PlanError) as caught:
        planned(line, model=model)
    assert line in str(caught.value) and said in str(caught.value)


def test_the_models_own_format_may_be_said_again():
    assert planned("--quantization fp8", model="DeepSeek-R1").fit == planned("", model="DeepSeek-R1").fit


def test_thirty_two_bits_double_weights_and_cache():
    plain, wide = planned("").fit, planned("--dtype float32").fit
    assert wide.stages[0].weights.total == 2 * plain.stages[0].weights.total
    held = wide.stages[0].kv / plain.stages[0].kv / 2
    assert wide.kv_tokens == pytest.approx(plain.kv_tokens * held, rel=0.001)
    assert planned("--dtype half").fit == plain


def test_a_cache_of_given_size_is_taken_whatever_the_share_of_memory():
    told_so = planned("--kv-cache-memory-bytes 20G")
    stage = told_so.fit.stages[0]
    assert stage.kv == 20 and told_so.fit.starts
    assert stage.peak < planned("").fit.stages[0].peak
    assert not planned("--kv-cache-memory-bytes 130G").fit.starts
    assert planned("--kv-cache-memory-bytes 20G", utilization=0.5).fit.kv_tokens == told_so.fit.kv_tokens


def test_given_blocks_are_the_cache_also_where_they_do_not_fit():
    few = planned("--num-gpu-blocks-override 1000", max_model_len=8192)
    assert few.fit.kv_tokens == 1000 * 16 and few.fit.kv_fits
    assert not planned("--num-gpu-blocks-override 100", max_model_len=8192).fit.kv_fits
    assert not planned("--num-gpu-blocks-override 1000000", max_model_len=8192).fit.starts


@pytest.mark.parametrize(
    ("line", "version", "context"),
    [
        (
            '--hf-overrides {"rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32768}}',
            "0.33.0",
            131072,
        ),
        ('--rope-scaling {"type":"yarn","factor":2,"original_max_position_embeddings":32768}', "0.9.0", 65536),
        ("--hf-overrides.rope_parameters.rope_type linear --hf-overrides.rope_parameters.factor 2", "0.33.0", 81920),
        ("--hf-overrides.max_position_embeddings 65536", "0.33.0", 65536),
        ("--hf-overrides.rope_theta 1000000", "0.33.0", 40960),
    ],
)
def test_an_overridden_position_table_moves_the_longest_context(line, version, context):
    assert planned(line, version, model="Qwen3-32B").fit.max_model_len == context


def test_weights_in_the_nodes_memory_leave_room_on_the_gpu():
    plain, moved = planned("").fit.stages[0], planned("--cpu-offload-gb 4").fit.stages[0]
    assert moved.kv - plain.kv == pytest.approx(4)
    everything = planned("--cpu-offload-gb 400").fit.stages[0]
    assert everything.weights_gib * GIB == pytest.approx(everything.weights.embeddings + everything.weights.head)


def test_the_graphs_that_are_asked_for_are_the_graphs_that_are_planned():
    many, few, least = (
        planned(line).fit.stages[0].graphs
        for line in ("", "--max-cudagraph-capture-size 64", "-cc.cudagraph_capture_sizes [1,2]")
    )
    assert many > few > least > 0


@pytest.mark.parametrize(
    ("line", "env", "version", "gib", "shm"),
    [
        ("", {}, "0.33.0", 0, 0),
        ("--kv-offloading-size 100", {}, "0.33.0", 192.5 + 70, 192.5),
        ("--kv-offloading-size 100", {}, "0.20.0", 192.5 + 70, 0),
        ("--kv-offloading-size 100 --kv-offloading-backend lmcache", {}, "0.33.0", 100 + 70, 0),
        ("--cpu-offload-gb 10", {}, "0.33.0", 153.6 + 70, 0),
        ("--swap-space 16", {}, "0.7.3", 128 + 70, 0),
        ("", {}, "0.7.3", 32 + 70, 0),
        ("--swap-space 16", {}, "0.10.0", 0, 0),
        ("--kv-transfer-config.kv_connector LMCacheConnectorV1", {}, "0.33.0", 40 + 70, 0),
        ("", {"LMCACHE_MAX_LOCAL_CPU_SIZE": "20"}, "0.33.0", 160 + 70, 0),
    ],
)
def test_buffers_in_the_nodes_memory_are_counted_as_they_are_taken(line, env, version, gib, shm):
    found = host_memory(line.split(), env, engine.find(version), gpus=8, ranks=8)
    assert (found.gib, found.shm_gib) == pytest.approx((gib, shm))


def test_a_pod_with_half_of_the_ranks_takes_half_of_the_offloaded_cache():
    whole, half = (
        host_memory(["--kv-offloading-size", "100"], {}, engine.find(None), gpus=8, ranks=ranks).shm_gib
        for ranks in (8, 16)
    )
    assert whole == 2 * half
