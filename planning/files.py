"""Which of a repository's files an engine reads, out of the catalog: a model is often held there several times.

The bucket, its manifest and the cache hold one copy in each format that some engine reads, and the plan counts those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planning.catalog import fact


@dataclass(frozen=True)
class Needed:
    """Files of the patterns `leaves` are not needed where the repository's root has one of each of `weights`. What is
    needed holds the model `copies` times."""

    weights: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    copies: int = 1


def needed(engines: Iterable[Mapping[str, str | None]]) -> Needed:
    """The files that engines with these arguments (`--flag` to value) read of their model. Whoever asks for a format
    that the catalog does not know gets every file."""
    known = fact("sync", "files", "formats")
    formats = {_format(given) for given in engines}
    if not formats <= known.keys():
        return Needed()
    shared = set.intersection(*(set(known[each]["leaves"]) for each in formats))
    return Needed(tuple(sorted(known[each]["weights"] for each in formats)), tuple(sorted(shared)), copies=len(formats))


def _format(given: Mapping[str, str | None]) -> str:
    """The format in the catalog that an engine reads; what it asks for where that is none of them."""
    asked = given.get("--load-format") or "auto"
    if asked == "auto" and given.get("--config-format") == "mistral":
        asked = "mistral"
    listed = fact("sync", "files", "formats").items()
    return next((name for name, each in listed if asked in each["loadFormats"]), asked)
