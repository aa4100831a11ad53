"""Which of a repository's files an engine reads, by the catalog: a repository often holds a model several times.

The bucket, its manifest and the cache hold one copy in each format that an engine reads, and the plan counts these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from planning.catalog import fact


@dataclass(frozen=True)
class Needed:
    """Files that match `leaves` are not needed if the repository's root has a file for each pattern in `weights`. The
    files that remain hold the model `copies` times."""

    weights: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    copies: int = 1


def needed(engines: Iterable[Mapping[str, Any]]) -> Needed:
    """The files that engines with these arguments (as `flags.read` gives them) read of their model. If one asks for a
    format that the catalog does not know, every file is needed."""
    known = fact("sync", "files", "formats")
    formats = {_format(arguments) for arguments in engines}
    if not formats <= known.keys():
        return Needed()
    shared = set.intersection(*(set(known[name]["leaves"]) for name in formats))
    return Needed(tuple(sorted(known[name]["weights"] for name in formats)), tuple(sorted(shared)), copies=len(formats))


def _format(arguments: Mapping[str, Any]) -> str:
    """The catalog's name of the format that an engine reads; the engine's own word for it if the catalog has none."""
    asked = arguments.get("--load-format") or "auto"
    if asked == "auto" and arguments.get("--config-format") == "mistral":
        asked = "mistral"
    formats = fact("sync", "files", "formats").items()
    return next((name for name, facts in formats if asked in facts["loadFormats"]), asked)
