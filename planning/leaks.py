"""What in plain text looks like somebody's key, by its shape or by what it is called. Pure; gives no value back."""

from __future__ import annotations

import re
from functools import cache

from planning.catalog import entries

# What our own keys and the usual names of others end in; `perToken` counts tokens, and is none.
_SECRET_NAME = re.compile(
    r"((api|access|secret|private)[-_]?key|(api|hub|hf|auth|access|security|session|_)[-_]?token|secret|passw(or)?d)$",
    re.IGNORECASE,
)


def by_shape(text: str) -> str | None:
    """What a text has in it by its shape, such as «a token of Hugging Face»; None for nothing known."""
    return next((what for what, pattern in _shapes() if pattern.search(text)), None)


def by_name(name: str) -> str | None:
    """What the variable, argument or provider's key of that name holds; None where no key is known to be there."""
    return next((what for what, names in _names() if name in names), None)


def hides(name: str) -> bool:
    """Whether what stands under that name, well spelt or not, had better not be repeated."""
    return by_name(name) is not None or _SECRET_NAME.search(name) is not None


@cache
def _shapes() -> tuple[tuple[str, re.Pattern[str]], ...]:
    found = (entry["value"] for entry in entries("secrets")["shapes"].values())
    return tuple((each["what"], re.compile(each["pattern"])) for each in found)


@cache
def _names() -> tuple[tuple[str, frozenset[str]], ...]:
    found = (entry["value"] for entry in entries("secrets")["names"].values())
    return tuple((each["what"], frozenset(each["names"])) for each in found)
