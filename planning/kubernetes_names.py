"""Names and values that the Kubernetes API checks when it creates an object: why it refuses one, and what to write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from planning.catalog import fact

Reason = tuple[str, str]


def subdomain_problem(name: str, what: str) -> Reason | None:
    """Why no object of kind `what` can have this name."""
    if _fits(fact("kubernetes", "names", "subdomain"), name):
        return None
    why = f"is not a {what}'s name (DNS-1123: lower-case letters, digits, '-' and '.')"
    return why, f"write the name of an existing {what}"


def variable_problem(name: str) -> Reason | None:
    """Why Kubernetes refuses an environment variable of this name."""
    if re.fullmatch(fact("kubernetes", "names", "variable"), name):
        return None
    return "is not a variable's name", "write letters, digits, '_', '-' and '.', and begin with no digit"


def label_problems(labels: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """What is wrong with labels, each as (key, value, why, what to write instead)."""
    for key, value in labels.items():
        if wrong := _key_problem(key):
            yield (key, value, *wrong)
        elif value and not _fits(fact("kubernetes", "names", "label"), value):
            why = "is not a label's value (at most 63 letters, digits, '-', '_' and '.', not '-', '_' or '.' at an end)"
            yield key, value, why, "write a shorter or simpler one, or use an annotation"


def annotation_problems(annotations: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """What is wrong with annotations, each as (key, value, why, what to write instead)."""
    for key, value in annotations.items():
        if wrong := _key_problem(key.lower()):
            yield (key, value, *wrong)
    most, size = fact("kubernetes", "names", "annotationBytes"), 0
    for key, value in annotations.items():
        size += len(key.encode()) + len(value.encode(errors="replace"))
        if size > most:
            yield key, value, f"brings the annotations to {size} bytes, and Kubernetes takes {most}", "write less"
            return


def _key_problem(key: str) -> Reason | None:
    prefix, slash, name = key.rpartition("/")
    names = fact("kubernetes", "names", "label")
    if _fits(names, name) and (not slash or _fits(fact("kubernetes", "names", "subdomain"), prefix)):
        return None
    return (
        "has a key that Kubernetes refuses",
        f"write name or domain/name, the name of at most {names['limit']} letters, digits, '-', '_' and '.'",
    )


def _fits(kind: Mapping[str, str | int], text: str) -> bool:
    return len(text) <= int(kind["limit"]) and re.fullmatch(str(kind["pattern"]), text) is not None
