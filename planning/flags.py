"""Which arguments of `vllm serve` a release takes, and with which values. Condensed from vLLM's own parser.

A release between two known ones is judged as the older one. A release newer than the catalog is not judged: unknown is
no reason to refuse. Values are checked against lists and kinds of numbers; the inside of JSON is left to vLLM.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from planning.catalog import entries, fact
from planning.engine import release_key

_LEAVE_OUT = "leave it out"
_NUMBERS = {
    "int": (re.compile(r"[+-]?\d[\d_]*"), "a whole number", "8"),
    "float": (re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"), "a number", "0.5"),
    "human": (re.compile(r"\+?\d[\d_]*|\d+(\.\d+)?[kmgt]|\d+[KMGT]"), "a whole number", "8192"),
}
# Small letters are decimal and may follow a fraction, capitals are binary (human_readable_int of vLLM's arg_utils.py).
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass
class Given:
    """One flag of an argument list, as written: `word` is the element at `index`, `values` are those after it."""

    index: int
    word: str
    values: list[str] = field(default_factory=list)
    value_indexes: list[int] = field(default_factory=list)

    @property
    def spelling(self) -> str:
        """The flag without its value and key, spelt with dashes."""
        if re.fullmatch(r"-O=?\w+", self.word):  # vLLM's parser takes the level without a space
            return "-O"
        return re.split(r"[=.]", self.word, maxsplit=1)[0].replace("_", "-")

    @property
    def key(self) -> str:
        """The key in `--flag.key`, empty if there is none."""
        return self.word.partition("=")[0].partition(".")[2]


def problem(argument: str, version: str) -> tuple[str, str] | None:
    """What that release finds wrong with one element of an argument list, and what to write instead; None if nothing.

    Elements that are not flags (values) are never wrong. `--flag=value`, `--flag.key`, underscores and aliases count as
    the flag.
    """
    release = _release(version)
    if release is None or not _is_flag(argument):
        return None
    name = Given(0, argument).spelling
    spans = [span for _, span in _spellings().get(name, ())]
    if not spans:
        near = difflib.get_close_matches(name, _spellings(), n=1, cutoff=0.7)
        return f"vLLM {version} has no such argument", f"did you mean {near[0]}?" if near else _LEAVE_OUT
    if any(within(release, span) for span in spans):
        return None
    firsts = [first for span in spans for first, _ in _ends(span)]
    first = min(firsts, key=release_key)
    if release_key(release) < release_key(first):
        return f"vLLM {version} does not know it yet: it came with {first}", "leave it out, or take a newer engine"
    lasts = [last for span in spans for _, last in _ends(span) if last]
    gone = max((last for last in lasts if release_key(last) < release_key(release)), key=release_key)
    return f"vLLM {version} dropped it: {gone} was the last with it, and the engine would exit at once", _LEAVE_OUT


def problems(
    arguments: Sequence[str], version: str, launcher: str | None = None, beside: Collection[str] = ()
) -> list[tuple[int, str, str]]:
    """Everything wrong with an argument list for that release, as (index of the element, why, what to write instead).

    The model's name or path may come first. Besides unknown flags it finds values that the release does not take,
    repeated flags, flags that exclude or need each other, and flags that the program's launcher sets. `launcher` (`ray`
    or `native`) adds what its workers refuse. Flags in `beside` may be given elsewhere: nothing misses them.
    """
    given_flags = parse(arguments)
    wrong = []
    for flag in given_flags:
        reason = _launchers(flag, launcher) or problem(flag.word, version)
        if reason:
            wrong.append((flag.index, *reason))
        else:
            wrong += _wrong_values(flag, given_flags, version)
    wrong += _twice(given_flags, version)
    wrong += _joint(given_flags, version, beside)
    return sorted(wrong)


def has(flag: str, version: str) -> bool:
    """Whether the release knows the flag. One newer than the catalog counts as its newest; an older one knows none."""
    release = _release(version, newest=True)
    return release is not None and _flag(flag, release) is not None


def since(flag: str) -> str:
    """The first release that knows the flag."""
    return min((first for first, _ in _ends(_entry(flag)["in"])), key=release_key)


def is_known(flag: str) -> bool:
    """Whether any release knows the flag."""
    return flag in _spellings()


def choices(flag: str, version: str) -> tuple[str, ...] | None:
    """The values that the release lists for the flag, sorted; None if it lists none or lacks the flag.

    Plugins may add values unless they are `enforced`.
    """
    release = _release(version, newest=True)
    name = release and _flag(flag, release)
    if not release or not name or not within(release, _entry(name).get("listed", _entry(name)["in"])):
        return None
    values = _entry(name).get("values")
    if values is None:
        return None
    return tuple(sorted(value for span, some in values.items() if within(release, span) for value in some))


def enforced(flag: str, version: str) -> bool:
    """Whether the release's parser takes only the values of `choices`."""
    release = _release(version, newest=True)
    name = release and _flag(flag, release)
    return bool(release and name and within(release, _entry(name).get("enforced", "")))


def parse(arguments: Sequence[str]) -> list[Given]:
    """The flags of an argument list with their values, in order. Words before the first flag are skipped."""
    parsed: list[Given] = []
    for index, word in enumerate(arguments):
        if _is_flag(word):
            _, equals, value = word.partition("=")
            parsed.append(Given(index, word, [value] if equals else [], [index] if equals else []))
        elif parsed:
            parsed[-1].values.append(word)
            parsed[-1].value_indexes.append(index)
    return parsed


def first(arguments: Sequence[str]) -> int:
    """The index of the first flag; the list's length if there is none."""
    return next((index for index, word in enumerate(arguments) if _is_flag(word)), len(arguments))


def number(text: object) -> int | None:
    """The whole number that vLLM reads in a value such as 8192, 25.6k (25600) or 8K (8192); None if it is not one."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = re.fullmatch(r"\+?([0-9_]{1,19}|[0-9]{1,15}\.[0-9]{1,15}(?=[kmgt]))([kmgtKMGT]?)", str(text).strip())
    return int(float(match[1].replace("_", "")) * _UNITS[match[2]]) if match else None


def canonical(spelling: str, version: str | None = None) -> str:
    """The long name of a flag, from any spelling of it; an unknown one is its own name.

    Without a version, and for a spelling that the release lacks, it is what any release means by it.
    """
    release = version and _release(version, newest=True)
    meanings = _spellings().get(spelling.replace("_", "-"), ())
    return (release and _flag(spelling, release)) or next((name for name, _ in meanings), spelling.replace("_", "-"))


def spellings(name: str) -> list[str]:
    """Every spelling of a flag in any release, the long name first; without its --no- form."""
    return [name, *_entry(name).get("aliases", {})]


def read(arguments: Sequence[str], version: str) -> dict[str, Any]:
    """What an argument list says, as that release reads it: the long name of each flag to its value.

    A value is the text as written, True without one, False for the --no- form, a list if there are several. A text that
    is a JSON object becomes one, and the keys of `--flag.key value` are merged into it. Does not judge: see `problems`.
    """
    said: dict[str, Any] = {}
    for flag in parse(arguments):
        name = canonical(flag.spelling, version)
        level = re.fullmatch(r"-O=?(\w+)", flag.word)
        if level:
            said[name] = level[1]
        elif flag.key:
            _merge(said, [name, *flag.key.removesuffix("+").split(".")], _plain(flag))
        elif not flag.values:
            said[name] = not flag.spelling.startswith("--no-") or name.startswith("--no-")
        else:
            values = [_structured(value) for value in flag.values]
            said[name] = values if len(values) > 1 else values[0]
    return said


def _plain(flag: Given) -> Any:
    """The value of `--flag.key`: JSON, a number that people write such as 80g, or text; `--flag.key+` makes a list."""
    if flag.key.endswith("+"):
        return ",".join(flag.values).split(",")
    text = flag.values[0] if flag.values else ""
    try:
        return json.loads(text)
    except ValueError:
        return text if (short := number(text)) is None else short


def _structured(text: str) -> Any:
    """The object in a JSON text; other texts as they are, also where the JSON is wrong."""
    try:
        return json.loads(text) if text.lstrip().startswith("{") else text
    except ValueError:
        return text


def _merge(into: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        below = into.get(key)
        into[key] = below if isinstance(below, dict) else {}
        into = into[key]
    into[path[-1]] = [*into[path[-1]], *value] if _lists(into.get(path[-1]), value) else value


def _lists(*values: object) -> bool:
    return all(isinstance(value, list) for value in values)


def value_problem(flag: str, value: str, version: str, arguments: Sequence[str] = ()) -> tuple[str, str] | None:
    """Why that release refuses this value of the flag beside `arguments`, and what to write instead."""
    word = Given(0, flag, [value], [0])
    wrong = _wrong_values(word, parse(arguments), version)
    return wrong[0][1:] if wrong else None


def _wrong_values(given: Given, others: Iterable[Given], version: str) -> list[tuple[int, str, str]]:
    release = _release(version)
    name = release and _flag(given.spelling, release)
    if not release or not name:
        return []
    entry, surplus = _entry(name), []
    if "switch" in entry and release_key(entry["switch"]) <= release_key(release):
        surplus = given.value_indexes
        because = f"{given.spelling} takes no value in vLLM {version}"
    elif not entry.get("any") and "switch" not in entry and given.spelling != "-O":
        if not given.values:
            return [(given.index, f"{name} needs a value", "write it as the next element")]
        surplus = given.value_indexes[1:]
        because = f"{name} takes one value"
    if surplus:
        return [(index, because, _LEAVE_OUT) for index in surplus]
    if given.key:
        return []
    kind = next((kind for kind, span in entry.get("number", {}).items() if within(release, span)), None)
    if kind is not None:
        pattern, words, example = _NUMBERS[kind]
        return [
            (index, f"vLLM {version} takes {words} for {name}", f"write one such as {example}")
            for index, value in zip(given.value_indexes, given.values, strict=True)
            if value != "None" and not pattern.fullmatch(value)
        ]
    if "values" not in entry:
        return []
    plugin = entries("vllm_flags")["plugins"].get(name)
    open_to_all = plugin is None or any(other.spelling == plugin for other in others)
    wrong = [
        (index, _wrong_value(name, value, version, open_to_all))
        for index, value in zip(given.value_indexes, given.values, strict=True)
    ]
    return [(index, *reason) for index, reason in wrong if reason]


def _wrong_value(name: str, value: str, version: str, open_to_all: bool) -> tuple[str, str] | None:
    known = choices(name, version)
    if known is None or value in known:
        return None
    instead = f"write one of {', '.join(known)}"
    firsts = [span.partition("-")[0] for span, some in _entry(name)["values"].items() if value in some]
    later = [first for first in firsts if release_key(first) > release_key(version)]
    if later:
        return f"vLLM {version} does not know {value} yet: it came with {later[0]}", instead
    if open_to_all and not enforced(name, version):
        return None  # a plugin may bring it, or it is a built-in that moved into a plugin
    return f"vLLM {version} has no value {value} for {name}", instead


def _twice(given: Iterable[Given], version: str) -> list[tuple[int, str, str]]:
    """Flags given twice, in any spelling: vLLM would silently take the last one."""
    release = _release(version)
    seen: dict[tuple[str, str], Given] = {}
    repeated = []
    for flag in given:
        name = (release and _flag(flag.spelling, release)) or flag.spelling
        earlier = seen.setdefault((name, flag.key), flag)
        if earlier is not flag:
            repeated.append((flag.index, f"repeats {earlier.word.partition('=')[0]}", "leave one out"))
            continue
        # vLLM merges the keys of one spelling only, and then drops what any other said of the flag.
        other = next((one for one in seen.values() if _apart(name, flag, one, version)), None)
        if other:
            why = f"vLLM would drop what {other.word.partition('=')[0]} says"
            repeated.append((flag.index, why, "write both in one JSON, or both as keys of one spelling"))
    return repeated


def _apart(name: str, flag: Given, other: Given, version: str) -> bool:
    """Whether two elements say parts of one flag that vLLM does not merge."""
    same = other is not flag and canonical(other.spelling, version) == name
    return same and bool(flag.key or other.key) and (not (flag.key and other.key) or flag.spelling != other.spelling)


def _joint(given: Sequence[Given], version: str, beside: Collection[str]) -> list[tuple[int, str, str]]:
    release = _release(version)
    if release is None:
        return []
    on = {_flag(flag.spelling, release): flag for flag in reversed(given) if not flag.spelling.startswith("--no-")}
    table = entries("vllm_flags")
    return [
        (on[flag].index, f"vLLM {version} needs {needed} with it", f"add {needed}")
        for flag, needed, span in table["requires"]
        if flag in on and needed not in on and needed not in beside and within(release, span)
    ] + [
        (on[flag].index, f"vLLM {version} refuses it together with {other}", "leave one out")
        for flag, other, span in table["excludes"]
        if flag in on and other in on and within(release, span)
    ]


def _launchers(given: Given, launcher: str | None) -> tuple[str, str] | None:
    if given.spelling in fact("engines", "launchers", "flags"):
        return "is set by the launcher", _LEAVE_OUT
    if launcher == "native" and given.spelling in fact("engines", "launchers", "headlessRefuses"):
        return "launcher native refuses it: its workers serve no HTTP", _LEAVE_OUT
    return None


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not re.fullmatch(r"-\d+(\.\d+)?", word)


def _release(version: str, *, newest: bool = False) -> str | None:
    """The newest known release that is not newer than `version`; None if the catalog begins later.

    Also None if the catalog ends earlier, unless `newest`.
    """
    wanted, known = release_key(version), fact("vllm", "releases", "known")
    if wanted[:2] > release_key(known[-1])[:2] and not newest:
        return None
    return next((release for release in reversed(known) if release_key(release) <= wanted), None)


def known_release(version: str) -> str:
    """The catalog's release that stands for this one: the newest that is not newer, else the oldest."""
    return _release(version, newest=True) or fact("vllm", "releases", "known")[0]


def _ends(span: str) -> list[tuple[str, str | None]]:
    parts = [part.partition("-") for part in span.split()]
    return [(first, last or None) for first, _, last in parts]


def within(release: str, span: str) -> bool:
    """Whether a known release is in `span`: `first` or `first-last`; spaces separate several."""
    at = release_key(release)
    return any(release_key(first) <= at and (last is None or at <= release_key(last)) for first, last in _ends(span))


def _entry(name: str) -> Mapping[str, Any]:
    return entries("vllm_flags")["flags"][name]


def _flag(spelling: str, release: str) -> str | None:
    """The flag that this spelling means in that release, or None."""
    meanings = _spellings().get(spelling.replace("_", "-"), ())
    return next((name for name, span in meanings if within(release, span)), None)


@cache
def _spellings() -> Mapping[str, list[tuple[str, str]]]:
    """Every spelling of a flag, with the flags that it has meant and the releases in which it meant them."""
    meanings: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, entry in entries("vllm_flags")["flags"].items():
        meanings[name.replace("_", "-")].append((name, entry["in"]))
        if "no" in entry:
            meanings[f"--no-{name[2:]}".replace("_", "-")].append((name, entry["no"]))
        for alias, span in entry.get("aliases", {}).items():
            meanings[alias.replace("_", "-")].append((name, span))
    return dict(meanings)
