"""The provider resource: the cluster that its kubeconfig selects, and when a change of it replaces everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from local.providers.reporting import Refusal
from local.providers.wire import UNKNOWN, plain

_FILES = ("certificate-authority", "client-certificate", "client-key")


def resolve(kubeconfig: str | None, context: str | None = None) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The cluster and user entries that a context points to, and its namespace.

    `kubeconfig` is the content, a path, or empty for the ambient one, of which only one file is read.
    Raises Refusal where it does not parse, and LookupError for a context that is not there.
    """
    config, folder = _load(kubeconfig)

    def entry(kind: str, name: str | None) -> dict[str, Any]:
        for item in config.get(f"{kind}s") or []:
            if item.get("name") == name:
                found = item.get(kind) or {}
                return {key: str(folder / value) if key in _FILES else value for key, value in found.items()}
        raise LookupError(f'{kind} "{name}" does not exist')

    chosen = entry("context", context or config.get("current-context"))
    user = entry("user", chosen["user"]) if chosen.get("user") else {}
    return entry("cluster", chosen.get("cluster")), user, chosen.get("namespace") or "default"


def _load(kubeconfig: str | None) -> tuple[dict[str, Any], Path]:
    given = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    folder = Path.cwd()
    if "\n" not in given and not given.startswith("{"):
        file = Path(given).expanduser()
        if not file.is_file():
            raise Refusal(f"failed to parse kubeconfig: {given} is no file")
        given, folder = file.read_text(), file.parent
    try:
        config = yaml.load(given, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refusal(f"failed to parse kubeconfig: yaml: line {line}: {error.problem}") from error
    return config or {}, folder


def check(news: dict[str, Any]) -> None:
    """Raises Refusal for a kubeconfig that does not parse. A missing context shows only in use."""
    kubeconfig = plain(news.get("kubeconfig"))
    if kubeconfig and kubeconfig != UNKNOWN:
        _load(kubeconfig)


def _cluster_entry(settings: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return resolve(settings.get("kubeconfig"), settings.get("context"))[0]
    except (Refusal, LookupError):
        return None


def compare(olds: dict[str, Any], news: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Changed settings, and those of them that replace the provider and every resource under it.

    A cluster has no identity of its own: without clusterIdentifier its entry in the kubeconfig stands for it, so that
    another address, or the same certificate given inline, counts as another cluster.
    """
    olds, news = ({k: v for k, v in plain(side).items() if not k.startswith("__")} for side in (olds, news))
    changed = sorted(key for key in olds.keys() | news.keys() if key != "version" and olds.get(key) != news.get(key))
    if olds.get("clusterIdentifier") and news.get("clusterIdentifier"):
        return changed, [key for key in changed if key == "clusterIdentifier"]
    selecting = [key for key in ("context", "kubeconfig") if key in changed]
    if any(news.get(key) == UNKNOWN for key in selecting):
        return changed, selecting
    return changed, selecting if selecting and _cluster_entry(olds) != _cluster_entry(news) else []
