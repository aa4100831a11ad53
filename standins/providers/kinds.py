"""What a resource type means to a cloud's plugin: its arguments, and the requests that implement it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from standins.providers.cloud import Cloud
from standins.providers.wire import Properties


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One resource type. Arguments have Pulumi's names.

    `outputs` are not arguments. `create` returns the id, and may add values that the cloud tells only the creator.
    `read` returns arguments and outputs; it takes what the cloud does not store from the state that it gets.

    A kind whose arguments are all `replacing` has no `update`. A kind without `delete` stays in the cloud: a deletion
    sends no request. `label` is the plugin's name for it in messages, `service` the cloud service that answers.

    If a resource no longer exists, a refresh drops it from the state if the kind `forgets`, and fails otherwise. If the
    cloud refuses a deletion, a `forgiving` kind checks whether the resource still exists, and counts it as deleted if
    not; a `patient` kind retries while it exists.
    """

    label: str
    service: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    replacing: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    forgets: bool = False
    forgiving: bool = False
    patient: bool = False
    create: Callable[[Cloud, Properties], str]
    read: Callable[[Cloud, str, Properties], Properties]
    delete: Callable[[Cloud, str, Properties], None] | None
    update: Callable[[Cloud, str, Properties], None] | None = None

    @property
    def arguments(self) -> frozenset[str]:
        """All arguments."""
        return self.required | self.optional


@dataclass(frozen=True, kw_only=True)
class Function:
    """A query to a cloud's `service`, for programs and for whoever repairs a state; it changes nothing."""

    service: str
    arguments: frozenset[str]
    answer: Callable[[Cloud, Properties], Properties]


def balancers(service: str, items: str, asked: frozenset[str]) -> Function:
    """The function that lists load balancers, which clusters make: those with every given argument."""

    def answer(cloud: Cloud, given: Properties) -> Properties:
        found = [{"id": key, **made} for key, made in cloud.balancers.items()]
        return {items: [each for each in found if all(each.get(key) == value for key, value in given.items())]}

    return Function(service=service, arguments=asked, answer=answer)
