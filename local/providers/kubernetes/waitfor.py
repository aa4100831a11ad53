"""The annotation `pulumi.com/waitFor`: `condition=`, `jsonpath=` and a JSON array of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from local.providers.kubernetes.client import Manifest
from local.providers.reporting import Refusal

_EQUAL = "\ufffd"  # what no path has


@dataclass(frozen=True)
class Look:
    """What a look at a live object showed: `lines` (severity, text) are told at once, `problems` when time runs out.

    `failed` is an object that will not get ready any more: the wait ends with the problems.
    """

    ready: bool
    lines: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    fine_when_late: bool = False
    failed: bool = False


def waiting(line: str, *problems: str, severity: str = "info") -> Look:
    return Look(False, ((severity, line),), problems)


def done(line: str = "", severity: str = "info") -> Look:
    return Look(True, ((severity, line),) if line else ())


Step = Callable[[Manifest], Look]


def parse(text: str) -> list[Step]:
    """All of them must hold, one after the other. Raises Refusal for a text that cannot be used."""
    if not text.startswith("["):
        return [_parse_one(text)]
    parts = json.loads(text)
    if not parts:
        raise Refusal("at least one condition must be specified")
    return [_parse_one(str(part)) for part in parts]


def _parse_one(text: str) -> Step:
    form, equals, rest = text.partition("=")
    if form == "condition":
        kind, _, status = rest.partition("=")
        return lambda live: _condition(live, kind, status or "True")
    if form == "jsonpath" and equals:
        return _parse_path(rest)
    raise Refusal(f'expected a "jsonpath=" or "condition=" prefix, got "{text}"')


def _parse_path(text: str) -> Step:
    import jsonpath  # as costly as all of this package together, and rarely needed

    # Every `=` but `==` counts, also one of a filter, such as `!=`.
    parts = text.replace("==", _EQUAL).split("=")
    shown, *others = (part.replace(_EQUAL, "==") for part in parts)
    if len(others) > 1:
        raise Refusal(f'format should be {{.path}}=value or {{.path}}, got "{text}"')
    if others == [""]:
        raise Refusal(f"{shown}= requires a value")
    if shown[:1] == shown[-1:] == "'":
        raise Refusal(f"{shown} should omit shell quotes")
    braced = re.search(r"\{\s*(.*?)\s*\}", shown)
    if braced is None:
        raise Refusal(f"{shown} should be wrapped in brackets {{ ... }}")
    wanted, path = "".join(others), braced.group(1)
    try:
        find = jsonpath.compile(path if path.startswith("$") else f"${path}").findall
    except jsonpath.JSONPathError as error:
        token = error.token
        place = f"unexpected '{token.value}' at position {token.index + 1}" if token else error.args[0]
        raise Refusal(f'parsing "{shown}": jsonpath: {place}') from error
    return lambda live: _path(live, find, shown, wanted)


def generation_lag(live: Manifest, observed: Any) -> str:
    """Why a status that was written for `observed` does not count yet, or an empty text."""
    wanted = live["metadata"].get("generation", 0)
    if isinstance(observed, int) and observed < wanted:
        return f"Generation {observed} is less than expected {wanted}"
    return ""


def _condition(live: Manifest, kind: str, wanted: str) -> Look:
    status = live.get("status") or {}
    if not status.get("conditions"):
        return waiting("Has no .status.conditions", severity="warning")
    for condition in status["conditions"]:
        if condition.get("type") == kind:
            lag = generation_lag(live, condition.get("observedGeneration", status.get("observedGeneration")))
            if lag:
                return waiting(lag)
            found = condition.get("status")
            if found == wanted:
                return done()
            return waiting(f"Resource has condition {kind}={found} (want {wanted})", severity="warning")
    return Look(False)


def _path(live: Manifest, find: Callable[[Manifest], list[Any]], shown: str, wanted: str) -> Look:
    if generation_lag(live, (live.get("status") or {}).get("observedGeneration")):
        return Look(False)
    found = find(live)
    goal = f"{shown}={wanted}" if wanted else shown
    if not found:
        return waiting(f"{shown} selected nothing")
    # Of several only the first counts.
    value = found[0] if isinstance(found[0], str) else json.dumps(found[0])
    if not wanted or wanted == value:
        return done(f"Found {goal}")
    return waiting(f'Waiting for {goal} (found "{value}")')
