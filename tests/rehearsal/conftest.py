"""One control plane for all engine tests of a session: started once, under a name of its own, always stopped."""

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


@pytest.fixture(scope="session")
def equipped(control_plane: planes.ControlPlane) -> planes.ControlPlane:
    """The same, with what only stacks on Volcengine need, from then on."""
    return planes.start(control_plane.name, clouds=["volcengine"])


@pytest.fixture
def cluster(control_plane: planes.ControlPlane) -> Cluster:
    """What stands in the session's control plane."""
    return Cluster(control_plane)


@pytest.fixture
def stack(control_plane: planes.ControlPlane, cluster: Cluster, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack as the local stack file has it."""
    with _checked(Stack(control_plane, tmp_path), cluster) as made:
        yield made


@pytest.fixture
def acs(control_plane: planes.ControlPlane, cluster: Cluster, cloud: Cloud, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack as the stack file for ACS has it, of whose cloud nothing but buckets is left."""
    with _checked(Stack(control_plane, tmp_path, "acs"), cluster) as made:
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
    """A fresh stack as the stack file for Volcengine has it, of whose cloud nothing but buckets is left."""
    with _checked(Stack(equipped, tmp_path, "volcengine"), cluster) as made:
        yield made
    assert cloud.left().keys() <= {"buckets"}


@pytest.fixture
def fleets(cluster: Cluster) -> Fleets:
    """AIBrix's part of the session's control plane."""
    return Fleets(cluster)


@contextmanager
def _checked(made: Stack, cluster: Cluster) -> Iterator[Stack]:
    """Whatever a test did, nothing of it is left in the cluster, and nobody has said or stored a secret in plain."""
    before = cluster.ours()
    try:
        yield made
        if made.has_resources():
            made.destroy("--exclude-protected")
        # What was there before may be fewer: AIBrix takes its grant for all models away with any one of them.
        cluster.wait_for_end(before)
    finally:
        cluster.clear(before)
        (made.plane.folder / "faults.json").unlink(missing_ok=True)
    assert made.leaks() == []
