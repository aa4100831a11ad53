"""What goes wrong, told apart by what helps: nothing (Fatal), or another attempt (Passing). And the attempts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

_LONGEST_PAUSE_SECONDS = 60.0
# A server that names a longer time than this is not waited for: the next attempt just comes too early.
_LONGEST_RETRY_AFTER_SECONDS = 300.0
_CORRUPT_ATTEMPTS = 3

Result = TypeVar("Result")


class Fatal(Exception):
    """No attempt will help; the text is one line: what, why, what to do."""


class GaveUp(Exception):
    """Something that should have passed did not; the text is one line."""


class Stopped(Exception):
    """Another thread has failed; this one's work is of no use any more."""


class Passing(Exception):
    """Another attempt may help, after `seconds` where the server said so."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class Corrupt(Passing):
    """Bytes came whole, but other ones than the hub's list promises."""


class Patience:
    """Bounded attempts with growing pauses. A server's Retry-After holds every thread back, not only the one told."""

    def __init__(self, attempts: int, first_seconds: float, say: Callable[[str], None]) -> None:
        self._attempts, self._first_seconds, self._say = attempts, first_seconds, say
        self._stopped = threading.Event()
        self._not_before = 0.0

    def stop(self) -> None:
        """Ends every pause, and every later attempt, with Stopped."""
        self._stopped.set()

    def check(self) -> None:
        """Raises Stopped when somebody has stopped the work."""
        if self._stopped.is_set():
            raise Stopped

    def persist(self, what: str, action: Callable[[], Result]) -> Result:
        """What `action` gives, tried again while it raises Passing. Raises Fatal, GaveUp, Stopped."""
        corrupt = 0
        for attempt in range(1, self._attempts + 1):
            self._pause(self._not_before - time.monotonic())
            try:
                return action()
            except Passing as error:
                self.check()
                corrupt += isinstance(error, Corrupt)
                if corrupt == _CORRUPT_ATTEMPTS:
                    raise Fatal(
                        f"{what}: {error}, {corrupt} times: the hub's list and its file disagree; "
                        "take another source or revision"
                    ) from error
                if attempt == self._attempts:
                    raise GaveUp(f"{what}: {error}; gave up after {attempt} attempts") from error
                pause = min(self._first_seconds * 2 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
                pause *= random.uniform(0.75, 1.25)  # threads that failed together must not come back together
                if error.seconds is not None:
                    pause = min(error.seconds, _LONGEST_RETRY_AFTER_SECONDS)
                    self._not_before = max(self._not_before, time.monotonic() + pause)
                self._say(f"{what}: {error}; attempt {attempt + 1} of {self._attempts} in {pause:.0f} s")
                self._pause(pause)
        raise AssertionError("no attempt was allowed")

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0)):
            raise Stopped
