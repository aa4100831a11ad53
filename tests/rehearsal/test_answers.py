"""Answers that are being streamed while the program or the cluster replaces pods: none is cut off."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from local.api import ApiError
from planning import routes
from standins.vllm_server import TOKEN_SECONDS
from tests.rehearsal.fleets import NAME, Fleets
from tests.rehearsal.pulumi_stack import API_KEY, Cluster, Stack, one_node
from tests.support.patience import PATIENCE_SECONDS

REFUSED = ("refused with a reason", "refused")
HEALTH = {"GET /health", "GET /ping", "POST /ping"}
_KWOK = "/apis/kwok.x-k8s.io/v1alpha1/namespaces/default/portforwards"
_SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


class Clients:
    """Clients that request one streamed answer after the other, using the addresses that there are in turn. `body` is
    part of each request, `begun` the number of answers that have begun."""

    def __init__(self, addresses: Callable[[], list[str]], **body: str) -> None:
        self._addresses, self._body = addresses, body
        self.outcomes: Counter[str] = Counter()
        self.begun = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(4)]
        for each in self._threads:
            each.start()

    def end(self) -> Counter[str]:
        """Stops the clients; returns how every answer ended."""
        self._stop.set()
        for each in self._threads:
            each.join(PATIENCE_SECONDS)
        return self.outcomes

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                addresses = self._addresses()
            except ApiError:
                continue
            if addresses:
                self.outcomes[self._stream(addresses[number % len(addresses)])] += 1
            else:
                time.sleep(0.1)

    def _stream(self, address: str) -> str:
        asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True, **self._body}
        headers = {"Authorization": f"Bearer {API_KEY}"}
        said: list[Any] = []
        try:
            with requests.post(
                f"{address}/v1/chat/completions", json=asked, headers=headers, stream=True, timeout=PATIENCE_SECONDS
            ) as answer:
                if answer.status_code >= 400:
                    told = "refused with a reason" if "about to end" in answer.text else "refused"
                    return told if answer.status_code == 503 else f"{told}: {answer.status_code}"
                self.begun += 1
                for line in answer.iter_lines():
                    if line.startswith(b"data: {"):
                        said += [each["finish_reason"] for each in json.loads(line[6:])["choices"]]
        except requests.exceptions.ChunkedEncodingError:
            return "cut"
        except requests.exceptions.ConnectionError as error:
            return "cut" if said or "aborted" in str(error) else "not taken"
        return "whole" if "stop" in said else "cut"


def endpoints(cluster: Cluster, service: str) -> list[str]:
    """The endpoints of a Service, as kube-proxy sees them."""
    return sorted(engines(cluster, service).values())


def engines(cluster: Cluster, service: str) -> dict[str, str]:
    """Where the ready pods behind a Service are played, by their names."""
    found, api = {}, cluster.plane.api
    for each in api.get(f"{_SLICES}?labelSelector=kubernetes.io/service-name={service}")["items"]:
        for endpoint in each.get("endpoints") or []:
            if endpoint["conditions"].get("ready"):
                pod = endpoint["targetRef"]["name"]
                forward = api.get(f"{_KWOK}/{pod}")["spec"]["forwards"][0]
                found[pod] = f"http://{forward['target']['address']}:{forward['target']['port']}"
    return found


def open_routes(address: str, release: str, **headers: str) -> set[str]:
    """The routes of a release that answer a request without a key, tried one after the other."""
    body = {"model": NAME, "prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
    return {
        f"{method} {path}"
        for path, methods in routes.routes(release).items()
        for method in methods
        if requests.request(
            method, f"{address}{path}", json=body, headers=headers, timeout=PATIENCE_SECONDS
        ).status_code
        < 400
    }


@contextmanager
def asked(cluster: Cluster, event: str, fleets: Fleets | None = None) -> Iterator[Counter[str]]:
    """Runs clients that send requests continuously, to a group's Service or through the fleets' gateway; prints and
    yields how their answers ended."""
    if fleets:
        clients = Clients(lambda: [fleets.gateway], model=NAME)
    else:
        clients = Clients(lambda: endpoints(cluster, "ds-leader"))
    try:
        cluster.wait("answers are given", lambda: clients.outcomes["whole"] > 0)
        yield clients.outcomes
    finally:
        print(f"\n{event}: {dict(clients.end())}")


def slow(stack: Stack) -> dict[str, Any]:
    """The stack's service, whose answers take some seconds."""
    service = stack.services["ds"]
    service["engine"]["env"] = {TOKEN_SECONDS: "0.1"}
    return service


def test_every_running_answer_ends_whole_through_each_change_and_the_end(stack: Stack, cluster: Cluster):
    service = slow(stack)
    stack.up()
    assert open_routes(endpoints(cluster, "ds-leader")[0], "0.7.3") == {*HEALTH, "GET /metrics"}

    def through(event: str, change: Callable[[], object]) -> None:
        with asked(cluster, event) as outcomes:
            change()
        assert outcomes["whole"] and not outcomes["cut"] and not outcomes["not taken"], (event, outcomes)

    service["engine"]["image"] = "vllm/vllm-openai:v0.7.2"
    through("image change", stack.up)
    service["layout"] = {"nodes": 2, "gpusPerNode": 8, "tensor": 16, "pipeline": 1}
    through("layout replacement", stack.up)
    through("eviction of the leader", lambda: evicted(cluster, "ds-0"))
    through("destroy", stack.destroy)


def evict(cluster: Cluster, name: str) -> None:
    path = f"/api/v1/namespaces/default/pods/{name}/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    cluster.plane.api.request("POST", path, eviction)


def evicted(cluster: Cluster, name: str) -> None:
    before = cluster.pods()
    evict(cluster, name)
    cluster.wait(
        "another group is ready",
        lambda: len(cluster.pods()) == 2 and not {*cluster.pods().values()} & {*before.values()} and cluster.ready(),
    )


@pytest.mark.soak
def test_a_replica_that_goes_gives_its_answers_first_and_nobody_else_notices(stack: Stack, cluster: Cluster):
    stack.services["ds"] = one_node(slow(stack)) | {"replicas": 2}
    stack.up()
    with asked(cluster, "scale in") as outcomes:
        stack.services["ds"]["replicas"] = 1
        stack.up()
    assert outcomes["whole"] and outcomes.keys() <= {"whole", REFUSED[0]}, outcomes
    assert len(cluster.pods()) == 1
    with asked(cluster, "pause") as outcomes:
        stack.services["ds"]["replicas"] = 0
        stack.up()
    assert outcomes["whole"] and not outcomes["cut"] and not outcomes["not taken"], outcomes
    assert cluster.pods() == {}


@pytest.mark.soak
def test_without_the_hook_answers_are_cut(stack: Stack, cluster: Cluster):
    # On one node, SIGTERM alone cuts what 0.7.2 is answering (tests/standins/test_vllm_server.py). The answers take so
    # long that they still run then, however slow the machine is.
    service = one_node(slow(stack))
    service["engine"] |= {"image": "vllm/vllm-openai:v0.7.2", "env": {TOKEN_SECONDS: "2"}}
    service["podAnnotations"] = {"rehearsal.modelserve.dev/no-prestop": "true"}
    stack.services["ds"] = service
    stack.up()
    clients = Clients(lambda: endpoints(cluster, "ds-leader"))
    cluster.wait("answers have begun", lambda: clients.begun >= 4)
    stack.destroy()
    assert (outcomes := clients.end())["cut"], outcomes


@pytest.mark.soak
def test_a_fleet_gives_its_answers_before_it_goes_and_nobody_without_a_key_gets_through_its_gateway(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    service = volcengine.services[NAME]
    service["engine"]["env"] = {TOKEN_SECONDS: "0.1"}
    volcengine.up()
    for headers in ({}, {"routing-strategy": "random"}, {"model": NAME}):
        assert open_routes(fleets.gateway, "0.7.3", **headers) <= HEALTH

    def through(event: str, change: Callable[[], Any]) -> Any:
        with asked(cluster, event, fleets) as outcomes:
            result = change()
        # Without any pod, AIBrix does not know the model.
        assert outcomes["whole"] and outcomes.keys() <= {"whole", *REFUSED, "refused: 400"}, (event, outcomes)
        return result

    service["rollout"] = {"strategy": "Recreate"}
    service["engine"]["env"]["MORE"] = "1"
    through("change of a fleet", volcengine.up)
    through("eviction of a head", lambda: head_evicted(cluster, fleets))
    # Only as long as there are pods: the gateway goes soon after them.
    run = through("destroy", lambda: ending(volcengine, fleets))
    assert run.wait(timeout=PATIENCE_SECONDS) == 0


def head_evicted(cluster: Cluster, fleets: Fleets) -> None:
    head = fleets.head().metadata
    evict(cluster, head.name)
    cluster.wait("another head is ready", lambda: fleets.ready() and fleets.head().metadata.uid != head.uid)


def ending(stack: Stack, fleets: Fleets) -> subprocess.Popen[str]:
    """A `destroy` that has ended the fleet's pods."""
    run = stack.begin("destroy", "--exclude-protected")
    fleets.cluster.wait("no pod is left", lambda: fleets.pods() == [])
    return run
