"""Pulumi's state in a bucket that requires virtual-hosted URLs, as OSS and TOS do: the URL that docs/ci.md gives works
with the real engine, a path-style one does not, and `ops ci backend` predicts both."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ci.backend import problems
from local import pulumi_home
from tests.support import object_store
from tests.support.patience import PATIENCE_SECONDS

STORES = {
    "oss": ("s3.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
    "tos": ("tos-s3-cn-beijing.volces.com", "cn-beijing"),
}
PROGRAM = """
import pathlib, time, pulumi
while pathlib.Path("gate").exists():
    time.sleep(0.05)
pulumi.export("answer", 42)
"""

Pulumi = Callable[..., subprocess.CompletedProcess[str]]


def url(host: str, region: str, more: str = "") -> str:
    return f"s3://team-state/modelserve?region={region}&endpoint=https://{host}{more}"


@pytest.fixture(scope="module")
def path() -> str:
    pulumi_home.install()
    return os.pathsep.join([*map(str, pulumi_home.path_start()), os.environ["PATH"]])


@pytest.fixture(scope="module")
def engine(path: str) -> str:
    """The engine's version."""
    found = subprocess.run(["pulumi", "version"], env=os.environ | {"PATH": path}, text=True, capture_output=True)
    return found.stdout.strip()


@pytest.fixture
def project(path: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    (tmp_path / "Pulumi.yaml").write_text("name: small\nruntime: python\n")
    (tmp_path / "__main__.py").write_text(PROGRAM)
    yield {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PULUMI_"))},
        "PATH": path,
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_CONFIG_PASSPHRASE": "x",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }


def command(folder: Path, environment: dict[str, str]) -> Pulumi:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        arguments = ["pulumi", *words, "--non-interactive"]
        return subprocess.run(arguments, cwd=folder, env=environment, text=True, capture_output=True, timeout=300)

    return run


@pytest.mark.parametrize("store", ["oss", pytest.param("tos", marks=pytest.mark.soak)])
def test_login_update_lock_cancel_and_refresh_work_where_the_bucket_is_in_the_host_name(
    store: str, engine: str, project: dict[str, str], tmp_path: Path
):
    """The store accepts chunked bodies if the engine still sends them, because this test is about the URL."""
    host, region = STORES[store]
    old = bool(problems(url(host, region), engine))
    with object_store.serve(tmp_path, host, "team-state", takes_chunks=old) as bucket:
        environment = project | bucket.environment
        pulumi = command(tmp_path, environment)
        done = [pulumi("login", url(host, region)), pulumi("stack", "init", "a"), pulumi("up", "--yes", "-s", "a")]
        assert [each.returncode for each in done] == [0, 0, 0], "".join(each.stderr for each in done)
        (tmp_path / "gate").touch()
        words = ["pulumi", "up", "--yes", "--skip-preview", "-s", "a", "--non-interactive"]
        with subprocess.Popen(
            words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as first:
            deadline = time.monotonic() + 120
            while not _locks(bucket) and time.monotonic() < deadline:
                time.sleep(0.05)
            (lock,) = _locks(bucket)
            assert pulumi("up", "--yes", "--skip-preview", "-s", "a").returncode != 0
            assert _locks(bucket) == [lock]
            assert pulumi("cancel", "--yes", "-s", "a").returncode == 0
            assert _locks(bucket) == []
            (tmp_path / "gate").unlink()
            first.wait(PATIENCE_SECONDS)
        refreshed = pulumi("refresh", "--yes", "-s", "a")
        assert refreshed.returncode == 0, refreshed.stderr
        assert pulumi("stack", "output", "answer", "-s", "a").stdout.strip() == "42"
        assert pulumi("stack", "rm", "a", "--yes", "--force").returncode == 0
    assert bucket.refused == []
    assert all(key.startswith("modelserve/.pulumi/") for key in bucket.objects)
    assert (bucket.keys, bucket.tokens) == ({"STS.key"}, {"session"})


def test_path_style_is_refused_by_the_store_and_beforehand(project: dict[str, str], tmp_path: Path):
    host, region = STORES["oss"]
    given = url(host, region, "&s3ForcePathStyle=true")
    assert problems(given)
    with object_store.serve(tmp_path, host, "team-state", takes_chunks=True) as bucket:
        assert command(tmp_path, project | bucket.environment)("login", given).returncode != 0
    assert {each.code for each in bucket.refused} == {"SecondLevelDomainForbidden"}


def test_an_engine_whose_writes_the_store_refuses_is_refused_beforehand_and_no_other(
    engine: str, project: dict[str, str], tmp_path: Path
):
    host, region = STORES["oss"]
    with object_store.serve(tmp_path, host, "team-state") as bucket:
        # The very first login writes the bucket's layout.
        wrote = command(tmp_path, project | bucket.environment)("login", url(host, region)).returncode == 0
    assert wrote is (problems(url(host, region), engine) == [])
    assert {each.code for each in bucket.refused} <= {"NotImplemented", "InvalidDigest"}


def _locks(bucket: object_store.ObjectStore) -> list[str]:
    return [key for key in list(bucket.objects) if "/locks/" in key]
