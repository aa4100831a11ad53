"""The committed stack file for Volcengine in unit tests, with few of AIBrix's objects and no writes outside the run."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.weights.tos_bucket import ACCESS_KEY
from config.stack_file import read
from local.paths import ROOT
from ops.render import render
from stacks import aibrix_files
from tests.support.program import MADE, run_program
from tests.support.recorder import Recorder
from tests.support.stack_files import StackFile

MODEL = "deepseek-r1-671b"
SERVICE = f"services/{MODEL}"
FILE = StackFile("volcengine")
GATEWAY = {"status": {"addresses": [{"value": "10.0.0.9"}]}}
GATEWAY_TYPE = "kubernetes:gateway.networking.k8s.io/v1:Gateway"
_MANIFESTS = "addons/aibrix/manifests"
_FIXTURES = {
    part: str(ROOT / "tests" / "data" / "aibrix" / f"{part}-0.7.0.yaml") for part in ("core", "crds", "dependency")
}


def stack_file(**values: object) -> dict[str, Any]:
    """The stack file's content with values set by path (`services__deepseek-r1-671b__gateway`); Ellipsis removes."""
    return FILE.changed(**({_MANIFESTS: _FIXTURES} | values))


def run(engine: Recorder, *, secrets: Collection[str] = (), **values: object) -> dict[str, Any]:
    """Runs the program on the changed stack file; returns the outputs."""
    service = {"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.8"}]}}}
    made = {ACCESS_KEY: {"secretAccessKey": MADE}, GATEWAY_TYPE: GATEWAY, "kubernetes:core/v1:Service": service}
    with apart():
        return run_program(engine, stack_file(**values), secrets=secrets, made=made)


def rendered(*, secrets: Collection[str] = (), **values: object) -> list[dict[str, Any]]:
    """What `python -m ops render` prints of the changed stack file, with these secrets set."""
    file = read(ROOT / "Pulumi.volcengine.yaml")
    with apart():
        return render(replace(file, raw=stack_file(**values), encrypted=frozenset(secrets)), "volcengine")


@contextmanager
def apart() -> Iterator[None]:
    """Charts and parsed manifests go into a folder of this test run: the checkout's hold all of AIBrix's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aibrix_files, "PROJECT", Path(_folder().name))
        patch.setenv("XDG_CACHE_HOME", _folder().name)
        yield


@functools.cache
def manifests() -> Path:
    """A folder with AIBrix's few objects under the names of the release's own files."""
    folder = Path(_folder().name) / "manifests"
    folder.mkdir()
    for part, path in _FIXTURES.items():
        middle = "core-crds" if part == "crds" else part
        shutil.copy(path, folder / f"aibrix-{middle}-v0.7.0.yaml")
    return folder


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory()
