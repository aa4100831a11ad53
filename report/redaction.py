"""Removes secrets from values before anything else sees them. Pure.

The engine marks secrets itself: its JSON has a mark or `[secret]` in their place. An unmarked secret is recognised by
what it is: the content of a Secret, a value under a key-like name or after a key-like argument, or a key's shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planning import flags, leaks, pulumi_values
from planning.pulumi_values import MARK

SECRET = "[secret]"
UNKNOWN = "(known later)"

# go/common/resource/plugin/rpc.go: the texts that stand for a still unknown value, one for each type.
_UNKNOWN_TEXTS = frozenset(
    {
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    }
)
_CONTENT = ("data", "stringData")
# kubectl and client-side apply repeat a whole object in it, a Secret with its content.
_REPEATED = "kubectl.kubernetes.io/last-applied-configuration"
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY.*?(-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL)
_NAMED = re.compile(r"""(?<![\w-])(?P<name>[\w-]+)(?P<sign>["']?\s?(=|:\s?(?=["']))["']?)(?P<value>[^\s"',;]+)""")


def cleaned(value: Any, name: str = "") -> Any:
    """A value without its secrets; `name` is its key."""
    if isinstance(value, Mapping):
        if MARK in value:
            return _unmarked(value)
        secret = value.get("kind") == "Secret"
        # An environment variable of a container: its name stands beside its value.
        beside = str(value.get("name", "")) if set(value) == {"name", "value"} else ""
        return {
            key: _hidden(below)
            if secret and key in _CONTENT
            else cleaned(below, beside if key == "value" else str(key))
            for key, below in value.items()
        }
    if isinstance(value, list):
        words = [word if isinstance(word, str) else "" for word in value]
        behind = {at: given.spelling for given in flags.parse(words) for at in given.value_indexes}
        return [_argument(each, behind.get(at)) for at, each in enumerate(value)]
    if isinstance(value, str):
        if value in _UNKNOWN_TEXTS:
            return UNKNOWN
        return SECRET if value and (name == _REPEATED or leaks.hides(name) or leaks.by_shape(value)) else value
    return value


def text(said: str) -> str:
    """A message without private keys, without values that a key-like name is given, and without any line that contains
    a key by its shape."""

    def hidden(found: re.Match[str]) -> str:
        return f"{found['name']}{found['sign']}{SECRET}" if leaks.hides(found["name"]) else found[0]

    said = _NAMED.sub(hidden, _PRIVATE_KEY.sub(SECRET, said))
    return "\n".join(SECRET if leaks.by_shape(line) else line for line in said.splitlines())


def _argument(value: Any, flag: str | None) -> Any:
    if flag is None or not isinstance(value, str) or not leaks.hides(flag):
        return cleaned(value)
    name, equals, _ = value.partition("=")
    return f"{name}={SECRET}" if equals and name.startswith("--") else SECRET


def _hidden(value: Any) -> Any:
    """The content of a Secret: at most its keys are shown."""
    if isinstance(value, Mapping) and MARK not in value:
        return dict.fromkeys(map(str, value), SECRET)
    return value if value is None else SECRET


def _unmarked(value: Mapping[str, Any]) -> Any:
    if value[MARK] == pulumi_values.SECRET:
        return SECRET
    if "urn" in value:
        return value["urn"]
    if value.get("secret"):
        return SECRET
    return cleaned(value["value"]) if "value" in value else UNKNOWN
