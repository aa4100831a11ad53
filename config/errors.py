"""How bad input is said: one line each, with key, value, why, and what to write instead.

Owns the wording of pydantic's own findings (unknown key, wrong type, missing key); rules of the field are worded where
they are checked, in `config.stack`. Knows nothing of Pulumi.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from planning import leaks
from planning.problems import Problem, Refused, printable

NAMESPACE = "modelserve"
_SHOWN = 60  # characters of a value; a longer one is cut


class ConfigError(Refused):
    """The stack file is wrong. Keys are without `modelserve:`, as written there.

    `roots` are about keys of the file itself, or of no section; they come first, as they may be the cause of others.
    """

    def __init__(self, problems: Iterable[Problem], roots: Iterable[Problem] = ()) -> None:
        roots = tuple(roots)
        super().__init__(*roots, *problems)
        self._roots = len(roots)

    @property
    def keyed(self) -> list[tuple[str, Problem]]:
        """The problems, each with its key as the stack file has it."""
        return [
            (each.key if index < self._roots else f"{NAMESPACE}:{each.key}", each)
            for index, each in enumerate(self.problems)
        ]

    @property
    def lines(self) -> list[str]:
        """One refusal each, ready to print."""
        return [
            printable(f"{key}: {each.value}{': ' if each.value else ''}{each.why}; {each.instead}")
            for key, each in self.keyed
        ]


def shown(value: object, name: object = "") -> str:
    """A value as the stack file has it, on one line and not longer than needed to recognise it; what is, or by its
    `name` may be, somebody's key is not repeated."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(map(str, value)) + "}" if value else "{}"
    else:
        text = as_written(value)
    if leaks.hides(str(name)) or leaks.by_shape(text):
        return ""
    text = printable(re.sub(r"\s+", " ", text))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def as_written(value: object) -> str:
    """A scalar as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


Found = tuple[str, object, str, str] | tuple[str, object, str, str, object]
"""What is wrong below a field: (`.key` or `[index]`, value, why, instead), and the value that `instead` names."""


def refuse(*found: Found) -> None:
    """Raise, inside a field's validator, all that is wrong below it."""
    if found:
        raise PydanticCustomError("refused", "refused", {"found": list(found)})


def rule(value: object, why: str, instead: str, better: object = None) -> PydanticCustomError:
    """The error a field's own validator raises. Where the field's other rules would refuse `better`, which `instead`
    names, their remedy is given in its place."""
    return PydanticCustomError("refused", "refused", {"found": [("", value, why, instead, better)]})


def join(path: Iterable[object]) -> str:
    """`('services', 'ds', 'args', 0)` as a person would write it: `services.ds.args[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{printable(str(part))}"
    return text


@dataclass(frozen=True)
class Refusal:
    """What is wrong with a part of the stack file, at a path inside it. `better` are values that `instead` names."""

    path: tuple[object, ...]
    value: object
    why: str
    instead: str
    better: tuple[object, ...] = ()


def of_field(
    path: tuple[object, ...], detail: ErrorDetails, field: FieldInfo | None, *, union: bool = False
) -> Iterator[Refusal]:
    """Pydantic's finding on a field, in words. `union`: of one of several kinds that it may have."""
    value = detail["input"]
    if detail["type"] == "refused":
        for below, wrong, why, instead, *named in detail["ctx"]["found"]:
            yield Refusal(
                (*path, *_parts(below)), wrong, why, instead, tuple(each for each in named if each is not None)
            )
    elif detail["type"] == "missing":
        yield Refusal(path, "", "is missing", f"write {_described(field)}")
    elif detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag, there = field.discriminator if field else "", detail["type"] == "union_tag_invalid"
        instead = f"write {' or '.join(_tags(field, str(tag)))}"
        why = "is not one of the known values" if there else "is missing"
        yield Refusal((*path, tag), value[tag] if there else "", why, instead)
    elif detail["type"] == "string_type" and isinstance(value, bool | int | float):
        kind, text = "a number" if not isinstance(value, bool) else "true or false", as_written(value)
        why = f"is {kind}, not text (YAML reads it so without quotes)"
        if len(path) > 1:
            quoted = "put it in quotes" if leaks.hides(str(path[-1])) else f'put it in quotes: "{text}"'
            yield Refusal(path, value, why, quoted, (text,))
        else:
            yield Refusal(path, value, why, f"write {_described(field)}")
    elif len(path) > 1:
        # What stands inside a list or map is described nowhere.
        yield Refusal(path, value, _reason(detail), _WANTED.get(detail["type"], "write another value"))
    else:
        why = "is not one of the known values" if union else _reason(detail)
        yield Refusal(path, value, why, f"write {_described(field)}", tuple(_words(field.annotation)) if field else ())


def _parts(below: str) -> tuple[object, ...]:
    """A path inside a field, `.key` or `[index]` and what follows it: a key may have dots of its own."""
    if index := re.match(r"\[(\d+)\]", below):
        return (int(index[1]), *_parts(below[index.end() :]))
    return (below[1:],) if below else ()


def without_inner_keys(given: Any, key: str, rest: Iterable[object]) -> Iterator[object]:
    """Pydantic's path below the field `key` as far as the file has it: behind that come names of Python's types."""
    value = given.get(key) if isinstance(given, Mapping) else None
    for part in rest:
        inside = part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)
        if not inside:
            return
        yield part
        value = value[part]  # type: ignore[index]


def nearest(key: str, known: Iterable[str]) -> tuple[str | None, bool]:
    """The known key that `key` means, and whether it is the same but for its spelling (`max_model_len`)."""
    known = sorted(known)
    same = [each for each in known if plain(each) == plain(key)]
    near = same or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return (near[0] if near else None), bool(same)


def plain(key: str) -> str:
    """A key without what spellings differ in."""
    return re.sub(r"[^a-z0-9]", "", key.lower())


def unknown_key(key: str, known: Iterable[str], elsewhere: str | None = None) -> tuple[str, str, str | None]:
    """Why a key is refused that no part has, what to write instead, and the key of this part that is meant by it.

    `elsewhere` is what it is called here, in this part or another.
    """
    known = sorted(known)
    near, same = nearest(key, known)
    if same or (elsewhere in known):
        near = near if same else elsewhere
        return "unknown key", f"write {near}", near
    if elsewhere:
        return "unknown key", f"write {elsewhere}", None
    instead = f"did you mean {near}?" if near else f"known here: {', '.join(known)}"
    return "unknown key", instead, near


_WANTED = {
    "string_type": "write a text",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "bool_type": "write true or false",
    "greater_than": "write a larger one",
    "greater_than_equal": "write a larger one",
    "less_than_equal": "write a smaller one",
}


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
    return kinds.get(detail["type"]) or detail["msg"][0].lower() + detail["msg"][1:]


def _described(field: FieldInfo | None) -> str:
    if field is None:
        return "what docs/config.md says"
    if words := _words(field.annotation):
        return " or ".join(map(as_written, words))
    said = (field.description or "a value").rstrip(".")
    return said[0].lower() + said[1:]


def _words(annotation: Any) -> list[object]:
    """All that a field may say, where it is one of a few words."""
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    found = [_words(each) for each in kinds] if get_origin(annotation) in (Union, UnionType, Annotated) else []
    return [word for each in found for word in each] if all(found) else []


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
