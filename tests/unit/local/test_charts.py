"""The rehearsal's charts: what is removed from them, and that the folder has every chart of the catalog by version."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml

from local import charts
from planning import addons

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
    """Charts packed from modules."""
    for path, files in _FILES.items():
        for file in files:
            source = tmp_path / "cache" / path / file
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text("values:\n- virtual-kubelet\n- ${GatewayImage}\n")
        (tmp_path / "cache" / path / files[0]).write_text("name: made\nversion: 0.0.0\n")
    monkeypatch.setattr(charts, "module", lambda path: tmp_path / "cache" / path)
    monkeypatch.setattr(charts, "work_dir", lambda: tmp_path)
    charts.install()
    return tmp_path / "charts"


def files(archive: Path) -> dict[str, str]:
    """The content of each file in an archive, by its path below the chart's folder."""
    with tarfile.open(archive) as packed:
        return {
            member.name.partition("/")[2]: packed.extractfile(member).read().decode() for member in packed.getmembers()
        }


def test_a_chart_has_neither_crds_nor_webhooks(folder: Path) -> None:
    lws, fluid, gateway = (files(folder / name) for name in ("lws-0.10.0.tgz", "fluid-1.0.8.tgz", GATEWAY))
    assert lws.keys() == {"Chart.yaml", "templates/manager/deployment.yaml", "templates/webhook/secret.yaml"}
    assert fluid.keys() == {"Chart.yaml", "templates/_helpers.tpl"}
    assert gateway.keys() == {"Chart.yaml", "values.yaml"}


def test_values_that_a_build_completes_name_the_image_of_the_pinned_version(folder: Path) -> None:
    assert "- docker.io/envoyproxy/gateway:v1." in files(folder / GATEWAY)["values.yaml"]


def test_only_the_clouds_own_fluid_runs_on_virtual_nodes(folder: Path) -> None:
    helpers = [files(folder / name)["templates/_helpers.tpl"] for name in ("fluid-1.0.8.tgz", "ack-fluid-1.0.13.tgz")]
    assert ["virtual-kubelet" in each for each in helpers] == [True, False]


@pytest.mark.parametrize(("addon", "origin"), [("lws", "upstream"), ("lws", "acs"), ("fluid", "acs")])
def test_a_chart_of_the_catalog_is_there_under_its_version_and_its_operators(folder: Path, addon: str, origin: str):
    source = addons.source(addon, origin, "")
    chart, _ = addons.mirrored(source.chart, source.version, str(folder))
    about = yaml.safe_load(files(Path(chart))["Chart.yaml"])
    assert (about["version"], about["appVersion"]) == (source.version, source.app_version)


GATEWAY = "gateway-helm-v1.2.8.tgz"
