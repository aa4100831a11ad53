"""How a request from the engine fails: the form in which the engine gets the error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import grpc


class Refusal(Exception):
    """Something cannot be done; the user sees the reasons word for word."""


def reported(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """A request handler that reports its errors to the engine. The engine shows code UNKNOWN without a comment."""

    @functools.wraps(method)
    def served(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except Refusal as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))

    return served
