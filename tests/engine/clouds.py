"""A cloud in a folder, and the engine that runs small programs on it: no control plane is needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from local import faults, pulumi_home
from tests.engine.small_program import Engine


@dataclass
class Cloud:
    """The cloud as somebody beside the program sees it. `environment` is that of the engine's runs."""

    plane: Path
    environment: dict[str, str]

    @property
    def file(self) -> Path:
        return self.plane / "cloud" / "cloud.json"

    def tables(self) -> dict[str, dict[str, Any]]:
        """Everything but objects; empty before the first request."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def left(self) -> dict[str, list[str]]:
        """The names of what there is, by table."""
        return {name: sorted(table) for name, table in self.tables().items() if table}

    def put_bucket(self, name: str, entry: dict[str, Any]) -> None:
        """A bucket that is there already."""
        tables = self.tables()
        tables.setdefault("buckets", {})[name] = entry
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(tables))
        self.objects(name).mkdir(parents=True, exist_ok=True)

    def objects(self, bucket: str) -> Path:
        return self.plane / "cloud" / "buckets" / bucket

    def written(self, bucket: str) -> dict[str, int]:
        """A bucket's objects, each with the time it was written."""
        root = self.objects(bucket)
        return {str(file.relative_to(root)): file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file()}

    def fail(self, kind: str, name: str, how: str | None = "denied") -> None:
        faults.put(self.plane, kind, name, how)


@pytest.fixture(scope="session")
def only_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Cloud]]:
    pulumi_home.install(say=lambda line: None)
    folder = tmp_path_factory.mktemp("cloud")
    plane = SimpleNamespace(kubeconfig=folder / "kubeconfig", folder=folder / "plane")
    environment = pulumi_home.environment(plane, folder / "state")
    with pytest.MonkeyPatch.context() as patch:
        # The automation API asks for the engine's version on this process's own PATH.
        patch.setenv("PATH", environment["PATH"])
        yield Engine(environment, folder), Cloud(plane.folder, environment)


@pytest.fixture
def cloud(only_engine: tuple[Engine, Cloud]) -> Iterator[Cloud]:
    """Empty, with good keys."""
    cloud = only_engine[1]
    shutil.rmtree(cloud.plane, ignore_errors=True)
    cloud.plane.mkdir()
    before = dict(cloud.environment)
    yield cloud
    cloud.environment.clear()
    cloud.environment.update(before)


@pytest.fixture
def engine(only_engine: tuple[Engine, Cloud], cloud: Cloud) -> Iterator[Engine]:
    with only_engine[0].fresh() as engine:
        yield engine


def types(engine: Engine) -> list[str]:
    """The types in the state, but for the stack's own."""
    return sorted(item["type"] for item in engine.state()["resources"] if item["type"] != "pulumi:pulumi:Stack")


def everything(engine: Engine) -> str:
    """The state, its backups and its history, as they lie on disk."""
    return "".join(path.read_text() for path in engine.backend.rglob("*") if path.is_file())


def after(opts: pulumi.ResourceOptions, *others: Any) -> pulumi.ResourceOptions:
    """Options of what is made after the others."""
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=list(others)))


def nothing_to_do(engine: Engine, cloud: Cloud) -> None:
    """Holds that a preview, a refresh and an `up` of the same program change nothing."""
    before = cloud.file.read_text()
    for run in (engine.preview, engine.refresh, engine.up):
        outcome = run()
        assert outcome.ok, outcome.output
        assert {operation for operation, _ in outcome.steps} <= {"same", "refresh"}, outcome.steps
    assert cloud.file.read_text() == before
