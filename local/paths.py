"""Where the rehearsal keeps what it makes. Owns no content, only places."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def work_dir() -> Path:
    """The folder for built programs, control planes and the local stack's state; made when it is not there.

    `.rehearsal` in the project's root, or what the environment variable MODELSERVE_REHEARSAL names.
    """
    folder = Path(os.environ.get("MODELSERVE_REHEARSAL") or ROOT / ".rehearsal").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
