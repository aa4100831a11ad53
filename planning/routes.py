"""The HTTP paths of a vLLM release, from its source, and which of them the guard in the engine lets through."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from planning.catalog import entries
from planning.flags import known_release, within

# These switch on routes that are only for development.
_DEVELOPMENT = ("VLLM_SERVER_DEV_MODE", "a profiler")


def routes(version: str) -> dict[str, list[str]]:
    """Every path of the release with its methods, including paths that must be switched on.

    A release newer than the catalog counts as its newest, an older one as its oldest.
    """
    by_path = {path: _methods(entry, version) for path, entry in _table()["routes"].items()}
    return {path: methods for path, methods in by_path.items() if methods}


def switches(path: str, version: str) -> list[str]:
    """What must be switched on for a path of the release; empty if the path is always there."""
    release = known_release(version)
    needed = _table()["routes"][path].get("if", {})
    return [name for name, span in needed.items() if within(release, span)]


def guarded(version: str) -> tuple[str, ...]:
    """The path prefixes for which the release itself requires its key."""
    release = known_release(version)
    *_, prefixes = (prefixes for first, prefixes in _table()["guarded"] if within(release, first))
    return tuple(prefixes)


def let_through(version: str, more: Iterable[str] = ()) -> list[str]:
    """What the guard lets through, as `METHOD /path`: the usual paths and `more`, as far as the release has them."""
    methods = routes(version)
    return [f"{method} {path}" for path in sorted({*_table()["open"], *more}) for method in methods.get(path, ())]


def problem(path: str, version: str) -> tuple[str, str] | None:
    """Why a stack file cannot let this path through, and what to write instead; None if it can."""
    table, methods_by_path = _table(), routes(version)
    if "*" in path:
        return "is a pattern, and each path must be named", "write one such as /tokenize"
    if path in table["open"] and path in methods_by_path:
        return "is already let through", "leave it out"
    if path not in methods_by_path:
        near = difflib.get_close_matches(path, methods_by_path.keys() - table["closed"].keys(), n=1, cutoff=0.7)
        return f"vLLM {version} has no such path", f"write {near[0]}" if near else "leave it out"
    why = table["closed"].get(path)
    if why is None and any(name in _DEVELOPMENT for name in switches(path, version)):
        why = "is only for development"
    return (why, "leave it out") if why else None


def _methods(entry: Mapping[str, Any], version: str) -> list[str]:
    release = known_release(version)
    return [method for method, span in entry.items() if method != "if" and within(release, span)]


def _table() -> dict[str, Any]:
    return entries("vllm_routes")
