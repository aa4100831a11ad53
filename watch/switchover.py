"""Which group of a service has the requests, whether another one may have them, and how many at first.

Not here: how the groups are made, and in which order (`stacks.serving`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.serving.inference_service import VERSION
from components.serving.ray_lws_group import NAME_LABEL
from config.services import Service
from config.stack import StackConfig
from planning import timeouts
from planning.catalog import fact
from planning.names import API_KEY, COLOURS, FLEET, Live, api_key_secret, coloured, route_object, service_object
from watch.api_server import ApiServer, UnansweredError

_ASK_AGAIN_SECONDS = 5.0
_ROUTE_KIND = "gateway.networking.k8s.io/v1", "httproutes"


class NotSwitchedError(Exception):
    """The Service or route keeps what it has; the text says why in one line."""


def live(
    config: StackConfig, kubeconfig: str | None, names: Collection[str]
) -> tuple[dict[str, Live], dict[str, Exception]]:
    """The group that has the requests, by service; and why that is unknown. Services without a Service, or without a
    route behind AIBrix's gateway, are in neither.

    The cluster is asked and not the state, which a killed run may have left behind it.
    """
    questions = [(_place(config, name), "application/json") for name in names]
    try:
        answers = ApiServer(config.cluster.context, kubeconfig).answers(questions)
    except UnansweredError as error:
        return {}, dict.fromkeys(names, error)
    groups: dict[str, Live] = {}
    unknown: dict[str, Exception] = {}
    for name, answer in zip(names, answers, strict=True):
        if not isinstance(answer, UnansweredError):
            backends = _backends(answer)
            selector = answer["spec"].get("selector") or {}
            group = backends[0]["name"] if backends else selector.get(FLEET) or selector.get(NAME_LABEL)
            colour = next((each for each in COLOURS if coloured(name, each) == group), None)
            version = (answer["metadata"].get("annotations") or {}).get(VERSION, "")
            groups[name] = Live(colour, version, divided=len(backends) > 1)
        elif answer.status != 404:
            unknown[name] = answer
    return groups, unknown


def _place(config: StackConfig, name: str) -> str:
    """The path of what sends a service's requests to a group."""
    if config.services[name].gateway == "aibrix":
        version, plural = _ROUTE_KIND
        namespace = fact("aibrix", "gateway", "object")["namespace"]
        return f"/apis/{version}/namespaces/{namespace}/{plural}/{route_object(name)}"
    return f"/api/v1/namespaces/{config.cluster.namespace}/services/{service_object(name)}"


def _backends(thing: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Where a route's requests go; nothing for a Service. The first has had all of them before any division."""
    rules = thing["spec"].get("rules") or [{}]
    return rules[0].get("backendRefs") or []


class Route:
    """The route of a service behind AIBrix's gateway, in the cluster. Its methods raise ClusterError."""

    def __init__(self, context: str, kubeconfig: str | None, name: str) -> None:
        from watch.port_forward import Cluster

        self._name = route_object(name)
        self._cluster = Cluster(context, fact("aibrix", "gateway", "object")["namespace"], kubeconfig)

    def backends(self) -> Sequence[Mapping[str, Any]]:
        """Where its requests go; the first has had all of them before any division."""
        return _backends(self._cluster.custom(*_ROUTE_KIND, self._name))

    def lead_to(self, *backends: Mapping[str, Any]) -> None:
        """Sends the requests there, by their weights."""
        route = self._cluster.custom(*_ROUTE_KIND, self._name)
        rules = [{**rule, "backendRefs": list(backends)} for rule in route["spec"]["rules"]]
        self._cluster.merge(*_ROUTE_KIND, self._name, {"spec": {"rules": rules}})


def take_back(config: StackConfig, kubeconfig: str | None, name: str) -> dict[str, Exception]:
    """Gives all requests to the group that had them before a division that a run has left behind it, so that the other
    one may be changed, or go. Returns why that failed, by service."""
    from watch.port_forward import ClusterError

    try:
        route = Route(config.cluster.context, kubeconfig, name)
        route.lead_to(_alone(route.backends()[0]))
    except ClusterError as error:
        return {name: error}
    return {}


def _alone(backend: Mapping[str, Any]) -> dict[str, Any]:
    return {**backend, "weight": 1}


@dataclass(frozen=True)
class Shares:
    """How a route gives a new group some of its requests before it has all of them. `place` is context, namespace and
    kubeconfig; `percents` are the steps, each of so many `seconds`; `asks` raises NotSwitchedError if the group does
    not answer; `say` gets a line at each step."""

    place: tuple[str, str, str | None]
    name: str
    percents: Sequence[int]
    seconds: float
    asks: Callable[[], None]
    say: Callable[[str], None]

    def give(self, backend: Mapping[str, Any]) -> None:
        """Goes through the steps towards `backend`, unless it has the requests. Raises NotSwitchedError, with the
        requests where they were before, or with the reason why they are not."""
        from watch.port_forward import ClusterError

        context, _, kubeconfig = self.place
        backend = {**backend, "port": int(backend["port"])}  # Pulumi's numbers are floats
        try:
            route = Route(context, kubeconfig, self.name)
            old = route.backends()[0]
            if old["name"] == backend["name"]:
                return
            try:
                for percent in self.percents:
                    route.lead_to({**old, "weight": 100 - percent}, {**backend, "weight": percent})
                    self.say(f"{percent} % of the requests go to {backend['name']} for {self.seconds} s")
                    self._watch()
            except (NotSwitchedError, ClusterError) as error:
                try:
                    route.lead_to(_alone(old))
                except ClusterError as last:
                    why = str(error).removeprefix(f"{self.name}: ")
                    kept = f"the new group's share could not be taken back ({last}): the next up takes it"
                    raise NotSwitchedError(f"{self.name}: {why}; {kept}") from None
                raise
        except ClusterError as error:
            raise NotSwitchedError(f"{self.name}: the requests could not be divided: {error}") from None

    def _watch(self) -> None:
        end = time.monotonic() + self.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _ASK_AGAIN_SECONDS))
            self.asks()


def ask(
    place: tuple[str, str, str | None],
    name: str,
    model: str,
    service: Service,
    selector: Mapping[str, str],
    *,
    stays: bool,
) -> None:
    """Asks every leader of a group for a completion. `place` is context, namespace and kubeconfig; `stays` whether
    another group has the requests meanwhile. Raises NotSwitchedError."""
    from components.serving.modelserve_verify import Expected, NoAnswer, ask
    from watch.port_forward import Cluster, ClusterError

    then = "the old group keeps the requests" if stays else "it gets no requests"
    try:
        cluster = Cluster(*place)
        key = cluster.secret(api_key_secret(name), API_KEY)
        for leader in cluster.leaders(selector, service.port):
            with cluster.forwarded(leader) as url:
                ask(url, model, key, timeouts.CHECK_SECONDS, expected=Expected(service.reasoning_tags))
    except (NoAnswer, ClusterError) as error:
        raise NotSwitchedError(f"{name}: the new group did not answer: {error}; {then}") from None
