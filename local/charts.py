"""The charts of the rehearsal's add-ons, taken from Go modules, as a folder that `modelserve:addons.charts` can name.

Owns the folder `charts/` in the work folder. Each chart loses its CRDs, which the control plane has already, and its
webhooks, which would call Services that nobody answers. The operators themselves run as processes beside the control
plane (operators.py).
"""

from __future__ import annotations

import io
import os
import string
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from local.paths import work_dir
from local.toolchain import module, pinned
from planning import addons
from planning.catalog import entries


@dataclass(frozen=True)
class _Origin:
    """Where a chart's source is, which files to leave out, and what to replace in its helpers.

    `values` fills the placeholders that the project's own build would fill; `{v}` stands for the module's version.
    """

    module: str
    toolchain: str
    folder: str
    without: tuple[str, ...]
    replaced: tuple[str, str] = ("", "")
    values: Mapping[str, str] = field(default_factory=dict)


_FLUID = ("github.com/fluid-cloudnative/fluid", "manifests", "charts/fluid/fluid")
_FLUID_WITHOUT = ("crds/", "templates/webhook/webhookconfiguration.yaml")
_CHARTS = {
    "lws": _Origin("sigs.k8s.io/lws", "lws", "charts/lws", ("crds/", "templates/webhook/webhook.yaml")),
    # Its controllers refuse virtual nodes, and a serverless cluster has no others: there it never gets ready.
    "fluid": _Origin(*_FLUID, _FLUID_WITHOUT),
    # The cloud's own build, which does run there, is not public.
    "ack-fluid": _Origin(*_FLUID, _FLUID_WITHOUT, ("- virtual-kubelet", "- none")),
    "gateway-helm": _Origin(
        "github.com/envoyproxy/gateway",
        "manifests",
        "charts/gateway-helm",
        ("crds/",),
        values={"GatewayImage": "docker.io/envoyproxy/gateway:{v}", "GatewayImagePullPolicy": "IfNotPresent"},
    ),
}


def folder() -> Path:
    """The folder of the charts, packed or not."""
    return work_dir() / "charts"


def install() -> None:
    """Packs each chart under every version in the catalog. Raises ToolchainError without the modules."""
    for name, version, app_version in _known():
        pack(name, version, app_version)


def pack(name: str, version: str, app_version: str) -> Path:
    """A chart's archive under any version; its content is always that of the pinned module.

    Raises KeyError for a chart that the rehearsal does not have.
    """
    archive = folder() / addons.archive(name, version)
    archive.parent.mkdir(parents=True, exist_ok=True)
    fresh = archive.with_suffix(f".{os.getpid()}")  # several control planes may start at once
    with tarfile.open(fresh, "w:gz") as packed:
        for path, original in _files(_CHARTS[name]):
            content = original
            if path == "Chart.yaml":
                about = yaml.safe_load(content)
                content = yaml.safe_dump(about | {"name": name, "version": version, "appVersion": app_version}).encode()
            about_file = tarfile.TarInfo(f"{name}/{path}")
            about_file.size = len(content)
            packed.addfile(about_file, io.BytesIO(content))
    fresh.replace(archive)
    return archive


def _known() -> Iterator[tuple[str, str, str]]:
    """Name, version and operator's version of every chart in the catalog that is not the program's own, and of LWS at
    the version of the manager that runs here."""
    own = pinned("lws")[_CHARTS["lws"].module].removeprefix("v")
    yield "lws", own, own
    for addon, facts in entries("addons").items():
        for origin, fact in facts.items():
            if isinstance(fact["value"], dict) and "chart" in fact["value"] and "://" in str(fact["value"]):
                source = addons.source(addon, origin, "")
                yield addons.chart_name(source.chart), source.version, source.app_version


def _files(origin: _Origin) -> Iterator[tuple[str, bytes]]:
    root = module(origin.module) / origin.folder
    for file in sorted(root.rglob("*")):
        path = str(file.relative_to(root))
        if not file.is_file() or path.startswith(origin.without):
            continue
        content = file.read_bytes()
        if path == "templates/_helpers.tpl" and origin.replaced[0]:
            content = content.decode().replace(*origin.replaced).encode()
        if path == "values.tmpl.yaml":
            version = pinned(origin.toolchain)[origin.module]
            values = {key: value.format(v=version) for key, value in origin.values.items()}
            path, content = "values.yaml", string.Template(content.decode()).substitute(values).encode()
        yield path, content
