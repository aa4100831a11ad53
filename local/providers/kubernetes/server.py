"""The plugin's gRPC side: requests in, replies and errors out, messages to the engine's log."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from local.providers.kubernetes import diff, options
from local.providers.kubernetes.client import KubeconfigError, Unreachable
from local.providers.kubernetes.options import Options
from local.providers.kubernetes.provider import Call, Incomplete, Provider, Rejected
from local.providers.kubernetes.waits import Say
from local.providers.kubernetes.wire import decode, encode, plain

VERSION = "4.34.2"
# An operation occupies a thread while it waits; threads are made when they are needed.
_THREADS = 512
_ENGINE_CHECK_SECONDS = 5
_SEVERITIES = {"info": engine_pb2.INFO, "warning": engine_pb2.WARNING}
_KINDS = {"add": 0, "delete": 2, "update": 4}


@contextmanager
def _failures(context: grpc.ServicerContext) -> Iterator[None]:
    """The operations' errors as gRPC has them. UNKNOWN is the code that the engine shows without comment."""
    try:
        yield
    except Incomplete as error:
        status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message="; ".join(error.reasons))
        detail = provider_pb2.ErrorResourceInitFailed(
            id=error.id, properties=encode(error.outputs), inputs=encode(error.inputs), reasons=error.reasons
        )
        status.details.add().Pack(detail)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.UNKNOWN, status.message)
    except (Rejected, Unreachable, KubeconfigError) as error:
        context.abort(grpc.StatusCode.UNKNOWN, str(error))


class Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """One provider instance; the engine starts a plugin process for each, and configures it before anything else."""

    _provider: Provider

    def __init__(self, engine: str) -> None:
        self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(engine)) if engine else None
        self._cancelled = threading.Event()

    def _call(self, request: Any) -> Call:
        return Call(
            request.urn, self._say(request.urn), getattr(request, "preview", False), getattr(request, "timeout", 0)
        )

    def _say(self, urn: str) -> Say:
        """Messages are progress, gone when the operation ends; a severity with `!` keeps its message."""

        def say(severity: str, text: str) -> None:
            if self._engine is None:
                return
            request = engine_pb2.LogRequest(
                severity=_SEVERITIES[severity.rstrip("!")], message=text, urn=urn, ephemeral=not severity.endswith("!")
            )
            try:
                self._engine.Log(request)
            except grpc.RpcError:
                return  # an engine that is gone hears nothing; the operation itself goes on

        return say

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.GetSchemaResponse(schema=f'{{"name":"kubernetes","version":"{VERSION}"}}')

    def Attach(self, request: Any, context: grpc.ServicerContext) -> Empty:
        self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(request.address))
        return Empty()

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Empty:
        self._cancelled.set()
        return Empty()

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _failures(context):
            options.check(decode(request.news))
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        olds = decode(request.old_inputs) or decode(request.olds)
        changed, replaces = options.compare(olds, decode(request.news))
        return provider_pb2.DiffResponse(changes=2 if changed else 1, diffs=changed, replaces=replaces)

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._provider = Provider(Options.read(plain(decode(request.args))), self._cancelled)
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        name = request.urn.rpartition("::")[2]
        olds, news = decode(request.olds), decode(request.news)
        with _failures(context):
            inputs, failure = self._provider.check(self._call(request), name, olds, news)
        failures = [provider_pb2.CheckFailure(reason=failure)] if failure else []
        return provider_pb2.CheckResponse(inputs=encode(inputs), failures=failures)

    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        state = decode(request.olds)
        old_inputs = decode(request.old_inputs) or state.get("__inputs", {})
        found = self._provider.diff(state, old_inputs, decode(request.news))
        return provider_pb2.DiffResponse(
            changes=2 if found.changes else 1,
            diffs=sorted({change.path.split(".")[0].split("[")[0] for change in found.changes}),
            replaces=found.replaces,
            deleteBeforeReplace=found.delete_before_replace,
            hasDetailedDiff=True,
            detailedDiff={change.path: _detail(change) for change in found.changes},
        )

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _failures(context):
            resource_id, outputs = self._provider.create(self._call(request), decode(request.properties))
        return provider_pb2.CreateResponse(id=resource_id, properties=encode(outputs))

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        inputs, state = decode(request.inputs), decode(request.properties)
        with _failures(context):
            resource_id, outputs, inputs = self._provider.read(self._call(request), request.id, inputs, state)
        if not resource_id:
            return provider_pb2.ReadResponse()  # gone: properties must be absent, not empty
        return provider_pb2.ReadResponse(id=resource_id, properties=encode(outputs), inputs=encode(inputs))

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        state, news, ignored = decode(request.olds), decode(request.news), list(request.ignoreChanges)
        with _failures(context):
            outputs = self._provider.update(self._call(request), state, news, ignored)
        return provider_pb2.UpdateResponse(properties=encode(outputs))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Empty:
        with _failures(context):
            self._provider.delete(self._call(request), request.id, decode(request.properties))
        return Empty()


def _detail(change: diff.Change) -> Any:
    return provider_pb2.PropertyDiff(kind=_KINDS[change.kind] + change.replaces, inputDiff=change.kind == "delete")


def _engine_is_gone(engine: str) -> bool:
    host, _, port = engine.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ENGINE_CHECK_SECONDS).close()
    except OSError:
        return True
    return False


def serve(engine: str) -> None:
    """Prints the port and serves until the engine at this address is gone, which a killed one is too."""
    server = grpc.server(
        ThreadPoolExecutor(_THREADS),
        options=[("grpc.max_receive_message_length", 400 << 20), ("grpc.max_send_message_length", 400 << 20)],
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Servicer(engine), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # The engine's way to end a plugin. Nothing is under way then; a user's Ctrl-C arrives as the request Cancel.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    while not (engine and _engine_is_gone(engine)):
        time.sleep(_ENGINE_CHECK_SECONDS)
    os._exit(0)
