"""The rehearsal's charts: what of them goes, and that any version of them is to be had. With a helm that only packs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from local import charts

_HELM = """#!/bin/sh
# helm package FOLDER --version V --app-version A --destination D
[ "$1" = package ] || exit 3
echo "$6" > "$8/$(basename "$2")-$4.tgz"
"""
_FILES = {
    "sigs.k8s.io/lws": (
        "charts/lws/Chart.yaml",
        "charts/lws/crds/group.yaml",
        "charts/lws/templates/manager/deployment.yaml",
        "charts/lws/templates/webhook/secret.yaml",
        "charts/lws/templates/webhook/webhook.yaml",
    ),
    "github.com/fluid-cloudnative/fluid": (
        "charts/fluid/fluid/Chart.yaml",
        "charts/fluid/fluid/crds/dataset.yaml",
        "charts/fluid/fluid/templates/_helpers.tpl",
        "charts/fluid/fluid/templates/webhook/webhookconfiguration.yaml",
    ),
    "github.com/envoyproxy/gateway": (
        "charts/gateway-helm/Chart.yaml",
        "charts/gateway-helm/crds/gatewayapi-crds.yaml",
        "charts/gateway-helm/values.tmpl.yaml",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Charts laid out from modules that, like those of Go's cache, nobody may write to."""
    for path, files in _FILES.items():
        for file in files:
            source = tmp_path / "cache" / path / file
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text("values:\n- virtual-kubelet\n- ${GatewayImage}\n")
            source.chmod(0o444)
    monkeypatch.setattr(charts, "module", lambda path: tmp_path / "cache" / path)
    helm = tmp_path / "helm"
    helm.write_text(_HELM)
    helm.chmod(0o755)
    charts.install(tmp_path / "charts", helm)
    return tmp_path / "charts"


def files(chart: Path) -> set[str]:
    return {str(path.relative_to(chart)) for path in chart.rglob("*") if path.is_file()}


def test_a_chart_has_neither_crds_nor_webhooks(folder: Path) -> None:
    assert files(folder / "lws") == {
        "Chart.yaml",
        "templates/manager/deployment.yaml",
        "templates/webhook/secret.yaml",
    }
    assert files(folder / "fluid") == {"Chart.yaml", "templates/_helpers.tpl"}
    assert files(folder / "gateway-helm") == {"Chart.yaml", "values.yaml"}
    assert os.access(folder / "lws" / "templates", os.W_OK)


def test_values_that_a_build_completes_name_the_image_of_the_pinned_version(folder: Path) -> None:
    assert "- docker.io/envoyproxy/gateway:v1." in (folder / "gateway-helm" / "values.yaml").read_text()


def test_only_the_clouds_own_fluid_runs_on_virtual_nodes(folder: Path) -> None:
    assert "virtual-kubelet" in (folder / "fluid" / "templates" / "_helpers.tpl").read_text()
    assert "virtual-kubelet" not in (folder / "ack-fluid" / "templates" / "_helpers.tpl").read_text()


@pytest.mark.parametrize(
    ("reference", "version", "archive", "operator"),
    [
        ("oci://registry.k8s.io/lws/charts/lws", "0.10.0", "lws-0.10.0.tgz", "v0.10.0"),
        ("oci://registry.k8s.io/lws/charts/lws", "9.9.9-rc.1", "lws-9.9.9-rc.1.tgz", "v9.9.9-rc.1"),
        ("https://a.example/lws-chart-v0.8.0.tgz", "", "lws-0.8.0.tgz", "v0.8.0"),
        ("oci://docker.io/envoyproxy/gateway-helm", "v1.2.8", "gateway-helm-v1.2.8.tgz", "v1.2.8"),
        ("fluid", "1.0.8", "fluid-1.0.8.tgz", "v1.0.8"),
        ("https://a.example/ack-fluid-1.0.13.tgz", "1.0.13", "ack-fluid-1.0.13.tgz", "v1.0.13"),
        (
            "https://aliacs-app-catalog.oss-cn-hangzhou.aliyuncs.com/charts-incubator/lws-0.1.0.tgz",
            "0.1.0",
            "lws-0.1.0.tgz",
            "v0.5.0",
        ),
    ],
)
def test_any_version_is_to_be_had_under_the_operators_own(
    folder: Path, reference: str, version: str, archive: str, operator: str
) -> None:
    found, packed, origin = charts.find(folder, reference, version)
    assert (found.name, found.read_text().strip()) == (archive, operator)
    assert archive.endswith(f"-{packed}.tgz")
    assert origin.startswith("Go module ")


def test_a_chart_is_packed_once(folder: Path) -> None:
    first, _, _ = charts.find(folder, "lws", "0.10.0")
    first.write_text("as it was")
    assert charts.find(folder, "lws", "0.10.0")[0].read_text() == "as it was"


def test_a_chart_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    with pytest.raises(charts.NoChart, match="has none for volcano: it has lws, fluid, ack-fluid, gateway-helm"):
        charts.find(folder, "volcano", "1.0.0")
