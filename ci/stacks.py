"""Which stacks the workflows look after, which of them a commit changes, and which are no longer needed."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from planning.problems import Problem, Refused

LIST = Path(".github/stacks.json")
"""A JSON list of the names of the stacks that the workflows look after."""

# Folders that no preview depends on. Everything else is program, and may change every stack.
_BESIDE = ("docs", "tests", "bench", "local", "standins", ".github", ".ci")
_FILES = re.compile(r"(.*\.md|LICENSE|Makefile|requirements-dev\..*|\.[^/]*)")


def looked_after(folder: Path) -> list[str]:
    """The stacks in the list. Raises Refused if the file is not a list, or names a stack that has no file."""
    instead = 'write a list of stack names, such as ["acs"]'
    try:
        names = json.loads((folder / LIST).read_text())
    except OSError as error:
        raise Refused(Problem(str(LIST), "", error.strerror or "cannot be read", instead)) from None
    except ValueError:
        raise Refused(Problem(str(LIST), "", "is no JSON", instead)) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refused(Problem(str(LIST), "", "is no list of names", instead))
    missing = [name for name in names if not (folder / f"Pulumi.{name}.yaml").is_file()]
    if missing:
        why, instead = "has no Pulumi.<STACK>.yaml", "add the file, or take the name out"
        raise Refused(*(Problem(str(LIST), name, why, instead) for name in missing))
    return names


def changed(stacks: Iterable[str], files: Iterable[str] | None) -> list[str]:
    """The stacks, in the order of `stacks`, that changed `files` may change; all of them if `files` is None."""
    stacks = list(stacks)
    if files is None:
        return stacks
    names_found: set[str] = set()
    for name in files:
        path = PurePosixPath(name)
        own = re.fullmatch(r"Pulumi\.(.+)\.yaml", name)
        if own:
            names_found.add(own[1])
        elif not (path.parts[0] in _BESIDE or _FILES.fullmatch(name)):
            return stacks
    return [stack for stack in stacks if stack in names_found]


def expired(raw: Mapping[str, Any], today: datetime.date) -> bool:
    """Whether the last day on which the stack was needed, as the stack file says, is over."""
    try:
        return datetime.date.fromisoformat(str(raw["expires"])) < today
    except (KeyError, ValueError):
        return False


def left(state: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What a destroyed stack's state still has: what was kept on purpose, and what should be gone.

    `state` is what `pulumi stack export` prints.
    """
    kept: list[str] = []
    alive: list[str] = []
    for each in state.get("deployment", {}).get("resources") or []:
        if not each.get("custom") or each["type"].startswith("pulumi:providers:"):
            continue
        name = f"{each['type'].rpartition(':')[2]} {each['urn'].rpartition('::')[2]}"
        (kept if each.get("protect") or each.get("retainOnDelete") else alive).append(name)
    return kept, alive
