"""One folder of a mounted volume or disk as what a sync fills: the same questions and deeds as `bucket` has.

A file gets its name when all its bytes are on the disk and checked; its hashes lie beside it, in a folder of our own.
So a file with a note that fits is one that arrived whole, whoever died meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .bucket import Digest, digest_file
from .manifest import MANIFEST, File, amount
from .retries import Fatal, Passing

OWN = ".modelserve"
"""The folder inside the model's that holds files under way, and the notes."""
# What a file system and other downloaders leave at a model's root: no file of the model.
_STRANGERS = (OWN, ".cache", ".git", "lost+found")


class Folder:
    """The files under `root`, which is made when it is not there. Every method raises Fatal and Passing.

    `called` is what the log calls it.
    """

    def __init__(self, root: Path, called: str) -> None:
        self._root, self.called = root, called
        self.scratch = root / OWN
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Fatal(f"{root} cannot be written ({error.strerror}): let the pod's user write there") from None

    def sizes(self) -> dict[str, int]:
        """Path below the root to bytes, of every file."""
        with self._passing():
            return {str(file.relative_to(self._root)): file.stat().st_size for file in self._files()}

    def hashes(self) -> dict[str, Mapping[str, str]]:
        """Path to the noted hashes, of every file that has not changed since."""
        return {path: self._note(path) for path in self.sizes()}

    def put(self, source: Path, path: str, metadata: Mapping[str, str]) -> None:
        """Moves a file of the scratch folder to its place, on the disk for good."""
        place = self._root / path
        with self._passing():
            place.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as opened:
                os.fsync(opened.fileno())
            source.replace(place)
            _settle(place.parent)
            if metadata:
                self._write_note(path, metadata)

    def digest(self, path: str, size: int) -> Digest:
        """Reads a file back."""
        with self._passing():
            return digest_file(self._root / path, size)

    def manifest(self) -> dict[str, Any]:
        """The manifest's content; empty when it is not one of ours."""
        try:
            found = json.loads((self._root / MANIFEST).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remove(self, path: str) -> None:
        """Deletes one file."""
        with self._passing():
            (self._root / path).unlink(missing_ok=True)
            self._note_of(path).unlink(missing_ok=True)

    def make_room(self, missing: Sequence[File]) -> None:
        """Raises Fatal when the disk cannot take these files."""
        needed, disk = sum(file.size for file in missing), os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        if needed > free:
            raise Fatal(
                f"no space: {amount(needed)} are missing and {self.called} has {amount(free)} free: "
                "delete something there, or take a larger one"
            )

    @contextmanager
    def _passing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Passing(f"{self.called}: {error.strerror}") from None

    def _files(self) -> Iterator[Path]:
        for at, folders, names in os.walk(self._root):
            if Path(at) == self._root:
                folders[:] = [name for name in folders if name not in _STRANGERS]
            yield from (Path(at, name) for name in names)

    def _note_of(self, path: str) -> Path:
        return self.scratch / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"

    def _write_note(self, path: str, metadata: Mapping[str, str]) -> None:
        look = (self._root / path).stat()
        note = self._note_of(path)
        fresh = note.with_suffix(".new")
        fresh.write_text(json.dumps({**metadata, "size": look.st_size, "changed": look.st_mtime_ns}))
        fresh.replace(note)

    def _note(self, path: str) -> Mapping[str, str]:
        try:
            look = (self._root / path).stat()
            note = json.loads(self._note_of(path).read_text())
        except (OSError, ValueError):
            return {}
        return note if (note.get("size"), note.get("changed")) == (look.st_size, look.st_mtime_ns) else {}


def _settle(folder: Path) -> None:
    """Brings a folder's new names to the disk."""
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)
