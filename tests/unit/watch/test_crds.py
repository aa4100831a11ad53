"""Kinds (CRDs) of a chart against those of the cluster: what changes, and what is left alone."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.cluster.cluster_addons import Addon
from watch import crds
from watch.crds import RELEASE, change, kinds_of


def kind(fields: list[str], release: str | None = None, versions: tuple[str, ...] = ("v1",)) -> dict[str, Any]:
    """A kind whose objects have these fields below a list in `spec`."""
    items = {"items": {"properties": {field: {"type": "string"} for field in fields}}}
    schema = {"openAPIV3Schema": {"properties": {"spec": items}}}
    annotations = {RELEASE: release} if release else {}
    return {
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.x", "annotations": annotations},
        "spec": {"versions": [{"name": name, "schema": schema} for name in versions]},
    }


BROUGHT, STAYS = "brought the kind things.x (v1) from", "the kind things.x stays as it is: it is of"


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (kind(["a", "b"]), None),
        (kind(["a", "b"], "0.6.0"), None),
        (kind(["a"]), f"{BROUGHT} an unknown release to 0.7.0"),
        (kind(["a", "old"], "0.6.0"), f"{BROUGHT} 0.6.0 to 0.7.0"),
        (kind(["a", "old"], "0.7.0"), f"{BROUGHT} 0.7.0 to 0.7.0"),
        (kind(["a", "b", "c"], "0.10.0"), f"{STAYS} 0.10.0, and 0.7.0 lacks spec.c; if nobody needs that, apply it wi"),
        (kind(["a"], "0.10.0"), f"{STAYS} 0.10.0; if nobody"),
        (kind([*"abcdef"]), f"{STAYS} an unknown release, and 0.7.0 lacks spec.c, spec.d, spec.e and 1 more; if"),
        (kind(["a", "b"], None, ("v1", "v2")), f"{STAYS} an unknown release, and 0.7.0 lacks version v2; if"),
    ],
)
def test_an_older_kind_is_brought_up_and_one_with_more_in_it_is_left_alone(there: dict[str, Any], said: str | None):
    found = change(there, kind(["a", "b"]))
    assert (found and found.line("0.7.0", "brought")[: len(said or "")]) == said


def test_a_charts_own_kinds_are_read_from_a_folder_and_from_an_archive(tmp_path: Path):
    text = f"{json.dumps(kind(['a']))}\n---\n---\nkind: ConfigMap\n".encode()
    (tmp_path / "chart" / "crds").mkdir(parents=True)
    (tmp_path / "chart" / "crds" / "things.yaml").write_bytes(text)
    with tarfile.open(tmp_path / "chart.tgz", "w:gz") as archive:
        for name in ("chart/crds/things.yaml", "chart/templates/crds/others.yaml", "chart/charts/sub/crds/theirs.yaml"):
            about = tarfile.TarInfo(name)
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text))
    for chart in ("chart", "chart.tgz"):
        assert kinds_of(tmp_path / chart) == [kind(["a"])]


@pytest.mark.parametrize("preview", [True, False])
def test_an_up_ends_before_the_chart_if_its_kinds_cannot_be_applied_and_a_preview_says_so(preview, monkeypatch):
    said, made = [], []
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: preview)
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    monkeypatch.setattr(pulumi, "ResourceHook", lambda name, ask, options: made.append((ask, options)))
    monkeypatch.setattr(pulumi, "ResourceHookBinding", dict)
    crds.hooks("c", "apiVersion: v1", Addon(name="lws", chart="./none.tgz", version="0.9.0", namespace="n"))
    ((ask, options),) = made
    assert options.on_dry_run
    if preview:
        asyncio.run(ask(None))
        assert len(said) == 1 and said[0].startswith("lws: whether its kinds would change is unknown: ")
    else:
        with pytest.raises(crds.NotUpgradedError, match="lws: its kinds are not brought up to date: "):
            asyncio.run(ask(None))
