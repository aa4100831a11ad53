"""The Pulumi home: what is ours, what gives way to official parts. With programs that only answer their version."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local import pulumi_home, toolchain

PLUGIN_FOLDER = f"plugins/resource-kubernetes-v{importlib.metadata.version('pulumi_kubernetes')}"
PLUGIN = f"{PLUGIN_FOLDER}/pulumi-resource-kubernetes"
CLOUDS = ("alicloud", "volcengine")


def cloud_plugin(name: str) -> str:
    return f"plugins/resource-{name}-v{importlib.metadata.version(f'pulumi_{name}')}/pulumi-resource-{name}"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: a work folder, a user's Pulumi home, and a PATH with nothing but an engine."""
    monkeypatch.setenv("MODELSERVE_REHEARSAL", str(tmp_path / "work"))
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "users"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setattr(pulumi_home.Path, "home", lambda: tmp_path)
    program(tmp_path / "path" / "pulumi", "v3.999.0")
    built = tmp_path / "work" / "bin" / "plugin"
    monkeypatch.setattr(pulumi_home.toolchain, "is_built", lambda name: built.exists())
    ensure = toolchain.ensure

    def build(*names: str, **more: Any) -> dict[str, Path]:
        if names != ("pulumi-resource-kubernetes",):
            return ensure(*names, **more)
        return {names[0]: built if built.exists() else program(built, "built")}

    monkeypatch.setattr(pulumi_home.toolchain, "ensure", build)
    return tmp_path


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def plane(folder: Path) -> SimpleNamespace:
    return SimpleNamespace(folder=folder, kubeconfig=folder / "kubeconfig")


def install() -> tuple[Path, str]:
    said: list[str] = []
    return pulumi_home.install(said.append), "\n".join(said)


def files(home: Path) -> dict[str, tuple[int, int]]:
    """Every file of the home with what changes when it is written anew."""
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in home.rglob("*")}


def test_stand_ins_take_the_places_of_absent_official_parts(machine: Path) -> None:
    home, said = install()
    assert home == machine / "work" / "home"
    assert (home / "bin" / "pulumi").resolve() == machine / "path" / "pulumi"
    for script in (home / "bin" / "pulumi-language-python", *(home / cloud_plugin(n) for n in CLOUDS)):
        assert os.access(script, os.X_OK)
        assert script.read_text().startswith("#!/bin/sh\n")
    assert "language host: the project's own" in said
    assert all(f"{name} plugin: the project's stand-in" in said for name in CLOUDS)


def test_second_install_writes_nothing(machine: Path) -> None:
    home, _ = install()
    before = files(home)
    assert install()[0] == home
    assert files(home) == before


def test_logs_of_earlier_runs_go_and_no_folder_is_left_for_new_ones(machine: Path) -> None:
    home, _ = install()
    (home / "logs").unlink()
    (home / "logs" / "old").mkdir(parents=True)
    assert (install()[0] / "logs").is_file()


def test_install_inside_its_own_environment_does_not_take_itself_for_official(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = install()
    before = files(home)
    for name, value in pulumi_home.environment(plane(machine)).items():
        monkeypatch.setenv(name, value)
    _, second = install()
    assert "the project's own" in second
    assert "the project's stand-in" in second
    assert files(home) == before
    assert (home / "bin" / "pulumi").resolve() == machine / "path" / "pulumi"


def test_official_language_host_on_path_is_used(machine: Path) -> None:
    install()
    official = program(machine / "path" / "pulumi-language-python", "official")
    home, said = install()
    assert f"language host: the official {official}" in said
    assert subprocess.run([home / "bin" / "pulumi-language-python"], capture_output=True).stdout == b"official\n"


def test_official_plugin_of_the_users_home_is_used(machine: Path) -> None:
    install()
    official = program(machine / "users" / PLUGIN, "official")
    home, said = install()
    assert f"kubernetes plugin: the official {official}" in said
    assert subprocess.run([home / PLUGIN], capture_output=True).stdout == b"official\n"


def test_plugin_that_is_nowhere_and_cannot_be_downloaded_is_built_from_its_module(machine: Path) -> None:
    official = program(machine / "users" / PLUGIN, "official")
    install()
    official.unlink()
    program(machine / "path" / "pulumi", "v3.999.0; [ $1 = version ]")
    home, said = install()
    assert (
        "downloading the kubernetes plugin v4." in said
        and f"the official {machine / 'work' / 'bin' / 'plugin'}" in said
    )
    assert subprocess.run([home / PLUGIN], capture_output=True).stdout == b"built\n"
    assert "downloading" not in install()[1]


def test_plugin_that_can_be_downloaded_is_neither_built_nor_downloaded_again(machine: Path) -> None:
    place = machine / "work" / "home" / PLUGIN
    program(machine / "path" / "pulumi", f"v3.999.0; [ $1 = version ] || install -D /bin/true {place}")
    home, said = install()
    assert said.count("downloaded") == 1 and not (home / PLUGIN).is_symlink()
    before = files(home)
    assert "downloading" not in install()[1] and files(home) == before


@pytest.mark.parametrize("name", CLOUDS)
def test_official_plugin_of_a_real_cloud_is_never_taken_for_a_rehearsal(machine: Path, name: str) -> None:
    program(machine / "users" / cloud_plugin(name), "official")
    home, said = install()
    assert f"{name} plugin: the project's stand-in, because its cloud is a folder" in said
    assert f"standins.providers.{name}" in (home / cloud_plugin(name)).read_text()
    program(machine / "path" / f"pulumi-resource-{name}", "official")
    assert "take it off PATH to rehearse" in install()[1]


def test_official_plugin_on_path_is_said(machine: Path) -> None:
    official = program(machine / "path" / "pulumi-resource-kubernetes", "official")
    assert f"kubernetes plugin: the official {official}, because it is on PATH" in install()[1]


def test_environment_keeps_state_and_cluster_apart_from_the_users_own(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE", "PULUMI_STACK", "KUBECONFIG")
    keys = [f"{cloud.upper()}_{half}" for cloud in CLOUDS for half in ("ACCESS_KEY", "SECRET_KEY")]
    for name in (*theirs, *keys):
        monkeypatch.setenv(name, "the user's own")
    planes = [plane(machine / name) for name in ("one", "two")]
    one, two = (pulumi_home.environment(each, machine / f"state {each.folder.name}") for each in planes)
    assert (one["KUBECONFIG"], two["KUBECONFIG"]) == (f"{machine}/one/kubeconfig", f"{machine}/two/kubeconfig")
    assert (one["MODELSERVE_CLOUD"], two["MODELSERVE_CLOUD"]) == (f"{machine}/one/cloud", f"{machine}/two/cloud")
    assert one["PULUMI_BACKEND_URL"] == f"file://{machine}/state one"
    assert (machine / "state two").is_dir()
    assert one["PULUMI_HOME"] == two["PULUMI_HOME"] == str(machine / "work" / "home")
    assert "the user's own" not in one.values()
    assert one["PATH"].startswith(f"{machine / 'work' / 'home' / 'bin'}:")


def test_aibrix_is_read_from_what_the_control_plane_was_equipped_with(machine: Path) -> None:
    environment = pulumi_home.environment(plane(machine))
    assert environment["MODELSERVE_MANIFESTS"] == str(machine / "manifests")
