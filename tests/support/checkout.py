"""A copy of the project's tracked files, including uncommitted changes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from local.paths import ROOT


def copy_to(folder: Path) -> None:
    """Copy every file that Git tracks into a folder."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Keep the modification times, so that make does not consider the packages out of date.
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
