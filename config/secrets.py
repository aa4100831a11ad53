"""The stack file's secrets: which exist, whether they hold something, and what plain text looks like a secret.

Secrets are separate keys that never enter the typed config: the builders read them as Pulumi secrets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from config.errors import NAMESPACE, join
from planning import flags, leaks
from planning.names import API_KEY
from planning.problems import Problem

SECRETS = {
    API_KEY: "the key that clients send as a bearer token; without it the endpoint needs none",
    "kubeconfig": "the cluster's kubeconfig, if it is not a file on this machine",
    "accessKey": "id of an access key that reads the bucket; without it the stack creates a user for that",
    "secretKey": "secret of accessKey",
    "syncAccessKey": "id of an access key that fills the bucket; without it the stack creates a user for that",
    "syncSecretKey": "secret of syncAccessKey",
    "hubToken": "the model hub's token, for repositories that need one",
}
"""Secret keys and their descriptions."""
PAIRS = (("accessKey", "secretKey"), ("syncAccessKey", "syncSecretKey"))
"""Keys that are useless without each other."""

_HUB_TOKEN = "hubToken"
# A secret that was set to "": only the 16 bytes of authentication of AES-256-GCM (sdk v3.250.0,
# `resource/config/crypt.go`). A secret encrypted by a cloud's key service does not show whether it is empty.
_NOTHING_ENCRYPTED = re.compile(r"v1:[^:]+:[A-Za-z0-9+/]{22}==")


def is_encrypted(value: object) -> bool:
    """Whether a value of the stack file is encrypted."""
    return isinstance(value, dict) and set(value) == {"secure"} and isinstance(value["secure"], str)


def is_empty(value: object) -> bool:
    """Whether a secret of the stack file holds nothing: encrypted, in plain text, or decrypted by the engine."""
    if isinstance(value, dict) and set(value) == {"secure"}:
        ciphertext = value["secure"]
        return is_empty(ciphertext) or (
            isinstance(ciphertext, str) and _NOTHING_ENCRYPTED.fullmatch(ciphertext) is not None
        )
    return value in (None, [], {}) or (isinstance(value, str) and not value.strip())


def problems(plain: Collection[str], encrypted: Collection[str], empty: Collection[str]) -> Iterator[Problem]:
    """What is wrong with a stack file's secrets. Takes their keys: in plain text, encrypted, without a value."""
    for key in plain:
        why = "a secret in plain text ends up in the state file, the repository and logs"
        yield Problem(key, "(plain text)", why, _set(key))
    for key in empty:
        yield Problem(key, "(empty)", "an empty secret has no effect", f"{_set(key)}, or leave it out")
    present = {*plain, *encrypted, *empty}
    for pair in PAIRS:
        for alone, other in (pair, pair[::-1]):
            if other in present and alone not in present:
                yield Problem(alone, "", f"is missing, and {other} is useless without it", _set(alone))


def warnings(services: Iterable[str], secrets: Collection[str], plain: Mapping[str, Any]) -> Iterator[str]:
    """Warnings about secrets in a valid file, one sentence each, without any value.

    `secrets` are the keys of the secrets that it has; `plain` maps keys with namespaces to all unencrypted values.
    """
    if API_KEY not in secrets:
        names = ", ".join(services)
        yield f"{NAMESPACE}:{API_KEY}: is missing: {names} will answer anyone, without a key; {_set(API_KEY)}"
    for path, what in _leaks(plain, ()):
        yield f"{join(path)}: looks like {what}, in plain text for whoever reads the file; {_remedy(path, what)}"


def _set(key: str, namespace: str = NAMESPACE) -> str:
    return f"run: pulumi config set --secret {namespace}:{key}"


def _remedy(path: tuple[object, ...], what: str) -> str:
    namespace, _, key = str(path[0]).rpartition(":")
    if namespace != NAMESPACE:
        return _set(key, namespace) if len(path) == 1 else f"run: pulumi config set --secret --path {join(path)}"
    if what == leaks.by_name("HF_TOKEN"):
        return f"leave it out, and {_set(_HUB_TOKEN)}"
    return "leave it out, and have its owner replace it"


def _leaks(value: object, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], str]]:
    """Paths of texts that look like keys, with the kind of key."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaks(below, (*path, key))
    elif isinstance(value, list):
        words = [word if isinstance(word, str) else "" for word in value]
        flag_of_value = {at: flag.spelling for flag in flags.parse(words) for at in flag.value_indexes}
        for index, below in enumerate(value):
            named = leaks.by_name(flag_of_value.get(index, "")) if isinstance(below, str) else None
            yield from [((*path, index), named)] if named else _leaks(below, (*path, index))
    elif isinstance(value, str) and value and (what := leaks.by_name(str(path[-1])) or leaks.by_shape(value)):
        yield path, what
