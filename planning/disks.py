"""What the names of a node's folders say about its disks. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from planning.catalog import fact


def folder_problem(path: str) -> tuple[str, str] | None:
    """Why a node cannot keep weights in this folder, judged by its name, and what to write instead."""
    first, *parts = path.split("/")
    if first or not parts or not all(re.fullmatch(r"[\w.-]+", part) and part not in (".", "..") for part in parts):
        return "is not an absolute path of plain names", "write one such as /mnt/nvme0/models"
    if on_system := system_folder(path):
        return (
            f"{on_system} is on the system disk, and weights would fill it",
            "write a folder on a mounted disk, such as /mnt/nvme0",
        )
    return None


def system_folder(path: str) -> str | None:
    """The system disk's folder that an absolute `path` lies in; None if its name does not lead there."""
    clean = PurePosixPath(path)
    return next((folder for folder in fact("weights", "node", "systemFolders") if clean.is_relative_to(folder)), None)
