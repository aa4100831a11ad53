"""Runs rclone. Secrets reach it by its environment only, and no word of its output leaves with one in it."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

# Attempts are counted here, by what went wrong; rclone's own are for single requests to the bucket.
_FLAGS = ("--config=", "--retries=1", "--low-level-retries=4", "--contimeout=15s", "--timeout=60s", "--stats=0")
_CHUNK = 1 << 20


class ToolFailed(Exception):
    """rclone ended with `code`; the text is its last complaint, in one line."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Rclone:
    """The program at `path`. `environment` holds the remote's settings, to which `lent` adds what lasts for a while
    only and is asked for before each run; `secrets`, and what is lent, are never to be seen in a text."""

    def __init__(
        self,
        path: str,
        environment: Mapping[str, str],
        secrets: Sequence[str],
        lent: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._path, self._environment, self._lent = path, dict(environment), lent
        self._secrets = {each for each in secrets if each}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.RLock()  # a signal's handler may come while its own thread holds it

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
        """The output of one run. Raises ToolFailed."""
        with self._start(arguments, environment or {}) as process:
            output, complaint = process.communicate()
        self._check(process, complaint)
        return output

    def stream(self, *arguments: str) -> Iterator[bytes]:
        """The output of one run, in pieces. Raises ToolFailed at the end."""
        with self._start((*arguments, "--log-level=ERROR"), {}) as process:
            output, complaints = _pipe(process.stdout), _pipe(process.stderr)
            while piece := output.read(_CHUNK):
                yield piece
            complaint = complaints.read()
            process.wait()
        self._check(process, complaint)

    def stop(self) -> None:
        """Kills every run, and lets none begin."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    @contextmanager
    def _start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        lent = self._lent()
        with self._lock:
            if self._stopped:
                raise ToolFailed("stopped", -1)
            self._secrets |= set(lent.values())
            process = subprocess.Popen(
                [self._path, *arguments, *_FLAGS],
                env={**self._environment, **lent, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            self._running.add(process)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                _pipe(pipe).close()
            with self._lock:
                self._running.discard(process)

    def _check(self, process: subprocess.Popen[bytes], complaint: bytes) -> None:
        if process.returncode:
            raise ToolFailed(self._last_words(complaint.decode(errors="replace")), process.returncode)

    def _last_words(self, text: str) -> str:
        lines = text.strip().splitlines() or ["rclone said nothing"]
        line = re.sub(r"^[\d/]+ [\d:]+ \w+ *: ", "", lines[-1])
        line = re.sub(r"^Failed to \w+(?: with \d+ errors)?: (?:last error was: )?", "", line)
        for secret in list(self._secrets):
            line = line.replace(secret, "…")
        return line[:400]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "started with pipes"
    return pipe
