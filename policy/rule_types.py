"""What a rule is, what it looks at and what it finds. Knows no single rule, no engine and no file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

Severity = Literal["advisory", "mandatory"]
SEVERITIES: tuple[Severity, ...] = ("advisory", "mandatory")
STACK = "pulumi:pulumi:Stack"
UNKNOWN = "(unknown until it is made)"
"""Stands for what a preview cannot know. No rule judges it; the run that creates the resource does."""
SECRET = "(secret)"
"""Stands for an encrypted value: no rule sees it."""


@dataclass(frozen=True)
class Finding:
    """One resource that breaks one rule. `resource` is a name that its owner recognises; `reason` and `remedy` are
    whole sentences without a full stop."""

    id: str
    severity: Severity
    resource: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity} {self.id}: {self.resource}: {self.reason}; {self.remedy}"

    def plain(self) -> dict[str, str]:
        """The finding as plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Resource:
    """A resource, as the engine, a state file or an outline of a stack file shows it.

    `type` is Pulumi's token, `properties` its inputs or outputs; for a Kubernetes object they are the manifest. `kept`
    says that a destroy leaves it in place: it is protected, or retained.
    """

    type: str
    name: str
    properties: Mapping[str, Any]
    kept: bool = False
    urn: str = ""

    @property
    def kind(self) -> str:
        """The kind of a Kubernetes object; empty for anything else."""
        kind = self.properties.get("kind")
        return kind if self.type.startswith("kubernetes:") and isinstance(kind, str) else ""

    @property
    def label(self) -> str:
        """How a finding names it."""
        if not self.kind:
            return self.name
        return f"{self.kind} {at(self.properties, 'metadata', 'name') or self.name}"

    @property
    def service(self) -> str:
        """The service of the stack file that a Kubernetes object belongs to; empty if the object does not say."""
        return str(at(self.properties, "metadata", "labels", "app.kubernetes.io/instance") or "")


@dataclass(frozen=True)
class Stack:
    """All resources to judge together, and today's date."""

    resources: Sequence[Resource]
    today: datetime.date

    @cached_property
    def outputs(self) -> Mapping[str, Any]:
        """What the program exports; empty if its stack is not among the resources."""
        found = next((each.properties for each in self.resources if each.type == STACK), None)
        return found if isinstance(found, Mapping) else {}

    @property
    def plans(self) -> Mapping[str, Mapping[str, Any]]:
        """A summary of each service's plan (`stacks.plan_summary.summary`)."""
        plans = self.outputs.get("plan")
        return plans if isinstance(plans, Mapping) else {}

    def of_kind(self, kind: str) -> Iterator[Resource]:
        """Every Kubernetes object of that kind."""
        return (each for each in self.resources if each.kind == kind)


@dataclass(frozen=True)
class Setting:
    """A value that a pack's config may give a rule. `schema` is its JSON Schema, `about` says what it decides."""

    schema: Mapping[str, Any]
    default: Any
    about: str


Judge = Callable[[Resource, Stack, Mapping[str, Any]], Iterable[str]]


@dataclass(frozen=True)
class Rule:
    """`judge` returns the reasons why a resource breaks the rule. `alone` says that it needs no other resource, so that
    an engine can stop before the resource is created; `early` that a stack file by itself tells enough for it."""

    id: str
    severity: Severity
    reason: str
    remedy: str
    judge: Judge
    alone: bool
    early: bool
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))

    def defaults(self) -> dict[str, Any]:
        """Its settings unless the config says otherwise."""
        return {name: setting.default for name, setting in self.settings.items()}


def at(value: Any, *path: str | int) -> Any:
    """The value at a path of keys and indexes; None if there is none."""
    for part in path:
        inside = value if isinstance(value, Mapping) else dict(enumerate(listed(value)))
        if part not in inside:
            return None
        value = inside[part]
    return value


def listed(value: Any) -> Sequence[Any]:
    """A list as it is; an empty one for anything else."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def number(value: Any) -> float | None:
    """A number, whether written as a number or as text; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None
