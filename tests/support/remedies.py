"""Applies the remedy that a refusal names, as a reader would."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

from config import pulumi_yaml
from planning.problems import Problem

_VALUE = re.compile(r'write (?:one of |at most )?"?(?P<value>[^\s,;"]+)"?(?:$|,| or )')
_KEYS = re.compile(r"(?:^write|,) (?P<key>[A-Za-z][\w.]*): (?P<value>[^\s,;]+)")
_OTHER_KEY = re.compile(r"[a-z]\w*(\.[a-z]\w*)+")
_QUOTED = re.compile(r'put it in quotes: "(?P<value>.*)"$')


def followed(raw: Mapping[str, Any], problem: Problem) -> dict[str, Any] | None:
    """The file with a problem's remedy applied; None if the remedy names no value."""
    made = copy.deepcopy(dict(raw))
    place, key = _place(made, problem.key)
    if place is None:
        return None
    said = problem.instead
    if problem.why == "unknown key":
        near = re.match(r"(?:did you mean|write) (?P<key>\w+)\??$", said)
        if near is None or near["key"] in place or not isinstance(place, MutableMapping):
            return None
        place[near["key"]] = place.pop(key)
    elif said == "leave it out":
        del place[key]
    elif quoted := _QUOTED.match(said):
        place[key] = quoted["value"]
    elif pairs := _KEYS.findall(re.split(r"; |,? or ", said)[0]):
        for name, value in pairs:
            if value == "one":
                return None
            other, last = (made, name) if "." in name else (place, name)
            if "." in name:
                other, last = _place(made, name)
            if not isinstance(other, MutableMapping):
                return None
            other[last] = pulumi_yaml.plain(value)
    elif (value := _VALUE.match(said)) and not _OTHER_KEY.fullmatch(value["value"]):
        place[key] = pulumi_yaml.plain(value["value"])
    else:
        return None
    return made


def _place(raw: dict[str, Any], key: str) -> tuple[Any, Any]:
    """The map or list that contains a problem's key, and the key's last part."""
    place: Any = raw
    rest = key
    while True:
        if isinstance(place, list):
            at = re.match(r"\[(\d+)\]\.?", rest)
            if at is None or int(at[1]) >= len(place):
                return None, None
            part, rest = int(at[1]), rest[at.end() :]
        elif isinstance(place, dict):
            # Names may contain dots.
            part = next((each for each in sorted(place, key=len, reverse=True) if _is_head(each, rest)), None)
            if part is None:
                return (place, rest) if re.fullmatch(r"\w+", rest) else (None, None)
            rest = rest[len(part) :].removeprefix(".")
        else:
            return None, None
        if not rest:
            return place, part
        place = place[part]


def _is_head(part: str, key: str) -> bool:
    return key == part or key.startswith((f"{part}.", f"{part}["))
