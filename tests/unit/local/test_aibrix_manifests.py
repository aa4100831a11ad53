"""AIBrix's manifests on the rehearsal: a release's files, built once. A fake kustomize only prints its input."""

from __future__ import annotations

from pathlib import Path

import pytest

from local import aibrix_manifests
from local.toolchain import ToolchainError

_CRDS = "config/dependency/kuberay-operator/crds"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AIBrix's module, with two kinds of Ray's, and an empty work folder."""
    folder = tmp_path / "cache"
    (folder / _CRDS).mkdir(parents=True)
    for name in ("one", "two"):
        (folder / _CRDS / f"{name}.yaml").write_text(f"---\nkind: {name}\n")
    monkeypatch.setattr(aibrix_manifests, "module", lambda _: folder)
    monkeypatch.setenv("MODELSERVE_REHEARSAL", str(tmp_path / "work"))
    return folder


def kustomize(folder: Path, script: str) -> Path:
    file = folder / "kustomize"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def test_the_files_are_named_as_in_the_release_and_made_once(cache: Path, tmp_path: Path) -> None:
    made = aibrix_manifests.install(kustomize(tmp_path, 'echo "made of $2"'))
    assert made == aibrix_manifests.folder()
    assert {file.name: file.read_text() for file in made.iterdir()} == {
        "aibrix-core-v0.7.0.yaml": f"made of {cache}/config/overlays/release\n",
        "aibrix-core-crds-v0.7.0.yaml": f"made of {cache}/config/crd\n",
        "aibrix-dependency-v0.7.0.yaml": "kind: one\n---\nkind: two\n",
    }
    assert aibrix_manifests.install(kustomize(tmp_path, "exit 1")) == made


def test_a_failure_is_told_in_kustomizes_words_and_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="kustomize cannot render .*overlays/release: no such thing"):
        aibrix_manifests.install(kustomize(tmp_path, "echo no such thing >&2; exit 1"))
    assert list(aibrix_manifests.folder().parent.iterdir()) == []
