"""A kubeconfig that has the tests' contexts."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only kubeconfig there is."""
    file = tmp_path / "kubeconfig"
    file.write_text("contexts: [{name: here}, {name: there}]")
    monkeypatch.setenv("KUBECONFIG", str(file))
    return file
