"""The kubeconfig a stack names: is its context there? Asks no cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.errors import ConfigError
from planning.problems import Problem


def check_context(context: str, kubeconfig: str | None = None) -> None:
    """Raise ConfigError unless `context` is in `kubeconfig` (its content) or, without one, in this machine's files."""
    if kubeconfig:
        where, known = "the secret modelserve:kubeconfig", contexts_in(parsed(kubeconfig, "modelserve:kubeconfig"))
    else:
        files = kubeconfig_files()
        where = " or ".join(map(str, files))
        known = {name for file in files if file.is_file() for name in contexts_in(parsed(file.read_text(), str(file)))}
    if context not in known:
        instead = f"write one of {', '.join(sorted(known))}" if known else "set KUBECONFIG to the file that has it"
        raise ConfigError([Problem("cluster.context", context, f"no such context in {where}", instead)])


def kubeconfig_files() -> list[Path]:
    """The kubeconfig files that kubectl would read here."""
    return [Path(path) for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path] or [
        Path.home() / ".kube" / "config"
    ]


def contexts_in(kubeconfig: Mapping[str, Any]) -> set[str]:
    """Names of the contexts of a parsed kubeconfig."""
    return {entry["name"] for entry in kubeconfig.get("contexts") or []}


def parsed(text: str, where: str) -> Mapping[str, Any]:
    """A kubeconfig's content; `where` it is from. Raises ConfigError where it is no YAML."""
    try:
        parsed = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError(
            [Problem("cluster.context", "", f"{where} is not YAML ({str(error).splitlines()[0]})", "give a kubeconfig")]
        ) from None
    return parsed if isinstance(parsed, Mapping) else {}
