"""How bad input is said: one line each, with key, value, why, and what to write instead.

Owns the wording of pydantic's own findings (unknown key, wrong type, missing key); rules of the field are worded where
they are checked, in `config.stack`. Knows nothing of Pulumi.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from planning import leaks
from planning.problems import Problem, Refused

NAMESPACE = "modelserve"
_SHOWN = 60  # characters of a value; a longer one is cut


class ConfigError(Refused):
    """The stack file is wrong. Keys are without `modelserve:`, as written there."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__(*problems)

    @property
    def lines(self) -> list[str]:
        """One refusal each, ready to print."""
        return [
            f"{NAMESPACE}:{each.key}: {each.value}{': ' if each.value else ''}{each.why}; {each.instead}"
            for each in self.problems
        ]


def shown(value: object, name: object = "") -> str:
    """A value as the stack file has it, on one line and not longer than needed to recognise it; what is, or by its
    `name` may be, somebody's key is not repeated."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(map(str, value)) + "}" if value else "{}"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif value is None:
        text = "null"
    else:
        text = str(value)
    if leaks.hides(str(name)) or leaks.by_shape(text):
        return ""
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def refuse(*found: tuple[str, object, str, str]) -> None:
    """Raise, inside a field's validator, all that is wrong below it: (`.key` or `[index]`, value, why, instead)."""
    if found:
        raise PydanticCustomError("refused", "refused", {"found": list(found)})


def rule(value: object, why: str, instead: str) -> PydanticCustomError:
    """The error a field's own validator raises."""
    return PydanticCustomError("refused", "refused", {"found": [("", value, why, instead)]})


def from_pydantic(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """All findings of one validation, in words."""
    return [refusal for detail in error.errors() for refusal in _worded(detail, model)]


def join(path: Iterable[object]) -> str:
    """`('services', 'ds', 'args', 0)` as a person would write it: `services.ds.args[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _worded(detail: ErrorDetails, model: type[BaseModel]) -> Iterable[Problem]:
    location, known = _followed(model, [part for part in detail["loc"] if part != "[key]"])
    path, value = join(location), detail["input"]
    field = known.get(str(location[-1])) if location else None
    if detail["type"] == "refused":
        for below, wrong, why, instead in detail["ctx"]["found"]:
            yield Problem(path + below, shown(wrong, (path + below).rpartition(".")[2]), why, instead)
    elif detail["type"] == "extra_forbidden":
        yield unknown_key(path, value, str(location[-1]), known)
    elif detail["type"] == "missing":
        yield Problem(path, "", "is missing", f"write {_described(field)}")
    elif detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag, there = field.discriminator if field else "", detail["type"] == "union_tag_invalid"
        instead = f"write {' or '.join(_tags(field, str(tag)))}"
        why = "is not one of the known values" if there else "is missing"
        yield Problem(f"{path}.{tag}", shown(value[tag]) if there else "", why, instead)
    else:
        name = location[-1] if location else ""
        yield Problem(path, shown(value, name), _reason(detail), f"write {_described(field)}")


def unknown_key(path: str, value: object, key: str, known: Iterable[str]) -> Problem:
    """A key that no model has: the nearest known one is the remedy."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    instead = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return Problem(path, shown(value, key), "unknown key", instead)


def _reason(detail: ErrorDetails) -> str:
    kinds = {
        "string_type": "is not text",
        "int_type": "is not a whole number",
        "int_from_float": "is not a whole number",
        "float_type": "is not a number",
        "bool_type": "is neither true nor false",
        "dict_type": "is not a map",
        "model_type": "is not a map",
        "model_attributes_type": "is not a map",
        "tuple_type": "is not a list",
        "list_type": "is not a list",
        "literal_error": "is not one of the known values",
    }
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        return "is a number, not text (YAML reads it so without quotes)"
    return kinds.get(detail["type"]) or detail["msg"][0].lower() + detail["msg"][1:]


def _described(field: FieldInfo | None) -> str:
    if field is None:
        return "what the README's table of keys says"
    literals = [str(a) for a in get_args(field.annotation) if isinstance(a, str)]
    words = " or ".join(literals) if literals else (field.description or "a value").rstrip(".")
    return words[0].lower() + words[1:] if not literals else words


def _followed(model: type[BaseModel], location: Iterable[object]) -> tuple[tuple[object, ...], dict[str, FieldInfo]]:
    """pydantic's `location` as the stack file has it, and the fields, by camelCase names, beside its last part.

    Inside a union pydantic's has the chosen member's tag, which is no key of the file.
    """
    path: list[object] = []
    known = beside = _by_alias(model)
    members: list[type[BaseModel]] = []
    tag = ""
    for part in location:
        if len(members) > 1 and (chosen := [m for m in members if part in _literals(_by_alias(m)[tag])]):
            known, members = _by_alias(chosen[0]), chosen
            continue
        # A default that is refused is reported under the field's own name.
        part = next((alias for alias, field in known.items() if to_camel(str(part)) == alias), part)
        path.append(part)
        beside = known
        field = known.get(str(part))
        if field is not None:
            members, tag = _models_in(field.annotation), str(field.discriminator or "")
            known = _by_alias(members[0]) if members else {}
    return tuple(path), beside


def _by_alias(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models inside `Model`, `Model | None`, `dict[str, Model]` or a union of models."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _models_in(arg)]


def _literals(field: FieldInfo) -> tuple[object, ...]:
    return get_args(field.annotation)


def _tags(field: FieldInfo | None, tag: str) -> list[str]:
    return [str(t) for m in _models_in(field.annotation if field else None) for t in _literals(_by_alias(m)[tag])]
