"""What surrounds the GPUs: cache and host sizes, the start-up path, and cost."""

from __future__ import annotations

import re

import pytest

from planning import engine, gpus, models
from planning.cache import CacheSize, cache, host
from planning.choose import fit
from planning.cost import Prices, cost, problems
from planning.layout import Layout
from planning.memory import Fit, Request
from planning.planner import Ask
from planning.planner import plan as planned
from planning.problems import PlanError
from planning.startup import Startup, Storage, Supply, file_bytes, loading_seconds, node_bytes, plan
from planning.units import GIB

R1 = 688_586_727_753


def _fit(layout: Layout, model: str = "DeepSeek-R1", **rest: bool) -> tuple[Request, Fit]:
    request = Request(models.find(model), gpus.find("H20-96"), layout, engine.find(None), **rest)
    return request, fit(request, 8192)


def _path(layout: Layout, supply: Supply) -> Startup:
    return plan(*_fit(layout), supply)


def test_the_cache_holds_the_model_and_survives_one_lost_worker() -> None:
    found = cache(R1)
    assert (found.workers, found.quota_gib) == (7, 120)
    assert (found.workers - 1) * found.quota_gib * 0.95 >= 1.05 * R1 / GIB


def test_a_cache_too_small_for_the_model_is_refused_with_its_arithmetic() -> None:
    with pytest.raises(PlanError, match="5 x 120 GiB x 0.95 = 570 GiB, but the cache must hold 673 GiB"):
        cache(R1, CacheSize(workers=5))


def test_a_wanted_reading_rate_may_ask_for_more_workers() -> None:
    assert cache(R1, read_gbit_per_second=96).workers == 17


def test_half_the_model_fits_the_page_cache_of_a_node_that_the_whole_does_not() -> None:
    request, found = _fit(Layout(2, 8, 8, 2))
    half = max(node_bytes(request, found))
    assert host(half, memory_gib=512).page_cache_holds
    assert host(R1, memory_gib=512).page_cache_holds is False
    assert host(R1).page_cache_holds is None
    assert host(R1, image_gib=10, downloads=True).ephemeral_gib == pytest.approx(651, abs=1)


def test_pipeline_nodes_read_their_stage_and_tensor_nodes_read_everything() -> None:
    staged, whole = (node_bytes(*_fit(layout)) for layout in (Layout(2, 8, 8, 2), Layout(2, 8, 16, 1)))
    assert sum(staged) == pytest.approx(R1, rel=1e-6)
    assert max(staged) / R1 == pytest.approx(0.52, abs=0.01)
    assert whole == [R1, R1]


def test_the_bytes_of_a_model_without_a_published_total_come_from_its_weights() -> None:
    request, found = _fit(Layout(1, 8, 8, 1), "Qwen3-32B")
    assert file_bytes(request, found) == pytest.approx(32_762_123_264 * 2, rel=0.01)
    experts = file_bytes(*_fit(Layout(1, 8, 8, 1, expert_parallel=True), "Qwen3-30B-A3B"))
    assert experts == pytest.approx(30_532_122_624 * 2, rel=0.01)


def test_two_copies_over_ten_gbit_take_eighteen_minutes() -> None:
    step = next(s for s in _path(Layout(2, 8, 16, 1), Supply("copy", 10)).steps if s.name == "weights to nodes")
    assert step.bytes == 2 * R1
    assert step.seconds / 60 == pytest.approx(18.4, abs=0.1)


def test_the_path_ends_where_its_last_step_ends_and_nothing_beats_the_floor() -> None:
    for storage in ("mount", "volume", "cache", "copy", "stream"):
        path = _path(Layout(2, 8, 8, 2), Supply(storage, 100, cache_gbit=42, fill_gbit=10))
        assert path.first_token_seconds == pytest.approx(max(step.end for step in path.steps))
        assert path.floor_seconds <= path.first_token_seconds
        assert all(step.floor <= step.seconds + 1e-9 and step.source for step in path.steps)
        assert path.steps[0].name == "fill the bucket"


@pytest.mark.parametrize(
    ("loader", "published"),
    [("default", 160), ("runai_streamer", 101), ("fastsafetensors", 75.8), ("instanttensor", 15.3)],
)
def test_loading_from_fast_storage_takes_what_was_published_of_the_loader(loader: str, published: float) -> None:
    """DeepSeek-R1 on eight GPUs, 50 GB/s: https://github.com/scitix/InstantTensor docs/benchmark.md."""
    path = _path(Layout(1, 8, 8, 1), Supply("volume", 400, loader=loader))
    assert loading_seconds(path) == pytest.approx(published, rel=0.01)
    read = next(step for step in path.steps if step.name == "weights to nodes")
    assert read.seconds == read.floor == pytest.approx(R1 / 50e9)


def test_a_slow_link_bounds_every_loader() -> None:
    slow = [
        _path(Layout(1, 8, 8, 1), Supply("mount", 10, loader=each)) for each in ("fastsafetensors", "instanttensor")
    ]
    assert [loading_seconds(path) for path in slow] == [pytest.approx(R1 * 8 / 10e9)] * 2


def test_only_the_default_loader_leaves_out_other_stages_and_every_rank_of_the_streamer_reads_all() -> None:
    def read(storage: Storage, loader: str, each_rank: bool = False) -> int:
        path = _path(Layout(2, 8, 8, 2), Supply(storage, 100, loader=loader, each_rank=each_rank))
        return next(step.bytes for step in path.steps if step.name == "weights to nodes")

    assert read("mount", "default") == pytest.approx(R1, rel=1e-6)
    assert read("mount", "fastsafetensors") == read("mount", "runai_streamer", each_rank=True) == 2 * R1
    assert read("stream", "runai_streamer", each_rank=True) == 16 * R1
    assert read("stream", "runai_streamer") == 2 * R1


@pytest.mark.parametrize(
    ("version", "supply", "said"),
    [
        ("0.33.0", Supply("volume", 400), "instanttensor would load the weights in 15 s rather than 160; "),
        ("0.20.0", Supply("volume", 400), "fastsafetensors would load the weights in 76 s rather than 160; "),
        ("0.33.0", Supply("stream", 400, loader="runai_streamer"), ""),
        ("0.33.0", Supply("volume", 400, loader="instanttensor"), ""),
        ("0.6.6", Supply("volume", 400), ""),
    ],
)
def test_the_plan_names_the_loader_that_the_releases_image_has_and_that_is_faster(version, supply, said) -> None:
    found = planned(
        Ask("DeepSeek-R1", "H200-141", nodes=1, tensor=8, pipeline=1, engine_version=version, supply=supply)
    )
    assert [said in line for line in found.reasons if line.startswith("weights.loader")] == [True] * bool(said)


def test_warming_the_cache_runs_beside_the_nodes_coming_up() -> None:
    steps = {step.name: step for step in _path(Layout(2, 8, 8, 2), Supply("cache", 100, 42)).steps}
    warm, node = steps["warm the cache"], steps["node and image"]
    assert warm.start == node.start == 0
    assert steps["weights to nodes"].start == max(warm.end, node.end)


def test_an_eager_engine_captures_no_graphs() -> None:
    names = [[s.name for s in plan(*_fit(Layout(2, 8, 8, 2), eager=eager), Supply()).steps] for eager in (True, False)]
    assert "CUDA graphs" not in names[0] and "CUDA graphs" in names[1]


def test_cost_comes_from_given_prices_only() -> None:
    unknown = cost(Prices(), 16, kept_bytes=R1, start_seconds=1200)
    assert (unknown.per_hour, unknown.most_per_hour, unknown.kept_per_hour, unknown.cold_start) == (None,) * 4
    known = cost(
        Prices("CNY", 10, None, 0.73, "2026-11-01"), 16, most_replicas=3, kept_bytes=100 * GIB, start_seconds=900
    )
    assert (known.per_hour, known.most_per_hour, known.cold_start) == (160, 480, 40)
    assert known.kept_per_hour == pytest.approx(0.1)
    assert cost(Prices("CNY", 10, as_of="2026-11-01"), 16, cache_workers=7).per_hour is None


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        (Prices("CNY", 10), "prices.asOf: is missing"),
        (Prices(None, 10, as_of="2026-11-01"), "prices.currency: is missing"),
        (Prices("CNY", -1, as_of="2026-11-01"), "is below zero"),
        (Prices("CNY", 10, as_of="last week"), "is not a day"),
    ],
)
def test_a_price_that_cannot_be_judged_is_refused(prices: Prices, words: str) -> None:
    assert re.search(words, "\n".join(map(str, problems(prices))))
