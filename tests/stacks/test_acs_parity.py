"""docs/acs-parity.md and what the ACS stack renders, held together: each field of the guide is as here, or is a row."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from local.paths import ROOT
from ops.render import render
from stacks.stackfile import read

DOCUMENT = ROOT / "docs" / "acs-parity.md"
GUIDE: dict[str, dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "acs-guide.json").read_text())["objects"]
GROUP = "LeaderWorkerSet/deepseek-r1-671b-fp8-distrubution"
# The stack file as it stands, and what each variant says otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    "fluid": {},
    "volume": {"cache": {"engine": "none"}},
    "rdma": {"cloud": {"rdma": True}},
}
# The guide's object → the variant that has its like, and how that one's kind and name begin.
HERE = {
    "Secret/oss-secret": ("volume", "Secret/deepseek-r1-volume-key"),
    "PersistentVolume/llm-model": ("volume", "PersistentVolume/"),
    "PersistentVolumeClaim/llm-model": ("volume", "PersistentVolumeClaim/"),
    "Secret/mysecret": ("fluid", "Secret/deepseek-r1-cache-key"),
    "Dataset/deepseek": ("fluid", "Dataset/"),
    "JindoRuntime/deepseek": ("fluid", "JindoRuntime/"),
    "DataLoad/deepseek": ("fluid", "DataLoad/"),
    GROUP: ("volume", "LeaderWorkerSet/"),
    f"{GROUP} with Fluid": ("fluid", "LeaderWorkerSet/"),
    f"{GROUP} with RDMA": ("rdma", "LeaderWorkerSet/"),
    "Service/ds-leader": ("fluid", "Service/ds-leader"),
}
# Elements of lists that go by another name here.
RENAMED = {
    "[deepseek-r1-671b-leader]": "[vllm]",
    "[deepseek-r1-671b-worker]": "[vllm]",
    "[llm-model]": "[weights]",
    "[deepseek]": "[deepseek-r1]",
}
COLUMNS = ["object", "field", "the guide", "here", "why"]
ABSENT = "—"


@dataclass(frozen=True)
class Difference:
    """A field of the guide that is rendered otherwise. `here` is None where nothing is; `ours` are all fields there."""

    object: str
    field: str
    guide: str
    here: str | None
    ours: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A row of the document; `*` in an object or a field stands for anything."""

    objects: tuple[str, ...]
    fields: tuple[str, ...]
    guide: tuple[str, ...]
    here: tuple[str, ...]
    why: str

    def covers(self, found: Difference) -> bool:
        """Whether the row is about this field."""
        pairs = ((self.objects, found.object), (self.fields, found.field))
        return all(any(fits(pattern, text) for pattern in patterns) for patterns, text in pairs)


@functools.cache
def fits(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def rows_of(document: str) -> list[Row]:
    rows = []
    for line in document.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells == COLUMNS or not line.strip("|- "):
            continue
        assert len(cells) == len(COLUMNS), line
        rows.append(Row(*(tuple(re.findall(f"`([^`]+)`|({ABSENT})", cell)) for cell in cells[:4]), cells[4]))
    return [
        replace(
            row, **{name: tuple(map("".join, getattr(row, name))) for name in ("objects", "fields", "guide", "here")}
        )
        for row in rows
    ]


def flat(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf with its path, as the guide's facts have them: list elements by name, `args` by flag."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from flat(below, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        words = by_flag(value) if at.endswith(".args") else value
        for i, below in words.items() if isinstance(words, dict) else enumerate(words):
            name = below.get("containerPort", below.get("name", i)) if isinstance(below, dict) else i
            yield from flat(below, f"{at}[{name}]")
    else:
        yield at, text(value)


def by_flag(words: list[str]) -> dict[str | int, Any]:
    found: dict[str | int, Any] = {}
    for i, word in enumerate(words):
        after = words[i + 1] if i + 1 < len(words) else "--"
        if word.startswith("--"):
            found[word] = True if after.startswith("--") else after
        elif i == 0 or not words[i - 1].startswith("--"):
            found[i] = word
    return found


def text(value: Any) -> str:
    """A value as the document writes it. Kubernetes reads a quantity alike as a number and as text."""
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def rendered(variant: str) -> dict[str, dict[str, str]]:
    """Kind/name to fields, of every object of the variant."""
    file = read(ROOT / "Pulumi.acs.yaml")
    raw = {key: VARIANTS[variant].get(key, value) for key, value in file.raw.items()}
    raw["cloud"] = file.raw["cloud"] | VARIANTS[variant].get("cloud", {})
    objects = render(replace(file, raw=raw), "acs")
    return {f"{each['kind']}/{each['metadata']['name']}": dict(flat(each)) for each in objects}


def differences() -> list[Difference]:
    found = []
    for name, facts in GUIDE.items():
        variant, beginning = HERE[name]
        (ours,) = (fields for key, fields in rendered(variant).items() if key.startswith(beginning))
        for field, value in facts.items():
            path = field
            for theirs, called in RENAMED.items():
                path = path.replace(theirs, called)
            if ours.get(path) != text(value):
                found.append(Difference(name, field, text(value), ours.get(path), ours))
    return found


def complaints(found: list[Difference], rows: list[Row]) -> list[str]:
    """Where document and rendering part."""
    said = []
    for each in found:
        count = sum(row.covers(each) for row in rows)
        if count != 1:
            said.append(f"{each.object} {each.field}: `{each.guide}`, here `{each.here}`: {count} rows instead of one")
    for row in rows:
        mine, called = [each for each in found if row.covers(each)], f"{row.objects} {row.fields}"
        guide = {each.guide for each in mine}
        here = {each.here for each in mine if each.here is not None}
        instead = [cell for cell in row.here if cell not in here]
        gone = [each for each in mine if each.here is None]
        if not mine:
            said.append(f"{called}: differs in nothing")
        elif set(row.guide) != guide:
            said.append(f"{called}: the guide has {guide}")
        elif here - set(row.here) or bool(instead) != bool(gone) or not all(is_instead(cell, gone) for cell in instead):
            said.append(f"{called}: here it is {here}" + (f" or absent: {[each.field for each in gone]}" * bool(gone)))
        if not row.why:
            said.append(f"{called}: no reason")
    return said


def is_instead(cell: str, gone: list[Difference]) -> bool:
    """Whether the cell says of absent fields that they are absent, or, as `path: value`, where they have gone."""
    path, _, value = cell.rpartition(": ")
    return cell == ABSENT or any(
        fits(path, field) and is_so == value for each in gone for field, is_so in each.ours.items()
    )


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return rows_of(DOCUMENT.read_text())


def test_every_field_of_the_guide_is_rendered_alike_or_is_a_true_row_and_every_row_is_needed(rows: list[Row]):
    said = complaints(differences(), rows)
    assert not said, "\n".join(said)


def test_every_object_of_the_guide_has_its_like_here_and_every_renaming_is_used():
    assert HERE.keys() == GUIDE.keys()
    fields = [field for facts in GUIDE.values() for field in facts]
    assert all(any(theirs in field for field in fields) for theirs in RENAMED)


def test_a_changed_value_is_noticed(rows: list[Row]):
    found = differences()
    for i, each in enumerate(found):
        other = [*found[:i], replace(each, here="otherwise"), *found[i + 1 :]]
        assert complaints(other, rows), each


def test_a_new_difference_is_noticed(rows: list[Row]):
    new = Difference("Service/ds-leader", "spec.type", "ClusterIP", "LoadBalancer", {})
    assert complaints([*differences(), new], rows) == [
        "Service/ds-leader spec.type: `ClusterIP`, here `LoadBalancer`: 0 rows instead of one"
    ]


def test_a_missing_row_a_stale_row_and_one_without_a_reason_are_noticed(rows: list[Row]):
    found = differences()
    for i, row in enumerate(rows):
        assert complaints(found, [*rows[:i], *rows[i + 1 :]]), row
        assert complaints(found, [*rows[:i], replace(row, why=""), *rows[i + 1 :]]), row
        assert complaints(found, [*rows[:i], replace(row, guide=("other",)), *rows[i + 1 :]]), row
        assert complaints(found, [*rows[:i], replace(row, here=("other",)), *rows[i + 1 :]]), row
    stale = Row(("Service/*",), ("spec.type",), ("ClusterIP",), (ABSENT,), "none")
    assert complaints(found, [*rows, stale]) == ["('Service/*',) ('spec.type',): differs in nothing"]
