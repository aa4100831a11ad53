"""Tokens per second, compared with published measurements; tests/data/throughput.md names their sources.

`pytest -s` prints the errors of the rows that were not used to fit an efficiency.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from bench import fit_throughput as fit
from planning import choose, engine, gpus, models, throughput
from planning.catalog import entries
from planning.layout import Layout
from planning.memory import Request
from planning.settings import Overrides
from planning.throughput import ALONE, FULL, LOADED, Load, Throughput

# Medians of the errors of rows that were not used for fitting.
WANTED_TPOT, WANTED_TTFT = 0.15, 0.30
KINDS = fit.kinds()
ON_H200 = [kind for kind in KINDS if KINDS[kind][0].model == "DeepSeek-R1"]


def _stored(kind: tuple[str, str, str]) -> throughput.Efficiency:
    return throughput.find(KINDS[kind][0].request, kind[0])


def _request(gpu: str = "H200-141", layout: Layout | None = None, model: str = "DeepSeek-R1") -> Request:
    layout = layout or Layout(1, 8, 8, 1)
    return Request(models.find(model), gpus.find(gpu), layout, engine.find(None), utilization=0.9)


def _plan(request: Request, load: Load | None = None, **more: float) -> Throughput:
    return throughput.plan(request, choose.fit(request, None), load, **more)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_the_catalog_holds_what_the_fit_on_half_of_the_rows_finds(kind):
    assert entries("throughput")["efficiency"][" ".join(kind)] == fit.entry(KINDS[kind])


def test_what_carried_over_estimates_are_off_by_is_what_published_rows_say():
    assert entries("throughput")["carriedOver"] == fit.carried_over()


def test_every_efficiency_of_the_catalog_has_rows():
    assert entries("throughput")["efficiency"].keys() == {" ".join(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", ON_H200, ids=" ".join)
def test_rows_of_deepseek_r1_that_nothing_was_fitted_on_are_foretold(kind):
    held = [row for row in KINDS[kind] if row.held_out]
    each, first = fit.errors(held, _stored(kind))
    tpot, ttft = fit.median(each), fit.median(first)
    print(f"{' '.join(kind)}: {len(held)} rows held out, median error {tpot:.1%} a token, {ttft:.1%} to the first")
    assert tpot <= WANTED_TPOT and ttft <= WANTED_TTFT


def test_all_held_out_rows_of_deepseek_r1_together_are_foretold():
    found = [fit.errors([row], _stored(kind)) for kind in ON_H200 for row in KINDS[kind] if row.held_out]
    each, first = ([error for pair in found for error in pair[at]] for at in (0, 1))
    print(
        f"DeepSeek-R1 on H200: {len(found)} rows, {fit.median(each):.1%} a token, {fit.median(first):.1%} to the first"
    )
    assert len(found) >= 30 and fit.median(each) <= WANTED_TPOT and fit.median(first) <= WANTED_TTFT


def test_no_measurement_without_speculative_decoding_is_quicker_than_its_floor():
    for row in fit.rows():
        if "speculative" in row.engine:
            continue
        floors = row.floors
        assert row.each >= floors.step, row.id
        assert row.first is None or row.first >= floors.prefill, row.id


def test_the_rows_told_apart_as_speculative_hold_one_that_cannot_be_without():
    rows = [row for row in fit.rows() if row.engine == "trtllm-speculative"]
    assert any(row.each < row.floors.step for row in rows)


@pytest.mark.parametrize("row", [row for row in fit.rows() if row.carried_over], ids=lambda row: row.id)
def test_published_points_of_h20_lie_in_the_range_that_is_planned_as_carried_over(row):
    found = throughput.find(row.request)
    each = found.each_seconds(row.floors, row.output)
    print(f"{row.id}: {row.each * 1e3:.1f} ms a token measured, {each * 1e3:.1f} planned, {found.carried_over}")
    assert any("H20" in each for each in found.carried_over)
    assert row.floors.step < row.each <= each * (1 + found.tpot_spread) * 1.01
    if row.first:
        assert row.first <= found.first_token_seconds(row.floors) * (1 + found.ttft_spread) * 1.01


def _floor(request: Request, at_once: float = 8, input: int = 1024, output: int = 1024) -> throughput.Floors:
    return throughput.roofline(request, at_once, input, output)


def test_a_step_reads_the_experts_that_its_batch_activates_and_each_request_reads_its_cache():
    request = _request()
    few, many, all_of_them = (_floor(request, at_once).step for at_once in (1, 32, 512))
    assert many > 5 * few  # one token activates 8 of 256 experts, 32 of them about two thirds
    assert all_of_them < 3 * many
    assert _floor(request, 64, 60000).step > _floor(request, 64, 1000).step * 2


def test_the_floor_of_one_request_is_the_bytes_of_what_is_active_over_the_bandwidth():
    # DeepSeek-R1 has 37 billion active parameters of about a byte; eight H200 read 38.4 TB a second. Ranks hold some
    # of them all, such as the compressed attention's.
    assert 37e9 / 38.4e12 < _floor(_request(), 1).step < 1.6 * 37e9 / 38.4e12


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        (_request("H20-96", Layout(2, 8, 8, 2)), _request("H200-141", Layout(2, 8, 8, 2))),
        (_request(), _request("B200-180:178")),
        (_request("H800-80", Layout(2, 8, 16, 1)), _request("H100-80", Layout(2, 8, 16, 1))),
        (_request("H100-80", Layout(2, 8, 16, 1)), _request("H100-80", Layout(1, 16, 16, 1))),
        (_request("A100-80", Layout(1, 2, 2, 1), "Qwen3-32B"), _request("A100-80", Layout(1, 4, 4, 1), "Qwen3-32B")),
    ],
    ids=["arithmetic", "memory", "link", "nodes", "ranks"],
)
def test_a_first_token_comes_sooner_on_what_is_faster(slower, faster):
    assert _floor(faster, input=8192).prefill < _floor(slower, input=8192).prefill


def test_sparse_attention_and_windows_read_no_more_of_the_cache_than_they_look_at():
    dense, sparse = _request(), _request(model="DeepSeek-V3.2")
    assert _floor(sparse, 64, 100_000).step < _floor(dense, 64, 100_000).step / 2
    one = Layout(1, 1, 1, 1)
    windowed = _request(layout=one, model="gpt-oss-120b")
    whole = replace(windowed, model=replace(windowed.model, window=0, window_layers=0))
    assert _floor(windowed, 64, 100_000).step < _floor(whole, 64, 100_000).step


def test_more_requests_at_once_make_each_token_later_and_all_of_them_more():
    found = [
        throughput._point(_request(), throughput.find(_request()), "", n, Load(2000, 500), 2.0) for n in (1, 8, 64)
    ]
    for fewer, more in pairwise(found):
        assert fewer.each.expected < more.each.expected and fewer.first.expected < more.first.expected
        assert fewer.output_tokens < more.output_tokens
        assert fewer.output_cost > more.output_cost
    for point in found:
        for times in (point.each, point.first):
            assert times.floor < times.expected < times.most


def test_costs_of_all_tokens_are_what_the_gpus_cost():
    price = 3.5
    for layout in (Layout(1, 8, 8, 1), Layout(2, 8, 8, 2), Layout(1, 8, 1, 1, 8, expert_parallel=True)):
        for point in _plan(_request(layout=layout), Load(3000, 700, concurrency=20), per_gpu_hour=price).points:
            an_hour = point.input_tokens * point.input_cost + point.output_tokens * point.output_cost
            assert an_hour * 3600 / 1e6 == pytest.approx(price * layout.gpus)
            assert point.input_cost > 0 and point.output_cost > 0


def test_no_token_costs_less_than_nothing_where_prefill_is_all_that_takes_time():
    slow = replace(throughput.find(_request()), prefill=0.001)
    point = throughput._point(_request(), slow, "", 1, Load(8000, 1), 2.0)
    assert point.input_cost > 0 and point.output_cost >= 0


def test_without_a_price_tokens_cost_an_unknown_amount():
    assert {point.output_cost for point in _plan(_request()).points} == {None}


def test_without_a_load_there_is_a_plan_for_one_request_and_for_a_full_cache():
    found = _plan(_request())
    assert [point.name for point in found.points] == [ALONE, FULL]
    assert found.point(ALONE).at_once == 1 < found.point(FULL).at_once
    assert found.replicas_needed is None and not found.problems


def test_a_full_replica_holds_what_cache_and_engine_take():
    request, load = _request(), Load(30_000, 2000, rate=1)
    held = choose.fit(request, None).kv_tokens // 32_000
    assert _plan(request, load).point(FULL).at_once == held
    few = replace(request, sequences=4)
    assert _plan(few, load).point(FULL).at_once == 4


@pytest.mark.parametrize("load", [Load(1000, 1000, rate=6), Load(1000, 1000, concurrency=900)], ids=["rate", "at once"])
@pytest.mark.parametrize("limits", [{}, {"tpot_seconds": 0.03}, {"ttft_seconds": 0.3}], ids=str)
def test_the_replicas_that_are_needed_keep_the_load_within_its_limits_and_one_fewer_does_not(load, limits):
    request = _request()
    wanted = replace(load, **limits)
    needed = _plan(request, wanted).replicas_needed
    assert needed > 1
    enough, fewer = (_plan(request, wanted, replicas=count) for count in (needed, needed - 1))
    point = enough.point(LOADED)
    assert not enough.problems
    assert point.each.expected <= limits.get("tpot_seconds", 9) * 1.01
    assert point.first.expected <= limits.get("ttft_seconds", 9) * 1.01
    [problem] = fewer.problems
    assert (problem.key, problem.instead) == ("load", f"write replicas: {needed}")


def test_a_rate_is_what_so_many_requests_at_once_make():
    point = _plan(_request(), Load(1000, 500, rate=3)).point(LOADED)
    assert point.requests_per_second == pytest.approx(3, rel=0.01)
    assert point.at_once == pytest.approx(3 * (point.first.expected + 500 * point.each.expected), rel=0.01)


@pytest.mark.parametrize(
    ("limit", "key"), [({"tpot_seconds": 0.002}, "load.tpotSeconds"), ({"ttft_seconds": 0.05}, "load.ttftSeconds")]
)
def test_a_limit_that_one_request_alone_exceeds_is_met_by_no_number_of_replicas(limit, key):
    found = _plan(_request(), Load(4000, 500, rate=1, **limit), replicas=3)
    assert found.replicas_needed is None
    [problem] = found.problems
    assert problem.key == key and problem.value == f"{next(iter(limit.values())):g}"
    assert "no number of replicas" in problem.why and problem.instead


def test_of_a_gpu_without_speeds_and_of_a_request_that_the_cache_does_not_hold_nothing_is_said():
    unknown = _plan(_request("T4-16", Layout(1, 1, 1, 1), "Qwen3-0.6B"))
    assert not unknown.points and "T4-16" in unknown.reasons[0]
    request = _request()
    held = choose.judge(request, 4096)
    too_long = throughput.plan(request, replace(held, kv_tokens=100), Load(200, 10, rate=1))
    assert not too_long.points and "200 + 10" in too_long.reasons[0]


@pytest.mark.parametrize(
    ("load", "keys"),
    [
        (Load(100, 100, rate=1), []),
        (Load(100, 100, concurrency=1, ttft_seconds=1, tpot_seconds=1), []),
        (Load(100, 100, ttft_seconds=2), ["load"]),
        (Load(100, 100), ["load"]),
        (Load(100, 100, rate=1, concurrency=1), ["load.rate"]),
        (
            Load(0, -1, rate=0, tpot_seconds=float("nan")),
            ["load.input", "load.output", "load.rate", "load.tpotSeconds"],
        ),
        (Load(4000, 100, rate=1), ["load.input"]),
    ],
)
def test_a_load_says_how_many_and_how_long_and_each_mistake_is_named(load, keys):
    found = throughput.problems(load, 4096)
    assert [problem.key for problem in found] == keys
    assert all(problem.why and problem.instead for problem in found)


def test_a_load_of_longer_requests_than_the_context_that_fits_is_said():
    [problem] = throughput.plan(_request(), choose.judge(_request(), 4096), Load(4000, 100, rate=1)).problems
    assert problem.key == "load.input" and "4096" in problem.why


def test_what_was_not_measured_says_from_where_it_is_carried_over():
    measured = throughput.find(_request(model="Llama-3.1-70B", layout=Layout(1, 4, 4, 1)))
    assert measured.carried_over == ()
    far = throughput.find(_request("L40S-48", Layout(2, 4, 8, 1), "Qwen3-8B"))
    assert len(far.carried_over) == 3
    assert far.tpot_spread > measured.tpot_spread


@pytest.mark.parametrize("part", ["attention", "output", "mlp", "experts", "shared"])
def test_only_what_is_quantised_is_multiplied_at_the_quantised_speed(part):
    request = _request("B200-180:178", model="DeepSeek-V3.1-NVFP4")
    every = replace(request.model, sixteen_bit=frozenset())

    def prefill(kept: set[str]) -> float:
        model = replace(request.model, sixteen_bit=frozenset(kept))
        return throughput.roofline(replace(request, model=model), 1, 8192, 1).prefill

    plain = throughput.roofline(replace(request, model=replace(every, quantisation="none")), 1, 8192, 1).prefill
    parts = {"attention", "output", "mlp", "experts", "shared"}
    assert prefill(set()) < prefill({part}) < prefill(parts) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("name", ["DeepSeek-V4-Flash", "MiniMax-M3-NVFP4", "Qwen3-235B-A22B-FP8"])
def test_a_token_takes_as_many_operations_whatever_the_format_of_the_weights(name):
    request = _request("H200-141", model=name)
    speeds = replace(request.gpu.speeds, memory=math.inf, peaks=(("bf16", 1.0),))
    request = replace(request, gpu=replace(request.gpu, speeds=speeds))
    bare = replace(request.model, quantisation="none", expert_format="", part_formats=(), sixteen_bit=frozenset())
    plain = replace(request, model=bare)
    assert throughput.roofline(request, 1, 8, 1).prefill == throughput.roofline(plain, 1, 8, 1).prefill


def _step(layout: Layout, **told: str) -> float:
    """The floor of a step with 64 requests in each data rank, without what it reads and computes: what it sends."""
    request = replace(_request(layout=layout), overrides=Overrides(**told))
    infinite = replace(request.gpu.speeds, memory=math.inf, peaks=(("bf16", math.inf),))
    request = replace(request, gpu=replace(request.gpu, speeds=infinite))
    return throughput.roofline(request, 64.0 * layout.data, 1024, 1024).step


def test_ranks_that_get_every_token_receive_more_than_those_that_get_their_experts_tokens() -> None:
    """61 layers of 7168 values, sent in one byte and back in two, over links of 450 GB/s and 50 between nodes."""
    tokens = 61 * 64 * 7168 * 3
    one, two = (Layout(nodes, 8, 1, 1, data=8 * nodes, expert_parallel=True) for nodes in (1, 2))
    assert _step(one) == pytest.approx(tokens * 7 / 450e9)
    assert _step(one, all2all="deepep_low_latency") == pytest.approx(tokens * 7 / 450e9)  # all eight have an expert
    assert _step(two) == pytest.approx(tokens * 15 / 450e9)
    assert _step(two, all2all="deepep_low_latency") == pytest.approx(tokens / 50e9)  # once to the other node
    apart = replace(two, expert_parallel=False)
    assert _step(apart, all2all="deepep_low_latency") == _step(two)  # without whole experts nothing can be left out
