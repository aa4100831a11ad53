"""Which group of a service has the requests, and whether another one may have them.

Not here: how the groups are made, and in which order (`stacks.serving`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from components.serving.inference_service import VERSION
from components.serving.ray_lws_group import NAME_LABEL
from config.services import Service
from config.stack import StackConfig
from planning import timeouts
from planning.names import API_KEY, COLOURS, Live, api_key_secret, coloured, service_object
from watch.api_server import ApiServer, UnansweredError


class NotSwitchedError(Exception):
    """The Service keeps what it has; the text says why in one line."""


def live(
    config: StackConfig, kubeconfig: str | None, names: Collection[str]
) -> tuple[dict[str, Live], dict[str, UnansweredError]]:
    """The group that has the requests, by service; and why that is unknown. Services without a Service are in neither.

    The Service is asked and not the state, which a killed run may have left behind it.
    """
    place = f"/api/v1/namespaces/{config.cluster.namespace}/services"
    questions = [(f"{place}/{service_object(name)}", "application/json") for name in names]
    try:
        answers = ApiServer(config.cluster.context, kubeconfig).answers(questions)
    except UnansweredError as error:
        return {}, dict.fromkeys(names, error)
    groups, unknown = {}, {}
    for name, answer in zip(names, answers, strict=True):
        if not isinstance(answer, UnansweredError):
            group = (answer["spec"].get("selector") or {}).get(NAME_LABEL)
            colour = next((each for each in COLOURS if coloured(name, each) == group), None)
            version = (answer["metadata"].get("annotations") or {}).get(VERSION, "")
            groups[name] = Live(colour, version)
        elif answer.status != 404:
            unknown[name] = answer
    return groups, unknown


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
