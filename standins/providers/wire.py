"""Pulumi's property wire format: converts google.protobuf.Struct to and from Python values, secrets and unknowns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

Properties = dict[str, Any]

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
# A value that is known only during `up`; the Python SDK uses this marker for every type.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


@dataclass(frozen=True)
class Secret:
    """A value that the engine encrypts in the state and hides in the display."""

    value: Any


def decode(struct: Struct) -> Properties:
    return {key: _decode(value) for key, value in struct.fields.items()}


def _decode(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "struct_value":
        decoded = decode(value.struct_value)
        if _SIGNATURE not in decoded:
            return decoded
        if decoded[_SIGNATURE] != _SECRET:
            raise ValueError("assets, archives and resource references are not understood here")
        return Secret(decoded["value"])
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "number_value":
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    return value.bool_value if kind == "bool_value" else None


def encode(properties: Properties) -> Struct:
    struct = Struct()
    struct.update(_sendable(properties))
    return struct


def _sendable(value: Any) -> Any:
    if isinstance(value, Secret):
        return {_SIGNATURE: _SECRET, "value": _sendable(value.value)}
    if isinstance(value, dict):
        return {key: _sendable(item) for key, item in value.items()}
    return [_sendable(item) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """The value without its secret marks."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _parts(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, Secret):
        yield from _parts(value.value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item)


def has_unknowns(value: Any) -> bool:
    return any(part == UNKNOWN for part in _parts(value))


def mark_like(value: Properties, pattern: Properties) -> Properties:
    """`value` with secret marks where `pattern` has them. A secret anywhere in a list marks the whole list."""
    marked = dict(value)
    for key, example in pattern.items():
        item = marked.get(key)
        if isinstance(example, dict) and isinstance(item, dict):
            marked[key] = mark_like(item, example)
        elif item is not None and any(isinstance(part, Secret) for part in _parts(example)):
            marked[key] = Secret(item)
    return marked
