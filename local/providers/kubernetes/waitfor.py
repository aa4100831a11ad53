"""The annotation `pulumi.com/waitFor`: `condition=`, `jsonpath=` and a JSON array of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class WaitForError(Exception):
    """The annotation's value cannot be used. Found only after the object was created, as the official plugin does."""


@dataclass(frozen=True)
class Look:
    """What a look at a live object showed: `status` (severity, text) is told at once, `problems` when time runs out."""

    ready: bool
    status: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()


class WaitFor(Protocol):
    def look(self, live: dict[str, Any]) -> Look: ...


def parse(text: str) -> list[WaitFor]:
    """All of them must hold, one after the other. Raises WaitForError."""
    if not text.startswith("["):
        return [_parse_one(text)]
    try:
        parts = json.loads(text)
    except ValueError as error:
        raise WaitForError(str(error)) from error
    if not parts:
        raise WaitForError("at least one condition must be specified")
    return [_parse_one(str(part)) for part in parts]


def _parse_one(text: str) -> WaitFor:
    form, _, rest = text.partition("=")
    if form == "condition":
        kind, _, status = rest.partition("=")
        return _Condition(kind, status or "True")
    if form == "jsonpath" and "=" in text:
        return _parse_path(rest)
    raise WaitForError(f'expected a "jsonpath=" or "condition=" prefix, got "{text}"')


def _parse_path(text: str) -> WaitFor:
    if text[:1] in ("'", '"'):
        raise WaitForError(f"{text} should omit shell quotes")
    end = _closing_brace(text)
    if not text.startswith("{") or end < 0:
        raise WaitForError(f"{text} should be wrapped in brackets {{ ... }}")
    shown, rest = text[: end + 1], text[end + 1 :]
    if rest == "=":
        raise WaitForError(f"{text} requires a value")
    if rest and not rest.startswith("="):
        raise WaitForError(f"{text} should be wrapped in brackets {{ ... }}")
    return _Path(shown, _compile(shown), rest[1:] if rest else None)


def _compile(shown: str) -> Callable[[Any], list[Any]]:
    import jsonpath  # as costly as all of this package together, and rarely needed

    path = shown[1:-1].strip()
    try:
        return jsonpath.compile(path if path.startswith("$") else f"${path}").findall
    except jsonpath.JSONPathError as error:
        token = error.token
        place = f"unexpected '{token.value}' at position {token.index + 1}" if token else error.args[0]
        raise WaitForError(f'parsing "{shown}": jsonpath: {place}') from error


def _closing_brace(text: str) -> int:
    quote = ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "}":
            return position
    return -1


def generation_lag(live: dict[str, Any], observed: Any) -> str:
    """Why a status that was written for `observed` does not count yet, or an empty text."""
    wanted = live["metadata"].get("generation", 0)
    if isinstance(observed, int) and observed < wanted:
        return f"Generation {observed} is less than expected {wanted}"
    return ""


@dataclass(frozen=True)
class _Condition:
    kind: str
    wanted: str

    def look(self, live: dict[str, Any]) -> Look:
        status = live.get("status") or {}
        conditions = status.get("conditions") or []
        if not conditions:
            return Look(False, (("warning", "Has no .status.conditions"),))
        for condition in conditions:
            if condition.get("type") != self.kind:
                continue
            lag = generation_lag(live, condition.get("observedGeneration", status.get("observedGeneration")))
            if lag:
                return Look(False, (("info", lag),))
            found = condition.get("status")
            if found == self.wanted:
                return Look(True)
            text = f"Resource has condition {self.kind}={found} (want {self.wanted})"
            return Look(False, (("warning", text),))
        return Look(False)


@dataclass(frozen=True)
class _Path:
    shown: str
    find: Callable[[Any], list[Any]]
    wanted: str | None

    def look(self, live: dict[str, Any]) -> Look:
        if generation_lag(live, (live.get("status") or {}).get("observedGeneration")):
            return Look(False)
        found = self.find(live)
        if not found:
            return Look(False, (("info", f"{self.shown} selected nothing"),))
        if self.wanted is None:
            return Look(True, (("info", f"Found {self.shown}"),))
        goal = f"{self.shown}={self.wanted}"
        values = [_text(value) for value in found if not isinstance(value, dict | list)]
        if self.wanted in values:
            return Look(True, (("info", f"Found {goal}"),))
        if not values:
            problem = f'"{self.shown}" has a non-primitive value ({_text(found[0])})'
            return Look(False, (("info", f"Waiting for {goal}"),), (problem,))
        return Look(False, (("info", f'Waiting for {goal} (found "{values[0]}")'),))


def _text(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_text, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "<nil>" if value is None else str(value)
