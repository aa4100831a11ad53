"""The object store: buckets are folders that come and go beside it, and keys count when there are any."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import object_store, processes
from local.api import wait_until
from local.control_plane import free_ports
from local.toolchain import ensure
from tests.support.patience import PATIENCE_SECONDS

KEYS = {"LTAIone": "secret-one", "LTAItwo": "secret-two"}


def rclone(url: str, key: str, secret: str, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    remote = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": url, "ACCESS_KEY_ID": key, "SECRET_ACCESS_KEY": secret}
    remote["NO_CHECK_BUCKET"] = "true"
    variables = {f"RCLONE_CONFIG_STORE_{name}": value for name, value in remote.items()}
    command = [str(ensure("rclone")["rclone"]), "--config=", "--retries=1", *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


@pytest.fixture(params=[KEYS, None], ids=["two keys", "any key"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, str, bool]]:
    url = object_store.launch(tmp_path, ensure("rclone")["rclone"], *free_ports(1), request.param)
    log = tmp_path / "logs" / "object-store.log"
    wait_until(
        lambda: "Starting s3 server" in log.read_text(),
        PATIENCE_SECONDS,
        lambda: "the object store does not start",
        0.01,
    )
    yield object_store.buckets(tmp_path), url, request.param is not None
    processes.end(tmp_path)


def test_a_bucket_is_a_folder_and_only_a_known_key_opens_it(store: tuple[Path, str, bool], tmp_path: Path):
    buckets, url, guarded = store
    (tmp_path / "file").write_text("hello")
    put = ("copyto", str(tmp_path / "file"), "store:weights/models/a")
    assert "NoSuchBucket" in rclone(url, "LTAIone", "secret-one", *put).stderr
    (buckets / "weights").mkdir()
    for key, secret in KEYS.items():
        assert rclone(url, key, secret, *put, "--ignore-times").returncode == 0
    assert (buckets / "weights" / "models" / "a").read_text() == "hello"
    refused = rclone(url, "LTAIone", "wrong", *put, "--ignore-times")
    assert (refused.returncode != 0 and "403" in refused.stderr) == guarded


def test_its_keys_are_in_no_argument_list(store: tuple[Path, str, bool], tmp_path: Path):
    pid = processes.alive(tmp_path)["object-store"]
    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    assert "serve s3" in line and "secret" not in line
