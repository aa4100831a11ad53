"""A stack file's text with every key: those that it gives as lines, the others as comments with what applies without
them. Each has its description, type, unit and default, from the types (`config.keys`)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from config.errors import NAMESPACE
from config.keys import ROOT, Key, about, keys_of
from config.secrets import SECRETS
from ops.key_tables import flow

_WIDTH = 120
_SCHEMA = "# yaml-language-server: $schema=stack.schema.json"
_ABOUT = (
    "Every key is here. To set one that is a comment, take away the # right before it, and those before the keys that "
    "it is in. docs/config.md has all keys of all clouds."
)


def written(
    heading: str, raw: Mapping[str, Any], others: Mapping[str, Any], rest: Mapping[str, Any], cloud: str | None
) -> str:
    """The text of a stack file.

    `raw` maps keys without namespace to their values. `others` are the config's further keys, with their namespaces:
    encrypted secrets, other programs' keys. `rest` are the file's keys beside `config`. Keys that `cloud` has no use
    for are left out, unless given.
    """
    return "\n".join([*_lines(heading, raw, others, rest, cloud), ""])


def _lines(
    heading: str, raw: Mapping[str, Any], others: Mapping[str, Any], rest: Mapping[str, Any], cloud: str | None
) -> Iterator[str]:
    yield _SCHEMA
    yield from _wrapped(heading, "# ")
    yield from _wrapped(_ABOUT, "# ")
    yield "config:"
    yield from (f"  {flow(key)}: {flow(value)}" for key, value in others.items())
    yield from _part(ROOT, raw, "  ", cloud)
    yield ""
    yield from _wrapped("Secrets, which `pulumi config set --secret KEY` encrypts and writes here:", "  # ")
    for key, text in SECRETS.items():
        yield from _wrapped(f"{NAMESPACE}:{key}: {text}", "  # - ")
    yield from (f"{flow(key)}: {flow(value)}" for key, value in rest.items())


def _part(part: str, given: Mapping[str, Any] | None, indent: str, cloud: str | None) -> Iterator[str]:
    """The lines of a part, as comments if it is not given."""
    for key in keys_of(part):
        there = given is not None and key.name in given
        if not there and cloud is not None and cloud not in key.clouds:
            continue
        if part == ROOT:
            yield ""
        value = given[key.name] if given is not None and there else None
        yield from _wrapped(_told(key, value), f"{indent}# ")
        name = f"{NAMESPACE}:{key.name}" if part == ROOT else key.name
        lead = f"{indent}{'' if there else '#'}{flow(name)}:"
        yield from _value(key, lead, value, there, indent, cloud)


def _value(key: Key, lead: str, value: Any, there: bool, indent: str, cloud: str | None) -> Iterator[str]:
    below = f"{indent}  "
    part = key.part if not key.parts else _chosen(key, value)
    if there and part and key.many == "map" and isinstance(value, Mapping) and value:
        yield lead
        for name, each in value.items():
            if isinstance(each, Mapping) and each:
                yield f"{below}{flow(name)}:"
                yield from _part(part, each, f"{below}  ", cloud)
            else:
                yield f"{below}{flow(name)}: {flow(each)}"
    elif part and not key.many and (not there or (isinstance(value, Mapping) and value)):
        yield lead
        yield from _part(part, value if there else None, below, cloud)
    else:
        yield f"{lead} {flow(value) if there else _without(key)}"


def _chosen(key: Key, value: Any) -> str | None:
    """The part of a key that holds one of several."""
    tags = value.values() if isinstance(value, Mapping) else ()
    return next((key.parts[tag] for tag in tags if isinstance(tag, str) and key.parts and tag in key.parts), None)


def _without(key: Key) -> str:
    """What a comment shows as value: the default; for a key that must be given a placeholder, which is refused."""
    return flow(f"<{key.name}>") if key.required else flow(key.default)


def _told(key: Key, value: Any) -> str:
    part = key.part if not key.parts else _chosen(key, value)
    if part and key.kind == "map":
        return f"{about(part)}{' Required.' if key.required else ''}"
    facts = [key.kind.replace("`", "") + (f" in {key.unit}" if key.unit else "")]
    if key.required:
        facts.append("required")
    elif key.default not in (None, {}, []):
        facts.append(f"default {flow(key.default)}")
    return f"{key.description} ({'; '.join(facts)})"


def _wrapped(text: str, lead: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=lead.replace("-", " "),
        break_long_words=False,
        break_on_hyphens=False,
    )
