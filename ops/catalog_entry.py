"""Writes a model's facts into `catalog.models` of a stack file. Every other line of the file stays as it is, comments
included."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from config.errors import NAMESPACE
from config.stack_file import RequestError
from ops.key_tables import flow

_READ = ", read "  # ends the comment that stands above an entry, before the day


def add_model(path: Path, name: str, facts: Mapping[str, Any], source: str) -> None:
    """Writes `facts` as the entry `name`, in place of one of that name, below a comment with `source`. Raises
    RequestError if the file is laid out so that this is not possible."""
    try:
        text = path.read_text(encoding="utf-8")
        new = _with_entry(text, name, facts, source)
        before, after = yaml.safe_load(text), yaml.safe_load(new)
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or "is not YAML"
        raise RequestError(f"{path}: {why}; mend that first") from None
    catalog = after["config"][f"{NAMESPACE}:catalog"]
    written = catalog["models"].pop(name)
    kept = (before["config"].get(f"{NAMESPACE}:catalog") or {}).get("models") or {}
    others = {key: value for key, value in kept.items() if key.lower() != name.lower()}
    assert written == facts and catalog["models"] == others, "another part of the file has changed"
    try:
        path.write_text(new, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from None


def _with_entry(text: str, name: str, facts: Mapping[str, Any], source: str) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    node = _below(root, "config")
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        raise RequestError("config: is no block of lines; write each of its keys on a line of its own")
    steps = [f"{NAMESPACE}:catalog", "models", name]
    while True:
        key, *rest = steps
        entry = next((each for each in node.value if str(each[0].value).lower() == key.lower()), None)
        indent = " " * node.value[0][0].start_mark.column
        if entry is not None and rest and isinstance(entry[1], yaml.MappingNode) and not entry[1].flow_style:
            node, steps = entry[1], rest
            continue
        start = end = _end(text, node)
        old = {}
        if entry is not None:
            start, end = _start(text, entry[0].start_mark.index, name), _end(text, entry[1])
            old = _plain(text, entry[1]) if rest else {}
        before = text[:start] + ("\n" if text[:start] and text[start - 1] != "\n" else "")
        lines = _lines(steps, old, facts, f"# {name}: {source}", indent)
        return before + "".join(f"{line}\n" for line in lines) + text[end:]


def _lines(
    steps: Sequence[str], old: Mapping[str, Any], facts: Mapping[str, Any], comment: str, indent: str
) -> Iterator[str]:
    """The lines of the entry at `steps`, with what else the maps on the way there held."""
    if not isinstance(old, Mapping):
        raise RequestError("catalog: is not a map of maps; mend that first")
    key, *rest = steps
    if not rest:
        yield f"{indent}{comment}"
    yield f"{indent}{flow(key)}:"
    others = {each: value for each, value in old.items() if each.lower() != rest[0].lower()} if rest else facts
    yield from (f"{indent}  {flow(each)}: {flow(value)}" for each, value in others.items())
    if rest:
        below = next((value for each, value in old.items() if each.lower() == rest[0].lower()), None) or {}
        yield from _lines(rest, below, facts, comment, f"{indent}  ")


def _below(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _plain(text: str, node: yaml.Node) -> dict[str, Any]:
    """The value of a map within braces, or of a key without value."""
    inside = text[node.start_mark.index : node.end_mark.index]
    if re.search(r"(^|\s)#", inside, re.MULTILINE):
        raise RequestError("catalog: has comments within braces; write it as a block of lines")
    value = yaml.safe_load(inside)
    if value is not None and not isinstance(value, dict):
        raise RequestError("catalog: is not a map; mend that first")
    return value or {}


def _start(text: str, index: int, name: str) -> int:
    """Where the line at `index` begins, or the comment on its source that an earlier run wrote above it."""
    line = text.rfind("\n", 0, index) + 1
    above = text.rfind("\n", 0, max(line - 1, 0)) + 1
    ours = re.fullmatch(rf"\s*# {re.escape(name)}: .*{_READ}\S+\n", text[above:line])
    return above if ours else line


def _end(text: str, node: yaml.Node) -> int:
    """Where the line after a node's last one begins. PyYAML's own mark of a block is beyond the comments below it."""
    while isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end = node.end_mark.index
    if end and text[end - 1] == "\n" and isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return end
    line = text.find("\n", end)
    return len(text) if line < 0 else line + 1
