"""Every key of the stack file, told from its types: kind, default, unit, and the clouds that have a use for it.

Reads the models' JSON Schema. The page docs/config.md and the commented stack files of `python -m ops new` are written
from it, so that neither can lack a key. Which cloud can do what stands in `config.abilities`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from config.abilities import CLOUDS, NEEDS, Abilities
from config.pods import KUBERNETES
from config.stack import StackConfig
from config.types import QUANTITY

Schema = Mapping[str, Any]
ROOT = "StackConfig"
NAME = "<name>"
"""Stands in paths for a name that the stack file's author gives."""

_REF = "#/$defs/"
_PLAIN = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
# The unit of a number that its key names, by the key's end or the whole key.
_UNITS = (
    ("GbitPerSecond", "Gbit/s"),
    ("GibPerSecond", "GiB/s"),
    ("Seconds", "s"),
    ("BytesPerToken", "bytes"),
    ("Bytes", "bytes"),
    ("Gib", "GiB"),
    ("maxModelLen", "tokens"),
    ("maxContext", "tokens"),
    ("tokens", "tokens"),
    ("input", "tokens"),
    ("output", "tokens"),
    ("cpu", "CPUs"),
    ("perGpuHour", "currency/h"),
    ("perCacheWorkerHour", "currency/h"),
    ("perGibMonth", "currency/month"),
)
_LARGEST = 10**6  # a higher bound is a technical one, which nobody meets


@dataclass(frozen=True)
class Key:
    """One key of a part.

    `kind` is Markdown. `default` is the value that applies without the key, None if there is none: then the key is
    `required`, or its description says what its absence means. `part` names the part that the key holds; `many` is how
    it holds it: `map` by name, `list`, or empty for one. `parts` are the parts of a key that holds one of several, by
    the value of their first key. `clouds` have a use for the key.
    """

    name: str
    kind: str
    description: str
    required: bool
    default: Any
    unit: str
    clouds: tuple[str, ...]
    part: str | None = None
    many: str = ""
    parts: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Part:
    """A map of the stack file whose keys are fixed: its type's name, what it is, its keys, and each place it has."""

    name: str
    about: str
    keys: tuple[Key, ...]
    paths: tuple[str, ...]


@cache
def parts() -> Mapping[str, Part]:
    """Every part by the name of its type, the whole file first, each after the part that it is in."""
    known: dict[str, Part] = {}
    for name, path, clouds in _places(ROOT, "", tuple(CLOUDS)):
        keys = [replace(key, clouds=_both(key.clouds, clouds)) for key in keys_of(name)]
        if name not in known:
            known[name] = Part(name, about(name), tuple(keys), (path,))
            continue
        before = known[name]
        merged = (
            replace(old, clouds=tuple(cloud for cloud in CLOUDS if cloud in {*old.clouds, *new.clouds}))
            for old, new in zip(before.keys, keys, strict=True)
        )
        known[name] = replace(before, keys=tuple(merged), paths=tuple(dict.fromkeys((*before.paths, path))))
    return known


@cache
def keys_of(part: str) -> tuple[Key, ...]:
    """The keys of a part, in the order of its type."""
    schema = _definition(part)
    required = schema.get("required", ())
    return tuple(_key(part, name, each, name in required) for name, each in schema["properties"].items())


@cache
def _whole() -> Schema:
    return StackConfig.model_json_schema()


def _definition(part: str) -> Schema:
    whole = _whole()
    return whole if part == ROOT else whole["$defs"][part]


def about(part: str) -> str:
    """What a part is, in a sentence or two."""
    return str(_definition(part).get("description", "")).split("\n\n")[0].replace("\n", " ")


def _places(part: str, path: str, clouds: tuple[str, ...]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    yield part, path, clouds
    for key in keys_of(part):
        at = f"{path}.{key.name}" if path else key.name
        here = _both(clouds, key.clouds)
        if key.part:
            yield from _places(key.part, at + {"map": f".{NAME}", "list": "[]", "": ""}[key.many], here)
        for tag, each in (key.parts or {}).items():
            yield from _places(each, at, _both(here, _of_tag(key.name, tag)))


def _key(part: str, name: str, schema: Schema, required: bool) -> Key:
    inner, many = _held(schema)
    tags = schema.get("discriminator", {}).get("mapping")
    default = schema.get("default")
    return Key(
        name=name,
        kind=_kind(schema),
        description=schema.get("description", ""),
        required=required,
        default=None if inner and not many else default,
        unit=_unit(name, schema),
        clouds=tuple(cloud for cloud, can in CLOUDS.items() if _has_use(part, name, can)),
        part=inner,
        many=many,
        parts={tag: ref.removeprefix(_REF) for tag, ref in sorted(tags.items())} if tags else None,
    )


def _has_use(part: str, name: str, can: Abilities) -> bool:
    return all(NEEDS[entry](can) for entry in (part, f"{part}.{name}") if entry in NEEDS)


def _of_tag(key: str, tag: str) -> tuple[str, ...]:
    if key == "cloud":
        return (tag,)
    return tuple(cloud for cloud, can in CLOUDS.items() if key != "weights" or tag in can.sources)


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(cloud for cloud in one if cloud in other)


def _options(schema: Schema) -> list[Schema]:
    """The types that a value may have, but for null."""
    options = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return [option for option in options if option.get("type") != "null"]


def _held(schema: Schema) -> tuple[str | None, str]:
    if "discriminator" in schema:
        return None, ""
    for option in _options(schema):
        for many, inner in (("", option), ("list", option.get("items")), ("map", _values(option))):
            if isinstance(inner, Mapping) and "$ref" in inner:
                return inner["$ref"].removeprefix(_REF), many
    return None, ""


def _values(schema: Schema) -> Schema:
    """The type of a map's values; empty if they may be anything."""
    named = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    return next((each for each in named if isinstance(each, Mapping)), {})


def _kind(schema: Schema) -> str:
    kinds = [_kind_of_one(option) for option in _options(schema)]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind))


def _kind_of_one(schema: Schema) -> str:
    if words := [word for word in schema.get("enum", [schema.get("const")]) if word is not None]:
        shown = [f"`{str(word).lower() if isinstance(word, bool) else word}`" for word in words]
        return ", ".join(shown) if len(shown) < 12 else "word"
    if kubernetes := schema.get(KUBERNETES):
        return f"Kubernetes `{kubernetes}`"
    if "$ref" in schema:
        return "map"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_many(_kind(schema['items']))}" if schema.get("items") else "list"
    if kind == "object":
        inner = _values(schema)
        return f"map of name to {_kind(inner)}" if inner else "map"
    if kind == "string" and schema.get("pattern") == f"^({QUANTITY})$":
        return "quantity"
    bounds = f" {_bounds(schema)}" if kind in ("integer", "number") and _bounds(schema) else ""
    return f"{_PLAIN[kind]}{bounds}" if kind in _PLAIN else "any"


def _many(kind: str) -> str:
    return {"text": "texts", "map": "maps", "any": "values"}.get(kind) or kind.replace("whole number", "whole numbers")


def _bounds(schema: Schema) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if schema["type"] == "integer":
        least, above = (above + 1 if above is not None else least), None
        most, below = (below - 1 if below is not None else most), None
    most = None if most is not None and most >= _LARGEST else most
    told = (("from", least), ("above", above), ("to", most), ("below", below))
    return " ".join(f"{word} {bound:.6g}" for word, bound in told if bound is not None)


def _unit(name: str, schema: Schema) -> str:
    if any(option.get("pattern") == f"^({QUANTITY})$" for option in _options(schema)):
        return "Mi, Gi, Ti"
    numbers = {"integer", "number", "array", "object"}
    if not any(option.get("type") in numbers for option in _options(schema)):
        return ""
    end = name[0].upper() + name[1:]
    return next((unit for key, unit in _UNITS if name == key or end.endswith(key)), "")
