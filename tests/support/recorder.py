"""Stands in for the engine and keeps every request of the program whole, so that tests can read resource options.

Pulumi's own mocks show only inputs. Not here: anything that the engine decides (diffs, replacements, order).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pulumi
from google.protobuf import json_format
from google.protobuf.message import Message
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import reset_options

PROJECT = "modelserve"
STACK = "test"
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270"


class Recorder(MockMonitor):
    """One run of a program. `seen` maps (type, logical name) to the RegisterResourceRequest, in order.

    In a preview no resource has an id, as with the engine. A look-up (invoke, call or read) fails the run, except a
    read of a type in `found`. `found` and `made` map a type to the outputs that only the cloud or cluster knows:
    `found` for existing resources, `made` for those that `up` creates.
    """

    def __init__(self, *, preview: bool) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.made: dict[str, dict[str, Any]] = {}
        super().__init__(_Echo(preview, self.made))
        self.preview = preview
        self.reads: dict[tuple[str, str], resource_pb2.ReadResourceRequest] = {}
        self.seen: dict[tuple[str, str], resource_pb2.RegisterResourceRequest] = {}
        self.finished: dict[str, resource_pb2.RegisterResourceOutputsRequest] = {}
        self.hooks: list[str] = []
        self._urns: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def run(self, program: Callable[[], Any]) -> None:
        """Run `program` to its end, and raise what it raises."""
        # The SDK keeps its root resource in a context variable and its tasks on the current event loop. A failed run
        # leaves both in an undefined state, so each run gets its own.
        contextvars.copy_context().run(self._run, program)

    def _run(self, program: Callable[[], Any]) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            reset_options()
            pulumi.runtime.set_mocks(self.mocks, project=PROJECT, stack=STACK, preview=self.preview, monitor=self)
            pulumi.runtime.test(program)()
        finally:
            # A failed run leaves tasks that wait forever, and exceptions that nobody retrieves. asyncio would log these
            # at garbage collection, in the middle of a later test, and CPython 3.11 cannot format a traceback while it
            # builds a syntax tree (as test_structure does).
            loop.set_exception_handler(lambda *_: None)
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()
            asyncio.set_event_loop(None)

    def one(self, type_: str, name: str | None = None) -> resource_pb2.RegisterResourceRequest:
        """The only request whose type ends in `type_`, such as `Secret` (and whose logical name is `name`)."""
        found = [
            request
            for (token, logical), request in self.seen.items()
            if token.endswith(f":{type_}") and name in (None, logical)
        ]
        assert len(found) == 1, f"{type_} {name or ''}: {len(found)} of them in {list(self.seen)}"
        return found[0]

    def urn(self, request: resource_pb2.RegisterResourceRequest | resource_pb2.ReadResourceRequest) -> str:
        """The URN that the recorder assigned to the request."""
        return self._urns[request.type, request.name]

    def objects(self) -> list[dict[str, Any]]:
        """Every Kubernetes object as the API server would get it: no secret markers, integers not as floats."""
        return [unmarked(inputs(request)) for request in self.seen.values() if "kind" in request.object]

    def names(self) -> list[tuple[str, str]]:
        """Kind and name of every Kubernetes object."""
        return [(made["kind"], made["metadata"]["name"]) for made in self.objects()]

    def wire(self) -> list[str]:
        """Every request of the run, complete, as text."""
        return [wire(request) for request in self.requests()]

    def requests(self) -> list[Message]:
        """Every request of the run."""
        return [*self.seen.values(), *self.reads.values(), *self.finished.values()]

    def RegisterResource(self, request: resource_pb2.RegisterResourceRequest) -> Any:
        key = (request.type, request.name)
        with self._lock:
            assert key not in self.seen, f"two resources of one type and name: {key}"
            if request.type != "pulumi:pulumi:Stack":
                self.seen[key] = request
        response = super().RegisterResource(request)
        self._urns[key] = response.urn
        return response

    def RegisterResourceOutputs(self, request: resource_pb2.RegisterResourceOutputsRequest) -> Any:
        self.finished[request.urn] = request
        return super().RegisterResourceOutputs(request)

    def RegisterResourceHook(self, request: resource_pb2.RegisterResourceHookRequest) -> Any:
        self.hooks.append(request.name)
        return super().RegisterResourceHook(request)

    def RegisterErrorHook(self, request: resource_pb2.RegisterErrorHookRequest) -> Any:
        self.hooks.append(request.name)
        return super().RegisterErrorHook(request)

    def Invoke(self, request: resource_pb2.ResourceInvokeRequest) -> Any:
        raise AssertionError(f"an unexpected look-up: {request.tok}")

    def ReadResource(self, request: resource_pb2.ReadResourceRequest) -> Any:
        assert request.type in self.found, f"an unexpected read: {request.type} {request.name}"
        self.reads[request.type, request.name] = request
        response = resource_pb2.ReadResourceResponse(urn=self.make_urn(request.parent, request.type, request.name))
        response.properties.update(self.found[request.type])
        self._urns[request.type, request.name] = response.urn
        return response


class _Echo(pulumi.runtime.Mocks):
    """Answers each creation with its inputs and, outside a preview, with the outputs that only the cloud or cluster
    knows."""

    def __init__(self, preview: bool, made: Mapping[str, dict[str, Any]]) -> None:
        self._preview, self._made = preview, made

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        if self._preview:
            return "", args.inputs
        return f"{args.name}-id", args.inputs | self._made.get(args.typ, {})

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[str, Any]:
        raise AssertionError(f"an unexpected call: {args.token}")


def inputs(request: resource_pb2.RegisterResourceRequest) -> dict[str, Any]:
    """A request's inputs as sent, with secrets marked at the leaves."""
    return _whole(json_format.MessageToDict(request.object))


def wire(request: Message) -> str:
    """A whole message as text."""
    return json_format.MessageToJson(request, indent=None)


def is_secret(value: Any) -> bool:
    """Whether an input value is marked as secret on the wire."""
    return isinstance(value, dict) and value.get(_SIGNATURE) == _SECRET_SIGNATURE


def unmarked(value: Any) -> Any:
    """`value` with all secret markers removed."""
    if is_secret(value):
        return unmarked(value["value"])
    if isinstance(value, dict):
        return {key: unmarked(below) for key, below in value.items()}
    return [unmarked(below) for below in value] if isinstance(value, list) else value


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_whole(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
