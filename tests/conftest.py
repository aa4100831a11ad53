"""Fixtures of every room."""

from __future__ import annotations

import signal

import pytest

from tests.support.recorder import Recorder

# A run in the background inherits an ignored SIGINT and would hand it down to every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["up", "preview"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder in place of the engine, once as in `pulumi up` and once as in `pulumi preview`."""
    # An Output inside an f-string is silently useless text; so it is an error.
    monkeypatch.setenv("PULUMI_ERROR_OUTPUT_STRING", "true")
    return Recorder(preview=request.param == "preview")
