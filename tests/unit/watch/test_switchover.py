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
NAMES = ["ds", "other", "third", "fourth", "hidden"]
CONFIG = parse({**WHOLE, "services": dict.fromkeys(NAMES, WHOLE["services"]["ds"])})
ROUTED = parse(StackFile("volcengine").whole)
(MODEL,) = ROUTED.services


def service(group: str, version: str | None) -> dict[str, Any]:
    annotations = {"modelserve.dev/version": version} if version else {}
    key = "modelserve.dev/fleet" if group.startswith("fourth") else "leaderworkerset.sigs.k8s.io/name"
    return {"metadata": {"annotations": annotations}, "spec": {"selector": {key: group}}}


def test_who_has_the_requests_is_what_the_services_say_and_what_does_not_answer_is_unknown(monkeypatch):
    said = {
        "ds-leader": service("ds-green", "a1"),
        "other-leader": service("other", None),
        "fourth-leader": service("fourth-blue", "b2"),
        "third-leader": UnansweredError("HTTP 404", 404),
        "hidden-leader": UnansweredError("HTTP 403", 403),
    }
    monkeypatch.setattr(ApiServer, "__init__", lambda *_: None)
    monkeypatch.setattr(ApiServer, "answers", lambda _, asked: [said[path.rpartition("/")[2]] for path, _ in asked])
    found, unknown = switchover.live(CONFIG, None, NAMES)
    assert found == {"ds": Live("green", "a1"), "other": Live(None, ""), "fourth": Live("blue", "b2")}
    assert {name: str(why) for name, why in unknown.items()} == {"hidden": "HTTP 403"}

    def useless(*_: Any) -> None:
        raise UnansweredError("its kubeconfig is of no use")

    monkeypatch.setattr(ApiServer, "__init__", useless)
    found, unknown = switchover.live(CONFIG, None, ["ds"])
    assert found == {} and unknown.keys() == {"ds"}


def backend(name: str, weight: int = 1, port: float = 8000) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "port": port, "weight": weight}


def route(*backends: dict[str, Any]) -> dict[str, Any]:
    metadata = {"annotations": {"modelserve.dev/version": "a1"}}
    return {"metadata": metadata, "spec": {"rules": [{"backendRefs": list(backends), "timeouts": {"request": "9s"}}]}}


@pytest.mark.parametrize(
    ("backends", "found"),
    [
        ([f"{MODEL}-green"], Live("green", "a1")),
        ([f"{MODEL}-green", f"{MODEL}-blue"], Live("green", "a1", divided=True)),
        ([MODEL], Live(None, "a1")),
    ],
)
def test_behind_the_gateway_the_route_says_who_has_the_requests_and_whether_a_run_has_left_them_divided(
    backends, found, monkeypatch
):
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/aibrix-system/httproutes/{MODEL}-router"
    monkeypatch.setattr(ApiServer, "__init__", lambda *_: None)
    said = {path: route(*map(backend, backends))}
    monkeypatch.setattr(ApiServer, "answers", lambda _, asked: [said[path] for path, _ in asked])
    assert switchover.live(ROUTED, None, [MODEL]) == ({MODEL: found}, {})


class Gateway:
    """A cluster with one route. `led` are the shares that it got, one after the other; from the one on that `refuses`
    names the API server refuses changes."""

    def __init__(self, refuses: int = 99) -> None:
        self.route, self.led, self._refuses = route(backend("ds-blue")), [], refuses

    def custom(self, *_: str) -> dict[str, Any]:
        return self.route

    def merge(self, version: str, plural: str, name: str, changes: dict[str, Any]) -> None:
        if len(self.led) == self._refuses:
            raise ClusterError("the API server says 422")
        (rule,) = changes["spec"]["rules"]
        assert rule["timeouts"] and all(isinstance(each["port"], int) for each in rule["backendRefs"])
        self.led.append({each["name"]: each["weight"] for each in rule["backendRefs"]})
        self.route["spec"]["rules"] = [rule]


def shares(asks: Any = lambda: None, name: str = "ds-green") -> None:
    given = switchover.Shares(("c", "n", None), "ds", (10, 50), 0.01, asks, lambda _: None)
    given.give(backend(name, port=8000.0))


TENTH, HALF = {"ds-blue": 90, "ds-green": 10}, {"ds-blue": 50, "ds-green": 50}


def test_a_new_group_that_answers_gets_its_shares_one_after_the_other_and_is_asked_during_each(monkeypatch):
    gateway, asked = Gateway(), []
    monkeypatch.setattr(port_forward, "Cluster", lambda *_: gateway)
    shares(lambda: asked.append(len(gateway.led)))
    assert gateway.led == [TENTH, HALF] and {*asked} == {1, 2}
    shares(name="ds-blue")
    assert gateway.led == [TENTH, HALF], "the group that has the requests needs no share"


@pytest.mark.parametrize("step", [1, 2])
def test_a_new_group_that_does_not_answer_amid_its_share_loses_it(step, monkeypatch):
    gateway = Gateway()
    monkeypatch.setattr(port_forward, "Cluster", lambda *_: gateway)

    def asks() -> None:
        if len(gateway.led) == step:
            raise switchover.NotSwitchedError("no answer")

    with pytest.raises(switchover.NotSwitchedError, match="no answer"):
        shares(asks)
    assert gateway.led == [*[TENTH, HALF][:step], {"ds-blue": 1}]


def test_a_route_that_cannot_be_changed_ends_the_switch_in_one_line(monkeypatch):
    why = "the API server says 422"
    for refuses in (0, 1):
        monkeypatch.setattr(port_forward, "Cluster", lambda *_, refuses=refuses: Gateway(refuses))
        with pytest.raises(switchover.NotSwitchedError) as error:
            shares()
        kept = f"the new group's share could not be taken back ({why}): the next up takes it"
        assert str(error.value) == f"ds: {why}; {kept}"


def test_what_a_run_has_left_divided_goes_back_to_the_group_that_had_it_or_it_is_said_why_not(monkeypatch):
    gateway = Gateway(1)
    gateway.route = route(backend("ds-blue", 90), backend("ds-green", 10))
    monkeypatch.setattr(port_forward, "Cluster", lambda *_: gateway)
    assert switchover.take_back(CONFIG, None, "ds") == {} and gateway.led == [{"ds-blue": 1}]
    assert {name: str(why) for name, why in switchover.take_back(CONFIG, None, "ds").items()} == {
        "ds": "the API server says 422"
    }


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
