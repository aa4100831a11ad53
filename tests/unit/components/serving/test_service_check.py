"""The check at the end of `up`: what its Job is told and may do, when it runs again, and what its program says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from components.cluster.credentials import SecretKey
from components.serving import modelserve_verify
from components.serving.service_check import ServiceCheck, ServiceCheckArgs
from standins.vllm import Arguments, Engine
from tests.support.http_server import Handler, serving
from tests.support.patience import PATIENCE_SECONDS
from tests.support.recorder import Recorder
from tests.support.simulator import Simulator

ARGS = ServiceCheckArgs(
    stack="test",
    namespace="models",
    url="http://ds-leader.models.svc:8000",
    model="ds",
    key=SecretKey("ds-api-key", "apiKey"),
    tags=("<think>", "</think>"),
    served={"replicas": 1, "image": "vllm:1"},
    image="python:3.12-slim",
    pod_labels={"class": "cpu"},
    spec={"tolerations": [{"operator": "Exists"}]},
)


def pod(args: ServiceCheckArgs = ARGS) -> dict[str, Any]:
    """The pod template of the Job that `up` registers."""
    recorder = Recorder(preview=False)
    recorder.run(lambda: ServiceCheck("ds", args) and None)
    (found,) = (each for each in recorder.objects() if each["kind"] == "Job")
    return found["spec"]["template"]


def test_the_pod_has_no_rights_and_gets_the_key_from_the_secret_alone():
    spec = pod()["spec"]
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False and "serviceAccountName" not in spec
    assert spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    keys = [each for each in container["env"] if each["name"] == "MODELSERVE_API_KEY"]
    assert keys == [
        {"name": "MODELSERVE_API_KEY", "valueFrom": {"secretKeyRef": {"name": "ds-api-key", "key": "apiKey"}}}
    ]
    assert container["command"] == ["python3", "modelserve_verify.py"]


def test_a_changed_service_replaces_the_job_and_an_equal_one_does_not():
    changed = replace(ARGS, served={**ARGS.served, "image": "vllm:2"})
    other_order = replace(ARGS, served=dict(reversed(ARGS.served.items())))
    assert pod() == pod(other_order) != pod(changed)


def test_a_preview_of_a_new_service_knows_the_job(engine: Recorder):
    engine.run(lambda: ServiceCheck("ds", ARGS) and None)
    made = engine.one("Job", "ds-verify")
    assert made.deleteBeforeReplace and made.customTimeouts.create == "960s"
    assert [urn.rpartition("::")[2] for urn in made.dependencies] == ["ds-verify-program"]


# --- the program


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the program with the Job's variables, and gives its exit code and its log."""

    def run(url: str, *, model: str = "ds", key: str = "", seconds: str = "30") -> tuple[int, str]:
        for each in pod()["spec"]["containers"][0]["env"]:
            if "value" in each:
                monkeypatch.setenv(each["name"], each["value"])
        told = {"URL": url, "MODEL": model, "API_KEY": key, "SECONDS": seconds}
        for name, value in told.items():
            monkeypatch.setenv(f"MODELSERVE_{name}", value)
        monkeypatch.setattr(modelserve_verify, "_PAUSE_SECONDS", 0.05)
        code = modelserve_verify.main()
        said = capsys.readouterr()
        assert said.err == "" and (not key or key not in said.out)
        return code, said.out

    return run


@pytest.fixture
def simulated() -> Iterator[str]:
    engine = Engine(Arguments.parse(["m", "--served-model-name", "ds", "--api-key", "right"]), "0.7.3")
    simulator = Simulator(engine)
    yield f"http://127.0.0.1:{simulator.port}"
    simulator.stop()


def test_a_good_service_passes_and_one_with_another_name_or_key_does_not(simulated, check):
    code, said = check(simulated, key="right")
    assert code == 0 and "modelserve: verify: ds answered: first token after" in said
    for given, why in (({"key": "right", "model": "no"}, "`no` does not exist"), ({"key": "bad"}, "API key is wrong")):
        code, said = check(simulated, **given)
        assert code == 1 and why in said.splitlines()[-1] and said.count("\n") == 1


Canned = Callable[..., str]


@pytest.fixture
def canned() -> Iterator[Canned]:
    """Starts servers that give these answers to completions in turn, the last one for ever, and say 200 to all else. An
    answer is a body, a status, or None for silence."""
    over = threading.Event()

    def start(*answers: bytes | int | None) -> str:
        left = list(answers)

        class Answers(Handler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_POST(self) -> None:
                answer = left.pop(0) if len(left) > 1 else left[0]
                if answer is None:
                    over.wait(PATIENCE_SECONDS)
                    return
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else b"{}")

        return running.enter_context(serving(Answers))

    with ExitStack() as running:
        yield start
        over.set()


def event(model: str = "ds", **delta: str) -> bytes:
    return f"data: {json.dumps({'model': model, 'choices': [{'delta': delta}]})}\n\n".encode()


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("bodies", "key", "code", "why"),
    [
        ([event(content="<thi") + event(content="nk> well") + DONE], "", 1, "the reasoning parser does not work"),
        ([event(reasoning="well") + event(content="see <think>") + DONE], "", 0, "ds answered"),
        ([event(reasoning_content="well") + DONE], "", 0, "ds answered"),
        ([event("other", content="Hello") + DONE], "", 1, "other answers, and not ds"),
        ([event(content="Hello") + DONE], "any", 1, "answers without the API key"),
        ([503, event(content="Hello") + DONE], "", 0, "not yet: 503"),
        ([503] * 9, "", 1, "failed: ds did not answer: 503"),
        ([None], "", 1, "although /health says that it is well"),
    ],
)
def test_an_answer_that_is_not_as_it_is_to_be_fails_with_its_reason(canned: Canned, check, bodies, key, code, why):
    # Only who gives no answer uses up the time.
    seconds = "0.4" if bodies[-1] in (503, None) else str(PATIENCE_SECONDS)
    got, said = check(canned(*bodies), key=key, seconds=seconds)
    assert got == code and why in said
