"""How a request of the engine fails: the form in which it gets what went wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from pulumi.runtime.proto import provider_pb2, status_pb2

from local.providers.wire import Properties, encode


class Refusal(Exception):
    """Something cannot be done, for reasons that the user reads word for word. `code` is an HTTP status or 0."""

    code, reason = 0, ""
    details: Mapping[str, Any] = {}

    @property
    def reasons(self) -> list[str]:
        return [str(self)]


@dataclass
class Incomplete(Exception):
    """The object is there and goes into the state, with `reasons` as its initErrors."""

    id: str
    outputs: Properties
    inputs: Properties
    reasons: list[str]


def reported(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """A request's handler whose errors go to the engine; UNKNOWN is the code that it shows without comment."""

    @functools.wraps(method)
    def served(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except Incomplete as error:
            status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message="; ".join(error.reasons))
            status.details.add().Pack(
                provider_pb2.ErrorResourceInitFailed(
                    id=error.id, properties=encode(error.outputs), inputs=encode(error.inputs), reasons=error.reasons
                )
            )
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.UNKNOWN, status.message)
        except Refusal as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))

    return served
