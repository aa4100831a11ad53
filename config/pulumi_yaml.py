"""Reads YAML as Pulumi's engine reads a stack file and hands it to the program, which differs from Python's YAML.

The engine reads the file with gopkg.in/yaml.v3 (v3.0.1, `resolve.go`), writes and reads it once more (sdk v3.250.0,
`workspace/loaders.go`, LoadProjectStackBytes), turns keys and times into text (`resource/config/object.go`,
unmarshalObject), and hands it over as JSON. tests/rehearsal/test_pulumi_yaml.py compares with the engine itself.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from planning.problems import Problem

Place = tuple[str, ...]

_PLAIN, _MERGE = "tag:modelserve.dev,2026:plain", "tag:yaml.org,2002:merge"
_TEXT, _MAP, _LIST = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((f"{sign}.{word}" for sign in ("", "+") for word in ("inf", "Inf", "INF")), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
# Go accepts a sign before the prefix (strconv.ParseInt, base 0); yaml.v3 also accepts one after 0b and 0o.
_WHOLE = [
    (re.compile(r"([+-]?)0[xX]([0-9a-fA-F]+)"), 16),
    (re.compile(r"([+-]?)0[bB]([01]+)"), 2),
    (re.compile(r"([+-]?)0[oO]?([0-7]+)"), 8),
    (re.compile(r"0b([+-])([01]+)"), 2),
    (re.compile(r"0o([+-])([0-7]+)"), 8),
    (re.compile(r"([+-]?)(0|[1-9][0-9]*)"), 10),
]
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CLOCK = r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]+))?"
_TIME = re.compile(
    rf"([0-9]{{4}})-([0-9]{{1,2}})-([0-9]{{1,2}})(?:[Tt]{_CLOCK}(Z|[+-][0-9]{{2}}:[0-9]{{2}})| {_CLOCK})?"
)
# From here on encoding/json writes exponents, and Python reads a number with an exponent as a float.
_EXPONENTS_FROM = 1e21
# More than any stack file or kubeconfig needs. A larger one is a mistake, or an attack on the reader.
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 2**20, 20_000, 60


class UnreadableError(Exception):
    """The file cannot be read at all: no file, no text, no YAML. `str()` is one line, without the file's name."""

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {why}" if line else why)


@dataclass
class Document:
    """What the program would get, and what the engine would refuse or lose on the way, by path in the file."""

    value: Any = None
    problems: list[tuple[Place, Problem]] = field(default_factory=list)
    _values: int = 0

    def count(self, node: yaml.Node, depth: int, values: int = 1) -> None:
        """Count values against the limits: with aliases, a few lines can stand for any number of values."""
        self._values += values
        if self._values > _MOST_VALUES:
            raise UnreadableError(f"has more than {_MOST_VALUES} values, including those that aliases repeat")
        if depth > _DEEPEST:
            raise UnreadableError(f"nests deeper than {_DEEPEST} maps and lists", node.start_mark.line + 1)


def read_file(path: Path) -> Document:
    """The first document of a file. Raises UnreadableError."""
    try:
        if not path.is_file():
            raise UnreadableError("is not a file" if path.exists() else "no such file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from None
    except ValueError:  # a NUL in its name
        raise UnreadableError("no such file") from None
    if len(content) > _MOST_BYTES:
        raise UnreadableError(f"is larger than {_MOST_BYTES >> 20} MiB")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableError("is UTF-16 text; save it as UTF-8")
    try:
        return read(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UnreadableError("is not UTF-8 text; save it as UTF-8", content.count(b"\n", 0, error.start) + 1) from None


def read(text: str) -> Document:
    """The first document of a text. Raises UnreadableError."""
    try:
        _require_small(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        character, line = chr(int(error.character)), text.count("\n", 0, int(error.position)) + 1
        why = f"has the control character {character.encode('unicode_escape').decode()} in it; remove it"
        raise UnreadableError(why, line) from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        raise UnreadableError(f"is not YAML: {' '.join(problem.split())}", mark.line + 1 if mark else None) from None
    document = Document()
    if root is not None:
        document.value = _value(root, (), document, frozenset())
    return document


def _require_small(text: str) -> None:
    """Refuse deep nesting before the loader builds nodes, which recurses in C."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else None
                raise UnreadableError(f"nests deeper than {_DEEPEST} maps and lists", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Leaves unquoted text uninterpreted, so that `plain` decides what it means."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _TEXT
        return _MAP if kind is yaml.MappingNode else _LIST


def _value(node: yaml.Node, path: Place, document: Document, above: frozenset[int]) -> Any:
    def refuse(value: str, why: str, instead: str) -> None:
        document.problems.append((path, Problem("", value, why, instead)))

    document.count(node, len(above))
    if id(node) in above:
        refuse("", "contains itself", "write it out")
        return None
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
        return {key: _value(below, (*path, key), document, above) for key, below in _pairs(node, path, document, above)}
    if isinstance(node, yaml.SequenceNode) and node.tag == _LIST:
        return [_value(below, path, document, above) for below in node.value]
    if not isinstance(node, yaml.ScalarNode) or node.tag not in (_PLAIN, _TEXT):
        refuse("", f"has the YAML tag {node.tag.removeprefix('tag:yaml.org,2002:')}", "leave it out")
        return None
    value = plain(node.value) if node.tag == _PLAIN else node.value
    if isinstance(value, float) and not math.isfinite(value):
        refuse(node.value, "is not a number that the engine can hand over", "write another")
        return None
    return _handed_over(value) if isinstance(value, float) else value


def _pairs(
    node: yaml.MappingNode, path: Place, document: Document, above: frozenset[int]
) -> Iterator[tuple[str, yaml.Node]]:
    """Keys as text, each once. A map's own keys come before those of a merge (`<<`)."""
    entries: dict[str, tuple[int, yaml.Node]] = {}
    merged: list[yaml.Node] = []
    for key, below in node.value:
        line = key.start_mark.line + 1
        if key.tag == _PLAIN and key.value == "<<":
            merged += below.value if isinstance(below, yaml.SequenceNode) else [below]
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_PLAIN, _TEXT):
            why = f"has a key at line {line} that is not text"
            document.problems.append((path, Problem("", "", why, "write a name")))
            continue
        name = plain(key.value) if key.tag == _PLAIN else key.value
        # Below the sections, the engine turns a whole number into text.
        text = str(name) if type(name) is int and len(path) > 1 else key.value
        if (text != name and type(name) is not int) or (len(path) < 2 and not isinstance(name, str)):
            document.problems.append(((*path, text), Problem("", "", "is not text", "put it in quotes")))
        if text in entries:
            why = f"is given twice, at lines {entries[text][0]} and {line}"
            document.problems.append(((*path, text), Problem("", "", why, "keep one")))
        entries[text] = (line, below)
    for merge in merged:
        document.count(merge, len(above), 1 + len(merge.value))
        if not isinstance(merge, yaml.MappingNode) or id(merge) in above:
            why = "merges something that is not a map"
            document.problems.append((path, Problem("", "", why, "name a map after <<")))
            continue
        for text, below in _pairs(merge, path, document, above | {id(merge)}):
            entries.setdefault(text, (0, below))
    yield from ((text, below) for text, (_, below) in entries.items())


def plain(text: str) -> Any:
    """What unquoted text means to yaml.v3. A time is already turned into the engine's text."""
    if text in _WORDS:
        return _WORDS[text]
    if text.startswith("."):
        return _float(text, text)
    if not re.match(r"[-+0-9]", text):
        return text
    if (time := _time(text)) is not None:
        return time
    digits = text.replace("_", "")
    for pattern, base in _WHOLE:
        # To Go, more digits than 64 bits can have are not a whole number; to Python they are an error.
        if (match := pattern.fullmatch(digits)) and len(match[2].lstrip("0")) <= 64:
            value = int(match[1] + match[2], base)
            if -(2**63) <= value < (2**63 if match[1] else 2**64):
                # On the way through JSON, the engine has only signed numbers or floats.
                return value if value < 2**63 else float(value)
    return _float(digits, text)


def _float(digits: str, text: str) -> float | str:
    """The number, or the text itself: to Go, a number that is too large is text."""
    value = float(digits) if _FLOAT.fullmatch(digits) else math.inf
    return text if math.isinf(value) else value


def _handed_over(value: float) -> float | int:
    """The number as it arrives through JSON: `8.0` arrives as 8, with the digits that Go writes."""
    return int(Decimal(repr(value))) if value.is_integer() and abs(value) < _EXPONENTS_FROM else value


def _time(text: str) -> str | None:
    """A time as Go prints it, with the machine's own zone by name; None if the text is not a time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, *clock = match.groups()
    hour, minute, second, fraction, zone = clock[:5] if clock[4] else (*clock[5:], None)
    nano = (fraction or "")[:9].rstrip("0")
    try:
        moment = datetime(*(int(part or 0) for part in (year, month, day, hour, minute, second)))  # type: ignore[arg-type]
    except ValueError:
        return None
    name, offset = "UTC", "+0000"
    if zone and zone not in ("Z", "+00:00", "-00:00"):
        apart = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:])) * (-1 if zone[0] == "-" else 1)
        here = moment.replace(tzinfo=timezone(apart)).astimezone()
        offset = zone.replace(":", "")
        name = here.tzname() or offset if here.utcoffset() == apart else offset
    return f"{moment.isoformat(' ')}{'.' if nano else ''}{nano} {offset} {name}"
