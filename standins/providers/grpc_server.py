"""A plugin's process: serves gRPC on its own port from when the engine starts it until the engine exits."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import types
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any

# An operation blocks a thread while it waits. The pool creates threads only when it needs them.
_THREADS = 512
_MESSAGE_BYTES = 400 << 20
_ENGINE_CHECK_SECONDS = 5


def skip_sdk() -> None:
    """Makes the SDK's generated gRPC modules importable without the SDK, whose import costs more than all the rest."""
    found = PathFinder.find_spec("pulumi")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("a provider stand-in needs the Python package pulumi: install requirements.txt")
    for name in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto"):
        module = types.ModuleType(name)
        module.__path__ = [found.submodule_search_locations[0] + name.removeprefix("pulumi").replace(".", "/")]
        sys.modules[name] = module


def _is_gone(engine: str) -> bool:
    host, _, port = engine.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ENGINE_CHECK_SECONDS).close()
    except OSError:
        return True
    return False


def serve(engine: str, load: Callable[[], Callable[[str], Any]]) -> None:
    """Prints the port and serves until the engine at this address is gone, even if it was killed.

    `load` imports the provider's class, whose modules need the SDK's generated ones.
    """
    skip_sdk()
    gc.disable()  # imports make no garbage; looking for it would take an eighth of the start
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from pulumi.runtime.proto import provider_pb2_grpc

    provider = load()(engine)
    gc.enable()
    limits = [(f"grpc.max_{way}_message_length", _MESSAGE_BYTES) for way in ("receive", "send")]
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=limits)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # The engine ends a plugin with SIGINT, when no request is running. A user's Ctrl-C arrives as the request Cancel.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    while not _is_gone(engine):
        time.sleep(_ENGINE_CHECK_SECONDS)
    os._exit(0)
