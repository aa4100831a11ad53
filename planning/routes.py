"""What a vLLM release answers over HTTP, and which of it the guard in the engine lets through. Facts of its source."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from planning.catalog import entries
from planning.flags import known_release, within

# What switches on routes that are for development alone.
_DEVELOPMENT = ("VLLM_SERVER_DEV_MODE", "a profiler")


def routes(version: str) -> dict[str, list[str]]:
    """Every path of the release with its methods, whatever has to be switched on for it.

    A release newer than the catalog counts as the newest in it, one older as the oldest.
    """
    found = {path: _methods(entry, version) for path, entry in _table()["routes"].items()}
    return {path: methods for path, methods in found.items() if methods}


def switches(path: str, version: str) -> list[str]:
    """What has to be switched on for a path of the release; none where it is always there."""
    release = known_release(version)
    needed = _table()["routes"][path].get("if", {})
    return [name for name, span in needed.items() if within(release, span)]


def guarded(version: str) -> tuple[str, ...]:
    """The prefixes on which the release itself asks for its key."""
    release = known_release(version)
    *_, prefixes = (prefixes for first, prefixes in _table()["guarded"] if within(release, first))
    return tuple(prefixes)


def let_through(version: str, more: Iterable[str] = ()) -> list[str]:
    """What the guard lets through, each as `METHOD /path`: the usual paths that the release has, and `more` of its."""
    has = routes(version)
    return [f"{method} {path}" for path in sorted({*_table()["open"], *more}) for method in has.get(path, ())]


def problem(path: str, version: str) -> tuple[str, str] | None:
    """Why a stack file cannot have this path let through, and what to write instead; None where it can."""
    table, has = _table(), routes(version)
    if "*" in path:
        return "is no path: each is let through by its own name", "write one such as /tokenize"
    if path in table["open"] and path in has:
        return "is let through already", "leave it out"
    if path not in has:
        near = difflib.get_close_matches(path, has.keys() - table["closed"].keys(), n=1, cutoff=0.7)
        return f"vLLM {version} has no such path", f"write {near[0]}" if near else "leave it out"
    why = table["closed"].get(path)
    if why is None and any(name in _DEVELOPMENT for name in switches(path, version)):
        why = "is for development"
    return (why, "leave it out") if why else None


def _methods(entry: Mapping[str, Any], version: str) -> list[str]:
    release = known_release(version)
    return [method for method, span in entry.items() if method != "if" and within(release, span)]


def _table() -> dict[str, Any]:
    return entries("vllm_routes")
