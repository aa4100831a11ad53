"""What a kind of resource is to a cloud's plugin: its arguments, and the four requests that carry it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local.providers.cloud import Cloud
from local.providers.wire import Properties


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One resource type. Arguments are named as Pulumi does.

    `computed` arguments keep the cloud's value when the program gives none; `outputs` are no arguments. `create` gives
    the id, and may add what only a creator is told; `read` gives arguments and outputs, or None for what is not there.
    A kind whose every argument is `replacing` has no `update`. `label` is what the plugin's messages call it, `service`
    the cloud's service that answers. `patient` plugins try a refused deletion again before they give up.
    """

    label: str
    service: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    computed: frozenset[str] = frozenset()
    replacing: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lengths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    # Compared as JSON: the cloud may write it back otherwise.
    documents: frozenset[str] = frozenset()
    patient: bool = False
    create: Callable[[Cloud, Properties], str]
    read: Callable[[Cloud, str, Properties], Properties | None]
    delete: Callable[[Cloud, str, Properties], None]
    update: Callable[[Cloud, str, Properties], None] | None = None

    @property
    def arguments(self) -> frozenset[str]:
        """Every argument."""
        return self.required | self.optional
