"""The README's commands, and those of the pages that it links to, run as they stand and in their order."""

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

# It would run all of these tests again.
_NOT_RUN = "make test"
# What somebody who has just cloned the project does not have in his environment.
_OURS = ("ALICLOUD_", "KUBECONFIG", "MAKE", "MFLAGS", "MODELSERVE_", "PULUMI_", "PYTEST_", "VIRTUAL_ENV", "VOLCENGINE_")
_SECONDS = 1800


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project as version control has it, which spares what takes half an hour: the built programs, and
    the Python packages."""
    folder = tmp_path / "modelserve"
    checkout.copy_to(folder)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    shutil.copytree(work_dir() / "bin", folder / ".rehearsal" / "bin", symlinks=True, copy_function=linked)
    yield folder
    subprocess.run(["make", "down"], cwd=folder, env=environment(), capture_output=True, timeout=_SECONDS)


def linked(source: str, target: str) -> None:
    """A second name of the same file where that can be had: the programs are a gigabyte."""
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
