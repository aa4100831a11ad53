"""The stack file's secrets: which there are, that they hold something, and what in plain text looks like one.

They are keys of their own, which never enter the typed config: the builders read them as Pulumi's secrets.
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
    API_KEY: "the key that clients send as a bearer token; without it the endpoint asks for none",
    "kubeconfig": "the cluster's kubeconfig, where it is not a file of the machine",
    "accessKey": "id of an access key that reads the bucket; without it the stack makes a user for that",
    "secretKey": "secret of accessKey",
    "syncAccessKey": "id of an access key that fills the bucket; without it the stack makes a user for that",
    "syncSecretKey": "secret of syncAccessKey",
    "hubToken": "the model hub's token, for repositories that ask for one",
}
"""Each with what it is."""
PAIRS = (("accessKey", "secretKey"), ("syncAccessKey", "syncSecretKey"))
"""Keys that are useless alone."""

_HUB_TOKEN = "hubToken"
# AES-256-GCM's 16 bytes of authentication and nothing else (sdk v3.250.0, `resource/config/crypt.go`): what a secret in
# the stack file is that was set to "". Secrets of a cloud's own service tell nothing.
_NOTHING_ENCRYPTED = re.compile(r"v1:[^:]+:[A-Za-z0-9+/]{22}==")


def is_encrypted(value: object) -> bool:
    """Whether a value of the stack file is an encrypted one."""
    return isinstance(value, dict) and set(value) == {"secure"} and isinstance(value["secure"], str)


def is_empty(value: object) -> bool:
    """Whether a secret of the stack file holds nothing, encrypted or not, or decrypted by the engine."""
    if isinstance(value, dict) and set(value) == {"secure"}:
        within = value["secure"]
        return is_empty(within) or isinstance(within, str) and _NOTHING_ENCRYPTED.fullmatch(within) is not None
    return value in (None, [], {}) or isinstance(value, str) and not value.strip()


def problems(plain: Collection[str], encrypted: Collection[str], empty: Collection[str]) -> Iterator[Problem]:
    """What is wrong with a stack file's secrets, by their keys: those in plain text, encrypted, without a value."""
    for key in plain:
        why = "a secret in plain text ends in the state file, the repository and logs"
        yield Problem(key, "(plain text)", why, _set(key))
    for key in empty:
        yield Problem(key, "(empty)", "a secret that holds nothing is as good as none", f"{_set(key)}, or leave it out")
    there = {*plain, *encrypted, *empty}
    for pair in PAIRS:
        for alone, other in (pair, pair[::-1]):
            if other in there and alone not in there:
                yield Problem(alone, "", f"is missing, and {other} is useless without it", _set(alone))


def warnings(services: Iterable[str], secrets: Collection[str], plain: Mapping[str, Any]) -> Iterator[str]:
    """What a person should hear of secrets in a file that is accepted, one sentence each, without any value.

    `secrets` are the keys of those that it has, `plain` all values that are not encrypted, by keys with namespaces.
    """
    if API_KEY not in secrets:
        names = ", ".join(services)
        yield f"{NAMESPACE}:{API_KEY}: is not there: {names} will answer whoever asks, without a key; {_set(API_KEY)}"
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
    return "leave it out, and let its owner make another"


def _leaks(value: object, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], str]]:
    """Paths of texts that look like keys, and like whose."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaks(below, (*path, key))
    elif isinstance(value, list):
        words = [word if isinstance(word, str) else "" for word in value]
        behind = {at: given.spelling for given in flags.parse(words) for at in given.value_indexes}
        for index, below in enumerate(value):
            named = leaks.by_name(behind.get(index, "")) if isinstance(below, str) else None
            found = [((*path, index), named)] if named else _leaks(below, (*path, index))
            yield from found
    elif isinstance(value, str) and value:
        if what := leaks.by_name(str(path[-1])) or leaks.by_shape(value):
            yield path, what
