"""`python -m local` while nothing is running, and the exports that it writes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from local.__main__ import _exports, main


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELSERVE_REHEARSAL", str(tmp_path))
    return tmp_path


def test_down_without_a_control_plane_says_so_and_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "control plane local is not running\n"


def test_status_without_a_control_plane_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    assert capsys.readouterr().out == "control plane local is not running\n"


@pytest.mark.parametrize(
    "command", [["kill", "ds-0"], ["fail", "ds-0"], ["fail", "DataLoad/m"], ["heal", "Job/m"], ["env"]]
)
def test_what_needs_a_control_plane_names_the_command_that_starts_it(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    assert capsys.readouterr().err == ("control plane local: it is not running; start it with `python -m local up`\n")


@pytest.mark.parametrize("name", ["../x", "A", "", "-a", "a" * 40])
def test_a_name_that_is_no_folder_is_refused_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", f"--name={name}"]) == 1
    assert capsys.readouterr().err == (
        f"{name!r} is not a name for a control plane: use lower-case letters, digits and hyphens\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["nonsense"],
        ["kill"],
        ["fail", "x", "--how", "image-pull"],
        ["fail", "DataLoad/x", "crash"],
        ["fail", "Secret/x"],
        ["heal", "x"],
        ["up", "--cloud", "elsewhere"],
    ],
)
def test_a_wrong_request_ends_with_2(command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2


def test_exports_survive_a_shell_and_keep_its_own_path(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_STACK", "other")
    config = '/a b/it\'s "$HOME"'
    script = 'PATH=/mine:"$PATH"; . "$0"; . "$0"; printf "%s\\n" "$KUBECONFIG" "$PATH" "${PULUMI_STACK-none}"'
    for shells in (None, config):  # written by a shell that has it already, it says no less
        if shells:
            monkeypatch.setenv("KUBECONFIG", shells)
        (work / "env.sh").write_text(_exports({"KUBECONFIG": config}, [Path("/a b/bin"), Path("/c")]))
        said = subprocess.run(["sh", "-c", script, work / "env.sh"], capture_output=True, text=True, check=True).stdout
        assert said.splitlines() == [config, f"/a b/bin:/c:/mine:{os.environ['PATH']}", "none"]
