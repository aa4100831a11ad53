"""A plugin's process: gRPC on a port of its own, from the engine's start of it to the engine's end."""

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

# An operation occupies a thread while it waits; threads are made when they are needed.
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
    """Prints the port and serves until the engine at this address is gone, which a killed one is too.

    `load` imports the provider's class, whose modules need the SDK's generated ones.
    """
    skip_sdk()
    gc.disable()  # an eighth of the start would go into looking for garbage that imports do not make
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
    # The engine's way to end a plugin. Nothing is under way then; a user's Ctrl-C arrives as the request Cancel.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    while not _is_gone(engine):
        time.sleep(_ENGINE_CHECK_SECONDS)
    os._exit(0)
