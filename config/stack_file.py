"""Reads a `Pulumi.<stack>.yaml` as Pulumi would, without Pulumi: for checks that must be quick and need no engine."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from config import pulumi_yaml
from config.errors import NAMESPACE, ConfigError, join
from config.kubeconfig import check_context
from config.secrets import SECRETS, is_empty, is_encrypted
from config.stack import StackConfig, parse
from planning.problems import Problem

# https://www.pulumi.com/docs/iac/concepts/projects/stack-settings-file/
FILE_KEYS = {"config", "encryptionsalt", "secretsprovider", "encryptedkey", "environment"}


class RequestError(Exception):
    """What was asked for cannot be read at all: no such stack, no YAML. `str()` is one line."""


@dataclass(frozen=True)
class StackFile:
    """A stack file as it stands: plain values by key without namespace, which secrets it has, encrypted, not encrypted,
    or without a value, and what other programs' keys say in plain text."""

    name: str
    raw: dict[str, Any]
    encrypted: frozenset[str] = frozenset()
    plain_secrets: frozenset[str] = frozenset()
    empty_secrets: frozenset[str] = frozenset()
    foreign: dict[str, Any] = field(default_factory=dict)
    refusals: tuple[Problem, ...] = ()

    @property
    def plain(self) -> dict[str, Any]:
        """Everything of the file's config that is not encrypted, by keys with their namespaces."""
        return {f"{NAMESPACE}:{key}": value for key, value in self.raw.items()} | self.foreign

    def config(self, *, with_cluster: bool = True) -> StackConfig:
        """The typed config. Raises ConfigError with everything that is wrong in the file.

        `with_cluster` also asks for its context on this machine, which a pure reader of the file does without.
        """
        config, refusals = self.typed(with_cluster=with_cluster)
        if refusals or config is None:
            raise ConfigError(sorted(refusals))
        return config

    def typed(self, *, with_cluster: bool = True) -> tuple[StackConfig | None, list[Problem]]:
        """The typed config, None where a type is wrong, and all refusals: for a caller who adds refusals of his own."""
        refusals = list(self.refusals)
        config = None
        try:
            config = parse(
                self.raw,
                plain_secrets=self.plain_secrets,
                secrets=self.encrypted,
                empty_secrets=self.empty_secrets,
            )
        except ConfigError as error:
            refusals += error.problems
        cluster = self.raw.get("cluster")
        context = cluster.get("context") if isinstance(cluster, dict) else None
        said = any(refusal.key == "cluster.context" for refusal in refusals)
        if with_cluster and isinstance(context, str) and not said and "kubeconfig" not in self.encrypted:
            try:
                check_context(context)
            except ConfigError as error:
                refusals += error.problems
        return config, refusals


def path_of(stack: str, folder: Path = Path()) -> Path:
    """The file of `stack`. Raises RequestError, naming the stacks that there are, where it is missing."""
    path = folder / f"Pulumi.{stack}.yaml"
    if path.is_file():
        return path
    known = sorted(file.name.split(".")[1] for file in folder.glob("Pulumi.*.yaml"))
    raise RequestError(f"stack {stack}: {path} is not there; stacks here: {', '.join(known) or 'none'}")


def read(path: Path) -> StackFile:
    """The stack file at `path`. Raises RequestError where it is no YAML map; `config` says the rest."""
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    try:
        found = pulumi_yaml.read(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RequestError(f"{path}: is not UTF-8") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f" line {mark.line + 1}:" if mark else ""
        raise RequestError(f"{path}:{line} is not YAML: {problem}") from None
    loaded = {} if found.value is None else found.value
    if not isinstance(loaded, dict) or not isinstance(loaded.get("config", {}), dict):
        raise RequestError(f"{path}: is not a stack file: its top level is a map with `config:`, itself a map")
    refusals = [
        replace(problem, key=join(part.removeprefix(f"{NAMESPACE}:") for part in place if part != "config"))
        for place, problem in found.problems
    ]
    refusals += [_stray(key, FILE_KEYS, key) for key in loaded if key not in FILE_KEYS]
    raw: dict[str, Any] = {}
    foreign: dict[str, Any] = {}
    plain: set[str] = set()
    encrypted: set[str] = set()
    empty: set[str] = set()
    for full, value in loaded.get("config", {}).items():
        namespace, _, key = full.rpartition(":")
        if namespace not in ("", NAMESPACE):
            if difflib.get_close_matches(namespace, [NAMESPACE], cutoff=0.8):
                refusals.append(_stray(full, [f"{NAMESPACE}:{key}"], f"config.{full}"))
            else:
                foreign[full] = _without_encrypted(value)
        elif key in (*raw, *plain, *encrypted, *empty):
            refusals.append(Problem(key, "", f"is given twice, with {NAMESPACE}: and without", "keep one"))
        elif key in SECRETS:
            (empty if is_empty(value) else encrypted if is_encrypted(value) else plain).add(key)
        else:
            raw[key] = value
            if _has_encrypted(value):
                encrypted.add(key)
    name = path.name.removeprefix("Pulumi.").removesuffix(".yaml")
    secrets = frozenset(encrypted), frozenset(plain), frozenset(empty)
    return StackFile(name, raw, *secrets, foreign, tuple(refusals))


def _has_encrypted(value: Any) -> bool:
    """Whether it is encrypted, or anything in it is."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return is_encrypted(value) or any(map(_has_encrypted, below))


def _without_encrypted(value: Any) -> Any:
    """What is left for everybody to read."""
    if is_encrypted(value):
        return None
    if isinstance(value, dict):
        return {key: _without_encrypted(below) for key, below in value.items()}
    return [*map(_without_encrypted, value)] if isinstance(value, list) else value


def _stray(key: str, known: Any, path: str) -> Problem:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    instead = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
    return Problem(path, "", "unknown key", instead)
