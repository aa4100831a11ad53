"""The provider resource: its options, and when a change of them replaces everything under it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from local.providers.kubernetes import client
from local.providers.kubernetes.wire import UNKNOWN, plain


@dataclass(frozen=True)
class Options:
    """What the provider resource was configured with; every switch also has a PULUMI_K8S_* environment variable."""

    kubeconfig: str | None = None
    context: str | None = None
    cluster: str | None = None
    namespace: str | None = None
    upsert_existing_objects: bool = False
    enable_patch_force: bool = False
    enable_config_map_mutable: bool = False
    enable_secret_mutable: bool = False
    delete_unreachable: bool = False
    skip_update_unreachable: bool = False

    @classmethod
    def read(cls, args: dict[str, Any]) -> Options:
        def switch(name: str) -> bool:
            environment = "PULUMI_K8S_" + re.sub(r"([A-Z])", r"_\1", name).upper().replace("CONFIG_MAP", "CONFIGMAP")
            return str(args.get(name, os.environ.get(environment, ""))).lower() in ("true", "1")

        return cls(
            kubeconfig=args.get("kubeconfig") or None,
            context=args.get("context") or None,
            cluster=args.get("cluster") or None,
            namespace=args.get("namespace") or None,
            upsert_existing_objects=switch("upsertExistingObjects"),
            enable_patch_force=switch("enablePatchForce"),
            enable_config_map_mutable=switch("enableConfigMapMutable"),
            enable_secret_mutable=switch("enableSecretMutable"),
            delete_unreachable=switch("deleteUnreachable"),
            skip_update_unreachable=switch("skipUpdateUnreachable"),
        )

    @property
    def mutable_kinds(self) -> set[str]:
        kinds = {"ConfigMap": self.enable_config_map_mutable, "Secret": self.enable_secret_mutable}
        return {kind for kind, mutable in kinds.items() if mutable}

    def target(self) -> client.Target:
        return client.resolve(self.kubeconfig, self.context, self.cluster)


def check(news: dict[str, Any]) -> None:
    """Raises KubeconfigError for a kubeconfig that does not parse. A missing context shows only in use."""
    kubeconfig = plain(news.get("kubeconfig"))
    if isinstance(kubeconfig, str) and kubeconfig:
        try:
            client.resolve(kubeconfig)
        except client.KubeconfigError as error:
            if str(error).startswith("failed to parse"):
                raise


def _cluster_entry(args: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return Options.read(args).target().cluster
    except client.KubeconfigError:
        return None


def compare(olds: dict[str, Any], news: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Changed keys, and those of them that replace the provider and every resource under it.

    A cluster has no identity of its own: without clusterIdentifier its entry in the kubeconfig stands for it, so that
    another address, or the same certificate given inline, counts as another cluster.
    """
    olds, news = ({k: v for k, v in plain(side).items() if not k.startswith("__")} for side in (olds, news))
    changed = sorted(key for key in olds.keys() | news.keys() if key != "version" and olds.get(key) != news.get(key))
    old_id, new_id = olds.get("clusterIdentifier"), news.get("clusterIdentifier")
    if old_id and new_id:
        return changed, ["clusterIdentifier"] if old_id != new_id else []
    if old_id or new_id:
        # The official plugin accepts the first identifier, and its removal, as a mere update.
        if "clusterIdentifier" in changed and len(changed) == 1:
            return changed, []
    selecting = [key for key in ("cluster", "context", "kubeconfig") if key in changed]
    if any(news.get(key) is UNKNOWN for key in selecting):
        return changed, selecting
    if selecting and _cluster_entry(olds) != _cluster_entry(news):
        return changed, selecting
    return changed, []
