"""What the plan refuses in a stack file, and under which key; what it chooses where the file says `auto`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from config.errors import ConfigError
from config.judge import parse
from config.plans import plan_services
from planning.timeouts import from_startup
from stacks.plan_summary import briefly
from tests.unit.config.test_stack import GOOD, changed

ONE_NODE = {"nodes": 1, "tensor": 8, "pipeline": 1}


def on(gpu: str, **service: Any) -> dict[str, Any]:
    """The valid stack file with another GPU, and with changes to its service."""
    raw = copy.deepcopy(GOOD)
    raw["cloud"]["gpu"] = gpu
    raw["services"]["ds"] |= service
    return raw


def refused(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_services(parse(raw))
    return str(caught.value).splitlines()


def test_a_layout_that_does_not_fit_is_refused_with_what_does():
    [line] = refused(on("H800-80", layout=ONE_NODE))
    assert line.startswith("modelserve:services.ds.layout: 1 x 8 GPUs as TP8 PP1: KV does not fit: ")
    assert "nearest layouts that fit: 2 x 8 GPUs as TP8 PP2 holds " in line


def test_a_layout_that_breaks_a_rule_is_refused_with_the_arithmetic_under_its_key():
    found = refused(on("H20-96", layout={"nodes": 4, "tensor": 32, "pipeline": 1}))
    assert any(
        "services.ds.layout.tensor: 32: expert width 2048 / 32 = 64, not a multiple of 128" in line for line in found
    )
    assert all("layouts that fit: 4 x 8 GPUs as " in line for line in found)


def test_a_context_that_the_layout_does_not_hold_is_refused_with_the_longest_that_it_does():
    longest = plan_services(parse(on("H20-96", layout=ONE_NODE)))["ds"].max_model_len
    [line] = refused(on("H20-96", layout=ONE_NODE, maxModelLen=163840))
    assert line.startswith("modelserve:services.ds.maxModelLen: 163840: ")
    assert f"write at most {longest}, or auto" in line


@pytest.mark.parametrize(
    ("raw", "key", "said"),
    [
        (on("H21"), "cloud.gpu: H21", "or NAME:GIB with the usable memory"),
        (on("H20-96:96GiB"), "cloud.gpu: H20-96:96GiB", "write GiB as in L40S:44.42"),
        (on("a; b:c: d"), "cloud.gpu: a; b:c: d", "c: d is not a memory size"),
        (on("B200-180"), "cloud.gpu: B200-180", ":GIB with what the driver reports"),
        (
            on("H20-96", model="DeepSeek-R9"),
            "services.ds.model: DeepSeek-R9",
            "its facts in modelserve:catalog.models",
        ),
        (on("H20-96", maxModelLen=500000), "services.ds.maxModelLen: 500000", "a context of 163840 tokens"),
        (changed("prices", {"perGpuHour": 1.0, "currency": "CNY"}), "prices.asOf", "so they need a date"),
        (changed("prices", {"perGpuHour": 1.0, "asOf": "2026-11-01"}), "prices.currency", "write one such as CNY"),
        (changed("catalog", {"gpus": {"H20-96": {"usableGib": None}}}), "catalog.gpus.H20-96", "usableGib"),
    ],
)
def test_what_the_planner_does_not_know_is_refused_under_the_key_it_belongs_to(raw, key, said):
    [line] = refused(raw)
    assert line.startswith(f"modelserve:{key}: ") and said in line and "; " in line


def partitioned(told: str, **service: Any) -> dict[str, Any]:
    raw = on("H20-96", **service)
    raw["services"]["ds"]["engine"]["env"] = {"VLLM_PP_LAYER_PARTITION": told}
    return raw


def test_stages_have_the_layers_that_the_engine_is_told():
    planned = plan_services(parse(partitioned("25,36")))["ds"]
    assert [stage.layers for stage in planned.plan.fit.stages] == [25, 36]
    usual = plan_services(parse(on("H20-96")))["ds"]
    assert planned.plan.fit.kv_tokens < usual.plan.fit.kv_tokens


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("30,30", "has 60 layers, the model has 61"),
        ("61", "has 1 stages, pipeline says 2"),
        ("0,61", "has a stage without layers"),
        ("30;31", "is no list of whole numbers"),
        ("", "is no list of whole numbers"),
    ],
)
def test_layers_of_stages_that_the_engine_would_refuse_are_refused(told, said):
    assert any(
        line.startswith(f"modelserve:services.ds.engine.env.VLLM_PP_LAYER_PARTITION: {told}") and said in line
        for line in refused(partitioned(told))
    )


def test_every_service_is_judged_before_anything_is_said():
    raw = on("H800-80", layout=ONE_NODE)
    raw["services"]["two"] = GOOD["services"]["ds"] | {"model": "DeepSeek-R9"}
    assert {line.split(": ")[0] for line in refused(raw)} == {
        "modelserve:services.ds.layout",
        "modelserve:services.two.model",
    }


def test_an_unproven_service_is_deployed_with_a_warning_instead():
    planned = plan_services(parse(on("H800-80", layout=ONE_NODE, maxModelLen=4096, unproven=True)))["ds"]
    assert not planned.plan.fits and "does not fit" in planned.warnings[0]
    assert "does not fit" in briefly("ds", planned)[0]


@pytest.mark.parametrize(
    ("model", "gpu", "gpus"), [("Qwen3-8B", "H20-96", 1), ("DeepSeek-R1", "H20-141", 8), ("DeepSeek-R1", "H800-80", 16)]
)
def test_an_auto_layout_takes_the_fewest_gpus_that_hold_the_model_and_its_answers(model, gpu, gpus):
    planned = plan_services(parse(on(gpu, model=model, layout="auto")))["ds"]
    assert planned.layout.gpus == gpus and planned.plan.fits and planned.max_model_len >= 8192
    chosen = planned.layout
    written = {
        "nodes": chosen.nodes,
        "gpusPerNode": chosen.gpus_per_node,
        "tensor": chosen.tensor,
        "pipeline": chosen.pipeline,
    }
    again = plan_services(parse(on(gpu, model=model, layout=written)))["ds"]
    assert again.layout == planned.layout


def test_several_nodes_need_an_image_with_ray():
    engine_without = {"version": "0.19.0", "image": "vllm/vllm-openai:v0.19.0"}
    [line] = refused(on("H20-96", engine=engine_without))
    assert line.startswith("modelserve:services.ds.engine.image: vllm/vllm-openai:v0.19.0: ") and "without Ray" in line
    assert plan_services(parse(on("H20-96", engine=engine_without | {"imageHasRay": True})))
    assert plan_services(parse(on("H20-141", engine=engine_without, layout=ONE_NODE)))


def told(*flags: str, version: str = "0.18.1", **service: Any) -> dict[str, Any]:
    """The valid stack file on one node, with a given release and more engine arguments."""
    raw = on("H20-141", layout=ONE_NODE, **service)
    image = {"version": version, "image": f"vllm/vllm-openai:v{version}"}
    raw["services"]["ds"]["engine"] = GOOD["services"]["ds"]["engine"] | image | {"extraArgs": list(flags)}
    return raw


def test_flags_in_the_stack_file_change_the_plan():
    def kv(*flags: str) -> int:
        return plan_services(parse(told(*flags)))["ds"].plan.fit.kv_tokens

    assert kv("--kv-cache-dtype", "fp8") > kv() == kv("--kv-cache-dtype=auto")
    assert kv("--max_num_batched_tokens=65536") < kv()
    assert kv("--max-num-batched-tokens", "16K") == kv("--max-num-batched-tokens", "16384") < kv()


@pytest.mark.parametrize(
    ("raw", "key", "said"),
    [
        (told("--enable-lora"), "engine.extraArgs: --enable-lora", "the adapters' buffers are not known; leave it out"),
        (told("--quantization", "awq"), "engine.extraArgs: --quantization awq", "fp8-block already"),
        (told("--config", "/e.yaml"), "engine.extraArgs: --config /e.yaml", "is not read here"),
        (told("--cpu-offload-gb", "40"), "resources.memory: 512Gi", "684 GiB of a pod's memory: 614 for --cpu-offload"),
        (
            told("--kv-offloading-size", "100", version="0.33.0"),
            "resources.shm: 32Gi",
            "192 GiB of KV cache in /dev/shm; write at least 193Gi",
        ),
    ],
)
def test_an_argument_that_cannot_be_planned_or_held_is_refused_by_name(raw, key, said):
    [line] = refused(raw)
    assert line.startswith(f"modelserve:services.ds.{key}: ") and said in line


def test_an_argument_that_cannot_be_planned_is_a_warning_where_the_service_is_unproven():
    warned = plan_services(parse(told("--enable-lora", unproven=True)))["ds"].warnings
    assert any("--enable-lora cannot be planned" in line for line in warned)


def test_the_preview_names_an_argument_that_runs_the_repositorys_code():
    warned = plan_services(parse(told("--trust-remote-code")))["ds"].warnings
    assert any(line.startswith("--trust-remote-code runs Python code of the repository") for line in warned)


def test_the_start_is_the_plans_unless_the_stack_file_knows_better():
    planned, given = (plan_services(parse(on("H20-96", **more)))["ds"] for more in ({}, {"startupSeconds": 77}))
    assert planned.startup_seconds == -(-planned.plan.startup.first_token_seconds // 1) and given.startup_seconds == 77
    assert from_startup(given.startup_seconds, given.drain_seconds).ready_seconds == 154


def test_a_pod_waits_for_the_longest_answer_unless_the_stack_file_knows_better_and_a_shorter_wait_is_told():
    def waits(context: int, *flags: str, **more: object) -> tuple[int, list[str]]:
        raw = on("H20-96", maxModelLen=context, **more)
        raw["services"]["ds"]["engine"] |= {"extraArgs": list(flags)}
        planned = plan_services(parse(raw))["ds"]
        return planned.drain_seconds, [each for each in planned.warnings if "wait" in each]

    told = ("--override-generation-config", '{"max_new_tokens": 100}')
    assert waits(8192) == (267, []) and waits(163840) == (600, [])
    assert waits(163840, *told) == (13, [])
    assert waits(8192, drainSeconds=300) == (300, [])
    short = "pods that end wait 60 s for their answers, of which one may take 267 s"
    assert waits(8192, drainSeconds=60) == (60, [short])


def test_facts_of_the_stack_file_overrule_the_catalog():
    small = changed("catalog", {"gpus": {"H20-96": {"usableGib": 40.0}}})
    assert "services.ds.layout" in refused(small)[0]
    own = on("MyCard", layout={"nodes": 2, "tensor": 8, "pipeline": 2})
    own["catalog"] = {"gpus": {"MyCard": {"usableGib": 95.0, "link": "nvlink"}}}
    assert plan_services(parse(own))["ds"].plan.fits


LOAD = {"input": 1000, "output": 500, "rate": 1.0}


def test_under_a_load_the_preview_says_the_replicas_that_it_needs():
    planned = plan_services(parse(on("H20-96", load=LOAD | {"rate": 30})))["ds"]
    needed = planned.plan.throughput.replicas_needed
    assert needed > 1
    assert f"it needs {needed} replicas" in briefly("ds", planned)[2]
    assert f"load: 1 replica cannot keep it up; write replicas: {needed}" in planned.warnings


def test_a_limit_that_no_number_of_replicas_keeps_is_a_warning():
    planned = plan_services(parse(on("H20-96", load=LOAD | {"tpotSeconds": 0.001})))["ds"]
    [warning] = [line for line in planned.warnings if line.startswith("load.")]
    assert warning.startswith("load.tpotSeconds 0.001: an output token takes ")
    assert "no number of replicas" in warning
    assert "no number of replicas is enough" in briefly("ds", planned)[2]


@pytest.mark.parametrize(
    ("load", "key"),
    [
        ({"input": 1000, "output": 500, "ttftSeconds": 2.0}, "load: "),
        ({"input": 1000, "output": 500, "rate": 1.0, "concurrency": 4.0}, "load.rate: 1: "),
        ({"input": 300000, "output": 500, "rate": 1.0}, "load.input: 300000: "),
    ],
    ids=["limits alone", "rate and concurrency", "too long"],
)
def test_a_load_that_says_too_little_too_much_or_too_long_is_refused_by_its_key(load, key):
    [line] = refused(on("H20-96", load=load))
    assert line.startswith(f"modelserve:services.ds.{key}")


def test_a_gpu_of_the_stack_file_has_the_speeds_that_it_says():
    own = on("MyCard", layout={"nodes": 2, "tensor": 8, "pipeline": 2})
    facts = {"usableGib": 95.0, "link": "nvlink"}
    own["catalog"] = {"gpus": {"MyCard": facts}}
    speed = briefly("ds", plan_services(parse(own))["ds"])[2]
    assert "no bandwidth and no peak of MyCard; catalog.gpus.MyCard.speeds says them" in speed
    speeds = {"memoryGbPerSecond": 4000.0, "linkGbPerSecond": 450.0, "tflops": {"bf16": 148.0, "fp8": 296.0}}
    own["catalog"] = {"gpus": {"MyCard": facts | {"speeds": speeds}}}
    planned = plan_services(parse(own))["ds"].plan.throughput
    alike = plan_services(parse(GOOD))["ds"].plan.throughput
    assert planned.point("alone").each.floor == alike.point("alone").each.floor
    own["catalog"] = {"gpus": {"MyCard": facts | {"speeds": {"memoryGbPerSecond": 4000.0}}}}
    [line] = refused(own)
    assert line.startswith("modelserve:catalog.gpus.MyCard.speeds: facts missing to plan tokens a second: linkGb")


def test_a_node_whose_memory_cannot_hold_what_it_reads_is_told():
    layout = {"nodes": 2, "tensor": 16, "pipeline": 1}
    found = plan_services(parse(on("H20-96", layout=layout)))["ds"].plan
    assert found.to_json()["host"]["page_cache_holds"] is False
    assert any("641 GiB; 512 GiB of memory" in reason and "will read files again" in reason for reason in found.reasons)


DP16 = {"nodes": 2, "data": 16, "tensor": 1, "pipeline": 1, "expertParallel": True}
SPANNING = {"nodes": 4, "data": 2, "tensor": 16}
SMALL_STEPS = ("--max-num-batched-tokens", "2048")


def laid_out(layout: Any, *given: str, launcher: str = "native", version: str = "0.33.0", **more: Any) -> Any:
    engine = {"launcher": launcher, "imageHasRay": True, "version": version, "image": f"vllm/vllm-openai:v{version}"}
    return on("H20-96", layout=layout, engine=engine | {"extraArgs": list(given)}, **more)


@pytest.mark.parametrize(
    ("raw", "key", "said"),
    [
        (
            laid_out(DP16 | {"data": 8}),
            "layout.tensor: 1",
            "data 8 x tensor 1 x pipeline 1 = 8 ranks, but nodes 2 x gpusPerNode 8 = 16 GPUs; write pipeline: 2",
        ),
        (laid_out(DP16 | {"data": 3}), "layout.tensor: 1", "write tensor: 1, pipeline: 1, data: 16, or change nodes"),
        (laid_out(DP16, launcher="ray", version="0.9.0"), "layout.data: 16", "does not have it: it came with 0.9.1"),
        (laid_out(DP16, version="0.10.2"), "engine.launcher: native", "joins nodes by Ray only"),
        (laid_out(DP16, model="Qwen3-32B"), "layout.expertParallel", "Qwen3-32B has no experts"),
        (
            laid_out(DP16 | {"nodes": 3, "data": 2, "tensor": 4, "pipeline": 3}),
            "layout.data: 2",
            "an engine has a part of a node or whole nodes: tensor 4 x pipeline 3 = 12 GPUs and the 8 of a node",
        ),
        (
            laid_out(DP16 | SPANNING, *SMALL_STEPS, launcher="ray"),
            "layout.data: 2",
            "Ray keeps each engine inside one node, and these have 16 GPUs; write engine.launcher: native",
        ),
        (
            laid_out(DP16, "--enable-eplb", "--eplb-config.num_redundant_experts", "4"),
            "engine.extraArgs: 4",
            "256 + 4 redundant over 16 GPUs are 16.25 on each; write 0, or 16",
        ),
        (laid_out(DP16 | {"expertParallel": False}, "--enable-eplb"), "layout.expertParallel", "balances experts"),
        (laid_out(DP16, "-ep"), "engine.extraArgs[0]: -ep", "use layout.expertParallel"),
        (laid_out(DP16, "-dcp", "2"), "engine.extraArgs[0]: -dcp", "use layout.decodeContext"),
        (laid_out(DP16, "-dpb", "ray"), "engine.extraArgs[0]: -dpb", "use engine.launcher"),
        (laid_out(DP16 | {"decodeContext": 2}), "layout.decodeContext: 2", "tensor 1 / 2 is not a whole number"),
    ],
)
def test_a_layout_that_cannot_start_is_one_line_at_its_key(raw, key, said):
    [line] = refused(raw)
    assert line.startswith(f"modelserve:services.ds.{key}") and said in line


def test_an_auto_layout_takes_data_ranks_where_they_carry_the_load_on_fewer_gpus_and_says_why():
    few, many = (
        plan_services(parse(laid_out("auto", load={"input": 1024, "output": 1024, "concurrency": each})))["ds"].plan
        for each in (1, 4000)
    )
    assert few.request.layout.data == 1 < many.request.layout.data and many.request.layout.expert_parallel
    assert few.throughput.replicas_needed == 1
    [why] = [reason for reason in many.reasons if reason.startswith("layout auto: ")]
    needed = many.throughput.replicas_needed
    assert why.startswith(f"layout auto: {many.request.layout} needs {needed} replicas for the load, ")
    [alone] = [reason for reason in plan_services(parse(laid_out("auto")))["ds"].plan.reasons if "auto" in reason]
    assert "answers one request fastest" in alone and " EP " in alone
