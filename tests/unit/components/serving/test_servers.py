"""Several processes of vLLM on one port: a pod that ends waits for the answers of all of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.serving import engine_pods, modelserve_guard

# Another process of the engine, which has so many answers under way until its input ends.
OTHER = """
import sys
import modelserve_servers
guard = modelserve_servers.Guard(None)
guard.open += int(sys.argv[1])
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as an engine imports it, beside the guard."""
    folder = str(Path(engine_pods.__file__).parent)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder)
    monkeypatch.setenv("MODELSERVE_OPEN_FOLDER", str(tmp_path / "open"))
    monkeypatch.setenv("MODELSERVE_DRAIN_FILE", str(tmp_path / "drain"))
    for name in ("modelserve_servers", "modelserve_guard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import modelserve_servers  # type: ignore[import-not-found]

    yield modelserve_servers
    for name in ("modelserve_servers", "modelserve_guard"):
        sys.modules.pop(name, None)


@pytest.fixture
def other() -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts another process with so many answers."""
    begun: list[subprocess.Popen[str]] = []

    def start(answers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OTHER, str(answers)]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout and begun[-1].stdout.readline() == "there\n"
        return begun[-1]

    yield start
    for process in begun:
        process.communicate()


def answers(guard: Any) -> int:
    """What the pod's preStop hook is told."""
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    asked = {"type": "http", "path": modelserve_guard.OPEN_PATH, "client": ("127.0.0.1", 1), "headers": []}
    asyncio.run(guard(asked, None, send))
    return int(said[1]["body"])


def test_whichever_process_is_asked_knows_the_answers_of_all(servers, other):
    guard = servers.Guard(None)
    guard.open += 2
    processes = [other(3), other(4)]
    assert answers(guard) == 9
    guard.open -= 2
    processes[0].communicate()
    assert answers(guard) == 4, "who is gone gives no answer"


def test_what_an_earlier_container_left_counts_for_nobody(servers, tmp_path: Path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / f"{os.getpid()}-1").write_text("7")
    (tmp_path / "open" / "999999999-1").write_text("7")
    assert answers(servers.Guard(None)) == 0


def test_an_answer_is_counted_from_its_request_to_its_end(servers, monkeypatch):
    monkeypatch.setenv("MODELSERVE_PATHS", "POST /v1/completions")
    counted: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        counted.append(await asyncio.to_thread(answers, guard))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    guard = servers.Guard(application)
    asked = {"type": "http", "method": "POST", "path": "/v1/completions", "client": ("10.0.0.1", 1), "headers": []}
    asyncio.run(guard(asked, receive, None))
    assert counted == [1] and answers(guard) == 0


def test_a_process_starts_although_another_has_just_removed_what_a_drain_left(servers, monkeypatch):
    monkeypatch.setattr(servers.modelserve_guard.os.path, "exists", lambda path: True)
    assert servers.Guard(None).open == 0


def test_a_drain_waits_for_the_requests_of_every_engine_on_the_port(monkeypatch):
    gauges = {"running": (0, 2, 0), "waiting": (0, 0, 1)}
    text = "\n".join(
        f'vllm:num_requests_{kind}{{engine="{engine}",model_name="ds"}} {count}'
        for kind, counts in gauges.items()
        for engine, count in enumerate(counts)
    )
    monkeypatch.setattr(modelserve_guard, "_get", {modelserve_guard.OPEN_PATH: "0", "/metrics": text}.__getitem__)
    assert modelserve_guard._busy() == 3
