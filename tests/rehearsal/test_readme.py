"""Runs the commands of the README and of the pages that it links to, unchanged and in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.paths import ROOT, work_dir
from tests.support import checkout, documents

# This command would run all of these tests again.
_NOT_RUN = "make test"
# Variables that are not set for somebody who has just cloned the project.
_OURS = ("ALICLOUD_", "KUBECONFIG", "MAKE", "MFLAGS", "MODELSERVE_", "PULUMI_", "PYTEST_", "VIRTUAL_ENV", "VOLCENGINE_")
_SECONDS = 1800


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project's tracked files, with the built programs and the Python packages added, because making
    those takes half an hour."""
    folder = tmp_path / "modelserve"
    checkout.copy_to(folder)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    shutil.copytree(work_dir() / "bin", folder / ".rehearsal" / "bin", symlinks=True, copy_function=linked)
    yield folder
    subprocess.run(["make", "down"], cwd=folder, env=environment(), capture_output=True, timeout=_SECONDS)


def linked(source: str, target: str) -> None:
    """Hard-links a file where possible, because the programs take up a gigabyte."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


@pytest.mark.soak
def test_the_commands_of_the_readme_and_its_pages_work_in_their_order_each_section_in_a_new_shell(clone: Path):
    for section in documents.sections():
        script = "\n".join(line for line in section.commands if not line.startswith(_NOT_RUN))
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=clone,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
        where = f"{section.page.name}, {section.title}: {time.monotonic() - begun:.0f} s"
        print(f"== {where}\n{script}\n{done.stdout}")
        assert done.returncode == 0, f"{where}\n{script}\n{done.stdout[-6000:]}"
    assert not (clone / ".rehearsal" / "clusters" / "local").exists()
