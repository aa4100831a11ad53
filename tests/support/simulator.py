"""A simulated engine inside the test's process; a rehearsal runs it in a separate process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from standins.vllm import Engine, Server


class Simulator:
    """A running engine on a free port of 127.0.0.1, inside this process."""

    def __init__(self, engine: Engine, access: Callable[[str], None] = lambda line: None) -> None:
        """`access` is called with one line per request."""
        self.engine = engine
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self._server = Server(engine, access)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes the port and every connection."""
        self._server.cut()
        self._thread.join()
