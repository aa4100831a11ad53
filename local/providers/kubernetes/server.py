"""The plugin process: says its port, serves, and ends with its engine."""

from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from local.providers.kubernetes.provider import Provider

# An operation occupies a thread while it waits; threads are made when they are needed.
_THREADS = 512
_MESSAGE_BYTES = 400 << 20
_ENGINE_CHECK_SECONDS = 5


def _is_gone(engine: str) -> bool:
    host, _, port = engine.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ENGINE_CHECK_SECONDS).close()
    except OSError:
        return True
    return False


def serve(engine: str) -> None:
    """Prints the port and serves until the engine at this address is gone, which a killed one is too."""
    limits = [(f"grpc.max_{way}_message_length", _MESSAGE_BYTES) for way in ("receive", "send")]
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=limits)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(engine), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # The engine's way to end a plugin. Nothing is under way then; a user's Ctrl-C arrives as the request Cancel.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    while not _is_gone(engine):
        time.sleep(_ENGINE_CHECK_SECONDS)
    os._exit(0)
