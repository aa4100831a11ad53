"""What a kind of resource is to a cloud's plugin: its arguments, and the requests that carry it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from standins.providers.cloud import Cloud
from standins.providers.wire import Properties


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One resource type. Arguments are named as Pulumi does.

    `outputs` are no arguments. `create` gives the id, and may add what only a creator is told; `read` gives arguments
    and outputs: what the cloud does not keep is in the state that it gets.

    A kind whose every argument is `replacing` has no `update`; one without `delete` is left behind, unasked. `label` is
    what the plugin's messages call it, `service` the cloud's service that answers.

    What is not there leaves the state at a refresh where the kind `forgets`, and fails the refresh of any other. Of a
    refused deletion a `forgiving` kind looks whether the thing is there: if not, it is deleted. A `patient` one tries
    again what it then still finds.
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
        """Every argument."""
        return self.required | self.optional


@dataclass(frozen=True, kw_only=True)
class Function:
    """What a program, or whoever puts a state right, may ask a cloud's `service`; it changes nothing."""

    service: str
    arguments: frozenset[str]
    answer: Callable[[Cloud, Properties], Properties]
