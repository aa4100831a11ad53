"""The kubeconfig that a stack uses, and whether it has the stack's context. Asks no cluster."""

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
    """A kubeconfig's content, as kubectl reads YAML. `where` is its origin. Raises ConfigError if it is malformed."""
    _contexts(where, text)
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}


def _contexts(where: str, kubeconfig: str | Path) -> set[str]:
    """Names of the contexts of a kubeconfig, a file or its content. Raises ConfigError if it is malformed."""
    try:
        document = pulumi_yaml.read_file(kubeconfig) if isinstance(kubeconfig, Path) else pulumi_yaml.read(kubeconfig)
    except pulumi_yaml.UnreadableError as error:
        raise _malformed(f"{where}: {error}") from None
    content = {} if document.value is None else document.value
    if not isinstance(content, dict):
        raise _malformed(f"{where} is not a map")
    for key in ("contexts", "clusters", "users"):
        entries = content.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise _malformed(f"{where} has {key} that are not a list of maps")
    return {entry["name"] for entry in content.get("contexts") or [] if isinstance(entry.get("name"), str)}


def _malformed(why: str) -> ConfigError:
    return ConfigError([Problem("cluster.context", "", why, "give a kubeconfig that kubectl accepts")])
