"""How mistakes are reported: one line each, with key, value, why, and what to write instead.

Owns the wording of pydantic's own errors (unknown key, wrong type, missing key). Our own rules are worded where they
are checked. Knows nothing of Pulumi.
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
    """The stack file has mistakes. Keys have no `modelserve:`.

    `roots` concern keys of the file itself, outside any section. They come first, because they may cause the others.
    """

    def __init__(self, problems: Iterable[Problem], roots: Iterable[Problem] = ()) -> None:
        roots = tuple(roots)
        super().__init__(*roots, *problems)
        self._roots = len(roots)

    @property
    def keyed(self) -> list[tuple[str, Problem]]:
        """The problems, each with its key as the stack file spells it."""
        return [
            (problem.key if index < self._roots else f"{NAMESPACE}:{problem.key}", problem)
            for index, problem in enumerate(self.problems)
        ]

    @property
    def lines(self) -> list[str]:
        """One refusal each, ready to print."""
        return [
            printable(f"{key}: {problem.value}{': ' if problem.value else ''}{problem.why}; {problem.instead}")
            for key, problem in self.keyed
        ]


def shown(value: object, name: object = "") -> str:
    """A value as the stack file spells it, on one line, cut to what is needed to recognise it. Empty for a value that
    is a key, or whose `name` says that it may be one."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(map(str, value)) + "}" if value else "{}"
    else:
        text = as_written(value)
    if leaks.hides(str(name)) or leaks.by_shape(text):
        return ""
    text = printable(re.sub(r"\s+", " ", text))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def as_written(value: object) -> str:
    """A scalar as YAML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


Found = tuple[str, object, str, str] | tuple[str, object, str, str, object]
"""What is wrong below a field: (`.key` or `[index]`, value, why, instead), and the value that `instead` names."""


def refuse(*found: Found) -> None:
    """Raise, inside a field's validator, everything that is wrong below it."""
    if found:
        raise PydanticCustomError("refused", "refused", {"found": list(found)})


def rule(value: object, why: str, instead: str, better: object = None) -> PydanticCustomError:
    """The error that a field's validator raises. `better` is the value that `instead` names: if the field's other rules
    would refuse it, the message gives their remedy."""
    return PydanticCustomError("refused", "refused", {"found": [("", value, why, instead, better)]})


def join(path: Iterable[object]) -> str:
    """`('services', 'ds', 'args', 0)` as a person would write it: `services.ds.args[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{printable(str(part))}"
    return text


@dataclass(frozen=True)
class Refusal:
    """A mistake in a part of the stack file, at a path inside it. `better` are the values that `instead` names."""

    path: tuple[object, ...]
    value: object
    why: str
    instead: str
    better: tuple[object, ...] = ()


def of_field(
    path: tuple[object, ...], detail: ErrorDetails, field: FieldInfo | None, *, union: bool = False
) -> Iterator[Refusal]:
    """Pydantic's error on a field, in words. `union`: the field may have several types; this is the error of one."""
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
        # The elements of a list or map have no description.
        yield Refusal(path, value, _reason(detail), _WANTED.get(detail["type"], "write another value"))
    else:
        why = "is not one of the known values" if union else _reason(detail)
        yield Refusal(path, value, why, f"write {_described(field)}", tuple(_words(field.annotation)) if field else ())


def _parts(below: str) -> tuple[object, ...]:
    """A path inside a field, split: `.key`, or `[index]` and what follows. A key may itself contain dots."""
    if index := re.match(r"\[(\d+)\]", below):
        return (int(index[1]), *_parts(below[index.end() :]))
    return (below[1:],) if below else ()


def without_inner_keys(given: Any, key: str, rest: Iterable[object]) -> Iterator[object]:
    """Pydantic's path below the field `key`, as far as it exists in the file; names of Python types follow."""
    value = given.get(key) if isinstance(given, Mapping) else None
    for part in rest:
        inside = part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)
        if not inside:
            return
        yield part
        value = value[part]  # type: ignore[index]


def nearest(key: str, known: Iterable[str]) -> tuple[str | None, bool]:
    """The known key that `key` means, and whether only the spelling differs (`max_model_len`)."""
    known = sorted(known)
    same = [name for name in known if plain(name) == plain(key)]
    near = same or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return (near[0] if near else None), bool(same)


def plain(key: str) -> str:
    """A key without capitals, dashes and underscores."""
    return re.sub(r"[^a-z0-9]", "", key.lower())


def unknown_key(key: str, known: Iterable[str], elsewhere: str | None = None) -> tuple[str, str, str | None]:
    """Why an unknown key is refused, what to write instead, and the key of this part that is meant, if any.

    `elsewhere` is the stack file's name for the same thing, in this part or another.
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
    description = (field.description or "a value").rstrip(".")
    return description[0].lower() + description[1:]


def _words(annotation: Any) -> list[object]:
    """Everything that a field may say, if it takes only a few words; else empty."""
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    words = [_words(kind) for kind in kinds] if get_origin(annotation) in (Union, UnionType, Annotated) else []
    return [word for of_kind in words for word in of_kind] if all(words) else []


def _by_alias(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models inside `Model`, `Model | None`, `dict[str, Model]` or a union of models."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]


def _literals(field: FieldInfo) -> tuple[object, ...]:
    return get_args(field.annotation)


def _tags(field: FieldInfo | None, tag: str) -> list[str]:
    return [str(t) for m in _models_in(field.annotation if field else None) for t in _literals(_by_alias(m)[tag])]
