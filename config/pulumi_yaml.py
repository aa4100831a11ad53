"""YAML as Pulumi's engine reads a stack file and hands it to the program, which is not as Python's YAML reads it.

The engine reads it by gopkg.in/yaml.v3 (v3.0.1, `resolve.go`), writes and reads it once more (sdk v3.250.0,
`workspace/loaders.go`, LoadProjectStackBytes), makes text of keys and times (`resource/config/object.go`,
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
# Go takes a sign before the prefix (strconv.ParseInt, base 0); yaml.v3 takes one behind 0b and 0o as well.
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
# Of encoding/json: from here on it writes exponents, and Python reads what has one as no whole number.
_EXPONENTS_FROM = 1e21
# More than any stack file or kubeconfig has; what is larger is a mistake, or was made to keep a reader busy.
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 2**20, 20_000, 60


class UnreadableError(Exception):
    """It cannot be read at all: no file, no text, no YAML. `str()` is one line, without the file's name."""

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {why}" if line else why)


@dataclass
class Document:
    """What the program would get, and what the engine would refuse or lose on the way: keys are paths in the file."""

    value: Any = None
    problems: list[tuple[Place, Problem]] = field(default_factory=list)
    _values: int = 0

    def count(self, node: yaml.Node, depth: int, values: int = 1) -> None:
        """More values. Aliases let few lines stand for any number of them."""
        self._values += values
        if self._values > _MOST_VALUES:
            raise UnreadableError(f"has more than {_MOST_VALUES} values, those included that aliases repeat")
        if depth > _DEEPEST:
            raise UnreadableError(f"nests deeper than {_DEEPEST} maps and lists", node.start_mark.line + 1)


def read_file(path: Path) -> Document:
    """The first document of a file. Raises UnreadableError."""
    try:
        if not path.is_file():
            raise UnreadableError("is not a file" if path.exists() else "no such file")
        with path.open("rb") as file:
            given = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from None
    except ValueError:  # a NUL in its name
        raise UnreadableError("no such file") from None
    if len(given) > _MOST_BYTES:
        raise UnreadableError(f"is larger than {_MOST_BYTES >> 20} MiB")
    if given.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableError("is UTF-16 text; save it as UTF-8")
    try:
        return read(given.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UnreadableError("is not UTF-8 text; save it as UTF-8", given.count(b"\n", 0, error.start) + 1) from None


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
        why = f"has the control character {character.encode('unicode_escape').decode()} in it; leave that out"
        raise UnreadableError(why, line) from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        raise UnreadableError(f"is not YAML: {' '.join(problem.split())}", mark.line + 1 if mark else None) from None
    found = Document()
    if root is not None:
        found.value = _value(root, (), found, frozenset())
    return found


def _require_small(text: str) -> None:
    """Before nodes are made of it, which recurses in C."""
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
    """Leaves it to us what an unquoted text means."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _TEXT
        return _MAP if kind is yaml.MappingNode else _LIST


def _value(node: yaml.Node, path: Place, found: Document, above: frozenset[int]) -> Any:
    def refuse(value: str, why: str, instead: str) -> None:
        found.problems.append((path, Problem("", value, why, instead)))

    found.count(node, len(above))
    if id(node) in above:
        refuse("", "contains itself", "write it out")
        return None
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
        return {key: _value(below, (*path, key), found, above) for key, below in _pairs(node, path, found, above)}
    if isinstance(node, yaml.SequenceNode) and node.tag == _LIST:
        return [_value(below, path, found, above) for below in node.value]
    if not isinstance(node, yaml.ScalarNode) or node.tag not in (_PLAIN, _TEXT):
        refuse("", f"has the YAML tag {node.tag.removeprefix('tag:yaml.org,2002:')}", "leave it out")
        return None
    value = plain(node.value) if node.tag == _PLAIN else node.value
    if isinstance(value, float) and not math.isfinite(value):
        refuse(node.value, "is no number that the engine can hand over", "write another")
        return None
    return _handed_over(value) if isinstance(value, float) else value


def _pairs(
    node: yaml.MappingNode, path: Place, found: Document, above: frozenset[int]
) -> Iterator[tuple[str, yaml.Node]]:
    """Keys as text, each once; those of a merge (`<<`) where the map has none of its own."""
    own: dict[str, tuple[int, yaml.Node]] = {}
    merged: list[yaml.Node] = []
    for key, below in node.value:
        line = key.start_mark.line + 1
        if key.tag == _PLAIN and key.value == "<<":
            merged += below.value if isinstance(below, yaml.SequenceNode) else [below]
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_PLAIN, _TEXT):
            found.problems.append((path, Problem("", "", f"has a key at line {line} that is no text", "write a name")))
            continue
        name = plain(key.value) if key.tag == _PLAIN else key.value
        # Below the sections the engine makes text of a whole number.
        text = str(name) if type(name) is int and len(path) > 1 else key.value
        if (text != name and type(name) is not int) or (len(path) < 2 and not isinstance(name, str)):
            found.problems.append(((*path, text), Problem("", "", "is no text", "put it in quotes")))
        if text in own:
            why = f"is given twice, at lines {own[text][0]} and {line}"
            found.problems.append(((*path, text), Problem("", "", why, "keep one")))
        own[text] = (line, below)
    for each in merged:
        found.count(each, len(above), 1 + len(each.value))
        if not isinstance(each, yaml.MappingNode) or id(each) in above:
            found.problems.append((path, Problem("", "", "merges what is no map", "name a map after <<")))
            continue
        for text, below in _pairs(each, path, found, above | {id(each)}):
            own.setdefault(text, (0, below))
    yield from ((text, below) for text, (_, below) in own.items())


def plain(text: str) -> Any:
    """What an unquoted text means to yaml.v3; a time is already the text that the engine makes of it."""
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
        # More digits than 64 bits may have are no whole number to Go, and an error to Python.
        if (match := pattern.fullmatch(digits)) and len(match[2].lstrip("0")) <= 64:
            value = int(match[1] + match[2], base)
            if -(2**63) <= value < (2**63 if match[1] else 2**64):
                # On its way through JSON the engine knows signed numbers alone, or floats.
                return value if value < 2**63 else float(value)
    return _float(digits, text)


def _float(digits: str, text: str) -> float | str:
    """Too large a number is text to Go."""
    value = float(digits) if _FLOAT.fullmatch(digits) else math.inf
    return text if math.isinf(value) else value


def _handed_over(value: float) -> float | int:
    """JSON has no other kind of number: `8.0` comes as 8, with the digits that Go writes."""
    return int(Decimal(repr(value))) if value.is_integer() and abs(value) < _EXPONENTS_FROM else value


def _time(text: str) -> str | None:
    """A time as Go prints it, with the machine's own zone by its name; None for what is none."""
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
