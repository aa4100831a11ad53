"""A hub, an object store, and the sync's program as the Job's pod runs it, all on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.weights import model_sync
from local import object_store, processes
from local.control_plane import free_ports
from local.toolchain import ensure
from standins.hub import Hub
from tests.support.patience import PATIENCE_SECONDS

REPOSITORY = "deepseek-ai/DeepSeek-R1"
PREFIX = "models/DeepSeek-R1"
KEY_ID, KEY_SECRET = "LTAIwriter", "canary-key-secret"
MANIFEST = "modelserve-manifest.json"
_MIB = 1 << 20

_numbers = itertools.count()
_chance = random.Random(5)
MODEL: dict[str, bytes] = {
    ".git/lfs/objects/ab/cd/abcd": _chance.randbytes(_MIB),
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "config.json": b'{"architectures": ["DeepseekV3ForCausalLM"]}',
    "empty.txt": b"",
    "figures/a b%20+.jpg": _chance.randbytes(3000),
    "model-00001-of-00003.safetensors": _chance.randbytes(5 * _MIB),
    "model-00002-of-00003.safetensors": _chance.randbytes(3 * _MIB + 1),
    "model-00003-of-00003.safetensors": _chance.randbytes(2 * _MIB),
}
WANTED = {path: data for path, data in MODEL.items() if not path.startswith(".git/")}
SHARDS = [path for path in MODEL if path.endswith(".safetensors")]


@dataclass
class Ended:
    """A finished run of the program."""

    status: int
    lines: list[str]


@dataclass
class Room:
    """A folder with everything that a sync needs."""

    folder: Path
    hub: Hub
    endpoint: str
    program: Path
    bucket: str

    @property
    def objects(self) -> Path:
        """The folder with the objects under the prefix, as files."""
        return object_store.buckets(self.folder) / self.bucket / PREFIX

    def environment(self, **changes: str) -> dict[str, str]:
        """A pod's environment."""
        (self.folder / "scratch").mkdir(exist_ok=True)
        settings = {
            "HUB_KIND": "modelscope",
            "HUB_URL": self.hub.url,
            "REPOSITORY": REPOSITORY,
            "REVISION": "master",
            "ENDPOINT": self.endpoint,
            "BUCKET": self.bucket,
            "PREFIX": PREFIX,
            "KEY_ID": KEY_ID,
            "KEY_SECRET": KEY_SECRET,
            "RCLONE": str(ensure("rclone")["rclone"]),
            "SCRATCH": str(self.folder / "scratch"),
            "SCRATCH_GIB": "30",
            "PAUSE_SECONDS": "0.02",
        }
        return os.environ | {f"MODELSERVE_{name}": value for name, value in (settings | changes).items()}

    def start(self, **changes: str) -> subprocess.Popen[str]:
        """Starts the program as the Job's container does, in its own process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "sync"],
            cwd=self.program,
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, **changes: str) -> Ended:
        """Runs the program to its end. Checks that its log contains neither a secret nor a traceback."""
        process = self.start(**changes)
        try:
            output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            kill(process)
        assert "canary" not in output, output
        assert all(line.startswith("modelserve: sync: ") for line in output.splitlines()), output
        return Ended(process.returncode, [line.removeprefix("modelserve: sync: ") for line in output.splitlines()])

    def stored(self) -> dict[str, bytes]:
        """Path to content of every object under the prefix."""
        files = (file for file in self.objects.rglob("*") if file.is_file())
        return {str(file.relative_to(self.objects)): file.read_bytes() for file in files}

    def assert_whole(self, wanted: dict[str, bytes] = WANTED) -> None:
        """The bucket contains the model, nothing but the model, and a manifest that says so."""
        stored = self.stored()
        manifest: dict[str, Any] = json.loads(stored.pop(MANIFEST))
        assert stored.keys() == wanted.keys()
        assert all(stored[path] == data for path, data in wanted.items()), "an object has other bytes than its file"
        listed = {each["path"]: (each["size"], each["sha256"]) for each in manifest["files"]}
        assert listed == {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in wanted.items()}
        assert (manifest["count"], manifest["bytes"]) == (len(wanted), sum(map(len, wanted.values())))
        assert list((self.folder / "scratch").iterdir()) == [], "scratch is not clean"


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a run and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def eventually(done: Callable[[], bool], what: str) -> None:
    """Waits until `done`."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program as the ConfigMap delivers it: its files, in a folder of that name."""
    folder = tmp_path_factory.mktemp("etc-modelserve")
    (folder / "sync").mkdir()
    for name, text in model_sync.program().items():
        (folder / "sync" / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An object store that accepts one key, and its folder."""
    folder = tmp_path_factory.mktemp("store")
    url = object_store.launch(folder, ensure("rclone")["rclone"], *free_ports(1), {KEY_ID: KEY_SECRET})
    log = folder / "logs" / "object-store.log"
    eventually(lambda: "Starting s3 server" in log.read_text(), "the object store does not start")
    yield folder, url
    processes.end(folder)


@pytest.fixture
def room(store: tuple[Path, str], shipped: Path) -> Iterator[Room]:
    """An empty bucket, and a hub with one model."""
    folder, url = store
    hub = Hub({REPOSITORY: MODEL})
    # A new bucket each time: the store remembers the metadata of objects that are deleted behind its back.
    bucket = object_store.buckets(folder) / f"weights-{next(_numbers)}"
    bucket.mkdir()
    yield Room(folder, hub, url, shipped, bucket.name)
    hub.stop()
    shutil.rmtree(folder / "scratch", ignore_errors=True)
