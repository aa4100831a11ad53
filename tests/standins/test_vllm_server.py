"""A simulated engine as a process: how its shutdown affects running answers, by release, layout, flags and preStop
hook."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from components.serving import engine_pods
from local.api import wait_until
from standins.engine_process import EngineProcess, run_hook
from standins.members import Log
from standins.vllm_server import TOKEN_SECONDS
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pods import PODS

Start = Callable[..., EngineProcess]
KEY = "sk-right"
HOOK = ["python3", "/etc/modelserve/modelserve_guard.py"]
TIMES = {"MODELSERVE_SETTLE_SECONDS": "5", "MODELSERVE_DRAIN_SECONDS": "20"}
ENV = {
    **TIMES,
    "VLLM_API_KEY": KEY,
    TOKEN_SECONDS: "0.06",
    "MODELSERVE_PATHS": "GET /health GET /metrics POST /v1/chat/completions",
}


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    """The mounted ConfigMap."""
    folder = tmp_path / "launch"
    folder.mkdir()
    for name, text in engine_pods.launch_files(PODS).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def start(tmp_path: Path, launch: Path) -> Iterator[Start]:
    """Starts engines behind the guard."""
    running: list[EngineProcess] = []

    def begin(release: str, *words: str) -> EngineProcess:
        folder = tmp_path / "pod"
        Log(folder).begin()
        all_words = ["m", *words, "--middleware", "modelserve_guard.Guard"]
        running.append(EngineProcess(folder, launch, release, all_words, ENV))
        return running[-1]

    yield begin
    for each in running:
        each.kill()


class Stream:
    """An answer that a client is receiving."""

    def __init__(self, engine: EngineProcess) -> None:
        self.outcome = ""
        self._begun = threading.Event()
        self._url = f"http://127.0.0.1:{engine.port}/v1/chat/completions"
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._begun.wait(PATIENCE_SECONDS), self.outcome

    def _read(self) -> None:
        asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        lines = []
        try:
            with requests.post(
                self._url, json=asked, headers={"Authorization": f"Bearer {KEY}"}, stream=True
            ) as answer:
                for line in answer.iter_lines():
                    lines.append(line.removeprefix(b"data: "))
                    self._begun.set()
        except requests.RequestException as error:
            self.outcome = "cut" if lines else repr(error)
            return
        ends = [
            choice["finish_reason"] for line in lines if line.startswith(b"{") for choice in json.loads(line)["choices"]
        ]
        self.outcome = "whole" if "stop" in ends and b"[DONE]" in lines else "ended early, as if whole"

    def wait(self) -> str:
        """How the answer ended."""
        self._thread.join(PATIENCE_SECONDS)
        return self.outcome


LAYOUTS = [
    ("0.7.2", [], "cut"),
    ("0.7.2", ["--pipeline-parallel-size", "2"], "whole"),
    ("0.10.2", ["--pipeline-parallel-size", "2"], "cut"),
    ("0.25.1", [], "ended early, as if whole"),
    ("0.25.1", ["--shutdown-timeout", "60"], "whole"),
]


@pytest.mark.parametrize(("release", "words", "outcome"), LAYOUTS)
def test_at_sigterm_a_running_answer_ends_as_that_release_ends_it_and_with_the_hook_before_whole(
    start: Start, launch: Path, tmp_path: Path, release: str, words: list[str], outcome: str
) -> None:
    engine = start(release, *words)
    stream = Stream(engine)
    engine.term(20)
    assert stream.wait() == outcome
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{engine.port}/health")

    engine = start(release, *words)
    stream = Stream(engine)
    hook = threading.Thread(target=run_hook, args=([*HOOK, "drain"], tmp_path / "pod", launch, ENV, engine, 30))
    hook.start()
    wait_until((tmp_path / "pod" / "drain").exists, PATIENCE_SECONDS, lambda: "it does not drain")
    late = requests.post(
        f"http://127.0.0.1:{engine.port}/v1/chat/completions", headers={"Authorization": f"Bearer {KEY}"}
    )
    assert (late.status_code, stream.outcome) == (503, "")
    hook.join(PATIENCE_SECONDS)
    engine.term(20)
    assert stream.wait() == "whole"


def test_a_worker_ends_after_its_leader_and_one_that_joined_nobody_at_once(
    start: Start, launch: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "worker"
    run_hook([*HOOK, "await-leader"], folder, launch, ENV, None, 20)
    leader = start("0.7.2")
    hook = threading.Thread(target=run_hook, args=([*HOOK, "await-leader"], folder, launch, ENV, leader, 20))
    hook.start()
    hook.join(3)
    assert hook.is_alive()
    leader.kill()
    hook.join(PATIENCE_SECONDS)
    assert not hook.is_alive()


def test_a_hook_ends_at_its_limit_and_at_once_where_nothing_serves(start: Start, launch: Path, tmp_path: Path) -> None:
    engine = start("0.7.2")
    Stream(engine)
    run_hook([*HOOK, "drain"], tmp_path / "pod", launch, {**ENV, "MODELSERVE_DRAIN_SECONDS": "0.2"}, engine, 20)
    assert not engine.gone
    engine.kill()
    shutil.rmtree(tmp_path / "pod")
    run_hook([*HOOK, "drain"], tmp_path / "pod", launch, ENV, engine, 20)
    assert not (tmp_path / "pod" / "drain").exists()
