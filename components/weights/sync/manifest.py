"""The manifest beside a model's files, which says that all of them arrived; how lists of files compare, and what of a
hub's list is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

MANIFEST = "modelserve-manifest.json"
_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True)
class File:
    """One file as the hub lists it. Small files of Hugging Face have git's hash of a blob in place of a SHA-256."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """What need not be copied: files of the patterns `leaves`, where the repository's root has one of each of
    `weights`. Without those it holds the model in some other way, and everything is copied. `*` crosses folders."""

    weights: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()

    def of(self, files: Sequence[File]) -> dict[str, str]:
        """Path to the pattern that leaves it out."""
        root = [file.path for file in files if "/" not in file.path]
        if not all(any(fnmatchcase(path, each) for path in root) for each in self.weights):
            return {}
        return {file.path: each for file in files for each in self.leaves if fnmatchcase(file.path, each)}


def entries(manifest: Mapping[str, Any]) -> dict[str, File]:
    """Path to file, of a manifest; empty when it is not one of ours."""
    try:
        found = [File(**each) for each in manifest.get("files", [])]
    except TypeError:
        return {}
    return {file.path: file for file in found}


def agrees(listed: Mapping[str, File], present: Mapping[str, int]) -> bool:
    """Whether exactly these files are there, each as large as it should be. The manifest itself does not count."""
    return {path: file.size for path, file in listed.items()} == {
        path: size for path, size in present.items() if path != MANIFEST
    }


def same(files: Sequence[File], listed: Mapping[str, File]) -> bool:
    """Whether the hub still lists what the manifest says."""
    return len(files) == len(listed) and all(
        (entry := listed.get(file.path)) is not None
        and entry.size == file.size
        and file.sha256 in (None, entry.sha256)
        and file.git_sha1 in (None, entry.git_sha1)
        for file in files
    )


def amount(size: float) -> str:
    """Bytes for people."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.1f} MiB"
