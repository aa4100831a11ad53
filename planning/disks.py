"""What is known of a node's disks by the names of its folders alone. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from planning.catalog import fact


def folder_problem(path: str) -> tuple[str, str] | None:
    """Why weights cannot be kept in this folder of a node, by its name alone, and what to write instead."""
    first, *parts = path.split("/")
    if first or not parts or not all(re.fullmatch(r"[\w.-]+", each) and each not in (".", "..") for each in parts):
        return "is not an absolute path of plain names", "write one such as /mnt/nvme0/models"
    if on_system := system_folder(path):
        return (
            f"{on_system} is on the system disk, which weights would fill",
            "write a folder on a mounted disk, such as /mnt/nvme0",
        )
    return None


def system_folder(path: str) -> str | None:
    """The folder of the node's own disk that an absolute `path` is in; None where its name says nothing of the kind."""
    clean = PurePosixPath(path)
    return next((each for each in fact("weights", "node", "systemFolders") if clean.is_relative_to(each)), None)
