"""Where the rehearsal keeps its files. Owns the paths, not the contents."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (
    *("__main__.py", "Pulumi.yaml", "planning", "config", "components", "watch", "stacks"),
    *("policy", "report", "ci", "ops", ".venv"),
)
"""What of the project a copy needs to be a program of its own, with its commands."""


def work_dir() -> Path:
    """The folder for built programs, control planes and the local stack's state; created if missing.

    `.rehearsal` in the project's root, or the folder that the environment variable MODELSERVE_REHEARSAL names.
    """
    folder = Path(os.environ.get("MODELSERVE_REHEARSAL") or ROOT / ".rehearsal").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
