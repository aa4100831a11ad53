"""Runs small programs on the rehearsal's control plane through the real engine, in this process."""

from __future__ import annotations

import gc
import json
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pulumi
import pulumi.automation as auto
import pulumi_kubernetes as k8s
import pytest

from local import pulumi_home
from local.providers.kubernetes.client import Api, ApiError
from local.providers.kubernetes.kubeconfig import resolve

Program = Callable[[], None]
WIDGETS = "provider.example.com"
# The apiVersion of a custom kind `Widget` whose status nobody writes.
WIDGET_VERSION = f"{WIDGETS}/v1"


@dataclass
class Outcome:
    """What one operation of the CLI did, by its engine events."""

    ok: bool = False
    output: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)
    replaced_by: dict[str, list[str]] = field(default_factory=dict)
    detail: dict[str, dict[str, str]] = field(default_factory=dict)
    status: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, event: auto.EngineEvent) -> None:
        if event.resource_pre_event:
            step = event.resource_pre_event.metadata
            name = step.urn.rpartition("::")[2]
            if step.type == "pulumi:pulumi:Stack" or name.startswith("default_"):
                return
            self.steps.append((step.op.value, name))
            # Of a replacement's three steps some carry no details.
            self.replaced_by[name] = self.replaced_by.get(name) or list(step.keys or [])
            self.detail[name] = self.detail.get(name) or {
                path: change.diff_kind.value + ("(input)" if change.input_diff else "")
                for path, change in (step.detailed_diff or {}).items()
            }
        if event.diagnostic_event:
            message, severity = event.diagnostic_event.message, event.diagnostic_event.severity
            text = message.replace("<{%reset%}>", "").removesuffix("\n")
            if event.diagnostic_event.ephemeral:
                self.status.append(text)
            else:
                {"error": self.errors, "warning": self.warnings}.get(severity, self.notes).append(text)

    @property
    def error(self) -> str:
        """The first error, that of the resource; the stack's own comes last."""
        return self.errors[0] if self.errors else ""


class Engine:
    """One stack. Each operation runs the given program, or the last one again; `into` is an Outcome to fill.

    Making a stack costs as much as an operation, so all tests have the same one, which `forget` empties.
    """

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self.backend = folder / "state"
        self._program: Program = lambda: None
        self.name = "test"
        self.stack = auto.Stack.create(
            self.name,
            auto.LocalWorkspace(
                work_dir=str(folder),
                env_vars=environment,
                program=lambda: self._program(),
                project_settings=auto.ProjectSettings(name="provider", runtime="python"),
            ),
        )
        # Each would run the CLI again after every operation, for what no test asks.
        summary = auto.UpdateSummary("update", datetime.now(), "", {}, {}, "succeeded")
        vars(self.stack).update(outputs=dict, info=lambda show_secrets=False: summary)
        self._fresh = folder / "fresh"
        shutil.copytree(self.backend, self._fresh)

    def forget(self) -> None:
        """The state, locks and program of a new stack."""
        shutil.rmtree(self.backend)
        shutil.copytree(self._fresh, self.backend)
        self._program = lambda: None

    def _run(self, operation: Callable[..., Any], program: Program | None = None, **options: Any) -> Outcome:
        self._program = program or self._program
        outcome = options.pop("into", None) or Outcome()
        try:
            result = operation(on_event=outcome.note, **options)
            outcome.ok, outcome.output = True, result.stdout
        except auto.CommandError as error:
            outcome.output = str(error)
        return outcome

    def preview(self, program: Program | None = None, **options: Any) -> Outcome:
        return self._run(self.stack.preview, program, **options)

    def up(self, program: Program | None = None, **options: Any) -> Outcome:
        return self._run(self.stack.up, program, **options)

    def refresh(self) -> Outcome:
        return self._run(self.stack.refresh)

    def destroy(self, **options: Any) -> Outcome:
        return self._run(self.stack.destroy, **options)

    def state(self) -> dict[str, Any]:
        """What `pulumi stack export` would give, which takes as long as an operation."""
        (file,) = self.backend.rglob(f"stacks/**/{self.name}.json")
        return json.loads(file.read_text())["checkpoint"]["latest"] or {}

    def resource(self, name: str) -> dict[str, Any]:
        """The state's entry of a resource, by its logical name."""
        return next(item for item in self.state()["resources"] if item["urn"].endswith(f"::{name}"))

    def names(self) -> list[str]:
        urns = [item["urn"] for item in self.state().get("resources", [])]
        return [urn.rpartition("::")[2] for urn in urns if "pulumi:p" not in urn]

    def urn(self, kind: str, name: str) -> str:
        return f"urn:pulumi:{self.name}::provider::kubernetes:{kind}::{name}"

    def up_interrupted(self, program: Program, when: Callable[[], Any], how: signal.Signals) -> Outcome:
        """`up`, with its CLI sent a signal as soon as `when` gives something true."""
        pid_file = self._folder / "pid"
        wrapper = self._folder / "bin" / "pulumi"
        wrapper.parent.mkdir(exist_ok=True)
        real = shutil.which("pulumi", path=self._environment["PATH"])
        wrapper.write_text(f'#!/bin/sh\ncase " $* " in *" up "*) echo $$ > {pid_file};; esac\nexec {real} "$@"\n')
        wrapper.chmod(0o755)
        workspace = self.stack.workspace
        path = f"{wrapper.parent}{os.pathsep}{self._environment['PATH']}"
        outcome = Outcome()

        def interrupt() -> None:
            until(when)
            os.kill(int(pid_file.read_text()), how)

        workspace.env_vars = {**self._environment, "PATH": path}
        thread = threading.Thread(target=interrupt)
        thread.start()
        self._run(self.stack.up, program, into=outcome)
        thread.join()
        workspace.env_vars = self._environment
        return outcome


def until(value: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value. Fails the test when none comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = value()
        except ApiError:
            found = None
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"nothing within {seconds} s")


class Cluster:
    """Direct access to the API server, as somebody beside the program."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.api = Api(*resolve(str(kubeconfig)))

    def get(self, path: str) -> dict[str, Any]:
        return self.api.request("GET", path)

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.api.request("POST", path, body)

    def merge(self, path: str, body: dict[str, Any], manager: str = "other") -> dict[str, Any]:
        return self.api.request("PATCH", path, body, "application/merge-patch+json", fieldManager=manager)

    def delete(self, path: str) -> None:
        self.api.request("DELETE", path, {"propagationPolicy": "Background"})


def widget(
    namespace: str,
    annotations: dict[str, str] | None = None,
    opts: pulumi.ResourceOptions | None = None,
    **spec: object,
) -> k8s.apiextensions.CustomResource:
    metadata = {"name": "w", "namespace": namespace} | ({"annotations": annotations} if annotations else {})
    return k8s.apiextensions.CustomResource(
        "w", api_version=WIDGET_VERSION, kind="Widget", metadata=metadata, spec=spec, opts=opts
    )


@pytest.fixture(scope="session")
def cluster(control_plane: Any) -> Cluster:
    """With the Widget kind from the start: the garbage collector takes half a minute to learn of a new one."""
    pulumi_home.install(say=lambda line: None)
    cluster = Cluster(control_plane.kubeconfig)
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    if not cluster.exists(f"{path}/widgets.{WIDGETS}"):
        cluster.create(path, widget_crd())
    until(lambda: cluster.exists(f"/apis/{WIDGETS}/v1/widgets"))
    return cluster


def widget_crd(group: str = WIDGETS) -> dict[str, Any]:
    """A kind with a schema that refuses, prunes, defaults and has one immutable field."""
    spec = {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "maximum": 10},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "role": {
                "type": "string",
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "role is immutable"}],
            },
        },
    }
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": free}}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "versions": [version],
        },
    }


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"provider-{secrets.token_hex(4)}"
    cluster.create("/api/v1/namespaces", {"metadata": {"name": name}})
    # The controller manager makes it a moment after the namespace.
    until(lambda: cluster.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"))
    yield name
    cluster.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def only_engine(cluster: Cluster, control_plane: Any, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("provider")
    return Engine(pulumi_home.environment(control_plane, folder / "state"), folder)


@pytest.fixture
def engine(only_engine: Engine) -> Iterator[Engine]:
    only_engine.forget()
    yield only_engine
    # The SDK leaves coroutines behind when the engine ends a program early; elsewhere their end would confuse others.
    time.sleep(0.05)
    gc.collect()
