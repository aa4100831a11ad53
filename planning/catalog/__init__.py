"""Facts from outside the program: data in this folder, each with its source and the day it was read.

`fact("clouds", "local", "gpusPerPod")` gives the value. A missing fact is a programming error (KeyError): the program
never guesses one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


@cache
def entries(file: str) -> dict[str, Any]:
    """A whole catalog file: sections of entries, each `{value, source, date}`."""
    return json.loads((_FOLDER / f"{file}.json").read_text())


def fact(file: str, section: str, name: str) -> Any:
    """The value of one entry. Raises KeyError if the catalog has none."""
    return entries(file)[section][name]["value"]


def overruled(
    section: str, name: str, more: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any], bool] | None:
    """What a stack file says in `more` about the model or GPU called `name`, merged over the catalog's facts.

    Returns the entry's name in `more`, the merged facts, and whether the catalog knows it. An entry matches its own
    name and every alias of it, in the stack file or the catalog; an exact match comes first. None if none matches.
    """
    matches: list[tuple[str, dict[str, Any], bool]] = []
    for key, described in more.items():
        listed = next(iter(_called(section, key)), None)
        facts = _over(listed[1] if listed else {}, described)
        names = {key, *facts.get("alsoNamed", ()), *([listed[0], *listed[1].get("alsoNamed", ())] if listed else ())}
        if name.lower() in {alias.lower() for alias in names}:
            matches.insert(0 if key.lower() == name.lower() else len(matches), (key, facts, listed is not None))
    return matches[0] if matches else None


def _called(section: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The catalog's entries with this name or alias."""
    return [
        (key, entry["value"])
        for key, entry in entries(section)[section].items()
        if name.lower() in {alias.lower() for alias in (key, *entry["value"].get("alsoNamed", ()))}
    ]


def _over(listed: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """Merges fact by fact, also inside a map of facts."""
    both = {key: {**listed[key], **value} for key, value in described.items() if _maps(value, listed.get(key))}
    return {**listed, **described, **both}


def _maps(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)
