"""Pods as Kubernetes describes them, and what of ours and our controllers' is in them already. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from planning.catalog import fact


@dataclass(frozen=True)
class Owned:
    """What the program itself puts into a kind of pod: volumes by name, folders, fields of the security context."""

    volumes: tuple[str, ...]
    folders: tuple[str, ...]
    security: tuple[str, ...] = ()


ENGINE = Owned(
    volumes=("launch", "shm", "weights", "weights-program", "weights-tools", "weights-node"),
    folders=("/etc/modelserve", "/dev/shm", "/weights", "/tools", "/node"),
)
SYNC = Owned(
    volumes=("program", "tools", "scratch", "weights"),
    folders=("/etc/modelserve", "/scratch", "/tools", "/weights"),
    # Who writes decides who may read the bucket's files, or a share that belongs to root.
    security=("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup"),
)


def types() -> Mapping[str, Mapping[str, str]]:
    """Kubernetes' types that a pod's fields are made of: field to type, `[X]` a list, `{X}` a map of text to it. A
    field that ends in `!` is required."""
    return fact("kubernetes", "pods", "types")


def values() -> Mapping[str, list[str]]:
    """The values that `Type.field` takes, where they are few."""
    return fact("kubernetes", "pods", "values")


def hidden(folder: str, by: str) -> bool:
    """Whether a mount at `by` would hide `folder`, or be in it."""
    one, other = PurePosixPath(folder), PurePosixPath(by)
    return one.is_relative_to(other) or other.is_relative_to(one)
