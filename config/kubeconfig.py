"""The kubeconfig a stack names: is its context there? Asks no cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config import pulumi_yaml
from config.errors import ConfigError
from planning.problems import Problem


def check_context(context: str, kubeconfig: str | None = None) -> None:
    """Raise ConfigError unless `context` is in `kubeconfig` (its content) or, without one, in this machine's files."""
    if kubeconfig:
        where, known = "the secret modelserve:kubeconfig", _contexts("modelserve:kubeconfig", kubeconfig)
    else:
        files = kubeconfig_files()
        where = " or ".join(map(str, files))
        known = {name for file in files if file.exists() for name in _contexts(str(file), file)}
    if context not in known:
        instead = f"write one of {', '.join(sorted(known))}" if known else "set KUBECONFIG to the file that has it"
        raise ConfigError([Problem("cluster.context", context, f"no such context in {where}", instead)])


def kubeconfig_files() -> list[Path]:
    """The kubeconfig files that kubectl would read here."""
    return [Path(path) for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path] or [
        Path.home() / ".kube" / "config"
    ]


def parsed(text: str, where: str) -> Mapping[str, Any]:
    """A kubeconfig's content, as kubectl reads YAML; `where` it is from. Raises ConfigError where it is none."""
    _contexts(where, text)
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}


def _contexts(where: str, kubeconfig: str | Path) -> set[str]:
    """Names of the contexts of a kubeconfig, a file or its content. Raises ConfigError where it is none."""
    try:
        found = pulumi_yaml.read_file(kubeconfig) if isinstance(kubeconfig, Path) else pulumi_yaml.read(kubeconfig)
    except pulumi_yaml.UnreadableError as error:
        raise _malformed(f"{where}: {error}") from None
    given = {} if found.value is None else found.value
    if not isinstance(given, dict):
        raise _malformed(f"{where} is not a map")
    for key in ("contexts", "clusters", "users"):
        listed = given.get(key) or []
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise _malformed(f"{where} has {key} that are not a list of maps")
    return {each["name"] for each in given.get("contexts") or [] if isinstance(each.get("name"), str)}


def _malformed(why: str) -> ConfigError:
    return ConfigError([Problem("cluster.context", "", why, "give a kubeconfig that kubectl takes")])
