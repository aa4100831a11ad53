"""Pulumi's property wire format: google.protobuf.Struct to and from Python values with secrets and unknowns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
# One for each type that an unknown can have; all of them mean the same here.
_UNKNOWN_TEXT = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_UNKNOWN_TEXTS = {
    _UNKNOWN_TEXT,
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
}


class Unknown:
    """A value that only `up` will know."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that the engine encrypts in the state and hides in the display."""

    value: Any


def decode(struct: Struct) -> dict[str, Any]:
    return {key: _decode(value) for key, value in struct.fields.items()}


def _decode(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        text = value.string_value
        return UNKNOWN if text in _UNKNOWN_TEXTS else text
    if kind == "struct_value":
        decoded = decode(value.struct_value)
        if _SIGNATURE not in decoded:
            return decoded
        if decoded[_SIGNATURE] != _SECRET:
            raise ValueError("assets, archives and resource references are no part of a Kubernetes object")
        return Secret(decoded["value"])
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return value.bool_value if kind == "bool_value" else None


def encode(properties: dict[str, Any]) -> Struct:
    struct = Struct()
    _fill(struct, properties)
    return struct


def _fill(struct: Struct, properties: dict[str, Any]) -> None:
    fields = struct.fields
    for key, value in properties.items():
        _put(fields[key], value)


def _put(target: Value, value: Any) -> None:
    if isinstance(value, str):
        target.string_value = value
    elif isinstance(value, dict):
        target.struct_value.SetInParent()
        _fill(target.struct_value, value)
    elif isinstance(value, list):
        target.list_value.SetInParent()
        for item in value:
            _put(target.list_value.values.add(), item)
    elif isinstance(value, bool):
        target.bool_value = value
    elif value is None:
        target.null_value = 0
    elif isinstance(value, Secret):
        _fill(target.struct_value, {_SIGNATURE: _SECRET, "value": value.value})
    elif value is UNKNOWN:
        target.string_value = _UNKNOWN_TEXT
    else:
        target.number_value = value


def plain(value: Any) -> Any:
    """The value without its secret marks."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _any(value: Any, found: Callable[[Any], bool]) -> bool:
    if found(value):
        return True
    if isinstance(value, Secret):
        return _any(value.value, found)
    if isinstance(value, dict):
        return any(_any(item, found) for item in value.values())
    return isinstance(value, list) and any(_any(item, found) for item in value)


def has_unknowns(value: Any) -> bool:
    return _any(value, lambda item: item is UNKNOWN)


def has_secrets(value: Any) -> bool:
    return _any(value, lambda item: isinstance(item, Secret))


def mark_like(value: dict[str, Any], pattern: dict[str, Any]) -> dict[str, Any]:
    """`value` with secret marks where `pattern` has them; a secret anywhere in a list hides the whole list."""
    marked = dict(value)
    for key, example in pattern.items():
        item = marked.get(key)
        if item is None or isinstance(item, Secret):
            continue
        if isinstance(example, dict) and isinstance(item, dict):
            marked[key] = mark_like(item, example)
        elif has_secrets(example):
            marked[key] = Secret(item)
    return marked
