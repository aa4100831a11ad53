"""One control plane for all engine tests of a session: started once, under its own name, and always stopped."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local import control_plane as planes
from local import pulumi_home
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.fleets import Fleets
from tests.rehearsal.pulumi_stack import Cluster, Stack


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[planes.ControlPlane]:
    """Two 8-GPU nodes and LWS's own manager; pods with GPUs and a probe become ready after one second."""
    name = f"test-{secrets.token_hex(4)}"
    with pytest.MonkeyPatch.context() as patch:
        try:
            plane = planes.start(name, load_seconds=1)
            pulumi_home.install()
            # The automation API looks for the engine on this process's own PATH to learn its version.
            patch.setenv("PATH", pulumi_home.environment(plane, tmp_path_factory.mktemp("state"))["PATH"])
            yield plane
        finally:
            planes.stop(name)


@pytest.fixture(scope="session")
def equipped(control_plane: planes.ControlPlane) -> planes.ControlPlane:
    """The same control plane; from now on with the components that only stacks on Volcengine need."""
    return planes.start(control_plane.name, clouds=["volcengine"])


@pytest.fixture
def cluster(control_plane: planes.ControlPlane) -> Cluster:
    """The objects in the session's control plane."""
    return Cluster(control_plane)


@pytest.fixture
def stack(control_plane: planes.ControlPlane, cluster: Cluster, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack from the local stack file."""
    with checked(Stack(control_plane, tmp_path), cluster) as made:
        yield made


@pytest.fixture
def acs(control_plane: planes.ControlPlane, cluster: Cluster, cloud: Cloud, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack from the stack file for ACS. After the test, only buckets may be left in the cloud."""
    with checked(Stack(control_plane, tmp_path, "acs"), cluster) as made:
        yield made
    assert cloud.left().keys() <= {"buckets"}


@pytest.fixture
def cloud(control_plane: planes.ControlPlane) -> Iterator[Cloud]:
    """The control plane's cloud: empty before and after."""
    cloud = Cloud(control_plane.folder, {})
    yield cloud
    cloud.file.unlink(missing_ok=True)
    for bucket in cloud.objects("").glob("*"):
        shutil.rmtree(bucket)


@pytest.fixture
def volcengine(equipped: planes.ControlPlane, cluster: Cluster, cloud: Cloud, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack from the stack file for Volcengine. After the test, only buckets may be left in the cloud."""
    with checked(Stack(equipped, tmp_path, "volcengine"), cluster) as made:
        yield made
    assert cloud.left().keys() <= {"buckets"}


@pytest.fixture
def fleets(cluster: Cluster) -> Fleets:
    """AIBrix's part of the session's control plane."""
    return Fleets(cluster)


@contextmanager
def checked(made: Stack, cluster: Cluster) -> Iterator[Stack]:
    """After each test: the cluster holds nothing of it, and no secret was printed or stored in plain text."""
    before = cluster.ours()
    try:
        yield made
        if made.has_resources():
            made.destroy("--exclude-protected")
        # Objects from before may be missing: AIBrix removes its grant for all models together with any one of them.
        cluster.wait_for_end(before)
    finally:
        cluster.clear(before)
        (made.plane.folder / "faults.json").unlink(missing_ok=True)
    assert made.leaks() == []
