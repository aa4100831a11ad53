"""When a load counts as short, and when the next `up` loads anew."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timezone
from typing import Any

import pytest

from stacks.cache_look import CacheLook, attempt, ended_since, most_bytes, shortfall

GIB = 1024**3
R1 = 688586727753


def files(cached: str | None, there: str = "641.30GiB", room: str = "840.00GiB") -> dict[str, Any]:
    states = {"cacheCapacity": room} | ({} if cached is None else {"cached": cached})
    return {"metadata": {"name": "m"}, "status": {"ufsTotal": there, "cacheStates": states}}


def load(phase: str | None, live: str | None = None) -> dict[str, Any]:
    annotations = {} if live is None else {"modelserve.dev/attempt": live}
    return {"metadata": {"annotations": annotations}, "status": {"phase": phase} if phase else {}}


@pytest.mark.parametrize(
    ("text", "amount"),
    [("641.30GiB", 641.305 * GIB), ("1.00TiB", 1.005 * 1024**4), ("[Calculating]", None), ("", None), (None, None)],
)
def test_a_size_is_read_up_to_what_its_rounding_may_hide(text, amount):
    assert most_bytes(text) == (None if amount is None else pytest.approx(amount))


@pytest.mark.parametrize("cached", ["641.30GiB", "641.92GiB", None])
def test_a_whole_model_lacks_nothing_nor_does_one_of_which_nothing_is_known(cached):
    assert shortfall(files(cached), R1) is None


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        (files("320.65GiB"), "look at `kubectl describe dataset m` and at its workers; the next `up` loads anew"),
        (files("0.00B", there="0.00B"), "the bucket holds 0.00B there: look at what was synced, and at the prefix"),
        (files("500.00GiB", room="600.00GiB"), "the workers hold 600.00GiB: write more cache.workers"),
    ],
)
def test_a_short_cache_is_told_with_both_numbers_and_where_to_look(dataset, why):
    said = shortfall(dataset, R1)
    cached = dataset["status"]["cacheStates"]["cached"]
    assert said is not None and f"{cached} of the model's 641.30GiB are cached" in said and said.endswith(why)


@pytest.mark.parametrize(
    ("live", "dataset", "next_one"),
    [
        (None, None, 1),
        (load("Complete"), files("641.30GiB"), 1),
        (load("Complete", "3"), files("641.30GiB"), 3),
        (load("Failed"), files("0.00B"), 2),
        (load("Failed", "2"), None, 3),
        (load("Complete", "2"), files("320.65GiB"), 3),
        (load("Complete"), files(None), 1),
        (load("Executing", "2"), files("320.65GiB"), 2),
        (load(None), None, 1),
        (load("Complete", "many"), files("641.30GiB"), 1),
    ],
)
def test_only_a_load_that_failed_or_lost_files_is_tried_again(live, dataset, next_one):
    assert attempt(live, dataset, R1) == next_one


def test_cache_states_that_are_late_are_waited_for(monkeypatch: pytest.MonkeyPatch):
    states = iter([files("0.00B"), files("320.65GiB"), files("641.30GiB")])
    look, slept = CacheLook("c", "n", None), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(look, "_read", lambda plural, name: next(states))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert asyncio.run(look.shortfall("m", R1)()) is None and len(slept) == 2


def test_patience_with_a_short_cache_ends_after_a_few_of_fluids_sync_periods(monkeypatch: pytest.MonkeyPatch):
    look, slept = CacheLook("c", "n", None), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(look, "_read", lambda plural, name: files("320.65GiB"))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    said = asyncio.run(look.shortfall("m", R1)())
    assert said is not None and "320.65GiB" in said and 45 <= sum(slept) <= 50


def test_a_load_that_has_just_ended_is_not_judged_by_a_cache_state_from_before():
    assert attempt(load("Complete"), files("320.65GiB"), R1, settled=False) == 1
    assert attempt(load("Failed"), files("0.00B"), R1, settled=False) == 2
    ended = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-22T03:00:00Z"}
    now = datetime(2026, 11, 22, 3, 0, 40, tzinfo=timezone.utc)
    assert ended_since({"status": {"conditions": [ended]}}, now) == 40
    assert ended_since(load("Executing"), now) is None and ended_since(None, now) is None


def test_a_cluster_out_of_reach_means_the_first_attempt():
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }
    assert CacheLook("c", "n", json.dumps(config)).attempt("m", R1) == 1
