"""The Pulumi home of the rehearsal: the engine, language host and plugins of its runs, and their environment.

Owns `home/` in the work folder. Official parts win. The user's own language host replaces the project's. The kubernetes
plugin is always official: the user's, else the pinned version if it can be downloaded, else a build of its Go module.
Cloud plugins are the exception: the official ones reach only the real cloud, which a rehearsal must not.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from local import aibrix_manifests, toolchain
from local.paths import ROOT, work_dir

if TYPE_CHECKING:
    from local.control_plane import ControlPlane

LANGUAGE_HOST = "pulumi-language-python"
_PLUGIN = "pulumi-resource-kubernetes"
_DOWNLOAD_SECONDS = 300
# The stand-in accepts any key. No real cloud knows this one, should an official plugin ever get it.
_CLOUD_KEYS = {
    f"{cloud}_{half}": "rehearsal" for cloud in ("ALICLOUD", "VOLCENGINE") for half in ("ACCESS_KEY", "SECRET_KEY")
}
_MARK = "# Written by modelserve's rehearsal (local/pulumi_home.py).\n"


def install(say: Callable[[str], None] = print) -> Path:
    """Sets up the home if needed, and says which parts are official. Returns its folder.

    Builds Pulumi if there is none, which takes minutes once. Raises ToolchainError if it is neither found nor built.
    """
    # Resolved, because the one on PATH may already be the link that we are about to write.
    pulumi = toolchain.ensure("pulumi", say=say)["pulumi"].resolve()
    _link(pulumi, _home() / "bin" / "pulumi")
    _keep_no_log()
    say(_install_language_host(pulumi))
    say(_install_kubernetes_plugin(pulumi, say))
    for cloud in ("alicloud", "volcengine"):
        say(_install_cloud_plugin(cloud))
    return _home()


def _keep_no_log() -> None:
    """Puts a file where the engine makes the folder for its logs, which it then does without (StartLogging in
    pkg/logging/encrypted.go). Each line that it would otherwise compress and encrypt, several megabytes a run, is a
    fifth of its work."""
    place = _home() / "logs"
    if not place.is_file():
        shutil.rmtree(place, ignore_errors=True)
        place.touch()


UNSET = ("PULUMI_CONFIG_PASSPHRASE_FILE", "PULUMI_STACK")
"""Variables of a user's environment that would override the rehearsal's settings."""


def environment(control_plane: ControlPlane, state: Path | None = None) -> dict[str, str]:
    """Environment of a `pulumi` run on this control plane: this process's own, with the rehearsal's settings."""
    path = os.pathsep.join([*map(str, path_start()), os.environ.get("PATH", os.defpath)])
    whole = {**os.environ, **settings(control_plane, state), "PATH": path}
    return {name: value for name, value in whole.items() if name not in UNSET}


def path_start() -> list[Path]:
    """The first folders of a rehearsal's PATH: its Pulumi, and the Python that has the program's packages."""
    return [_home() / "bin", Path(sys.executable).parent]


def settings(control_plane: ControlPlane, state: Path | None = None) -> dict[str, str]:
    """The rehearsal's own variables.

    They replace the user's own cloud keys: nothing here may reach a real account. `state` is the folder of the file
    backend, by default `state/` in the work folder; created if missing.
    """
    state = (state or work_dir() / "state").absolute()
    state.mkdir(parents=True, exist_ok=True)
    return {
        "PULUMI_HOME": str(_home()),
        "PULUMI_BACKEND_URL": f"file://{state}",
        # It protects nothing: the state of a rehearsal has no secret of a real cluster.
        "PULUMI_CONFIG_PASSPHRASE": "rehearsal",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # Without it each run spends seconds on trying to download what the stand-ins replace.
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "KUBECONFIG": str(control_plane.kubeconfig),
        "MODELSERVE_CLOUD": str(control_plane.folder / "cloud"),
        **_CLOUD_KEYS,
        aibrix_manifests.VARIABLE: str(control_plane.folder / aibrix_manifests.FOLDER),
    }


def _install_language_host(pulumi: Path) -> str:
    beside = pulumi.with_name(LANGUAGE_HOST)
    official = _official(shutil.which(LANGUAGE_HOST)) or _official(beside)
    link = _home() / "bin" / LANGUAGE_HOST
    if official:
        _link(official, link)
        return f"language host: the official {official}"
    # Pulumi warns about a language host outside the folder of its own executable. We write only to the rehearsal's
    # folder; a Pulumi elsewhere without its language hosts is rare, and works with the warning.
    built_here = pulumi.is_relative_to(work_dir().resolve())
    ours = beside if built_here else link
    _write_script(ours, [sys.executable, str(ROOT / "local" / "language" / "host.py")])
    if built_here:
        _link(ours, link)
    return f"language host: the project's own, because {LANGUAGE_HOST} is not on PATH"


def _install_kubernetes_plugin(pulumi: Path, say: Callable[[str], None]) -> str:
    version, program = _plugin("kubernetes")
    if ambient := shutil.which(program.name):
        return f"kubernetes plugin: the official {ambient}, because it is on PATH"
    users = _users_home() / "plugins" / program.parent.name / program.name
    if os.access(users, os.X_OK):
        _link(users, program)
    elif not _is_downloaded(program):
        if not toolchain.is_built(_PLUGIN) and _downloaded(pulumi, version, say):
            return f"kubernetes plugin: the official v{version}, downloaded"
        _link(toolchain.ensure(_PLUGIN, say=say)[_PLUGIN], program)
    return f"kubernetes plugin: the official {program.resolve()}"


def _downloaded(pulumi: Path, version: str, say: Callable[[str], None]) -> bool:
    """Whether the pinned official release could be downloaded into the home, which is quicker than a build."""
    command: list[str | Path] = [pulumi, "plugin", "install", "resource", "kubernetes", version]
    environment = os.environ | {"PULUMI_HOME": str(_home()), "PULUMI_SKIP_UPDATE_CHECK": "true"}
    say(f"downloading the kubernetes plugin v{version}")
    program = _plugin("kubernetes")[1]
    shutil.rmtree(program.parent, ignore_errors=True)  # a folder with a dead link in it counts as installed
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0 and _is_downloaded(program)


def _is_downloaded(program: Path) -> bool:
    return _official(program) is not None and not program.is_symlink()


def _install_cloud_plugin(name: str) -> str:
    _, program = _plugin(name)
    if ambient := _official(shutil.which(program.name)):
        # Pulumi prefers this one to every installed one.
        return (
            f"{name} plugin: the official {ambient}, because it is on PATH; "
            "take it off PATH to rehearse, it works on the real cloud only"
        )
    # Pulumi starts plugins in the program's folder, where `standins` may not be importable.
    python_path = f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}\n"
    _write_script(program, [sys.executable, "-u", "-m", f"standins.providers.{name}"], python_path)
    return f"{name} plugin: the project's stand-in, because its cloud is a folder"


def _plugin(name: str) -> tuple[str, Path]:
    """The version that the SDK asks for, and where Pulumi looks for it."""
    version = importlib.metadata.version(f"pulumi_{name}")
    return version, _home() / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"


def _users_home() -> Path:
    """The user's Pulumi home; never the rehearsal's own, in whose environment this may run."""
    given = os.environ.get("PULUMI_HOME")
    return Path(given) if given and Path(given) != _home() else Path.home() / ".pulumi"


def _home() -> Path:
    return work_dir() / "home"


def _official(found: str | Path | None) -> Path | None:
    """The executable; None if there is none, or if it is a script of ours, also of an older checkout."""
    path = Path(found) if found else None
    if path is None or not os.access(path, os.X_OK):
        return None
    with path.open("rb") as file:
        return None if _MARK.encode() in file.read(200) else path


def _write_script(path: Path, command: list[str], environment: str = "") -> None:
    text = f'#!/bin/sh\n{_MARK}{environment}exec {" ".join(shlex.quote(word) for word in command)} "$@"\n'
    if not path.is_symlink() and path.exists() and path.read_text() == text:
        return
    fresh = _fresh(path)
    fresh.write_text(text)
    fresh.chmod(0o755)
    fresh.replace(path)


def _link(target: Path, path: Path) -> None:
    if path.is_symlink() and path.readlink() == target:
        return
    fresh = _fresh(path)
    fresh.symlink_to(target)
    fresh.replace(path)


def _fresh(path: Path) -> Path:
    """A name beside `path` for this process alone: another run must never start half a script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    return fresh
