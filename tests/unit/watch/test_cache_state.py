"""When a load counts as incomplete, and when the next `up` loads again."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timezone
from typing import Any

import pulumi
import pytest

from standins.fluid_model import bytes_size
from watch.cache_state import CacheReader, attempt, doubt, ended_since, read_size, shortfall

GIB = 1024**3
R1 = 688586727753


def files(cached: str | None, there: str = "641.30GiB", room: str = "840.00GiB") -> dict[str, Any]:
    states = {"cacheCapacity": room} | ({} if cached is None else {"cached": cached})
    return {"metadata": {"name": "m"}, "status": {"ufsTotal": there, "cacheStates": states}}


def load(phase: str | None, live: str | None = None) -> dict[str, Any]:
    annotations = {} if live is None else {"modelserve.dev/attempt": live}
    return {"metadata": {"annotations": annotations}, "status": {"phase": phase} if phase else {}}


@pytest.mark.parametrize("amount", [0, 1023, R1, R1 + 5_000_000, 2 * 1024**4 + 10**9])
def test_a_size_stands_for_all_that_its_rounding_may_hide(amount):
    size = read_size(bytes_size(amount))
    assert size is not None and size.least <= amount <= size.most


@pytest.mark.parametrize("text", ["[Calculating]", "", None, "641.30"])
def test_what_is_no_size_is_none(text):
    assert read_size(text) is None


@pytest.mark.parametrize(
    ("cached", "there"),
    [("641.30GiB", "641.30GiB"), ("641.92GiB", "641.30GiB"), ("56.89GiB", "56.89GiB"), ("0.99TiB", "1018.00GiB")],
)
def test_a_cache_that_holds_what_the_bucket_holds_lacks_nothing_whatever_the_plan_counts_with(cached, there):
    assert shortfall(files(cached, there)) is None


@pytest.mark.parametrize(("cached", "there"), [(None, "641.30GiB"), ("641.30GiB", "[Calculating]"), ("1.00GiB", "")])
def test_what_fluid_does_not_say_is_not_held_against_the_cache(cached, there):
    assert shortfall(files(cached, there)) is None


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        (files("320.65GiB"), ("320.65GiB of the bucket's 641.30GiB", "`kubectl describe dataset m`", "loads again")),
        (files("641.28GiB"), ("641.28GiB of the bucket's 641.30GiB",)),
        (files("0.00B", there="0.00B"), ("held 0.00B there: look at what was synced, and at the prefix", "--replace")),
        (files("0.00B", there=""), ("0.00B of the bucket's unknown bytes", "loads again")),
        (files("500.00GiB", room="600.00GiB"), ("the workers hold 600.00GiB: write more cache.workers",)),
    ],
)
def test_a_short_cache_is_told_with_both_numbers_and_where_to_look(dataset, parts):
    said = shortfall(dataset)
    assert said is not None and all(part in said for part in parts), said


def test_a_bucket_that_holds_less_than_the_plan_counts_with_is_doubted_and_not_refused():
    small = files("60.80GiB", "60.80GiB")
    said = doubt(small, 73862676000)
    assert said is not None and "60.80GiB" in said and "68.79GiB" in said and "fileBytes" in said
    assert shortfall(small) is None and attempt(load("Complete"), small) == 1
    assert doubt(files("641.30GiB"), R1) is None and doubt(files(None, "[Calculating]"), R1) is None


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
    assert attempt(live, dataset) == next_one


def ask(monkeypatch: pytest.MonkeyPatch, states: list[Any], expected: int = R1) -> tuple[str | None, float, list[str]]:
    """What is lacking after these looks, of which the last one stays; for how long it waited, and its warnings."""
    look, slept, warned = CacheReader("c", "n", None), [0.0], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(look, "_read", lambda plural, name: states.pop(0) if len(states) > 1 else states[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(pulumi.log, "warn", warned.append)
    return asyncio.run(look.shortfall("m", expected)()), sum(slept), warned


def test_cache_states_that_are_late_are_waited_for(monkeypatch: pytest.MonkeyPatch):
    late = [files("0.00B"), files("320.65GiB"), files("641.30GiB", "[Calculating]"), files("641.30GiB")]
    lacking, waited, warned = ask(monkeypatch, late)
    assert lacking is None and 0 < waited < 45 and warned == []


def test_patience_with_a_short_cache_ends_after_a_few_of_fluids_sync_periods(monkeypatch: pytest.MonkeyPatch):
    lacking, waited, warned = ask(monkeypatch, [files("320.65GiB")])
    assert lacking is not None and "320.65GiB" in lacking and 45 <= waited <= 50 and warned == []


@pytest.mark.parametrize(
    ("state", "why"),
    [(None, "no answer"), (files("9.00GiB", ""), "Fluid does not say"), (files("9.00GiB", "9.00GiB"), "plan counts")],
)
def test_what_is_unknown_or_doubted_is_one_warning_and_no_refusal(monkeypatch: pytest.MonkeyPatch, state, why):
    lacking, _, warned = ask(monkeypatch, [state])
    assert lacking is None and len(warned) == 1 and why in warned[0]


def test_a_load_that_has_just_ended_is_not_judged_by_a_cache_state_from_before():
    assert attempt(load("Complete"), files("320.65GiB"), settled=False) == 1
    assert attempt(load("Failed"), files("0.00B"), settled=False) == 2
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
    assert CacheReader("c", "n", json.dumps(config)).attempt("m") == 1
