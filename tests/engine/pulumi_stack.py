"""Drives the project with the plain pulumi CLI on a rehearsal, as a user would, with a stack of its own."""

from __future__ import annotations

import copy
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from local import pulumi_home
from local.control_plane import ControlPlane
from local.paths import ROOT

API_KEY = "sk-canary-1f6b0e9d"
LWS = ("leaderworkerset.x-k8s.io", "v1", "default", "leaderworkersets")
# A start takes a second or two here; the limits that derive from this one are what tests wait for.
STARTUP_SECONDS = 8

Change = Callable[[dict[str, Any]], None]


@dataclass
class Stack:
    """One stack in a folder of its own: state, stack file, and links to the program. `config` is free to change."""

    plane: ControlPlane
    folder: Path
    name: str = field(default_factory=lambda: f"t{secrets.token_hex(3)}")
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        whole = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())
        self._settings = {key: value for key, value in whole.items() if key != "config"}
        self.config = {key: value for key, value in whole["config"].items() if key != "modelserve:apiKey"}
        self.config["modelserve:services"]["ds"]["startupSeconds"] = STARTUP_SECONDS
        self.env = pulumi_home.environment(self.plane, self.folder / "state")
        for part in ("__main__.py", "Pulumi.yaml", "stacks", "components", "planning", "ops", ".venv"):
            (self.folder / part).symlink_to(ROOT / part)
        self.write()
        self.run("stack", "init", self.name)
        self.set_api_key(API_KEY)

    def set_api_key(self, key: str) -> None:
        """Encrypt the API key into the stack file."""
        self.run("config", "set", "--secret", "modelserve:apiKey", given=key)
        self._settings = yaml.safe_load(self.file.read_text())
        self.config["modelserve:apiKey"] = self._settings.pop("config")["modelserve:apiKey"]

    @property
    def file(self) -> Path:
        """The stack file."""
        return self.folder / f"Pulumi.{self.name}.yaml"

    @property
    def services(self) -> dict[str, Any]:
        """The stack file's services, free to change."""
        return self.config["modelserve:services"]

    def write(self) -> None:
        """Write `config` to the stack file."""
        self.file.write_text(yaml.safe_dump({"config": self.config, **self._settings}, sort_keys=False))

    def up(self, *args: str, ok: bool = True) -> str:
        """`pulumi up` with the config as it is now; what it said. Fails when it ends otherwise than `ok`."""
        return self._deploy("up", "--skip-preview", "--yes", *args, ok=ok)

    def preview(self, *args: str, ok: bool = True) -> str:
        """`pulumi preview`."""
        return self._deploy("preview", *args, ok=ok)

    def refresh(self, *args: str, ok: bool = True) -> str:
        """`pulumi refresh`."""
        return self._deploy("refresh", "--skip-preview", "--yes", *args, ok=ok)

    def destroy(self, *args: str, ok: bool = True) -> str:
        """`pulumi destroy`."""
        return self._deploy("destroy", "--skip-preview", "--yes", *args, ok=ok)

    def ops(self, *args: str, code: int = 0) -> str:
        """`python -m ops COMMAND …` for this stack file."""
        done = subprocess.run(
            [sys.executable, "-m", "ops", *args],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        self.said.append(done.stdout)
        assert done.returncode == code, done.stdout
        return done.stdout

    def begin(self, command: str) -> subprocess.Popen[str]:
        """A `pulumi up` or `destroy` in a process group of its own, to be interrupted."""
        self.write()
        return subprocess.Popen(
            ["pulumi", command, "-s", self.name, "--skip-preview", "--yes"],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def interrupt(self, process: subprocess.Popen[str], number: signal.Signals) -> str:
        """Send a signal to the CLI alone, as a terminal's Ctrl-C or a kill would; what the run had said."""
        os.kill(process.pid, number)
        said = process.communicate(timeout=60)[0]
        self.said.append(said)
        return said

    def state(self) -> dict[str, Any]:
        """The exported state."""
        return json.loads(self.run("stack", "export"))

    def run(self, *args: str, given: str | None = None) -> str:
        """Any pulumi command that must succeed."""
        named = args if self.name in args else (*args, "-s", self.name)
        done = subprocess.run(
            ["pulumi", *named], cwd=self.folder, env=self.env, text=True, capture_output=True, input=given, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _deploy(self, *args: str, ok: bool) -> str:
        self.write()
        done = subprocess.run(
            ["pulumi", *args, "-s", self.name, "--non-interactive"],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        self.said.append(done.stdout)
        assert (done.returncode == 0) is ok, done.stdout
        return done.stdout


@dataclass
class Cluster:
    """What stands in the rehearsal's namespace `default`."""

    plane: ControlPlane

    def __post_init__(self) -> None:
        api = config.new_client_from_config(str(self.plane.kubeconfig), "rehearsal")
        self.core, self.custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self.network = client.NetworkingV1Api(api)

    def group(self, name: str = "ds") -> dict[str, Any]:
        """The LeaderWorkerSet of a service."""
        return self.custom.get_namespaced_custom_object(*LWS, name)

    def pods(self, name: str = "ds") -> dict[str, str]:
        """Names and uids of a service's pods."""
        found = self.core.list_namespaced_pod("default", label_selector=f"leaderworkerset.sigs.k8s.io/name={name}")
        return {pod.metadata.name: pod.metadata.uid for pod in found.items}

    def ready(self, name: str = "ds") -> bool:
        """Whether all pods of a service are ready."""
        found = self.core.list_namespaced_pod("default", label_selector=f"leaderworkerset.sigs.k8s.io/name={name}")
        return bool(found.items) and all(
            any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or []) for pod in found.items
        )

    def ours(self) -> list[str]:
        """Every object that carries our label, and every pod of a group."""
        label = "app.kubernetes.io/managed-by=modelserve"
        groups = self.custom.list_namespaced_custom_object(*LWS, label_selector=label)["items"]
        found = [f"LeaderWorkerSet/{group['metadata']['name']}" for group in groups]
        for kind, listed, selector in (
            ("Service", self.core.list_namespaced_service, label),
            ("Secret", self.core.list_namespaced_secret, label),
            ("ConfigMap", self.core.list_namespaced_config_map, label),
            ("NetworkPolicy", self.network.list_namespaced_network_policy, label),
            ("Pod", self.core.list_namespaced_pod, "leaderworkerset.sigs.k8s.io/name"),
        ):
            found += [f"{kind}/{item.metadata.name}" for item in listed("default", label_selector=selector).items]
        return sorted(found)

    def clear(self) -> None:
        """Delete every object of ours, so that one test's failure is not the next one's."""
        label = "app.kubernetes.io/managed-by=modelserve"
        self.custom.delete_collection_namespaced_custom_object(*LWS, label_selector=label)
        self.core.delete_collection_namespaced_secret("default", label_selector=label)
        self.core.delete_collection_namespaced_config_map("default", label_selector=label)
        self.core.delete_collection_namespaced_service("default", label_selector=label)
        self.network.delete_collection_namespaced_network_policy("default", label_selector=label)
        self.wait("the rehearsal is clear", lambda: self.ours() == [])

    def wait(self, what: str, test: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until `test` holds; fails, saying `what`, when it does not in time."""
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, f"not in {seconds} s: {what}"
            time.sleep(0.2)


def one_node(service: dict[str, Any]) -> dict[str, Any]:
    """A copy of a service on a single node of 8 GPUs."""
    service = copy.deepcopy(service)
    service["layout"] = {"nodes": 1, "gpusPerNode": 8, "tensor": 8, "pipeline": 1}
    return service
