"""Calls a cloud plugin's stand-in directly, with the engine's requests but without an engine or a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from pulumi.runtime.proto import provider_pb2

from standins.providers.cloud_provider import CloudProvider
from standins.providers.wire import Properties, decode, encode


class Refused(Exception):
    """A refused request, with the message that the user reads."""


@dataclass
class Made:
    """A resource in the state."""

    token: str
    id: str
    inputs: Properties
    outputs: Properties


class Plugin:
    """A configured plugin. A request that it refuses raises Refused with the text that the engine would get."""

    def __init__(self, provider: type[CloudProvider], region: str) -> None:
        self.provider = provider("127.0.0.1:1")
        self._ask("Configure", provider_pb2.ConfigureRequest(args=encode({"region": region})))

    def _ask(self, name: str, request: Any) -> Any:
        context = mock.Mock()
        context.abort.side_effect = lambda code, text: (_ for _ in ()).throw(Refused(text))
        return getattr(self.provider, name)(request, context)

    def check(self, token: str, **inputs: Any) -> list[str]:
        request = provider_pb2.CheckRequest(urn=_urn(token), news=encode(inputs))
        return [failure.reason for failure in self._ask("Check", request).failures]

    def diff(self, old: Made, ignore: Sequence[str] = (), **inputs: Any) -> dict[str, bool]:
        """The inputs that differ, and for each whether it requires a replacement."""
        news = {**self._defaults(old.token), **inputs}
        told = self._ask(
            "Diff",
            provider_pb2.DiffRequest(
                id=old.id, urn=_urn(old.token), olds=encode(old.outputs), news=encode(news), ignoreChanges=ignore
            ),
        )
        return {key: key in told.replaces for key in told.diffs}

    def create(self, token: str, *, preview: bool = False, **inputs: Any) -> Made:
        inputs = {**self._defaults(token), **inputs}
        request = provider_pb2.CreateRequest(urn=_urn(token), properties=encode(inputs), preview=preview)
        told = self._ask("Create", request)
        return Made(token, told.id, inputs, decode(told.properties))

    def read(self, made: Made) -> Properties | None:
        """The outputs; None when the resource is gone and leaves the state."""
        told = self._ask("Read", provider_pb2.ReadRequest(**self._of(made), inputs=encode(made.inputs)))
        return decode(told.properties) if told.id else None

    def update(self, made: Made, **inputs: Any) -> Properties:
        news = encode({**self._defaults(made.token), **inputs})
        request = provider_pb2.UpdateRequest(id=made.id, urn=_urn(made.token), olds=encode(made.outputs), news=news)
        return decode(self._ask("Update", request).properties)

    def delete(self, made: Made) -> None:
        self._ask("Delete", provider_pb2.DeleteRequest(**self._of(made)))

    def _of(self, made: Made) -> dict[str, Any]:
        return {"id": made.id, "urn": _urn(made.token), "properties": encode(made.outputs)}

    def _defaults(self, token: str) -> Properties:
        return dict(self.provider.kinds[token].defaults) if token in self.provider.kinds else {}


def _urn(token: str) -> str:
    return f"urn:pulumi:test::test::{token}::r"
