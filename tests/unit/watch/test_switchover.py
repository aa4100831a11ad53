"""Which group has the requests, as the cluster says it, and what is said of a group that may not have them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest

from config.judge import parse
from planning.names import Live
from standins.vllm import Arguments, Engine
from tests.support.simulator import Simulator
from tests.support.stack_files import StackFile
from watch import port_forward, switchover
from watch.api_server import ApiServer, UnansweredError
from watch.port_forward import ClusterError, Leader

WHOLE = StackFile("local").whole
CONFIG = parse({**WHOLE, "services": dict.fromkeys(("ds", "other", "third"), WHOLE["services"]["ds"])})


def service(group: str, version: str | None) -> dict[str, Any]:
    annotations = {"modelserve.dev/version": version} if version else {}
    return {"metadata": {"annotations": annotations}, "spec": {"selector": {"leaderworkerset.sigs.k8s.io/name": group}}}


def test_who_has_the_requests_is_what_the_services_say_and_what_does_not_answer_is_unknown(monkeypatch):
    said = {
        "ds-leader": service("ds-green", "a1"),
        "other-leader": service("other", None),
        "third-leader": UnansweredError("HTTP 404", 404),
        "hidden-leader": UnansweredError("HTTP 403", 403),
    }
    monkeypatch.setattr(ApiServer, "__init__", lambda *_: None)
    monkeypatch.setattr(ApiServer, "answers", lambda _, asked: [said[path.rpartition("/")[2]] for path, _ in asked])
    found, unknown = switchover.live(CONFIG, None, ["ds", "other", "third", "hidden"])
    assert found == {"ds": Live("green", "a1"), "other": Live(None, "")}
    assert {name: str(why) for name, why in unknown.items()} == {"hidden": "HTTP 403"}

    def useless(*_: Any) -> None:
        raise UnansweredError("its kubeconfig is of no use")

    monkeypatch.setattr(ApiServer, "__init__", useless)
    found, unknown = switchover.live(CONFIG, None, ["ds"])
    assert found == {} and unknown.keys() == {"ds"}


class Cluster:
    """Leaders that are engines on this machine, by pod."""

    engines: ClassVar[dict[str, str]] = {}

    def __init__(self, *_: Any) -> None:
        pass

    def secret(self, *_: str) -> str:
        return "key"

    def leaders(self, _: Any, port: int) -> Sequence[Leader]:
        if not self.engines:
            raise ClusterError("no ready leader pod with its labels")
        return [Leader(name, port) for name in self.engines]

    @contextlib.contextmanager
    def forwarded(self, leader: Leader) -> Iterator[str]:
        yield self.engines[leader.pod]


@contextlib.contextmanager
def serving(model: str) -> Iterator[str]:
    engine = Engine(Arguments.parse(["/weights/m", "--served-model-name", model]), "0.7.3", token_seconds=0.001)
    simulator = Simulator(engine)
    try:
        yield f"http://127.0.0.1:{simulator.port}"
    finally:
        simulator.stop()


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["ds", "ds"], None),
        (["ds", "another"], "ds: the new group did not answer: 404 Not Found: The model `ds` does not exist.; the old"),
        ([], "ds: the new group did not answer: no ready leader pod with its labels; the old group keeps the requests"),
    ],
    ids=["good", "one of two bad", "nobody"],
)
def test_every_replica_is_asked_and_one_that_does_not_answer_keeps_the_requests_away(models, said, monkeypatch):
    monkeypatch.setattr(port_forward, "Cluster", Cluster)
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(serving(model)) for model in models]
        monkeypatch.setattr(Cluster, "engines", {f"ds-blue-{number}": url for number, url in enumerate(urls)})

        def ask() -> None:
            switchover.ask(("c", "n", None), "ds", "ds", CONFIG.services["ds"], {}, stays=True)

        if said is None:
            ask()
            return
        with pytest.raises(switchover.NotSwitchedError) as error:
            ask()
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
