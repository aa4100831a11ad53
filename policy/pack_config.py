"""The pack's config: how severe each rule is, and its settings. The format is Pulumi's own.

    {"all": "advisory", "image-registry": {"enforcementLevel": "mandatory", "allowed": ["registry.example.com"]}}

Pulumi's engine accepts unknown keys (`convertSchema` in its pkg/resource/analyzer); here they are refused.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planning.problems import Problem, Refused
from policy.rule_types import SEVERITIES, Rule
from policy.rules import RULES

FILE = Path(__file__).with_name("config.json")
"""What every command and the engine read unless they are given another file."""
LEVELS = (*SEVERITIES, "disabled")
_LEVEL = "enforcementLevel"
_EVERY = "all"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
    "null": type(None),
}


@dataclass(frozen=True)
class Settings:
    """The settings of every rule, and its level: `advisory`, `mandatory` or `disabled`."""

    values: Mapping[str, Mapping[str, Any]]
    levels: Mapping[str, str]


def read(path: Path | None = None) -> Settings:
    """The settings of a config file, by default the pack's own. Raises Refused with everything that is wrong in it."""
    return parse(load(path or FILE))


def load(path: Path) -> Any:
    """A config file's JSON. Raises Refused if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or "cannot be read"
        raise Refused(Problem("policy config", str(path), why, "write the path of a JSON file")) from None
    except (ValueError, RecursionError) as error:
        raise Refused(Problem("policy config", str(path), f"is no JSON: {error}", "write one JSON object")) from None


def parse(given: Any) -> Settings:
    """The settings of a config. Raises Refused with everything that is wrong in it."""
    if not isinstance(given, Mapping):
        raise Refused(Problem("policy config", "", "is not a map", "write a map of rules"))
    if found := list(problems(given)):
        raise Refused(*found)
    every = _level(given.get(_EVERY, _NOTHING))
    told = {name: given.get(name, _NOTHING) for name in RULES}
    return Settings(
        {name: {**rule.defaults(), **_values(told[name])} for name, rule in RULES.items()},
        {name: _level(told[name]) or every or rule.severity for name, rule in RULES.items()},
    )


def problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that is wrong in a config."""
    for name, value in given.items():
        path = f"policy config: {name}"
        if name != _EVERY and name not in RULES:
            yield _unknown(path, name, [*RULES, _EVERY])
        elif not isinstance(value, (str, Mapping)):
            yield Problem(path, json.dumps(value), "is neither a level nor a map", f"write {' or '.join(LEVELS)}")
        elif (level := _level(value)) is not None and level not in LEVELS:
            yield Problem(path, str(level), "is no level", f"write {' or '.join(LEVELS)}")
        else:
            rule = RULES.get(name)
            yield from _wrong_values(path, rule, _values(value))


def schema(rule: Rule) -> dict[str, dict[str, Any]]:
    """The settings of a rule as JSON Schema."""
    return {
        name: {**setting.schema, "default": setting.default, "description": setting.about}
        for name, setting in rule.settings.items()
    }


def _wrong_values(path: str, rule: Rule | None, values: Mapping[str, Any]) -> Iterator[Problem]:
    known = rule.settings if rule else {}
    for key, value in values.items():
        if key not in known:
            yield _unknown(f"{path}.{key}", key, [*known, _LEVEL])
        elif why := _misfit(value, known[key].schema):
            yield Problem(f"{path}.{key}", json.dumps(value), why, f"write {known[key].about}")


def _unknown(path: str, key: str, known: list[str]) -> Problem:
    near = difflib.get_close_matches(key, known, n=1)
    return Problem(path, "", "unknown key", f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def _misfit(value: Any, wanted: Mapping[str, Any]) -> str | None:
    """Why a value does not fit a schema; knows only those parts of JSON Schema that settings use."""
    if "enum" in wanted:
        return None if value in wanted["enum"] else f"is none of {', '.join(wanted['enum'])}"
    kinds = wanted["type"] if isinstance(wanted["type"], list) else [wanted["type"]]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # the engine's protocol has no integers
    if isinstance(value, bool) or not any(isinstance(value, _KINDS[kind]) for kind in kinds):
        return f"is no {' or '.join(kinds)}"
    if isinstance(value, (int, float)):
        low, above = wanted.get("minimum"), wanted.get("exclusiveMinimum")
        if (low is not None and value < low) or (above is not None and value <= above):
            return "is too small"
    below = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    inner = wanted.get("items") or wanted.get("additionalProperties")
    if isinstance(value, str) and len(value) < wanted.get("minLength", 0):
        return "is empty"
    return next((why for each in below if inner and (why := _misfit(each, inner))), None)


def _level(value: Any) -> Any:
    return value if isinstance(value, str) else value.get(_LEVEL)


def _values(value: Any) -> Mapping[str, Any]:
    return {} if isinstance(value, str) else {key: each for key, each in value.items() if key != _LEVEL}
