"""A node's disk: what counts as one, that one pod at a time fills it, and what counts as a complete model on it."""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.weights.sync.folder import OWN
from components.weights.sync.node import Disk, carrier, check_disk, look
from components.weights.sync.retries import Fatal
from local.paths import work_dir
from tests.support.patience import PATIENCE_SECONDS
from tests.unit.components.conftest import MANIFEST, WANTED, Room, kill

pytestmark = pytest.mark.rehearsal

# As a container sees it, taken from real mounts: a disk with ext4, a tmpfs, and folders of the root file system, each
# bound to where the pod wants it, and the node's /usr.
MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
65 43 7:0 /models /weights rw,relatime - ext4 /dev/loop0 rw
66 43 254:0 /usr /node ro,relatime - ext4 /dev/vda rw,discard
67 43 254:0 /mnt/nvme0/models /unmounted rw,relatime - ext4 /dev/vda rw,discard
68 43 0:39 /models /memory rw,relatime - tmpfs none rw
69 43 254:0 /mnt/nvme1 /covered rw,relatime - ext4 /dev/vda rw,discard
70 43 259:1 / /covered rw,relatime master:1 shared:7 - xfs /dev/nvme1n1 rw
71 43 259:2 / /with\040space rw,relatime - xfs /dev/nvme2n1 rw
""".strip()


@pytest.mark.parametrize("mount", ["/weights", "/covered", "/with space"])
def test_a_folder_of_a_mounted_disk_is_taken_wherever_the_disk_is_mounted(mount):
    assert check_disk(MOUNTS, mount, "/node", "/mnt/nvme0/models") is None


def test_a_folder_of_the_system_disk_is_refused_though_it_is_a_mount_in_the_pod():
    with pytest.raises(Fatal) as refused:
        check_disk(MOUNTS, "/unmounted", "/node", "/mnt/nvme0/models")
    assert str(refused.value) == (
        "/mnt/nvme0/models is on the node's system disk, which the weights would fill: mount a disk there, or name the "
        "folder of one that is mounted"
    )


def test_memory_is_no_disk():
    with pytest.raises(Fatal, match=r"^/dev/shm/models is memory of the node \(tmpfs\) and no disk: "):
        check_disk(MOUNTS, "/memory", "/node", "/dev/shm/models")


def test_what_carries_a_path_is_the_mount_nearest_to_it():
    assert carrier(MOUNTS, "/weights/DeepSeek-R1") == Disk("7:0", "ext4")
    assert carrier(MOUNTS, "/weightsandmore") == Disk("254:0", "ext4")
    assert carrier(MOUNTS, "/covered/a") == Disk("259:1", "xfs")


def test_the_kernels_own_list_of_this_machine_is_understood():
    mounts = Path("/proc/self/mountinfo").read_text()
    assert carrier(mounts, "/proc") != carrier(mounts, "/")


# --- the program


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder that is not in memory; /tmp may be."""
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        yield Path(folder)


def settings(disk: Path, **changes: str) -> dict[str, str]:
    """The settings of a pod with `disk` as its mount. /proc stands in for the system disk, so any other file system
    counts as a separate disk."""
    given = {"MOUNT": str(disk), "NODE": "/proc", "HOST_PATH": "/mnt/nvme0", "FOLDER": str(disk / "R1")}
    return given | {"FROM": "bucket", "CALLED": "the disk"} | changes


def test_the_first_pod_fills_the_disk_and_the_next_finds_nothing_to_do(room: Room, disk: Path):
    room.run()
    ended = room.run(**settings(disk))
    assert ended.status == 0, ended.lines
    assert {path for path in WANTED if (disk / "R1" / path).read_bytes() == WANTED[path]} == WANTED.keys()
    assert room.run(**settings(disk)).lines == ["nothing to do: all 7 files, 10.0 MiB, are in the disk"]


def test_a_pod_waits_while_another_of_its_node_fills_the_disk(room: Room, disk: Path):
    room.run()
    lock = disk / "R1" / OWN / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = room.start(**settings(disk))
        try:
            assert "another pod of this node is filling the disk" in process.stdout.readline()
            assert not (disk / "R1" / MANIFEST).exists()
            fcntl.flock(held, fcntl.LOCK_UN)
            process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            kill(process)
    assert process.returncode == 0 and (disk / "R1" / MANIFEST).exists()


def test_two_pods_at_once_bring_each_file_once(room: Room, disk: Path):
    room.run()
    processes = [room.start(**settings(disk)) for _ in range(2)]
    try:
        said = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            kill(process)
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted("nothing to do" in text for text in said) == [False, True]


def test_the_system_disk_is_refused_and_nothing_is_made_there(room: Room, disk: Path):
    ended = room.run(**settings(disk, NODE=str(disk)))
    assert ended.status == 1 and "/mnt/nvme0 is on the node's system disk" in ended.lines[-1]
    assert list(disk.iterdir()) == []


def test_a_disk_that_somebody_else_fills_is_only_looked_at(room: Room, disk: Path):
    assert room.run(**settings(disk, FROM="elsewhere")).lines == ["the disk is a mounted one"]
    assert list(disk.iterdir()) == []


def test_without_a_bucket_an_empty_disk_is_one_line(room: Room, disk: Path):
    ended = room.run(**settings(disk, FROM="nowhere"))
    assert ended.status == 1
    assert ended.lines == [
        f"failed: no model in {disk}/R1: config.json is missing; put the model there, or name a bucket to fill from"
    ]


# --- a model that somebody else has put there


def shard(size: int) -> bytes:
    """A safetensors file with one tensor of `size` bytes."""
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"dtype": "U8", "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model of two shards without a manifest."""
    (tmp_path / "config.json").write_text("{}")
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    for name in weights.values():
        (tmp_path / name).write_bytes(shard(1 << 20))
    return tmp_path


def test_a_whole_model_needs_no_manifest(model: Path):
    assert look(model) == "nothing to do: 2 files of weights, 2.0 MiB"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model-2.safetensors", None, "model-2.safetensors is missing: copy it again"),
        ("model-2.safetensors", shard(1 << 20)[:-1], "bytes in place of"),
        ("model-2.safetensors", b"<html>not found</html>", "model-2.safetensors is no safetensors file"),
        ("config.json", None, "config.json is missing"),
        ("model.safetensors.index.json", b"{", "model.safetensors.index.json cannot be read"),
    ],
)
def test_what_a_model_lacks_is_named(model: Path, name, content, said):
    (model / name).unlink()
    if content is not None:
        (model / name).write_bytes(content)
    with pytest.raises(Fatal, match=said):
        look(model)


def test_a_manifest_is_held_to_as_well(model: Path):
    files = [{"path": "tokenizer.json", "size": 3, "sha256": None, "git_sha1": None}]
    (model / MANIFEST).write_text(json.dumps({"files": files}))
    with pytest.raises(Fatal, match="tokenizer.json is missing"):
        look(model)
    (model / "tokenizer.json").write_text("{}\n")
    assert look(model).startswith("nothing to do")
