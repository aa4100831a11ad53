"""The project as version control has it, with what is changed here and not yet committed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from local.paths import ROOT


def copy_to(folder: Path) -> None:
    """Copy every file that Git knows into a folder."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # With its times: make must not think the packages too old.
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
