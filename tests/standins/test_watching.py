"""What the processes that play a controller do when the API server fails them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.api import ApiError
from standins import watching
from standins.watching import Things, follow


class Server:
    """Lists nothing; after its first answers, each list fails. A watch is quiet for `quiet` seconds, and then fails."""

    def __init__(self, folder: Path, answers: int, quiet: float) -> None:
        self.now, self.asked = 1000.0, 0
        self._folder, self._answers, self._quiet = folder, answers, quiet

    def get(self, _: str) -> dict[str, Any]:
        self.asked += 1
        if self.asked > self._answers:
            self.now += 10
            raise ApiError(500, "away")
        return {"items": [], "metadata": {"resourceVersion": "1"}}

    def watch(self, *_: str) -> Iterator[dict[str, Any]]:
        self.now += self._quiet
        if self.asked == self._answers:
            self._folder.rmdir()
        raise ApiError(410, "too old")
        yield {}


def followed(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching.time, "monotonic", lambda: server.now)
    monkeypatch.setattr(watching.time, "sleep", lambda _: None)
    follow(server, "/api/v1/pods", Things(None), folder)  # type: ignore[arg-type]


def test_a_watch_that_fails_after_a_long_silence_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (folder := tmp_path / "plane").mkdir()
    server = Server(folder, answers=3, quiet=200)
    followed(server, folder, monkeypatch)
    assert server.asked == 3


def test_a_server_that_stays_away_ends_its_players(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = Server(tmp_path, answers=0, quiet=0)
    with pytest.raises(SystemExit, match="away for 30 s"):
        followed(server, tmp_path, monkeypatch)
    assert server.asked == 5
