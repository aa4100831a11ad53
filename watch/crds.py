"""Brings the kinds (CRDs) that a cluster has up to those of a chart that is about to be installed.

Helm creates the kinds in a chart's `crds/` that are missing, and leaves all others as they are. So before a release is
created or changed, a hook applies them on the server's side; in a preview it says which it would change. It deletes
nothing. If a kind's new schema lacks fields that the cluster's has, the hook leaves the kind alone, unless the
cluster's is known to come from an older release: the API server would drop those fields from objects in use.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import yaml

from components.cluster.cluster_addons import Addon
from components.cluster.kubernetes import MANAGER
from planning.engine import release_key
from watch.client import WHOLE_SECONDS, dynamic_client, errors

RELEASE = "modelserve.dev/release"
"""The annotation of a kind that was brought up to a release: which one."""
_MOST_SHOWN = 3

Kind = Mapping[str, Any]


class NotUpgradedError(Exception):
    """The kinds could not be brought up to date; the text says why in one line."""


@dataclass(frozen=True)
class Change:
    """How a chart's kind would change the cluster's: the `versions` that differ, and the fields that would be lost
    (`gone`)."""

    name: str
    before: str | None
    versions: tuple[str, ...]
    gone: tuple[str, ...]

    def stays(self, release: str) -> bool:
        """Whether it is left alone."""
        known = self.before is not None
        if known and release_key(self.before or "") > release_key(release):
            return True
        return bool(self.gone) and not known

    def line(self, release: str, verb: str) -> str:
        """The change in words."""
        before = self.before or "an unknown release"
        if not self.stays(release):
            return f"{verb} the kind {self.name} ({', '.join(self.versions)}) from {before} to {release}"
        why = f"it is of {before}"
        if self.gone:
            more = f" and {len(self.gone) - _MOST_SHOWN} more" if len(self.gone) > _MOST_SHOWN else ""
            why += f", and {release} lacks {', '.join(self.gone[:_MOST_SHOWN])}{more}"
        return f"the kind {self.name} stays as it is: {why}; if nobody needs that, apply it with kubectl"


def kinds_of(chart: Path) -> list[Kind]:
    """The kinds in a chart's own `crds/`; the chart is a folder or an archive."""
    if chart.is_dir():
        texts = [file.read_bytes() for file in sorted((chart / "crds").glob("*"))]
    else:
        with tarfile.open(chart) as archive:
            inside = [each for each in archive if each.isfile() and each.name.split("/")[1:2] == ["crds"]]
            texts = [found.read() for each in inside if (found := archive.extractfile(each))]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = [each for text in texts for each in yaml.load_all(text, loader)]
    return [each for each in documents if each and each["kind"] == "CustomResourceDefinition"]


def change(there: Kind, applied: Kind) -> Change | None:
    """What becomes of a kind: as the cluster has it, and as it would be `applied`; None for nothing."""
    if there["spec"] == applied["spec"]:
        return None
    old, new = _versions(there), _versions(applied)
    gone = [f"version {name}" for name in old if name not in new]
    for name in old.keys() & new.keys():
        gone += sorted(_fields(_schema(old[name])) - _fields(_schema(new[name])))
    return Change(
        there["metadata"]["name"],
        (there["metadata"].get("annotations") or {}).get(RELEASE),
        tuple(name for name in new if old.get(name) != new[name]) or tuple(new),
        tuple(gone),
    )


def _versions(kind: Kind) -> dict[str, Kind]:
    return {each["name"]: each for each in kind["spec"]["versions"]}


def _schema(version: Kind) -> Kind:
    return (version.get("schema") or {}).get("openAPIV3Schema") or {}


def _fields(schema: Any, path: str = "") -> set[str]:
    """Every field below a schema, as `spec.template.spec`."""
    if not isinstance(schema, Mapping):
        return set()
    fields: set[str] = set()
    for name, below in (schema.get("properties") or {}).items():
        here = f"{path}.{name}" if path else name
        fields |= {here, *_fields(below, here)}
    return fields.union(*(_fields(schema.get(inner), path) for inner in ("items", "additionalProperties")))


def hooks(context: str, kubeconfig: str | None, addon: Addon) -> pulumi.ResourceHookBinding:
    """The hooks of an add-on's release. If they fail, the `up` ends before the release is changed."""
    only_looks = pulumi.runtime.is_dry_run()

    async def upgrade(_: pulumi.ResourceHookArgs) -> None:
        from kubernetes.dynamic.exceptions import DynamicApiError

        known: tuple[type[Exception], ...] = (*errors(), OSError, tarfile.TarError, yaml.YAMLError)
        try:
            done = await asyncio.to_thread(_upgraded, context, kubeconfig, addon, only_looks)
        except known as error:
            why = " ".join(str(error.summary() if isinstance(error, DynamicApiError) else error).split())
            if not only_looks:
                raise NotUpgradedError(f"{addon.name}: its kinds are not brought up to date: {why}") from None
            pulumi.log.warn(f"{addon.name}: whether its kinds would change is unknown: {why}")
            return
        for found in done:
            said = f"{addon.name}: {found.line(addon.operator, 'would bring' if only_looks else 'brought')}"
            (pulumi.log.warn if found.stays(addon.operator) else pulumi.log.info)(said)

    hook = pulumi.ResourceHook(f"kinds-{addon.name}", upgrade, pulumi.ResourceHookOptions(on_dry_run=True))
    return pulumi.ResourceHookBinding(before_create=[hook], before_update=[hook])


def _upgraded(context: str, kubeconfig: str | None, addon: Addon, only_looks: bool) -> list[Change]:
    """Applies the kinds, unless it `only_looks`; returns what that changes, and what it leaves alone."""
    client = dynamic_client(context, kubeconfig)
    resource = client.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")

    def apply(kind: Kind, **more: str) -> Kind:
        metadata, name = kind["metadata"], kind["metadata"]["name"]
        marked = {**(metadata.get("annotations") or {}), RELEASE: addon.operator}
        body = {**kind, "metadata": {"name": name, "labels": metadata.get("labels") or {}, "annotations": marked}}
        body.pop("status", None)
        done = client.server_side_apply(
            resource, body, name, force_conflicts=True, field_manager=MANAGER, _request_timeout=WHOLE_SECONDS, **more
        )
        return done.to_dict()

    upgraded = []
    for kind in kinds_of(Path(addon.chart)):
        name = kind["metadata"]["name"]
        listed = resource.get(field_selector=f"metadata.name={name}", _request_timeout=WHOLE_SECONDS)
        there = listed.to_dict()["items"]
        if there and (seen := change(there[0], apply(kind, dry_run="All"))):
            upgraded.append(seen)
            if not only_looks and not seen.stays(addon.operator):
                apply(kind)
    return upgraded
