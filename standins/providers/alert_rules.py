"""Alert rules of a cloud's own Prometheus, which both clouds keep alike: a rule has an id of its own, and whoever
deletes one that is not there is told that it is gone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from standins.providers.cloud import Cloud, CloudError
from standins.providers.kinds import Function, Kind
from standins.providers.wire import Properties


def kind(
    label: str, service: str, gone: CloudError, *, instance: str, required: Sequence[str], more: Sequence[str]
) -> Kind:
    """The kind of rule with these arguments, each of which replaces it. The id begins with the argument `instance`, if
    that is not empty."""

    def create(cloud: Cloud, news: Properties) -> str:
        own = secrets.token_hex(4)
        found = f"{news[instance]}:{own}" if instance else own
        cloud.rules[found] = dict(news)
        return found

    def read(cloud: Cloud, found: str, state: Properties) -> Properties:
        if found not in cloud.rules:
            raise gone
        return dict(cloud.rules[found])

    def delete(cloud: Cloud, found: str, state: Properties) -> None:
        if cloud.rules.pop(found, None) is None:
            raise gone

    return Kind(
        label=label,
        service=service,
        required=frozenset(required),
        optional=frozenset(more),
        replacing=frozenset((*required, *more)),
        forgets=True,
        forgiving=True,
        create=create,
        read=read,
        delete=delete,
    )


def listing(service: str, items: str, name: str, asked: Sequence[str]) -> Function:
    """The function that lists rules, all of the account: whoever asks picks."""

    def answer(cloud: Cloud, given: Properties) -> Properties:
        return {items: [{"id": each, name: rule[name]} for each, rule in cloud.rules.items()]}

    return Function(service=service, arguments=frozenset(asked), answer=answer)
