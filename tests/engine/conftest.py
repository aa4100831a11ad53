"""One control plane for all engine tests of a session: started once, under a name of its own, always stopped."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from local import control_plane as planes


@pytest.fixture(scope="session")
def control_plane() -> Iterator[planes.ControlPlane]:
    """Two 8-GPU nodes, LWS's own manager, pods with GPUs and a probe ready after one second."""
    name = f"test-{secrets.token_hex(4)}"
    try:
        yield planes.start(name, load_seconds=1)
    finally:
        planes.stop(name)
