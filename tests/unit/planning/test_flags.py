"""Which arguments a vLLM release accepts: dropped ones are told from ones not yet added; newer releases are unknown."""

from __future__ import annotations

import pytest

from config.judge import parse
from config.plans import plan_services
from planning.catalog import entries, fact
from planning.engine import find, release_key
from planning.flags import choices, enforced, has, number, problem, problems, read
from stacks import engine_arguments
from tests.unit.config.test_stack import GOOD, changed

KNOWN = fact("vllm", "releases", "known")
EP = {"--enable-expert-parallel": True}


def wrong(line: str, version: str, launcher: str | None = None) -> list[str]:
    """What is wrong with a command line, as `element: why`."""
    words = line.split()
    return [f"{words[index]}: {why}" for index, why, instead in problems(words, version, launcher) if instead]


@pytest.mark.parametrize(
    ("argument", "version", "why"),
    [
        ("--swap-space", "0.18.0", "dropped it: 0.17.1 was the last with it"),
        ("--swap-space=4", "0.18.1", "dropped it"),
        ("--swap_space", "0.33.0", "dropped it"),
        ("--enable-reasoning", "0.10.0", "dropped it: 0.9.2 was the last with it"),
        ("--nnodes", "0.10.2", "does not know it yet: it came with 0.11.1"),
        ("--no-such-thing", "0.7.3", "has no such argument"),
        ("--no-enforce-eager", "0.8.5", "does not know it yet: it came with 0.9.0"),
        ("-cc", "0.11.2", "does not know it yet: it came with 0.12.0"),
        ("-ep", "0.13.0", "does not know it yet: it came with 0.14.0"),
        ("-sc", "0.18.1", "does not know it yet: it came with 0.19.0"),
    ],
)
def test_an_argument_that_the_release_would_refuse_is_found(argument, version, why):
    assert why in problem(argument, version)[0]


@pytest.mark.parametrize(
    ("argument", "version"),
    [
        ("--swap-space", "0.17.1"),
        ("--enforce-eager", "0.6.6"),
        ("-tp", "0.7.3"),
        ("8", "0.7.3"),
        ("-1", "0.7.3"),
        ("-O3", "0.11.0"),
        ("-O3", "0.33.0"),
        ("deepseek_r1", "0.7.3"),
        ("--reasoning-parser=deepseek_r1", "0.9.0"),
        ("--kv-transfer-config.kv_role", "0.11.0"),
        ("--no-enable-prefix-caching", "0.10.0"),
        ("--no-enforce-eager", "0.9.0"),
        ("--enforce-eager", "0.8.3"),
        ("--whatever-comes", "0.99.0"),
    ],
)
def test_what_the_release_knows_or_nobody_can_judge_is_left_alone(argument, version):
    assert problem(argument, version) is None


@pytest.mark.parametrize(
    ("line", "version", "said"),
    [
        ("--enforce-eager true", "0.7.3", "true: --enforce-eager takes no value"),
        ("--enforce-eager=true", "0.33.0", "--enforce-eager=true: --enforce-eager takes no value"),
        ("--no-enable-prefix-caching false", "0.10.0", "false: --no-enable-prefix-caching takes no value"),
        ("--enable-chunked-prefill true", "0.8.5", "true: --enable-chunked-prefill takes no value"),
        ("--max-num-seqs", "0.10.0", "--max-num-seqs: --max-num-seqs needs a value"),
        ("--max-num-seqs --enforce-eager", "0.10.0", "--max-num-seqs: --max-num-seqs needs a value"),
        ("--max-num-seqs 8 16", "0.10.0", "16: --max-num-seqs takes one value"),
        ("--load-format fast", "0.9.0", "fast: vLLM 0.9.0 has no value fast for --load-format"),
        ("--load-format=runai_streamer_sharded", "0.7.3", "it came with 0.8.5"),
        ("--load-format instanttensor", "0.12.0", "does not know instanttensor yet: it came with 0.18.0"),
        ("--distributed-executor-backend native", "0.10.1", "has no value native for --distributed-executor-backend"),
        ("--kv-cache-dtype fp8_inc", "0.9.2", "does not know fp8_inc yet: it came with 0.10.0"),
        ("--reasoning-parser qwen3", "0.8.5 --enable-reasoning", "does not know qwen3 yet: it came with 0.9.0"),
        ("--reasoning-parser deepseek_r2", "0.9.0", "has no value deepseek_r2 for --reasoning-parser"),
        ("--reasoning-parser deepseek_r2", "0.33.0", "has no value deepseek_r2 for --reasoning-parser"),
    ],
)
def test_a_value_that_the_release_would_refuse_is_found(line, version, said):
    version, _, more = version.partition(" ")
    (only,) = wrong(f"{line} {more}", version)
    assert said in only


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("/weights/m --served-model-name a b --port 8000 --enforce-eager", "0.7.3"),
        ("--enable-chunked-prefill true", "0.7.3"),
        ("--load-format runai_streamer", "0.6.6"),
        ("--load-format gguf", "0.33.0"),
        ("--load-format a-plugins-own", "0.10.1"),
        ("--distributed-executor-backend my.module.Executor", "0.12.0"),
        ("--reasoning-parser mine --reasoning-parser-plugin /mine.py", "0.11.1"),
        ("--seed -1", "0.10.0"),
        ("-O3 --max-num-seqs 8", "0.11.0"),
        ("--compilation-config.level 3 --compilation-config.cache_dir /c", "0.11.0"),
        ("--load-format anything --never-heard-of --enforce-eager x", "0.99.0"),
    ],
)
def test_a_list_that_the_release_takes_or_nobody_can_judge_is_left_alone(line, version):
    assert wrong(line, version) == []


@pytest.mark.parametrize(
    ("line", "version", "said"),
    [
        ("--max-num-seqs 8 --max_num_seqs=16", "0.10.0", "--max_num_seqs=16: repeats --max-num-seqs"),
        ("-tp 8 --tensor-parallel-size 8", "0.10.0", "--tensor-parallel-size: repeats -tp"),
        ("-sc.method mtp --speculative-config.model x", "0.19.0", "vLLM would drop what -sc.method says"),
        ("--hf-overrides {} --hf-overrides.a 1", "0.19.0", "vLLM would drop what --hf-overrides says"),
        ("--enforce-eager --no-enforce-eager", "0.10.0", "--no-enforce-eager: repeats --enforce-eager"),
        ("--quantization fp8 -q awq", "0.10.0", "-q: repeats --quantization"),
        (
            "--compilation-config.level 3 -O.level 2",
            "0.11.0",
            "-O.level: repeats --compilation-config.level",
        ),
        ("--reasoning-parser deepseek_r1", "0.7.3", "--reasoning-parser: vLLM 0.7.3 needs --enable-reasoning with it"),
        ("--enable-reasoning", "0.8.5", "--enable-reasoning: vLLM 0.8.5 needs --reasoning-parser with it"),
        ("--enable-auto-tool-choice", "0.33.0", "needs --tool-call-parser with it"),
        ("--enable-eplb", "0.12.0", "needs --enable-expert-parallel with it"),
    ],
)
def test_flags_that_contradict_or_need_each_other_are_found(line, version, said):
    (only,) = wrong(line, version)
    assert said in only


def test_reasoning_and_tools_exclude_each_other_in_the_releases_that_say_so():
    line = "--enable-reasoning --reasoning-parser deepseek_r1 --enable-auto-tool-choice --tool-call-parser hermes"
    assert wrong(line, "0.7.3") == ["--enable-reasoning: vLLM 0.7.3 refuses it together with --enable-auto-tool-choice"]
    assert wrong(line, "0.8.0") == []


@pytest.mark.parametrize("flag", ["--nnodes 2", "-n 2", "--node-rank=1", "-r 1", "--master-addr a", "--headless"])
@pytest.mark.parametrize("launcher", ["ray", "native"])
def test_a_pods_place_in_its_group_is_the_launchers_to_say(flag, launcher):
    (only,) = wrong(flag, "0.11.1", launcher)
    assert only.endswith(": is set by the launcher")


def test_what_headless_workers_refuse_is_found_where_there_are_such():
    assert wrong("--api-server-count 2", "0.12.0", "ray") == []
    (only,) = wrong("--api-server-count 2", "0.12.0", "native")
    assert "its workers serve no HTTP" in only


@pytest.mark.parametrize(
    ("flag", "version", "known"),
    [
        ("--nnodes", "0.11.0", False),
        ("--nnodes", "0.11.1", True),
        ("--nnodes", "0.11.1rc2", True),
        ("--nnodes", "0.99.0", True),
        ("--nnodes", "0.1.0", False),
        ("--enable-reasoning", "0.9.2.post1", True),
        ("--enable-reasoning", "0.10.0", False),
        ("--enable_reasoning", "0.9.0", True),
        ("--never-heard-of", "0.9.0", False),
    ],
)
def test_whether_a_release_knows_a_flag(flag, version, known):
    assert has(flag, version) is known


def test_choices_are_those_that_the_release_names():
    assert choices("--distributed-executor-backend", "0.6.6") == ("mp", "ray")
    assert choices("--distributed-executor-backend", "0.33.0") == ("external_launcher", "mp", "ray", "uni")
    assert choices("--reasoning-parser", "0.8.5") == ("deepseek_r1", "granite")
    assert choices("--reasoning-parser", "0.7.0") is None
    assert choices("--max-num-seqs", "0.9.0") is None
    assert choices("--block-size", "0.18.0") is None
    assert all("runai_streamer" in choices("--load-format", version) for version in KNOWN)


@pytest.mark.parametrize(
    ("flag", "version", "taken", "refused"),
    [
        ("--max-num-seqs", "0.9.0", ("8", "1_024", "+8"), ("eight", "8.5", "8k", "")),
        ("--max-num-batched-tokens", "0.9.0", ("8192",), ("8k",)),
        ("--max-num-batched-tokens", "0.9.1", ("8192", "8k", "25.6k", "8K"), ("8Ki", "25.6K", "8kb", "k", "8.5")),
        ("--swap-space", "0.9.0", ("4", "0.5", ".5", "1e1"), ("4GiB", ".")),
        ("--seed", "0.9.0", ("-1", "None"), ("x",)),
        ("--max-num-seqs", "0.99.0", ("eight",), ()),  # newer than what was read: unknown
    ],
)
def test_a_value_is_the_kind_of_number_that_the_release_reads(flag, version, taken, refused):
    assert [value for value in (*taken, *refused) if problems([flag, value], version)] == list(refused)


def test_where_the_parser_itself_takes_no_other_value():
    assert [enforced("--reasoning-parser", version) for version in ("0.7.3", "0.8.0", "0.11.0", "0.11.1")] == [
        False,
        True,
        True,
        False,
    ]


def test_a_candidate_a_nightly_and_a_repackaging_count_as_their_release():
    for version in ("0.9.0rc1", "0.9.0.rc1", "0.9.0.dev7+g1a2b3c4.d20250601", "0.9.0.post1", "0.9.0+cu128", "v0.9.0-1"):
        assert release_key(version) == (0, 9, 0)
    assert release_key("0.11rc1") == release_key("0.11.post1") == (0, 11)
    assert release_key("latest") == release_key("") == ()
    assert find("0.9.0rc1")["batch"] == find("0.9.0")["batch"]


def test_every_span_of_the_catalog_is_made_of_releases_that_were_read():
    read = set(KNOWN)
    table = entries("vllm_flags")
    spans = [
        entry[key] for entry in table["flags"].values() for key in ("in", "no", "listed", "enforced") if key in entry
    ]
    for entry in table["flags"].values():
        spans += [*entry.get("aliases", {}).values(), *entry.get("values", {}), *entry.get("number", {}).values()]
    spans += [span for *_, span in (*table["requires"], *table["excludes"])]
    assert {release for span in spans for part in span.split() for release in part.split("-")} <= read


@pytest.mark.parametrize("version", KNOWN)
def test_no_release_gets_an_argument_of_ours_that_it_lacks(version):
    changes = {"version": version, "imageHasRay": True}
    config = parse(changed("services/ds/engine", GOOD["services"]["ds"]["engine"] | changes))
    planned = plan_services(config, refuse_misfits=False)["ds"]
    arguments = engine_arguments.arguments(
        "ds", planned, engine_arguments.from_volume(config.weights, planned.service.model)
    )
    assert "--max-model-len" in arguments
    assert problems(arguments, version, "ray") == []


@pytest.mark.parametrize(
    ("line", "version", "said"),
    [
        ("-dcp 8 -tp=4 -ep", "0.33.0", {"--decode-context-parallel-size": "8", "--tensor-parallel-size": "4", **EP}),
        ("--enable_expert_parallel", "0.9.0", EP),
        ("--no-enable-expert-parallel", "0.9.0", {"--enable-expert-parallel": False}),
        ("-O3", "0.11.0", {"--compilation-config": "3"}),
        ("-O3", "0.12.0", {"--optimization-level": "3"}),
        ("-O=2", "0.12.0", {"--optimization-level": "2"}),
        ("-cc.mode 3", "0.12.0", {"--compilation-config": {"mode": 3}}),
        ('-sc {"method":"mtp"}', "0.19.0", {"--speculative-config": {"method": "mtp"}}),
        (
            "--speculative-config.method mtp --speculative-config.num_speculative_tokens 2",
            "0.19.0",
            {"--speculative-config": {"method": "mtp", "num_speculative_tokens": 2}},
        ),
        ("--hf-overrides.a.b=80k", "0.19.0", {"--hf-overrides": {"a": {"b": 80000}}}),
        ("--eplb-config.x+ a,b --eplb-config.x+ c", "0.19.0", {"--eplb-config": {"x": ["a", "b", "c"]}}),
        ("--hf-overrides {not-json", "0.19.0", {"--hf-overrides": "{not-json"}),
        ("--cudagraph-capture-sizes 1 2", "0.19.0", {"--cudagraph-capture-sizes": ["1", "2"]}),
        ("--never-heard-of 5", "0.19.0", {"--never-heard-of": "5"}),
    ],
)
def test_a_flag_says_the_same_in_every_spelling_that_its_release_has(line, version, said):
    assert read(line.split(), version) == said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8192", 8192),
        ("128K", 131072),
        ("128k", 128000),
        ("25.6k", 25600),
        ("1_024", 1024),
        ("2M", 2097152),
        ("2m", 2000000),
        ("25.6K", None),
        ("8Ki", None),
        ("auto", None),
        (None, None),
    ],
)
def test_small_letters_are_decimal_and_capitals_binary_as_in_the_engine(text, value):
    assert number(text) == value
