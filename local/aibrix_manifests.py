"""AIBrix's release manifests, rendered from its Go module the way AIBrix's release job does it.

Owns `manifests/` in the work folder, with the rendered files by version, and a control plane's link to it. Of the
dependencies it has only Ray's CRDs: the rest is Envoy Gateway, which has a chart (charts.py).
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from local.paths import work_dir
from local.toolchain import ToolchainError, module, pinned

# Names the folder from which the program reads AIBrix's manifests instead of its release. Each control plane has its
# own, which exists only once AIBrix's controllers run.
VARIABLE = "MODELSERVE_MANIFESTS"
FOLDER = "manifests"
_MODULE = "github.com/vllm-project/aibrix"
# The name of a release file, and the folder that it is rendered from.
_RENDERED = {"aibrix-core": "config/overlays/release", "aibrix-core-crds": "config/crd"}
_DEPENDENCY = ("aibrix-dependency", "config/dependency/kuberay-operator/crds/*.yaml")


def folder() -> Path:
    """The folder of the pinned release's manifests, rendered or not."""
    return work_dir() / FOLDER / f"aibrix-{_version()}"


def install(kustomize: Path) -> Path:
    """Renders the manifests if they are missing. Returns their folder. Raises ToolchainError."""
    target = folder()
    if target.is_dir():
        return target
    target.parent.mkdir(exist_ok=True)
    source = module(_MODULE)
    with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
        made = Path(fresh) / "made"
        made.mkdir()
        for name, where in _RENDERED.items():
            (made / _file(name)).write_text(_build(kustomize, source / where))
        name, pattern = _DEPENDENCY
        documents = [file.read_text().removeprefix("---\n") for file in sorted(source.glob(pattern))]
        (made / _file(name)).write_text("---\n".join(documents))
        try:
            made.rename(target)
        except OSError:
            # Another run was faster; its files are the same.
            if not target.is_dir():
                raise
    return target


def _version() -> str:
    return pinned("aibrix")[_MODULE]


def _file(name: str) -> str:
    return f"{name}-{_version()}.yaml"


def _build(kustomize: Path, where: Path) -> str:
    answer = subprocess.run([kustomize, "build", where], capture_output=True, text=True)
    if answer.returncode:
        raise ToolchainError(f"kustomize cannot render {where}: {answer.stderr.strip()}")
    return answer.stdout
