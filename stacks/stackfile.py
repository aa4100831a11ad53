"""Reads a `Pulumi.<stack>.yaml` as Pulumi would, without Pulumi: for checks that must be quick and need no engine."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from planning.errors import Problem
from stacks.cluster import check_context
from stacks.config import SECRETS, StackConfig, parse
from stacks.plans import plan_services
from stacks.refusals import NAMESPACE, ConfigError, join

# https://www.pulumi.com/docs/iac/concepts/projects/stack-settings-file/
_FILE_KEYS = {"config", "encryptionsalt", "secretsprovider", "encryptedkey", "environment"}


class RequestError(Exception):
    """What was asked for cannot be read at all: no such stack, no YAML. `str()` is one line."""


@dataclass(frozen=True)
class StackFile:
    """A stack file as it stands: plain values by key without namespace, and which secrets it has, encrypted or not."""

    name: str
    raw: dict[str, Any]
    encrypted: frozenset[str] = frozenset()
    plain_secrets: dict[str, str] = field(default_factory=dict)
    refusals: tuple[Problem, ...] = ()

    def config(self, *, with_cluster: bool = True, with_plans: bool = True) -> StackConfig:
        """The typed config. Raises ConfigError with everything that is wrong in the file.

        `with_cluster` also asks for its context on this machine, which a pure reader of the file does without;
        `with_plans` also refuses services that do not fit.
        """
        refusals = list(self.refusals)
        config = None
        try:
            config = parse(self.raw, plain_secrets=self.plain_secrets, secrets=self.encrypted)
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
        if with_plans and config is not None:
            try:
                plan_services(config)
            except ConfigError as error:
                refusals += error.problems
        if refusals or config is None:
            raise ConfigError(sorted(refusals))
        return config


def path_of(stack: str, folder: Path = Path()) -> Path:
    """The file of `stack`. Raises RequestError, naming the stacks that there are, where it is missing."""
    path = folder / f"Pulumi.{stack}.yaml"
    if path.is_file():
        return path
    known = sorted(file.name.split(".")[1] for file in folder.glob("Pulumi.*.yaml"))
    raise RequestError(f"stack {stack}: {path} is not there; stacks here: {', '.join(known) or 'none'}")


def load_file(path: Path) -> StackConfig:
    """The typed config in the file at `path`. Raises RequestError or ConfigError."""
    return read(path).config()


def read(path: Path) -> StackFile:
    """The stack file at `path`. Raises RequestError where it is no YAML map; `config` says the rest."""
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    twice: list[Problem] = []
    try:
        loaded = _load(path.read_text(), twice)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise RequestError(f"{path}:{line} is not YAML: {error.problem}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("config", {}), dict):
        raise RequestError(f"{path}: is not a stack file: its top level is a map with `config:`, itself a map")
    refusals = [*twice, *(_stray(key, _FILE_KEYS, str(key)) for key in loaded if key not in _FILE_KEYS)]
    raw: dict[str, Any] = {}
    plain: dict[str, str] = {}
    encrypted: set[str] = set()
    for full, value in loaded.get("config", {}).items():
        namespace, _, key = str(full).rpartition(":")
        if namespace not in ("", NAMESPACE):
            if difflib.get_close_matches(namespace, [NAMESPACE], cutoff=0.8):
                refusals.append(_stray(full, [f"{NAMESPACE}:{key}"], f"config.{full}"))
        elif isinstance(value, dict) and set(value) == {"secure"}:
            encrypted.add(key)
            if key not in SECRETS:
                raw[key] = value
        elif key in SECRETS:
            plain |= {key: str(value)} if value else {}
        else:
            raw[key] = value
    name = path.name.removeprefix("Pulumi.").removesuffix(".yaml")
    return StackFile(name, raw, frozenset(encrypted), plain, tuple(refusals))


def _stray(key: object, known: Any, path: str) -> Problem:
    near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.6)
    instead = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
    return Problem(path, "", "unknown key", instead)


def _load(text: str, twice: list[Problem]) -> Any:
    """The document; a key given twice in one map, where YAML silently drops the first, goes into `twice`."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        _find_twice(root, (), twice)
        return loader.construct_document(root) if root else {}
    finally:
        loader.dispose()


def _find_twice(node: yaml.Node | None, path: tuple[str, ...], twice: list[Problem]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            below = (*path, str(key.value))
            if key.value in seen:
                shown = join(part.removeprefix(f"{NAMESPACE}:") for part in below if part != "config")
                twice.append(Problem(shown, "", f"is given twice, at lines {seen[key.value]} and {line}", "keep one"))
            seen[key.value] = line
            _find_twice(value, below, twice)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _find_twice(value, path, twice)
