"""The charts of the rehearsal's add-ons, out of Go modules: no repository is asked, as no image is pulled.

Owns the folder `charts/` of a control plane: helm, the sources of charts, and the archives made of them. Of each chart
goes what the control plane has already, or what would break it: CRDs, which Helm would leave alone, and webhooks, which
would point at Services that nobody answers. The operators themselves run as processes beside it (operators.py).
"""

from __future__ import annotations

import re
import shutil
import string
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local.toolchain import module, pinned
from planning.catalog import entries

FOLDER = "charts"
# For whoever installs charts: the folder they are taken from instead of from their repositories.
VARIABLE = "MODELSERVE_CHARTS"
_HELM = "helm"


class NoChart(Exception):
    """The rehearsal has no such chart; the text says which it has."""


@dataclass(frozen=True)
class _Origin:
    """Which add-on it is, where its source is, what of it goes, and what is replaced in its helpers.

    `values` is what its maker's build completes its values with; `{v}` in one is the module's version.
    """

    addon: str
    module: str
    toolchain: str
    folder: str
    without: tuple[str, ...]
    replaced: tuple[str, str] = ("", "")
    values: Mapping[str, str] = field(default_factory=dict)


_FLUID = ("fluid", "github.com/fluid-cloudnative/fluid", "manifests", "charts/fluid/fluid")
_FLUID_WITHOUT = ("crds", "templates/webhook/webhookconfiguration.yaml")
_CHARTS = {
    "lws": _Origin("lws", "sigs.k8s.io/lws", "lws", "charts/lws", ("crds", "templates/webhook/webhook.yaml")),
    # Its controllers refuse virtual nodes, of which a serverless cluster has no others: it does not get ready there.
    "fluid": _Origin(*_FLUID, _FLUID_WITHOUT),
    # The cloud's own build, which does run there, is not to be had.
    "ack-fluid": _Origin(*_FLUID, _FLUID_WITHOUT, ("- virtual-kubelet", "- none")),
    "gateway-helm": _Origin(
        "envoy-gateway",
        "github.com/envoyproxy/gateway",
        "manifests",
        "charts/gateway-helm",
        ("crds",),
        values={"GatewayImage": "docker.io/envoyproxy/gateway:{v}", "GatewayImagePullPolicy": "IfNotPresent"},
    ),
}


def install(folder: Path, helm: Path) -> None:
    """Lays the sources of all charts, and helm, into `folder`. Raises ToolchainError without the modules."""
    folder.mkdir(parents=True)
    (folder / _HELM).symlink_to(helm)
    for name, origin in _CHARTS.items():
        target = folder / name
        # Not the modes: the module cache is read-only.
        shutil.copytree(module(origin.module) / origin.folder, target, copy_function=shutil.copyfile)
        for each in (target, *target.rglob("*/")):
            each.chmod(0o755)
        for part in origin.without:
            shutil.rmtree(target / part) if (target / part).is_dir() else (target / part).unlink()
        helpers, (old, new) = target / "templates" / "_helpers.tpl", origin.replaced
        if old:
            helpers.write_text(helpers.read_text().replace(old, new))
        if origin.values:
            template, version = target / "values.tmpl.yaml", pinned(origin.toolchain)[origin.module]
            values = {key: value.format(v=version) for key, value in origin.values.items()}
            (target / "values.yaml").write_text(string.Template(template.read_text()).substitute(values))
            template.unlink()


def helm(folder: Path) -> Path:
    """The program that the charts are installed with."""
    return folder / _HELM


def find(folder: Path, reference: str, version: str) -> tuple[Path, str, str]:
    """A chart's archive, packed under whatever version is first asked for, that version, and where its content is from.

    `reference` is what a release calls its chart: a name, or an address that ends in one. Raises NoChart.
    """
    name = _name(reference)
    version = version or _version_in(reference) or _newest(name)
    archive = folder / "packed" / f"{name}-{version}.tgz"
    if not archive.exists():
        _pack(folder, name, version, archive, _app_version(name, reference, version))
    origin = _CHARTS[name]
    return archive, version, f"Go module {origin.module} {pinned(origin.toolchain)[origin.module]}"


def _name(reference: str) -> str:
    last = reference.rstrip("/").rpartition("/")[2]
    for name in sorted(_CHARTS, key=len, reverse=True):
        if last == name or last.startswith(f"{name}-"):
            return name
    raise NoChart(f"the rehearsal pulls no charts and has none for {reference}: it has {', '.join(_CHARTS)}")


def _version_in(reference: str) -> str:
    match = re.search(r"-v?(\d+\.\d+\.\d+[\w.+-]*)\.tgz$", reference)
    return match.group(1) if match else ""


def _newest(name: str) -> str:
    origin = _CHARTS[name]
    return pinned(origin.toolchain)[origin.module].removeprefix("v")


def _app_version(name: str, reference: str, version: str) -> str:
    """What the chart calls its operator: an address of the catalog may hold another release than its chart's."""
    for known in entries("addons").get(_CHARTS[name].addon, {}).values():
        source = known["value"]
        if isinstance(source, dict) and (source.get("chart"), source.get("version")) == (reference, version):
            version = source["appVersion"]
    return f"v{version.removeprefix('v')}"


def _pack(folder: Path, name: str, version: str, archive: Path, app_version: str) -> None:
    archive.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as fresh:
        options = ["--version", version, "--app-version", app_version, "--destination", fresh]
        answer = subprocess.run([helm(folder), "package", folder / name, *options], capture_output=True, text=True)
        if answer.returncode:
            raise NoChart(answer.stderr.strip().removeprefix("Error: "))
        (made,) = Path(fresh).iterdir()
        made.replace(archive)
