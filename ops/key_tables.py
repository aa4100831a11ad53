"""The tables of docs/config.md: every key of the stack file, from its types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.abilities import CLOUDS
from config.errors import NAMESPACE
from config.keys import ROOT, Key, Part, about, parts
from config.secrets import SECRETS
from config.stack_file import RequestError
from config.types import QUANTITY

PAGE = Path("docs/config.md")
BEGIN = "<!-- From here on: written by `python -m ops schema --docs --write`. -->"


def page(text: str) -> str:
    """The page with its tables renewed: what stands before them stays. Raises RequestError if it has no place for
    them."""
    prose, begin, _ = text.partition(BEGIN)
    if not begin:
        raise RequestError(f"{PAGE}: has no line {BEGIN}")
    return f"{prose}{BEGIN}\n\n{tables()}"


def tables() -> str:
    """A heading and a table for each part, as Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    section = ""
    for part in parts().values():
        if part.name == ROOT:
            yield "## The sections\n"
            yield from _table(part)
            yield "\n## The secrets\n"
            yield "Set each with `pulumi config set --secret`; plain text is refused.\n"
            yield "| key | what it says |\n| --- | --- |"
            yield from (f"| `{NAMESPACE}:{key}` | {text} |" for key, text in SECRETS.items())
            yield ""
            continue
        here = re.split(r"[.\[]", part.paths[0])[0]
        if here != section:
            section = here
            yield f"## `{NAMESPACE}:{section}`\n"
        yield f"### {' and '.join(f'`{path}`' for path in part.paths)}{_which(part)}\n"
        yield f"{part.about}\n"
        yield from _table(part)
        yield ""


def _which(part: Part) -> str:
    """The first key's only word, where a part is one of several."""
    word = re.fullmatch(r"`(\w+)`", part.keys[0].kind)
    return f" with `{part.keys[0].name}: {word[1]}`" if word else ""


def _table(part: Part) -> Iterator[str]:
    yield "| key | type | default | unit | clouds | what it says |\n| --- | --- | --- | --- | --- | --- |"
    for key in part.keys:
        name = f"{NAMESPACE}:{key.name}" if part.name == ROOT else key.name
        says = about(key.part) if key.part and key.kind == "map" else key.description
        cells = (f"`{name}`", key.kind, default(key), key.unit, _clouds(key), says)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def default(key: Key) -> str:
    """What applies without the key. Empty if its description says what its absence means."""
    if key.required:
        return "required"
    return "" if key.default is None else f"`{flow(key.default)}`"


def _clouds(key: Key) -> str:
    return "all" if len(key.clouds) == len(CLOUDS) else ", ".join(key.clouds)


_WORD = re.compile(rf"[A-Za-z][A-Za-z0-9_./-]*(:[A-Za-z0-9_./-]+)*|{QUANTITY}")
_NOT_TEXT = re.compile(r"(?i)true|false|null|yes|no|on|off|y|n")


def flow(value: Any) -> str:
    """A value as one line of YAML. Text that a reader of YAML could take for something else is in quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) and not _NOT_TEXT.fullmatch(value)
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
