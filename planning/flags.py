"""Which arguments of `vllm serve` a release knows. Facts of its own parser, condensed; knows no values.

A release between two known ones is judged as the older. One newer than the catalog is not judged at all: what it knows
is unknown, and that is no reason to refuse.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from planning.catalog import entries, fact
from planning.engine import release_key


def problem(argument: str, version: str) -> tuple[str, str] | None:
    """What is wrong with one element of an argument list for that release, and what to write instead; None if nothing.

    Elements that are no flags (values) are never wrong. `--flag=value`, `--flag.key`, underscores and aliases count as
    the flag.
    """
    flag = re.split(r"[=.]", argument, maxsplit=1)[0]
    if not flag.startswith("-") or _is_number(flag):
        return None
    name = flag.replace("_", "-")
    release = _release(version)
    if release is None:
        return None
    spans = _spans().get(name)
    if spans is None:
        near = difflib.get_close_matches(name, _spans(), n=1, cutoff=0.7)
        return f"vLLM {version} has no such argument", f"did you mean {near[0]}?" if near else "leave it out"
    releases = fact("vllm", "releases", "known")
    at = releases.index(release)
    if any(releases.index(first) <= at and (last is None or at <= releases.index(last)) for first, last in spans):
        return None
    if at < releases.index(spans[0][0]):
        return f"vLLM {version} does not know it yet: it came by {spans[0][0]}", "leave it out, or take a newer engine"
    gone = next(last for _, last in reversed(spans) if last is not None and releases.index(last) < at)
    return f"vLLM {version} dropped it: {gone} was the last with it, and the engine would end at once", "leave it out"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-\d+(\.\d+)?", text) is not None


def _release(version: str) -> str | None:
    """The newest known release not newer than `version`, or None where the catalog ends before or begins after it."""
    wanted, known = release_key(version), fact("vllm", "releases", "known")
    if wanted[:2] > release_key(known[-1])[:2]:
        return None
    return next((release for release in reversed(known) if release_key(release) <= wanted), None)


@cache
def _spans() -> Mapping[str, list[list[Any]]]:
    """Every spelling of a flag, with the releases [first, last] that know it; last None: still known."""
    spans: dict[str, list[list[Any]]] = {}
    for name, entry in entries("vllm_flags")["flags"].items():
        for spelling in (name, *entry.get("aliases", ())):
            spans.setdefault(spelling.replace("_", "-"), []).extend(entry["in"])
    return spans
