"""Known holes of vLLM's releases, by the catalog: which advisories a release is under, and which release ends them.

Not here: whether a stack makes use of what has the hole. An advisory that is not in the catalog is not known.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from planning.catalog import entries, fact


@dataclass(frozen=True)
class Hole:
    """An advisory. `severity` is `high`, `critical` or None for one that was not read; `fixed` the first release
    without it, None where the advisory names none."""

    id: str
    cve: str
    severity: str | None
    fixed: str | None
    what: str


def holes(version: str) -> tuple[Hole, ...] | None:
    """The holes of a release, in the catalog's order; None where `version` has no number to judge by.

    A candidate or nightly counts as older than its release: it may have been cut before the fix.
    """
    at = _key(version)
    if at is None:
        return None
    found = []
    for name, entry in entries("advisories")["vllm"].items():
        known = entry["value"]
        since, fixed, last = (_key(known[end]) if known[end] else None for end in ("since", "fixed", "last"))
        begun = since is None or at >= since
        ended = (fixed is not None and at >= fixed) or (last is not None and at > last)
        if begun and not ended:
            found.append(Hole(name, known["cve"], known["severity"], known["fixed"], known["what"]))
    return tuple(found)


def told(version: str, accepted: Collection[str] = (), *, named: bool = True) -> str | None:
    """The holes of a release in a clause, except those that are accepted by id or CVE; None where there are none.
    `named`: with their ids.

    Raises ValueError where `version` has no number to judge by.
    """
    found = holes(version)
    if found is None:
        raise ValueError(version)
    left = tuple(hole for hole in found if not {hole.id, hole.cve} & {*accepted})
    if not left:
        return None
    better, ids = first_without(left), ", ".join(hole.id for hole in left) + "; " if named else ""
    known = f"vLLM {version} has {len(left)} known holes ({ids}advisories to {newest()})"
    return known + (f", {better} has none of them" if better else "")


def first_without(found: tuple[Hole, ...]) -> str | None:
    """The first release that none of these is in, as far as they name one."""
    fixes = [hole.fixed for hole in found if hole.fixed]
    return max(fixes, key=lambda fixed: _key(fixed) or ()) if fixes else None


def newest() -> str:
    """The day of the newest advisory that the catalog knows."""
    return fact("advisories", "about", "newest")


def _key(version: str) -> tuple[tuple[int, ...], bool] | None:
    """What releases are ordered by: their numbers, and that a release comes after what leads up to it."""
    head = re.match(r"v?(\d+(?:\.\d+)*)(\.?(?:a|b|rc|dev)\d*)?", version)
    if head is None:
        return None
    return tuple(int(part) for part in head[1].split(".")), head[2] is None
