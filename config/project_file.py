"""What the project file, `Pulumi.yaml`, says for all stacks, as the engine takes it over into a stack's config.

The engine (sdk v3.250.0, `workspace/config.go`, mergeConfig): a stack's own value wins over the project's `default` or
`value`; a key may be a path into a section, and then fills it only where the stack is silent. `workspace/project.go`,
RewriteShorthandConfigValues: a key may have its value without either word. Knows nothing of what the values mean.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import pulumi_yaml
from config.errors import NAMESPACE

FILE = "Pulumi.yaml"
_STEP = re.compile(r"""\.?([^.\[\]"]+)|\.?\["([^"]*)"\]|\[(\d+)\]""")
_NOTHING = object()
# The engine takes such text for a number where a path leads to it (sdk v3.250.0, `resource/config/object.go`, coerce).
_DIGITS = re.compile(r"-?(0|[1-9][0-9]*)")


def fill(config: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a stack file, with what the project says and it does not. Keys with `modelserve:` and without are
    the same. Where a path leads through something else than maps and lists, the stack's value stays, to be refused."""
    filled = copy.deepcopy(dict(config))
    for full, value in sorted(shared.items()):
        path = steps(full.removeprefix(f"{NAMESPACE}:"))
        if path is None or not isinstance(path[0], str):
            continue
        first = path[0] if path[0] in filled or ":" in path[0] else f"{NAMESPACE}:{path[0]}"
        place = [first, *path[1:]]
        if at(filled, place, _NOTHING) is not _NOTHING:
            continue
        with contextlib.suppress(TypeError, IndexError):
            put(filled, place, _of_text(value) if len(place) > 1 else value)
    return filled


def steps(path: str) -> list[str | int] | None:
    """A path as Pulumi spells it, `services.ds.extraArgs[0]` or `repositories["DeepSeek-V3.1"]`, step by step; None if
    it is none."""
    parts: list[str | int] = []
    begin = 0
    while begin < len(path):
        step = _STEP.match(path, begin)
        if step is None or (begin == 0 and path[0] in ".["):
            return None
        parts.append(int(step[3]) if step[3] else step[1] if step[1] is not None else step[2])
        begin = step.end()
    return parts or None


def at(value: Any, path: list[str | int], nothing: Any = None) -> Any:
    """What is at a path, or `nothing`."""
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step, nothing)
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step] if step < len(value) else nothing
        else:
            return nothing
    return value


def put(config: dict[str, Any], path: list[str | int], value: Any) -> None:
    """Write `value` at a path, with the maps and lists that lead there. Raises TypeError if something else is there,
    IndexError for an item beyond a list's next."""
    place: Any = config
    for step, following in zip(path, [*path[1:], None], strict=True):
        empty = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(step, int) and isinstance(place, list):
            if step > len(place):
                raise IndexError(step)
            if step == len(place):
                place.append(empty)
        elif not isinstance(step, str) or not isinstance(place, dict):
            raise TypeError(step)
        elif place.get(step) is None:
            place[step] = empty
        if following is None:
            place[step] = value
        place = place[step]


def shared(folder: Path) -> Mapping[str, Any]:
    """The values of the project in this folder, by their keys. A file that cannot be read has none: the engine refuses
    it itself."""
    try:
        document = pulumi_yaml.read_file(folder / FILE)
    except pulumi_yaml.UnreadableError:
        return {}
    declared = document.value.get("config") if isinstance(document.value, Mapping) else None
    if not isinstance(declared, Mapping):
        return {}
    said = {key: _said(entry) for key, entry in declared.items() if isinstance(key, str)}
    return {key: value for key, value in said.items() if value is not None}


def _said(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return entry["default"] if entry.get("default") is not None else entry.get("value")


def _of_text(value: Any) -> Any:
    if value in ("true", "false"):
        return value == "true"
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
