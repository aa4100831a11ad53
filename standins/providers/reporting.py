"""How a request of the engine fails: the form in which it gets what went wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import grpc


class Refusal(Exception):
    """Something cannot be done, for reasons that the user reads word for word."""


def reported(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """A request's handler whose errors go to the engine; UNKNOWN is the code that it shows without comment."""

    @functools.wraps(method)
    def served(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except Refusal as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))

    return served
