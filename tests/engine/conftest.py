"""One control plane for all engine tests of a session: started once, under a name of its own, always stopped."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import control_plane as planes
from local import pulumi_home
from tests.engine.pulumi_stack import API_KEY, Cluster, Stack


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[planes.ControlPlane]:
    """Two 8-GPU nodes, LWS's own manager, pods with GPUs and a probe ready after one second."""
    name = f"test-{secrets.token_hex(4)}"
    with pytest.MonkeyPatch.context() as patch:
        try:
            plane = planes.start(name, load_seconds=1)
            pulumi_home.install()
            # The automation API asks for the engine's version on this process's own PATH.
            patch.setenv("PATH", pulumi_home.environment(plane, tmp_path_factory.mktemp("state"))["PATH"])
            yield plane
        finally:
            planes.stop(name)


@pytest.fixture
def cluster(control_plane: planes.ControlPlane) -> Cluster:
    """What stands in the session's control plane."""
    return Cluster(control_plane)


@pytest.fixture
def stack(control_plane: planes.ControlPlane, cluster: Cluster, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack; whatever the test did, nothing of it is left and nothing it said or stored holds the API key."""
    made = Stack(control_plane, tmp_path)
    try:
        yield made
        made.destroy()
        cluster.wait("nothing of ours is left", lambda: cluster.ours() == [])
    finally:
        cluster.clear()
    told = "".join(made.said) + "".join(path.read_text() for path in (made.folder / "state").rglob("*.json*"))
    assert API_KEY not in told and base64.b64encode(API_KEY.encode()).decode() not in told
