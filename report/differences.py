"""What differs between two values, as paths and as lines of YAML: only the changed paths, and what leads to them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

_WIDTH = 110
_LONGEST = 200


class _Absent:
    """There is no value, which is not the same as null."""


ABSENT = _Absent()


def paths(old: Any, new: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any, Any]]:
    """Each leaf that differs: its path and both values, ABSENT for none. Items with names are matched by name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from paths(old.get(key, ABSENT), new.get(key, ABSENT), (*at, str(key)))
    elif (named := _named(old)) is not None and (others := _named(new)) is not None and (named or others):
        yield from paths(named, others, at)
    elif old != new:
        yield at, old, new


def lines(old: Any, new: Any) -> list[str]:
    """The same as a YAML diff: each line begins with `-`, `+`, or a space if it only leads to a change."""
    return [f"{sign}{text}" for sign, text in _tree(old, new, 0)]


def without(value: Any, patterns: Sequence[re.Pattern[str]], at: str = "") -> Any:
    """A value without what is at matching dotted paths; list items go by their position."""

    def kept(key: object) -> bool:
        return not any(pattern.fullmatch(f"{at}{key}") for pattern in patterns)

    if isinstance(value, Mapping):
        return {key: without(below, patterns, f"{at}{key}.") for key, below in value.items() if kept(key)}
    if isinstance(value, list):
        return [without(below, patterns, f"{at}{index}.") for index, below in enumerate(value) if kept(index)]
    return value


def _named(value: Any) -> dict[str, Any] | None:
    """A list of items that have names, as a map by name; None for any other value."""
    if not isinstance(value, list) or not all(isinstance(each, Mapping) and "name" in each for each in value):
        return None
    named = {str(each["name"]): {key: below for key, below in each.items() if key != "name"} for each in value}
    return named if len(named) == len(value) else None


def _tree(old: Any, new: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Lines of a change from one map, or list of named items, to another."""
    pad = "  " * depth
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key, ABSENT), new.get(key, ABSENT)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield " ", f"{pad}{key}:"
            yield from _tree(before, after, depth + 1)
        elif (named := _named(before)) and (others := _named(after)):
            yield " ", f"{pad}{key}:"
            yield from _items(named, others, depth)
        elif isinstance(before, list) and isinstance(after, list):
            yield " ", f"{pad}{key}:"
            yield from _list(before, after, pad)
        else:
            yield from _whole("-", {key: before}, pad)
            yield from _whole("+", {key: after}, pad)


def _items(old: Mapping[str, Any], new: Mapping[str, Any], depth: int) -> Iterator[tuple[str, str]]:
    pad = "  " * depth
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name, ABSENT), new.get(name, ABSENT)
        if before == after:
            continue
        if before is ABSENT or after is ABSENT:
            sign, there = ("+", after) if before is ABSENT else ("-", before)
            yield from _whole(sign, [{"name": name, **there}], pad)
        else:
            yield " ", f"{pad}- name: {name}"
            yield from _tree(before, after, depth + 1)


def _list(old: Sequence[Any], new: Sequence[Any], pad: str) -> Iterator[tuple[str, str]]:
    """The arguments that are removed from or added to an argument list, one line each."""
    before, after = ([_dumped([each]) for each in side] for side in (old, new))
    for tag, from_, to, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            if from_ and str(old[from_ - 1]).startswith("--"):  # the flag that this value belongs to
                yield " ", f"{pad}{before[from_ - 1]}"
            yield from (("-", f"{pad}{line}") for text in before[from_:to] for line in text.splitlines())
            yield from (("+", f"{pad}{line}") for text in after[start:end] for line in text.splitlines())


def _whole(sign: str, value: Any, pad: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and ABSENT in value.values():
        return
    yield from ((sign, f"{pad}{line}") for line in _dumped(value).splitlines())


def _dumped(value: Any) -> str:
    return yaml.safe_dump(_short(value), sort_keys=False, width=_WIDTH, allow_unicode=True).rstrip("\n")


def _short(value: Any) -> Any:
    """A value whose long texts, such as scripts, are replaced by their length."""
    if isinstance(value, str) and (len(value) > _LONGEST or value.count("\n") > 1):
        return f"({len(value)} characters)"
    if isinstance(value, Mapping):
        return {key: _short(below) for key, below in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value
