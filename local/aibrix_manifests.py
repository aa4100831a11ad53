"""AIBrix's release manifests, rendered from its Go module as its makers' release job renders them.

Owns `manifests/` in the work folder: what was rendered once, by version; and a control plane's link to it. Of the
dependencies only the custom resources of Ray are there: the rest is Envoy Gateway's own release, which has a chart
(charts.py).
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from local.paths import work_dir
from local.toolchain import ToolchainError, module, pinned

# For whoever installs AIBrix: the folder that its manifests are read from instead of from its release. It is a control
# plane's own, and not there before AIBrix's controllers run beside it.
VARIABLE = "MODELSERVE_MANIFESTS"
FOLDER = "manifests"
_MODULE = "github.com/vllm-project/aibrix"
# What a file of the release is called, and the folder that it is rendered from.
_RENDERED = {"aibrix-core": "config/overlays/release", "aibrix-core-crds": "config/crd"}
_DEPENDENCY = ("aibrix-dependency", "config/dependency/kuberay-operator/crds/*.yaml")


def folder() -> Path:
    """Where the manifests of the pinned release are, rendered or not."""
    return work_dir() / FOLDER / f"aibrix-{_version()}"


def install(kustomize: Path) -> Path:
    """Renders what is not there yet; gives the folder. Raises ToolchainError."""
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
            # Another run was faster; what it made is the same.
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
