"""The guard where several processes of vLLM answer on one port, as with data-parallel engines (--api-server-count).

The kernel gives each connection to one of them. A pod that ends has to wait for the answers of all, so each process
writes how many it has under way into a file of its own, and whichever is asked adds them up. Runs in the engine's
image: the standard library, Python 3.8.
"""

import contextlib
import os

import modelserve_guard  # type: ignore[import-not-found]  # it is mounted beside this file

FOLDER = os.environ.get("MODELSERVE_OPEN_FOLDER", "/dev/shm/modelserve-open")


class Guard(modelserve_guard.Guard):
    """The ASGI middleware."""

    def __init__(self, app):
        os.makedirs(FOLDER, exist_ok=True)
        self._file = os.open(os.path.join(FOLDER, _process(os.getpid())), os.O_RDWR | os.O_CREAT, 0o600)
        with contextlib.suppress(FileNotFoundError):  # another process was first to remove what a drain had left
            super().__init__(app)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and self._counts(scope):
            return await modelserve_guard._answer(send, 200, str(_total()).encode(), b"text/plain")
        return await super().__call__(scope, receive, send)

    @property
    def open(self):
        """Answers under way in this process."""
        return self._open

    @open.setter
    def open(self, count):
        self._open = count
        os.pwrite(self._file, b"%8d" % count, 0)


def _process(number):
    """A name that no other process has had: an earlier container of the pod may have left files."""
    with open(f"/proc/{number}/stat") as file:
        begun = file.read().rpartition(")")[2].split()[19]
    return f"{number}-{begun}"


def _total():
    """Answers under way in all processes that still run."""
    total = 0
    for name in os.listdir(FOLDER):
        with contextlib.suppress(OSError):
            if _process(name.partition("-")[0]) == name:
                with open(os.path.join(FOLDER, name)) as file:
                    total += int(file.read() or 0)
    return total
