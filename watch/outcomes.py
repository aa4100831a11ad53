"""Decides what became of each operation that a killed run left pending, and corrects the state accordingly. Pure.

Not here: reading the cluster (`stack_objects`) and the clouds (`cloud_lists`).
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.cluster.kubernetes import RELEASE
from planning.pulumi_values import MARK

PROVIDER = "pulumi:providers:"

Resource = dict[str, Any]


class UnreadError(Exception):
    """A resource could not be looked up; the text says why, in one line."""


@dataclass(frozen=True)
class Found:
    """What exists of a resource.

    `id` is its id in a state. `setting`: creating it again just writes it. `lost`: it is useless, because only the run
    that created it was told its secret. `unlisted`: nobody can say whether it exists. `manager` is the field manager by
    which the Kubernetes plugin wrote it.
    """

    ours: bool = True
    id: str = ""
    going: bool = False
    setting: bool = False
    lost: bool = False
    unlisted: bool = False
    manager: str = ""


class Verdict(enum.Enum):
    """What became of an operation that was cut off, in the words that `recover` prints."""

    NOT_MADE = "was not made; forgotten"
    MADE = "was made; taken into the state"
    FOREIGN = (
        "is there but not this stack's; left alone: write another name, remove it, or take it over with `pulumi import`"
    )
    WRITTEN_AGAIN = "is a setting, which the next up writes again; forgotten"
    LOST = "was made, and what only its maker was told is lost; deleted, by now or by the next up or destroy"
    UNLISTED = "may have been made, and what only its maker was told is lost; it goes with its user at a destroy"
    GONE = "is gone; taken out of the state"
    CHANGED = "its update was cut off; the next up repeats it"
    GOING = "is still being deleted; kept in the state: destroy, or recover once it is gone"
    KEPT = "is still there; kept in the state"
    REPEATED = "its deletion was cut off; the next up or destroy repeats it"
    UNREAD = "could not be looked up"
    DIFFERS = "is not what the state says; the next up writes it again"


UNSOLVED = (Verdict.FOREIGN, Verdict.UNREAD)
Look = Callable[[Resource], "Found | None"]


def verdict(operation: str, found: Found | None) -> Verdict:
    """What became of an `operation` (creating, updating or deleting) that left `found` behind."""
    if operation != "creating":
        if found is None:
            return Verdict.GONE
        if found.unlisted:
            return Verdict.REPEATED
        if operation == "updating":
            return Verdict.CHANGED
        return Verdict.GOING if found.going else Verdict.KEPT
    if found is None:
        return Verdict.NOT_MADE
    if found.unlisted:
        return Verdict.UNLISTED
    if found.setting:
        return Verdict.WRITTEN_AGAIN
    if not found.ours:
        return Verdict.FOREIGN
    return Verdict.LOST if found.lost else Verdict.MADE


@dataclass(frozen=True)
class Outcome:
    """What became of one resource, and why if that is not obvious."""

    resource: Resource
    verdict: Verdict
    why: str = ""

    @property
    def line(self) -> str:
        """The line that `recover` prints."""
        return f"{_what(self.resource)}: {self.verdict.value}{f' ({self.why})' if self.why else ''}"

    @property
    def is_reread(self) -> bool:
        """Whether the state lacks values that only the cloud's plugin can read."""
        return self.verdict in (Verdict.MADE, Verdict.CHANGED) and not is_in_cluster(self.resource)


def settle(state: dict[str, Any], look: Look) -> list[Outcome]:
    """Corrects `state` in place to match what exists; returns an outcome for each pending operation.

    `look` returns what exists of a resource, None for nothing. If it raises UnreadError, the operation stays pending.
    """
    deployment = state["deployment"]
    outcomes, kept = [], []
    for operation in pending_operations(state):
        resource = operation["resource"]
        if not _is_real(resource):
            continue
        try:
            found = look(resource)
        except UnreadError as error:
            kept.append(operation)
            outcomes.append(Outcome(resource, Verdict.UNREAD, str(error)))
            continue
        outcome = Outcome(resource, verdict(operation["type"], found))
        outcomes.append(outcome)
        match outcome.verdict:
            case Verdict.MADE if found:
                _enter(deployment, resource, found)
            case Verdict.LOST if found:
                _enter(deployment, resource, found, delete=True)
            case Verdict.GONE:
                _drop(deployment, resource)
            case Verdict.CHANGED | Verdict.KEPT if is_in_cluster(resource):
                _mark(deployment, resource, "it was cut off")
    deployment["pending_operations"] = kept
    return outcomes


def compare(state: dict[str, Any], shown: dict[str, Any], look: Callable[[Resource], Verdict | None]) -> list[Outcome]:
    """Marks in place every object that differs in the cluster from `state`, as an interrupted update leaves it.

    `shown` is the same state with plain secrets. `look` returns GONE, DIFFERS or None.
    """
    deployment = state["deployment"]
    # A resource that waits for deletion has the same URN as its replacement.
    shown_by_urn = {resource["urn"]: resource for resource in resources_of(shown) if not resource.get("delete")}
    outcomes = []
    for resource in list(deployment.get("resources") or []):
        if not is_in_cluster(resource) or not _is_real(resource):
            continue
        if resource.get("delete") or resource.get("initErrors"):
            continue
        plain = shown_by_urn.get(resource["urn"])
        try:
            difference = look(_revealed(plain)) if plain else None
        except UnreadError as error:
            outcomes.append(Outcome(resource, Verdict.UNREAD, str(error)))
            continue
        if difference is Verdict.GONE:
            _drop(deployment, resource)
        elif difference is Verdict.DIFFERS:
            _mark(deployment, resource, "an update was interrupted")
        if difference:
            outcomes.append(Outcome(resource, difference))
    return outcomes


def _revealed(value: Any) -> Any:
    """A value of a state without its secret marks."""
    if isinstance(value, dict):
        if "plaintext" in value and MARK in value:
            return json.loads(value["plaintext"])
        return {key: _revealed(item) for key, item in value.items()}
    return [_revealed(item) for item in value] if isinstance(value, list) else value


def _is_real(resource: Resource) -> bool:
    """Whether the stack has it outside of the state. Components and providers are not there, and what is only read (an
    existing Gateway) is another's, and has no inputs."""
    return resource.get("custom", False) and not resource.get("external") and not resource["type"].startswith(PROVIDER)


def is_in_cluster(resource: Resource) -> bool:
    """Whether it is a Kubernetes object or a Helm release."""
    return resource["type"].startswith("kubernetes:")


def resources_of(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The resources in an exported state, those that wait for their deletion too."""
    return state["deployment"].get("resources") or []


def pending_operations(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operations that a state records as begun and not finished."""
    return state["deployment"].get("pending_operations") or []


def _name(resource: Resource) -> str:
    return resource["urn"].rpartition("::")[2]


def _what(resource: Resource) -> str:
    kind = resource["type"].rpartition(":")[2]
    if not is_in_cluster(resource):
        return f"{kind} {_name(resource)}"
    named = about(resource)
    return f"{kind} {named.get('namespace', 'default')}/{named.get('name', _name(resource))}"


def about(resource: Resource) -> dict[str, Any]:
    """The inputs that hold its name and namespace: a Helm release has no metadata."""
    inputs = resource.get("inputs") or {}
    return inputs if resource["type"] == RELEASE else inputs.get("metadata") or {}


def _enter(deployment: dict[str, Any], resource: Resource, found: Found, *, delete: bool = False) -> None:
    """Adds a created resource to the state, or adds it as one to delete. An object of the cluster is marked as not
    initialised, so that the next `up` updates it and waits for it."""
    id = found.id
    entry = {key: value for key, value in resource.items() if key != "delete"}
    # The plugin writes under the field manager in the state, and without one under another at each attempt: the API
    # server would then refuse a change, because the manager of an attempt that was killed has the field too.
    manager = {"__fieldManager": found.manager} if found.manager else {}
    entry |= {"id": id, "outputs": resource["inputs"] | manager}
    if delete:
        entry["delete"] = True
    elif is_in_cluster(resource):
        entry["initErrors"] = ["its creation was interrupted"]
    others = [
        other
        for other in deployment.get("resources") or []
        if other["urn"] != entry["urn"] or (delete and other.get("id") != id)
    ]
    deployment["resources"] = [*others, entry]


def _drop(deployment: dict[str, Any], resource: Resource) -> None:
    """Removes it from the state, and every reference to it: Pulumi refuses references to missing resources."""
    left = [other for other in deployment.get("resources") or [] if not _is_same(other, resource)]
    urn = resource["urn"]
    if all(other["urn"] != urn for other in left):
        for other in left:
            lists = [other.get("dependencies"), *(other.get("propertyDependencies") or {}).values()]
            for urns in filter(None, lists):
                urns[:] = [referred for referred in urns if referred != urn]
            if other.get("deletedWith") == urn:
                del other["deletedWith"]
    deployment["resources"] = left


def _mark(deployment: dict[str, Any], resource: Resource, why: str) -> None:
    """Makes the next `up` write the object again, even if the program is as it was before the interrupted change."""
    for other in deployment.get("resources") or []:
        if _is_same(other, resource):
            other["initErrors"] = [why]


def _is_same(one: Resource, other: Resource) -> bool:
    keys = ("urn", "id", "delete")
    return all((one.get(key) or None) == (other.get(key) or None) for key in keys)
