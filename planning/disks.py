"""What is known of a node's disks by the names of its folders alone. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath

from planning.catalog import fact


def system_folder(path: str) -> str | None:
    """The folder of the node's own disk that an absolute `path` is in; None where its name says nothing of the kind."""
    clean = PurePosixPath(path)
    return next((each for each in fact("weights", "node", "systemFolders") if clean.is_relative_to(each)), None)
