"""Facts from outside the program: each is data beside this file, with its source and the day it was read.

`fact("clouds", "local", "gpusPerPod")` gives the value; an absent fact is a programming error (KeyError), because
the program never guesses one.
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
    """One catalog file, whole: sections of entries, each `{value, source, date}`."""
    return json.loads((_FOLDER / f"{file}.json").read_text())


def fact(file: str, section: str, name: str) -> Any:
    """The value of one entry. Raises KeyError when the catalog has none."""
    return entries(file)[section][name]["value"]


def overruled(
    section: str, name: str, more: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any], bool] | None:
    """What a stack file says in `more` of the model or GPU called `name`, over what the catalog says of it.

    Its name there, the facts of both, and whether the catalog has any. An entry speaks of everything that it, or the
    catalog's of its name, is also named; one of that very name comes first. None where no entry speaks of it.
    """
    found: list[tuple[str, dict[str, Any], bool]] = []
    for own, given in more.items():
        listed = next((each for each in _called(section, own)), None)
        facts = _over(listed[1] if listed else {}, given)
        names = {own, *facts.get("alsoNamed", ()), *([listed[0], *listed[1].get("alsoNamed", ())] if listed else ())}
        if name.lower() in {each.lower() for each in names}:
            found.insert(0 if own.lower() == name.lower() else len(found), (own, facts, listed is not None))
    return found[0] if found else None


def _called(section: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The catalog's entries that are called so."""
    return [
        (key, entry["value"])
        for key, entry in entries(section)[section].items()
        if name.lower() in {each.lower() for each in (key, *entry["value"].get("alsoNamed", ()))}
    ]


def _over(listed: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fact by fact, also inside a map of facts."""
    both = {key: {**listed[key], **value} for key, value in given.items() if _maps(value, listed.get(key))}
    return {**listed, **given, **both}


def _maps(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)
