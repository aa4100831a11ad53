"""The data plane of a Gateway on this machine: a real Envoy, and AIBrix's real plugin beside it.

Owns their processes and files in a folder of the control plane. What Envoy is to do it is told (`envoy_config`), where
models are too. Envoy watches its files; the plugin looks at its own five times a second.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from local import processes
from local.control_plane import free_ports
from local.operators import SELDOM
from standins import envoy_config
from standins.envoy_config import Resources
from standins.gateway_model import Thing

Address = tuple[str, int]
_HOST = "127.0.0.1"


class Envoy:
    """One Gateway's proxy. `places` are the addresses of its listeners, by their names; `admin` is Envoy's own."""

    def __init__(self, folder: Path, name: str, program: Path, listeners: Sequence[str]) -> None:
        self._folder, self._name, self._program = folder, name, program
        admin, *ports = free_ports(1 + len(listeners))
        self.places: dict[str, Address] = {
            listener: (_HOST, port) for listener, port in zip(listeners, ports, strict=True)
        }
        self._own = folder / "envoy" / name
        self._own.mkdir(parents=True, exist_ok=True)
        self.admin: Address = (_HOST, admin)
        self._written: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def mounted(self, mounts: Mapping[str, Mapping[str, str]], things: Sequence[Thing]) -> list[Thing]:
        """The same objects where the files of `mounts` (path of a folder in the container, to base64 by name) are in a
        folder of this machine, which has them from now on."""
        text = json.dumps(list(things))
        for number, (path, contents) in enumerate(mounts.items()):
            folder = self._own / f"mount-{number}"
            folder.mkdir(exist_ok=True)
            for name, content in contents.items():
                _replace(folder / name, base64.b64decode(content).decode())
            for file in folder.iterdir():
                if file.name not in contents and file.suffix != ".new":
                    file.unlink()
            text = text.replace(path, str(folder))
        return json.loads(text)

    def be(self, found: Resources) -> None:
        """Makes the proxy what these resources say, and starts it at the first."""
        for file, content in envoy_config.files(found, str(self._own)).items():
            text = json.dumps(content)
            if self._written.get(file) == text:
                continue
            _replace(self._own / file, text)  # what Envoy looks for is a file that is moved to its place
            self._written[file] = text
        if self._process is None:
            start = self._own / "envoy.json"
            start.write_text(json.dumps(envoy_config.bootstrap(found, self.admin, str(self._own))))
            options = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
            self._process = processes.launch(self._folder, self._name, [self._program, "-c", start, *options])

    def stop(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Ends the process with a signal, and waits until it is gone."""
        if self._process is not None:
            _end(self._folder, self._name, self._process, sign)
            self._process = None


class Plugin:
    """AIBrix's gateway plugin. `address` is where Envoy asks it."""

    def __init__(self, folder: Path, program: Path) -> None:
        self._folder, self._file = folder, folder / "envoy" / "models.json"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.address: Address = _HOST, port
        self.know({})
        command: list[str | Path] = [program, f"-grpc-bind-address={_HOST}:{port}", f"-endpoints-config={self._file}"]
        # Where its metrics would say which pod they are of.
        self._process = processes.launch(folder, "aibrix-plugin", command, {"POD_NAME": "rehearsal", **SELDOM})

    def know(self, models: Mapping[str, Sequence[Address]]) -> None:
        """Tells it where each model's pods are."""
        listed = [
            {"name": name, "endpoints": [f"{host}:{port}" for host, port in sorted(places)]}
            for name, places in sorted(models.items())
        ]
        text = json.dumps({"models": listed})
        _replace(self._file, text)

    def stop(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Ends the process with a signal, and waits until it is gone."""
        _end(self._folder, "aibrix-plugin", self._process, sign)


def _replace(file: Path, text: str) -> None:
    """Puts a file that says something else in a file's place."""
    if not file.exists() or file.read_text() != text:
        fresh = file.with_name(f"{file.name}.new")
        fresh.write_text(text)
        fresh.replace(file)


def _end(folder: Path, name: str, process: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    # `ailments` would report a process that is recorded and does not run.
    (folder / "pids" / f"{name}.pid").unlink(missing_ok=True)
    process.send_signal(sign)
    process.wait()
