"""Looks into the templates of pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def container_of(template: dict[str, Any]) -> dict[str, Any]:
    """The only container."""
    (only,) = template["spec"]["containers"]
    return only


def env_of(template: dict[str, Any]) -> dict[str, Any]:
    """Its variables, each with its value or where that comes from."""
    entries = container_of(template)["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names), f"a variable twice: {names}"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no other, by its path; what has a name is in it by that."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            name = below["name"] if isinstance(below, dict) and isinstance(value, list) else key
            yield from leaves(below, f"{path}/{name}")
    else:
        yield path, value


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The paths of what differs."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
