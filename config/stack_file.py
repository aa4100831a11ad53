"""Reads a `Pulumi.<stack>.yaml` as Pulumi would, but without Pulumi, for checks that must be fast.

What the stack file leaves open, the project file beside it may say for all stacks (`config.project_file`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from config import project_file, pulumi_yaml
from config.errors import NAMESPACE, ConfigError, join, nearest, shown
from config.errors import plain as spelt
from config.judge import judge
from config.kubeconfig import check_context
from config.secrets import SECRETS, is_empty, is_encrypted
from config.stack import SECTIONS, StackConfig
from planning.problems import Problem, printable

# https://www.pulumi.com/docs/iac/concepts/projects/stack-settings-file/
FILE_KEYS = {"config", "encryptionsalt", "secretsprovider", "encryptedkey", "environment"}
_ALIKE = 0.8  # modelserv and model-serving count as ours, modelscope does not


class RequestError(Exception):
    """The stack file cannot be read at all: no such stack, no YAML. `str()` is one line."""


@dataclass(frozen=True)
class StackFile:
    """A stack file as written. `raw` maps our keys without namespace to plain values. Secrets are listed by key:
    encrypted, in plain text, or empty. `foreign` has the plain values of other programs' keys. `environment`: Pulumi's
    environments, whose values are not seen here, give it more."""

    name: str
    raw: dict[str, Any]
    encrypted: frozenset[str] = frozenset()
    plain_secrets: frozenset[str] = frozenset()
    empty_secrets: frozenset[str] = frozenset()
    foreign: dict[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    roots: tuple[Problem, ...] = ()
    environment: bool = False

    @property
    def plain(self) -> dict[str, Any]:
        """All unencrypted config of the file, by keys with their namespaces."""
        return {f"{NAMESPACE}:{key}": value for key, value in self.raw.items()} | self.foreign

    def config(self, *, with_cluster: bool = True) -> StackConfig:
        """The typed config. Raises ConfigError with everything that is wrong in the file.

        `with_cluster` also checks that this machine has the context; who only reads the file does without.
        """
        config, problems = self.judged(with_cluster=with_cluster)
        self.require_none(problems)
        return config

    def judged(self, *, with_cluster: bool = True) -> tuple[StackConfig, list[Problem]]:
        """The valid part of the file (`config.judge.judge`) and all refusals, for a caller that adds its own."""
        config, problems = judge(
            self.raw,
            plain_secrets=self.plain_secrets,
            secrets=self.encrypted,
            empty_secrets=self.empty_secrets,
        )
        if self.roots and not self.raw:
            problems = []  # everything is missing because of the mistake at the root
        unreadable = {problem.key for problem in self.problems}
        problems = [self._remedied(problem) for problem in problems if problem.key not in unreadable]
        cluster = self.raw.get("cluster")
        context = cluster.get("context") if isinstance(cluster, dict) else None
        refused = any(problem.key == "cluster.context" for problem in problems)
        if with_cluster and isinstance(context, str) and not refused and "kubeconfig" not in self.encrypted:
            try:
                check_context(context)
            except ConfigError as error:
                problems += error.problems
        return config, [*self.problems, *problems]

    def _remedied(self, problem: Problem) -> Problem:
        """A missing section may be in an environment, and only Pulumi Cloud shows that."""
        if not self.environment or problem.key in self.raw or problem.key not in SECTIONS:
            return problem
        why = "is missing here, and what the stack's environment says is not seen"
        return replace(problem, why=why, instead=f"{problem.instead}, or ask pulumi preview")

    def require_none(self, problems: Iterable[Problem]) -> None:
        """Raise ConfigError with these problems, those of the file's root first, because they may cause others."""
        distinct = sorted(set(problems))
        if distinct or self.roots:
            raise ConfigError(distinct, self.roots)


def path_of(stack: str, folder: Path = Path()) -> Path:
    """The file of `stack`. Raises RequestError with the existing stacks if it is missing."""
    path = folder / f"Pulumi.{stack}.yaml"
    if path.is_file():
        return path
    known = sorted(file.name[len("Pulumi.") : -len(".yaml")] for file in folder.glob("Pulumi.*.yaml"))
    raise RequestError(f"stack {stack}: {path} does not exist; stacks here: {', '.join(known) or 'none'}")


def read(path: Path, *, with_project: bool = True) -> StackFile:
    """The stack file at `path`, and `with_project` what the project file beside it says for all stacks. Raises
    RequestError if it is not a YAML map; `config` reports everything else."""
    try:
        document = pulumi_yaml.read_file(path)
    except pulumi_yaml.UnreadableError as error:
        raise RequestError(printable(f"{path}: {error}")) from None
    loaded = {} if document.value is None else document.value
    if document.problems and not loaded:
        raise RequestError(f"{path}: {document.problems[0][1].why}; {document.problems[0][1].instead}")
    if not isinstance(loaded, dict):
        raise RequestError(printable(f"{path}: is not a stack file: its top level is a map with `config:`"))
    shared = project_file.shared(path.parent) if with_project else {}
    roots, config = _root(loaded, alone=not shared)
    problems: list[Problem] = []
    for place, problem in document.problems:
        above, *below = place or ("config",)
        if above != "config" or not below or not _is_ours(below[0].rpartition(":")[0] or NAMESPACE):
            key = join(place) or "the file"
            roots += [replace(problem, key=key)] if key not in [root.key for root in roots] else []
            config = {} if not below else config
        else:
            key = join((below[0].rpartition(":")[2], *below[1:]))
            problems.append(replace(problem, key=key))
    config = project_file.fill(config, shared)
    raw: dict[str, Any] = {}
    foreign: dict[str, Any] = {}
    plain: set[str] = set()
    encrypted: set[str] = set()
    empty: set[str] = set()
    for full, value in config.items():
        namespace, _, key = full.removeprefix(f"{NAMESPACE}:config:").rpartition(":")
        if ":" in namespace and not re.fullmatch(r"[^:]+:config", namespace):
            why = "has more colons than the engine reads"
            roots.append(Problem(printable(full), "", why, f"write one, as in {NAMESPACE}:cloud"))
            continue
        if namespace not in ("", NAMESPACE):
            if not _is_ours(namespace):
                foreign[full] = _without_encrypted(value)
                continue
            roots.append(Problem(printable(full), "", "unknown key", f"write {NAMESPACE}:{printable(key)}"))
            if {key, f"{NAMESPACE}:{key}"} & config.keys():
                continue
        if key in (*raw, *plain, *encrypted, *empty):
            problems.append(Problem(printable(key), "", f"is given twice, with {NAMESPACE}: and without", "keep one"))
        elif key in SECRETS:
            (empty if is_empty(value) else encrypted if is_encrypted(value) else plain).add(key)
        else:
            raw[key] = value
            if _has_encrypted(value):
                encrypted.add(key)
    name = path.name.removeprefix("Pulumi.").removesuffix(".yaml")
    secrets = frozenset(encrypted), frozenset(plain), frozenset(empty)
    environment = bool(loaded.get("environment"))
    return StackFile(name, raw, *secrets, foreign, tuple(problems), tuple(roots), environment)


def _root(loaded: Mapping[str, Any], *, alone: bool) -> tuple[list[Problem], dict[str, Any]]:
    """What is wrong with the file's top-level keys, and its config, including keys that are misplaced outside it.
    `alone`: nothing else gives the stack any config."""
    roots: list[Problem] = []
    config: dict[str, Any] = {}
    outside = {key: value for key, value in loaded.items() if ":" in key or key in SECTIONS or key in SECRETS}
    if outside:
        which = ", ".join(map(printable, outside))
        where = "stand outside it" if "config" in loaded else "stand outside config"
        roots.append(Problem("config", "", f"{which} {where}", "write them below `config:`, indented"))
        config |= outside
    for key, value in loaded.items():
        if key == "config":
            if isinstance(value, Mapping):
                config |= value
            elif value is not None:
                roots.append(
                    Problem(key, shown(value), "is not a map", f"write a map with {NAMESPACE}:cloud and so on")
                )
        elif key not in outside and key not in FILE_KEYS:
            near, _ = nearest(key, FILE_KEYS)
            instead = f"did you mean {near}?" if near else f"known: {', '.join(sorted(FILE_KEYS))}"
            roots.append(Problem(printable(key), "", "unknown key", instead))
            if near == "config" and "config" not in loaded and isinstance(value, Mapping):
                config |= value
    if alone and not outside and not roots and loaded.get("config") is None:
        roots.append(Problem("config", "", "is missing", f"write a map with {NAMESPACE}:cloud and so on"))
    return roots, config


def _is_ours(namespace: str) -> bool:
    """Whether a namespace is this program's, or a misspelling of it."""
    return bool(difflib.get_close_matches(spelt(namespace), [NAMESPACE], cutoff=_ALIKE))


def _has_encrypted(value: Any) -> bool:
    """Whether the value, or anything in it, is encrypted."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return is_encrypted(value) or any(map(_has_encrypted, below))


def _without_encrypted(value: Any) -> Any:
    """The value without its encrypted parts."""
    if is_encrypted(value):
        return None
    if isinstance(value, dict):
        return {key: _without_encrypted(below) for key, below in value.items()}
    return [*map(_without_encrypted, value)] if isinstance(value, list) else value
