"""A node's own disk: whether a path of the pod lies on one, that one pod at a time fills it, and whether it is full.

What the kubelet mounts into a pod is a mount there in any case, so that it is one proves nothing. But the kernel shows
with each mount which file system it is of, by device number, and the node's own system disk can be asked for the same
way, by any folder of it that is mounted as well: the builder mounts the node's `/usr`, read-only. A folder with the
system disk's number is on the system disk, whatever the folders above it are called, linked or bound.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import OWN
from .manifest import MANIFEST, amount, entries
from .retries import Fatal
from .transfer import Say, Sync

_MEMORY = ("tmpfs", "ramfs")
_HEADER_LENGTH = 8
_LONGEST_HEADER = 100 << 20
"""The safetensors library's own limit."""


@dataclass(frozen=True)
class Disk:
    """What carries a path: device number and kind of file system."""

    device: str
    kind: str


@dataclass
class OnNode:
    """One pod's turn at `folder`, on a disk that is one. `origin` is `bucket` where `sync` fills it, `elsewhere` where
    somebody else does after this, or anything else: the model has to be there."""

    folder: Path
    origin: str
    sync: Sync | None
    say: Say

    def run(self) -> None:
        """Returns when the disk holds the model whole, or is left to somebody else. Raises Fatal, GaveUp."""
        if self.sync is not None:
            with alone(self.folder, self.say):
                self.sync.run()
        elif self.origin == "elsewhere":
            self.say("the disk is a mounted one")
        else:
            self.say(look(self.folder))

    def stop(self) -> None:
        """Ends what is under way."""
        if self.sync is not None:
            self.sync.stop()


def carrier(mountinfo: str, path: str) -> Disk:
    """What carries `path`, by the kernel's list (proc(5), mountinfo)."""
    best, found = -1, None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        at = fields[4].encode().decode("unicode_escape")  # a space is written as \040
        # Of equally long ones the last: it covers the others.
        if (path == at or path.startswith(at.rstrip("/") + "/")) and len(at) >= best:
            best, found = len(at), Disk(fields[2], right.split()[0])
    if found is None:
        raise Fatal(f"{path} is no place in this pod: mount it")
    return found


def check_disk(mountinfo: str, mount: str, node: str, host_path: str) -> None:
    """Raises Fatal when `mount`, which the node calls `host_path`, is not on a disk of its own.

    `node` is where a folder of the node's system disk is mounted.
    """
    disk, system = carrier(mountinfo, mount), carrier(mountinfo, node)
    if disk.device == system.device:
        raise Fatal(
            f"{host_path} is on the node's system disk, which the weights would fill: "
            "mount a disk there, or name the folder of one that is mounted"
        )
    if disk.kind in _MEMORY:
        raise Fatal(f"{host_path} is memory of the node ({disk.kind}) and no disk: name the folder of a mounted disk")


@contextmanager
def alone(folder: Path, say: Say) -> Iterator[None]:
    """Waits until no other pod of this node is at it. The kernel frees the lock of whoever dies."""
    with (folder / OWN / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another pod of this node is filling the disk; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def look(folder: Path) -> str:
    """One line on the model in `folder`, without writing there. Raises Fatal when it is not whole."""
    if not (folder / "config.json").is_file():
        raise Fatal(f"no model in {folder}: config.json is missing; put the model there, or name a bucket to fill from")
    shards = _shards(folder)
    listed = _json(folder / MANIFEST)
    for path, size in {path: file.size for path, file in entries(listed).items()}.items():
        _expect(folder / path, size)
    for shard in shards:
        _expect(folder / shard, _length(folder / shard))
    return f"nothing to do: {len(shards)} files of weights, {amount(sum(map(_size, (folder / s for s in shards))))}"


def _shards(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(_json(index).get("weight_map", {}).values()))
    shards = shards or sorted(file.name for file in folder.glob("*.safetensors"))
    if not shards:
        raise Fatal(f"no weights in {folder}: it has no *.safetensors; put the model there")
    return shards


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Fatal(f"{file} cannot be read ({error}): copy it again") from None
    return found if isinstance(found, dict) else {}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        raise Fatal(f"{file} is missing: copy it again") from None


def _expect(file: Path, size: int) -> None:
    if (found := _size(file)) != size:
        raise Fatal(f"{file} has {found} bytes in place of {size}: copy it again")


def _length(file: Path) -> int:
    """How long a safetensors file has to be: its header tells where each tensor ends."""
    _size(file)
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(_HEADER_LENGTH), "little")
        text = opened.read(header) if header <= _LONGEST_HEADER else b""
    try:
        tensors = [value for name, value in json.loads(text).items() if name != "__metadata__"]
        return _HEADER_LENGTH + header + max((each["data_offsets"][1] for each in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Fatal(f"{file} is no safetensors file: copy it again") from None
