"""What the simulated engines remove of pods that are gone, against a client that writes down what it was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from local.engines import Engines


class Client:
    """Holds kwok's objects of two pods, of which one is gone."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    def get(self, path: str) -> dict[str, Any]:
        names = ("here", "gone") if path.endswith("/logs") else ("gone",)
        return {"items": [{"metadata": {"namespace": "default", "name": name}} for name in names]}

    def delete(self, path: str) -> None:
        self.deleted.append(path.partition("/namespaces/default/")[2])


def test_what_an_earlier_process_left_of_a_pod_that_is_gone_is_removed_and_nothing_else(tmp_path: Path) -> None:
    client = Client()
    Engines(client, tmp_path).keep_only([{"metadata": {"namespace": "default", "name": "here", "uid": "1"}}])
    assert client.deleted == ["logs/gone", "portforwards/gone"]
