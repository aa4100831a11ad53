"""Pods as Kubernetes describes them, and what the program already puts into them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from planning.catalog import fact


@dataclass(frozen=True)
class Owned:
    """What the program puts into a kind of pod: volumes by name, folders, fields of the security context."""

    volumes: tuple[str, ...]
    folders: tuple[str, ...]
    security: tuple[str, ...] = ()


ENGINE = Owned(
    volumes=("launch", "shm", "weights", "weights-program", "weights-tools", "weights-node", "compiled"),
    folders=("/etc/modelserve", "/dev/shm", "/weights", "/tools", "/node", "/var/cache/modelserve"),
)
SYNC = Owned(
    volumes=("program", "tools", "scratch", "weights", "token"),
    folders=("/etc/modelserve", "/scratch", "/tools", "/var/run/secrets/modelserve", "/weights"),
    # The user that writes files decides who can read them, and a shared volume may belong to root.
    security=("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup"),
)


def types() -> Mapping[str, Mapping[str, str]]:
    """The Kubernetes types that make up a pod's fields: field → type. `[X]` is a list of X, `{X}` a map from text to
    X. A field that ends in `!` is required."""
    return fact("kubernetes", "pods", "types")


def values() -> Mapping[str, list[str]]:
    """The values that `Type.field` takes, for fields with a fixed list."""
    return fact("kubernetes", "pods", "values")


def hidden(folder: str, by: str) -> bool:
    """Whether a mount at `by` would hide `folder`, or lie inside it."""
    one, other = PurePosixPath(folder), PurePosixPath(by)
    return one.is_relative_to(other) or other.is_relative_to(one)
