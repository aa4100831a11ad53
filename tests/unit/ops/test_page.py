"""The HTML page: complete, self-contained, well-formed, and true to the plan's numbers."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from ops.page import page
from planning.cost import Prices
from planning.planner import Ask, plan
from planning.throughput import Load

VOID = {"meta"}
R1 = Ask("deepseek-r1", "H20-96", 8, 2, 8, 2)
PRICED = Ask("deepseek-r1", "H20-96", 8, 2, 8, 2, prices=Prices("CNY", 10.5, per_gib_month=0.12, as_of="2026-11-01"))
BARELY = Ask("deepseek-r1", "H20-96", 8, 1, 8, 1, utilization=0.95)
TOO_SMALL = Ask("deepseek-r1", "H800-80", 8, 1, 8, 1)
TOO_LONG = Ask("llama-3.3-70b-instruct", "A100-80", 2, 1, 2, 1, max_model_len=131072)
NO_START = Ask("llama-3.3-70b-instruct", "A100-80", 2, 1, 2, 1, utilization=0.99, engine_version="0.8.5")
OLD = Ask("qwen3-32b", "L20-48", 4, 1, 4, 1, engine_version="0.8.5", max_model_len=40960)
RANKS = Ask("qwen3-235b-a22b", "H20-96", 8, 1, 4, 1, data=2, expert_parallel=True)
ASKS = {
    "two nodes": R1,
    "priced": PRICED,
    "barely": BARELY,
    "too small": TOO_SMALL,
    "too long": TOO_LONG,
    "no start": NO_START,
    "old engine": OLD,
    "data ranks": RANKS,
}


class Reader(HTMLParser):
    """Fails on tags that do not close in order; keeps every start tag and the text that is to be seen."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(document)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not {"head", "title", "desc"} & set(self.open):  # what everyone sees, not only a screen reader
            self.words.append(data)


def shown(asked: Ask) -> tuple[dict[str, Any], Reader]:
    found = plan(asked).to_json()
    return found, Reader(page("a stack", {"ds": found}))


def bars(document: str) -> list[list[tuple[str, float, float]]]:
    """(class, x, width) in per cent of every rectangle, of each stage's drawing."""
    figures = re.findall(r'<figure class="stage">.*?</figure>', document)
    number = r'"([-\d.]+)%"'
    return [
        [
            (kind, float(x), float(width))
            for kind, x, width in re.findall(rf'<rect class="([\w-]+)" x={number} y="\d+" width={number}', figure)
        ]
        for figure in figures
    ]


@pytest.mark.parametrize("asked", ASKS.values(), ids=ASKS)
def test_the_page_is_well_formed_and_its_ids_are_there_once(asked: Ask) -> None:
    plans = {"first": plan(asked).to_json(), "second": plan(R1).to_json()}
    document = page("a stack", plans)
    assert document.startswith("<!DOCTYPE html>")
    tags = Reader(document).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 10
    wanted = [ref for _, attrs in tags for ref in (attrs.get("aria-labelledby") or "").split()]
    assert wanted and set(wanted) <= set(ids)


def test_nothing_is_fetched_from_outside() -> None:
    document = page("a stack", {name: plan(asked).to_json() for name, asked in ASKS.items()})
    assert "https://github.com" in document  # as words, in a source
    for tag, attrs in Reader(document).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base"}
        assert not {"src", "srcset", "xlink:href", "data", "action", "style"} & set(attrs)
        assert (attrs.get("href") or "#").startswith("#")
        assert not [name for name in attrs if name.startswith("on")]
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", document))
    assert "@import" not in document and "default-src 'none'" in document


def test_it_has_a_dark_and_a_narrow_form() -> None:
    document = page("a stack", {"ds": plan(R1).to_json()})
    assert "prefers-color-scheme: dark" in document and "width=device-width" in document
    assert re.search(r"@media \(max-width: [\d.]+rem\)", document)


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours written as #rrggbb."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    high, low = sorted((light(one), light(other)), reverse=True)
    return high / low


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_and_bars_stand_out_from_what_is_behind_them(mode: int) -> None:
    css = re.findall(r":root \{(.*?)\}", page("a stack", {}), re.DOTALL)[mode]
    colour = {
        name: value if len(value) == 7 else "#" + "".join(2 * digit for digit in value[1:])
        for name, value in re.findall(r"--([\w-]+): (#\w+);", css)
    }
    for behind in ("surface", "ground"):
        for text in ("ink", "muted", "good", "bad", "warn"):
            assert contrast(colour[text], colour[behind]) >= 4.5, (text, behind)
    for bar in ("weights", "kv", "activation", "graphs", "non-torch"):
        assert contrast(colour["on"], colour[bar]) >= 4.5, bar
    for bar in ("weights", "kv", "activation", "graphs", "non-torch", "time", "rule"):
        assert contrast(colour[bar], colour["surface"]) >= 3, bar


@pytest.mark.parametrize("asked", ASKS.values(), ids=ASKS)
def test_every_stage_step_and_number_of_the_plan_is_shown(asked: Ask) -> None:
    found, reader = shown(asked)
    text = reader.text
    expected = [
        found["model"],
        found["gpu"],
        f"vLLM {found['engine_version']}",
        f"{found['kv_tokens']:,}",
        f"{found['kv_tokens_all']:,}",
        f"{found['max_model_len']:,}",
        f"{found['max_concurrency']:.2f}",
        f"{found['usable_gib']:.2f}",
        f"{found['utilization']:g}",
        *found["reasons"],
    ]
    for number, stage in enumerate(found["stages"]):
        expected += [f"Stage {number}", f"{stage['layers']} layers"]
        expected += [f"{abs(value):.2f}" for key, value in stage.items() if key.endswith("_gib")]
    for step in found["startup"]["steps"]:
        expected += [
            step["name"],
            step["source"],
            *(f"{step[key]:,.1f} s" for key in ("seconds", "start_seconds", "floor_seconds")),
        ]
        expected += [f"{step['bytes'] / 1e9:.1f} GB"] if step["bytes"] else []
    for seconds in (found["startup"]["first_token_seconds"], found["startup"]["floor_seconds"]):
        expected.append(f"{round(seconds) // 60} min {round(seconds) % 60} s")
    for other in found["alternatives"]:
        expected.append(
            f"{other['nodes']} {other['data']} {other['tensor']} {other['pipeline']} {other['kv_tokens']:,} "
            f"{other['max_model_len']:,}"
        )
    spaced = re.sub(r"\s+", " ", " ".join(word.strip() for word in reader.words if word.strip()))
    assert [words for words in expected if words not in text and words not in spaced] == []


@pytest.mark.parametrize("asked", ASKS.values(), ids=ASKS)
def test_the_bars_of_a_stage_add_up_to_its_budget_and_to_the_most_it_takes(asked: Ask) -> None:
    found = plan(asked).to_json()
    drawn = bars(page("a stack", {"ds": found}))
    assert len(drawn) == len(found["stages"])
    widest = max(found["usable_gib"], *(stage["peak_gib"] for stage in found["stages"]))
    for stage, rectangles in zip(found["stages"], drawn, strict=True):
        width = {kind: part for kind, _, part in rectangles}
        inside = ["weights", "non-torch", "activation", "kv", *(["graphs"] if stage["graphs_in_budget"] else [])]
        filled = sum(width[kind] for kind in inside)
        assert filled - width.get("over", 0) == pytest.approx(stage["budget_gib"] / widest * 100, abs=0.02)
        assert ("over" in width) == (stage["kv_gib"] < 0)
        assert width["weights"] == pytest.approx(stage["weights_gib"] / widest * 100, abs=0.01)
        assert width["card"] == pytest.approx(found["usable_gib"] / widest * 100, abs=0.01)
        stacked = [(x, part) for kind, x, part in rectangles if kind not in ("over", "card")]
        for (x, part), (following, _) in itertools.pairwise(stacked):
            assert x + part == pytest.approx(following, abs=0.02)
        assert sum(stacked[-1]) == pytest.approx(stage["peak_gib"] / widest * 100, abs=0.02)


def test_the_gantt_draws_each_step_where_it_begins_and_as_long_as_it_takes() -> None:
    found = plan(R1).to_json()["startup"]
    document = page("a stack", {"ds": plan(R1).to_json()})
    number = r'"([\d.]+)%"'
    drawn = re.findall(rf'<rect class="time( floor)?" x={number} y="\d+" width={number}', document)
    unit = 100 / found["first_token_seconds"]
    expected = [
        (floor, step["start_seconds"] * unit, step[key] * unit)
        for step in found["steps"]
        for floor, key in (("", "seconds"), (" floor", "floor_seconds"))
    ]
    assert [kind for kind, *_ in drawn] == [kind for kind, *_ in expected]
    for (_, x, width), (_, begin, long) in zip(drawn, expected, strict=True):
        assert (float(x), float(width)) == (pytest.approx(begin, abs=0.01), pytest.approx(long, abs=0.01))
    floor = re.search(rf'class="mark floor" x1={number}', document)
    assert floor and float(floor[1]) == pytest.approx(found["floor_seconds"] * unit, abs=0.01)


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        (R1, "Fits"),
        (BARELY, "Fits"),
        (TOO_SMALL, "Does not fit"),
        (TOO_LONG, "Does not fit"),
        (NO_START, "Does not start"),
    ],
)
def test_the_verdict_comes_first_in_words(asked: Ask, verdict: str) -> None:
    found, reader = shown(asked)
    assert reader.text.startswith(f"a stack {verdict} ds")
    assert f"<title>{verdict} · a stack</title>" in page("a stack", {"ds": found})
    assert ("What fits instead" in reader.text) == (verdict != "Fits")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (TOO_SMALL, "Weights and overhead exceed the budget by 15.5"),
        (TOO_LONG, "One request of 131,072 tokens does not fit into a KV cache of"),
        (NO_START, "GiB per GPU; 79.15 GiB are usable."),
    ],
)
def test_a_plan_that_does_not_work_says_what_is_too_much_before_any_number(asked: Ask, words: str) -> None:
    text = shown(asked)[1].text
    assert 0 < text.index(words) < text.index("KV tokens")


def test_several_services_are_listed_with_their_verdicts_before_the_first() -> None:
    plans = {
        "good": plan(R1).to_json(),
        "small": plan(TOO_SMALL).to_json(),
        "wrong": {"fits": False, "refusals": ["tensor 32: breaks a rule", "GPU X: unknown"]},
    }
    text = Reader(page("a stack", plans)).text
    assert text.startswith(
        "a stack 2 of 3 services cannot run as planned. Fits good Does not fit small Cannot be planned wrong Fits good"
    )
    assert text.endswith("Cannot be planned wrong tensor 32: breaks a rule GPU X: unknown")


def test_cost_is_unknown_without_prices_and_shown_with_them() -> None:
    assert "Cost Unknown: no price given." in shown(R1)[1].text
    found, reader = shown(PRICED)
    for words in (
        "At prices of 2026-11-01",
        "168.00 CNY",
        f"{found['cost']['cold_start']:.2f} CNY",
        f"{found['cost']['kept_per_hour']:.2f} CNY",
    ):
        assert words in reader.text
    some = {**found, "cost": {**found["cost"], "per_hour": None}}
    assert "an hour unknown" in Reader(page("a stack", {"ds": some})).text


LOADED = replace(PRICED, load=Load(3000, 1000, rate=40, tpot_seconds=0.2), replicas=2)


def test_speeds_are_shown_as_they_are_planned_with_the_replicas_that_the_load_needs() -> None:
    found, reader = shown(LOADED)
    speed = found["throughput"]
    assert [point["name"] for point in speed["points"]] == ["alone", "full", "load"]
    expected = [f"It needs {speed['load']['replicas_needed']} replicas", *speed["warnings"], *speed["reasons"]]
    for point in speed["points"]:
        tokens = point["output_tokens_per_second"], point["input_tokens_per_second"]
        expected += [f"{count:,.0f}" for count in tokens]
        expected += [
            f"{point['output_tokens_per_second_and_gpu']:,.1f}",
            f"{point['cost_per_million_output']:,.2f} CNY",
        ]
    assert speed["warnings"] and [words for words in expected if words not in reader.text] == []


def test_a_span_goes_from_the_least_to_the_most_and_its_dot_lies_where_it_is_expected() -> None:
    found, _ = shown(LOADED)
    document = page("a stack", {"ds": found})
    number = r'"([\d.]+)%"'
    lines = [(float(a), float(b)) for a, b in re.findall(rf'class="pace" x1={number} y1="24" x2={number}', document)]
    dots = [float(x) for x in re.findall(rf'class="pace dot" cx={number}', document)]
    points = found["throughput"]["points"]
    for key, begin in (("tpot_seconds", 0), ("ttft_seconds", len(points))):
        at = begin
        drawn = []
        for point in points:
            for place, end in zip((lines[at][0], dots[at], lines[at][1]), ("floor", "expected", "most"), strict=True):
                drawn.append((math.log10(point[key][end]), place))
            at += 1
        (low, left), (high, right) = min(drawn), max(drawn)
        for value, place in drawn:
            assert place == pytest.approx(left + (value - low) / (high - low) * (right - left), abs=0.02)


def test_of_unknown_speeds_the_page_says_why() -> None:
    found, reader = shown(OLD)
    assert found["throughput"]["points"] == [] and found["throughput"]["reasons"][0] in reader.text


@pytest.mark.parametrize("hostile", ['<script>alert("1")</script>', '"><img src=x onerror=y>', "a&amp;b' </style>"])
def test_text_from_outside_stays_text(hostile: str) -> None:
    found = plan(TOO_SMALL).to_json()
    steps = [{**step, "name": hostile, "source": hostile} for step in found["startup"]["steps"]]
    found |= {
        "model": hostile,
        "gpu": hostile,
        "engine_version": hostile,
        "reasons": [hostile],
        "startup": {**found["startup"], "steps": steps},
        "cost": {**found["cost"], "per_hour": 1.5, "currency": hostile, "as_of": hostile},
    }
    plans = {hostile: found, "wrong": {"fits": False, "refusals": [hostile]}}
    document = page(hostile, plans)
    reader = Reader(document)
    assert hostile not in document
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert document.count("</style>") == 1
    assert "".join(reader.words).count(hostile) > 12


def test_every_picture_has_a_title_a_description_and_a_table_with_its_numbers() -> None:
    reader = shown(R1)[1]
    pictures = [attrs for tag, attrs in reader.tags if tag == "svg"]
    named = [attrs for attrs in pictures if attrs.get("role") == "img"]
    assert all(attrs.get("role") == "img" or attrs.get("aria-hidden") == "true" for attrs in pictures)
    assert sum(tag == "title" for tag, _ in reader.tags) == len(named) + 1
    speeds = 2 * len(plan(R1).throughput.points)
    steps = len(plan(R1).startup.steps)
    assert sum(tag == "desc" for tag, _ in reader.tags) == len(named) == 2 + 1 + steps + speeds + 1
    for caption in (
        "GiB on each GPU",
        "The steps and where their numbers come from",
        "Speed and cost",
        "Requests at once",
    ):
        assert caption in reader.text


def test_the_table_of_requests_divides_the_tokens_by_the_length() -> None:
    found, reader = shown(R1)
    rows = re.search(r"Tokens of each Requests (.*?) Cost", reader.text)
    assert rows is not None
    cells = rows[1].split()
    lengths = [int(cell.replace(",", "")) for cell in cells[::2]]
    assert lengths == [1024, 4096, 16384, 65536, found["max_model_len"]]
    for length, count in zip(lengths, cells[1::2], strict=True):
        exact = found["kv_tokens"] / length
        assert count == (f"{exact:.2f}" if exact < 10 else f"{int(exact):,}")


@pytest.mark.parametrize("tokens", [0, 1, 16, 1023, 3000])
def test_a_tiny_cache_still_makes_a_page(tokens: int) -> None:
    found = plan(TOO_LONG).to_json() | {"kv_tokens": tokens, "max_concurrency": tokens / 131072}
    text = Reader(page("a stack", {"ds": found})).text
    assert ("not one request fits" in text) == (tokens == 0)
    assert ("131,072 asked for" in text) == (tokens > 0)
