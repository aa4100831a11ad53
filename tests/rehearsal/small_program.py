"""Runs small programs through the real engine, in this process."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pulumi.automation as auto

Program = Callable[[], None]


@dataclass
class Outcome:
    """What one operation of the CLI did, according to its engine events."""

    ok: bool = False
    output: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)
    detail: dict[str, dict[str, str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def note(self, event: auto.EngineEvent) -> None:
        if event.resource_pre_event:
            step = event.resource_pre_event.metadata
            name = step.urn.rpartition("::")[2]
            if step.type == "pulumi:pulumi:Stack" or name.startswith("default_"):
                return
            self.steps.append((step.op.value, name))
            # Some of a replacement's three steps carry no details.
            self.detail[name] = self.detail.get(name) or {
                path: change.diff_kind.value for path, change in (step.detailed_diff or {}).items()
            }
        said = event.diagnostic_event
        if said and said.severity == "error" and not said.ephemeral:
            self.errors.append(said.message.replace("<{%reset%}>", "").removesuffix("\n"))

    @property
    def error(self) -> str:
        """The first error, which is the resource's; the stack's own comes last."""
        return self.errors[0] if self.errors else ""


class Engine:
    """One stack. Each operation runs the given program, or the last one again.

    Creating a stack takes as long as an operation, so all tests share one, which `fresh` empties.
    """

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.backend = folder / "state"
        self._program: Program = lambda: None
        self.name = "test"
        self.stack = auto.Stack.create(
            self.name,
            auto.LocalWorkspace(
                work_dir=str(folder),
                env_vars=environment,
                program=lambda: self._program(),
                project_settings=auto.ProjectSettings(name="small", runtime="python"),
            ),
        )
        # Each would run the CLI again after every operation, for information that no test uses.
        summary = auto.UpdateSummary("update", datetime.now(), "", {}, {}, "succeeded")
        vars(self.stack).update(outputs=dict, info=lambda show_secrets=False: summary)
        self._made = folder / "made"
        shutil.copytree(self.backend, self._made)

    @contextmanager
    def fresh(self) -> Iterator[Engine]:
        """This engine, reset to the state, locks and program of a new stack."""
        shutil.rmtree(self.backend)
        shutil.copytree(self._made, self.backend)
        self._program = lambda: None
        yield self
        # The SDK leaves a program's coroutine behind when the engine ends it early. Python may collect it at any later
        # time, even inside its own parser, which that breaks; so prevent its collection.
        gc.freeze()

    def _run(self, operation: Callable[..., Any], program: Program | None = None, **options: Any) -> Outcome:
        self._program = program or self._program
        outcome = Outcome()
        try:
            result = operation(on_event=outcome.note, **options)
            outcome.ok, outcome.output = True, result.stdout
        except auto.CommandError as error:
            outcome.output = str(error)
        return outcome

    def preview(self, program: Program | None = None) -> Outcome:
        return self._run(self.stack.preview, program)

    def up(self, program: Program | None = None, **options: Any) -> Outcome:
        return self._run(self.stack.up, program, **options)

    def refresh(self) -> Outcome:
        return self._run(self.stack.refresh)

    def destroy(self, **options: Any) -> Outcome:
        return self._run(self.stack.destroy, **options)

    def state(self) -> dict[str, Any]:
        """What `pulumi stack export` would print; running that command takes as long as an operation."""
        (file,) = self.backend.rglob(f"stacks/**/{self.name}.json")
        return json.loads(file.read_text())["checkpoint"]["latest"] or {}

    def resource(self, kind: str, name: str) -> dict[str, Any]:
        """A resource's entry in the state, found by the end of its type and its logical name."""
        found = [item for item in self.state()["resources"] if item["type"].endswith(f":{kind}")]
        return next(item for item in found if item["urn"].endswith(f"::{name}"))

    def forget_pending_deletions(self) -> None:
        """Does what `pulumi state delete URN` does when the user chooses the entry «Pending Deletion»."""
        exported = self.stack.export_stack()
        resources = exported.deployment["resources"]
        exported.deployment["resources"] = [item for item in resources if not item.get("delete")]
        self.stack.import_stack(exported)

    def names(self) -> list[str]:
        urns = [item["urn"] for item in self.state().get("resources", [])]
        return [urn.rpartition("::")[2] for urn in urns if "pulumi:p" not in urn]
