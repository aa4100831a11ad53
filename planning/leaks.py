"""Finds plain text that looks like a key, by its shape or by its name. Pure; never returns the value."""

from __future__ import annotations

import re
from functools import cache

from planning.catalog import entries

# Endings of our own secrets' names and of other usual ones. `perToken` counts tokens and must not match.
_SECRET_NAME = re.compile(
    r"((api|access|secret|private)[-_]?key|(api|hub|hf|auth|access|security|session|_)[-_]?token|secret|passw(or)?d)$",
    re.IGNORECASE,
)


def by_shape(text: str) -> str | None:
    """What a text contains by its shape, such as «a token of Hugging Face»; None if nothing known."""
    return next((what for what, pattern in _shapes() if pattern.search(text)), None)


def by_name(name: str) -> str | None:
    """What the variable, argument or provider setting of that name holds; None if it is not known to hold a key."""
    return next((what for what, names in _names() if name in names), None)


def hides(name: str) -> bool:
    """Whether a value under that name, correctly spelt or not, must not be printed."""
    return by_name(name) is not None or _SECRET_NAME.search(name) is not None


@cache
def _shapes() -> tuple[tuple[str, re.Pattern[str]], ...]:
    shapes = (entry["value"] for entry in entries("secrets")["shapes"].values())
    return tuple((shape["what"], re.compile(shape["pattern"])) for shape in shapes)


@cache
def _names() -> tuple[tuple[str, frozenset[str]], ...]:
    holders = (entry["value"] for entry in entries("secrets")["names"].values())
    return tuple((holder["what"], frozenset(holder["names"])) for holder in holders)
