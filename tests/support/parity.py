"""Compares a document of deviations with the rendering: each field of the original is rendered alike, or has a row.

Not here: the original, how its objects map to ours (`Parity` is given both), and the rendering.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ABSENT = "—"
Fields = Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """A field of the original that we render differently. `here` is None if we lack it; `ours` are all our fields."""

    object: str
    field: str
    theirs: str
    here: str | None
    ours: Fields


@dataclass(frozen=True)
class Row:
    """A row of the document; `*` in an object or a field stands for anything."""

    objects: tuple[str, ...]
    fields: tuple[str, ...]
    theirs: tuple[str, ...]
    here: tuple[str, ...]
    why: str

    def covers(self, found: Difference) -> bool:
        """Whether the row is about this field."""
        pairs = ((self.objects, found.object), (self.fields, found.field))
        return all(any(fits(pattern, text) for pattern in patterns) for patterns, text in pairs)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """One document and its original. `columns` are the headings of its tables, `objects` each object of the original
    with the values of its fields by path, None for a field that it lacks.

    `here` gives for each object the variant that renders its counterpart, and how the counterpart's kind and name
    begin. `rendered` gives the fields of every object of a variant, by kind and name. `renamed` are list elements that
    have another name here.
    """

    document: Path
    columns: Sequence[str]
    objects: Mapping[str, Mapping[str, Any]]
    here: Mapping[str, tuple[str, str]]
    rendered: Callable[[str], Mapping[str, Fields]]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """The rows of all tables."""
        found = []
        for line in self.document.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not line.startswith("|") or cells == list(self.columns) or not line.strip("|- "):
                continue
            assert len(cells) == len(self.columns), line
            quoted = [tuple(map("".join, re.findall(f"`([^`]+)`|({ABSENT})", cell))) for cell in cells[:4]]
            found.append(Row(*quoted, cells[4]))
        return found

    def differences(self) -> list[Difference]:
        """The fields of the original that we render differently."""
        found = []
        for name, facts in self.objects.items():
            variant, beginning = self.here[name]
            (ours,) = (fields for key, fields in self.rendered(variant).items() if key.startswith(beginning))
            for path, value in facts.items():
                mine = path
                for part, called in self.renamed.items():
                    mine = mine.replace(part, called)
                theirs, is_here = text(value), ours.get(mine)
                if is_here != (None if theirs == ABSENT else theirs):
                    found.append(Difference(name, path, theirs, is_here, ours))
        return found

    def unused(self) -> list[str]:
        """Objects without a counterpart, and renamings that match nothing."""
        paths = [path for facts in self.objects.values() for path in facts]
        idle = [theirs for theirs in self.renamed if not any(theirs in path for path in paths)]
        return [*(self.objects.keys() ^ self.here.keys()), *idle]


@functools.cache
def fits(pattern: str, text: str) -> bool:
    """Whether a pattern, in which `*` stands for anything, matches the text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def flat(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf with its path, written as in the original's facts: list elements by name, `args` by flag."""
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
    """A command line's values by flag; positional ones by index."""
    found: dict[str | int, Any] = {}
    for i, word in enumerate(words):
        after = words[i + 1] if i + 1 < len(words) else "--"
        if word.startswith("--"):
            found[word] = True if after.startswith("--") else after
        elif i == 0 or not words[i - 1].startswith("--"):
            found[i] = word
    return found


def text(value: Any) -> str:
    """A value as the document writes it; None for an absent one. Kubernetes accepts a quantity as a number or as text,
    so both are written alike."""
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else json.dumps(value)


def complaints(found: list[Difference], rows: list[Row]) -> list[str]:
    """Where the document and the rendering disagree."""
    said = []
    for each in found:
        count = sum(row.covers(each) for row in rows)
        if count != 1:
            said.append(f"{each.object} {each.field}: `{each.theirs}`, here `{each.here}`: {count} rows instead of one")
    for row in rows:
        mine, called = [each for each in found if row.covers(each)], f"{row.objects} {row.fields}"
        theirs = {each.theirs for each in mine}
        here = {each.here for each in mine if each.here is not None}
        instead = [cell for cell in row.here if cell not in here]
        gone = [each for each in mine if each.here is None]
        if not mine:
            said.append(f"{called}: differs in nothing")
        elif set(row.theirs) != theirs:
            said.append(f"{called}: the original has {theirs}")
        elif here - set(row.here) or bool(instead) != bool(gone) or not all(is_instead(cell, gone) for cell in instead):
            said.append(f"{called}: here it is {here}" + (f" or absent: {[each.field for each in gone]}" * bool(gone)))
        if not row.why:
            said.append(f"{called}: no reason")
    return said


def is_instead(cell: str, gone: list[Difference]) -> bool:
    """Whether the cell says that absent fields are absent, or, as `path: value`, which fields replace them."""
    path, _, value = cell.rpartition(": ")
    return cell == ABSENT or any(
        fits(path, field) and is_so == value for each in gone for field, is_so in each.ours.items()
    )
