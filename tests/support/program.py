"""Runs the whole program on a recorder, and reads the run for tests: order, kinds, secrets.

Not here: the engine's decisions, and any real cluster or cloud.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pulumi
from google.protobuf import json_format

from config.judge import parse
from config.plans import plan_services
from config.secrets import SECRETS
from planning.names import API_KEY, Live
from stacks.program import build
from tests.support.recorder import PROJECT, Recorder, inputs, is_secret, unmarked

GIVEN_KEYS = ("accessKey", "secretKey", "syncAccessKey", "syncSecretKey")
MADE = "canary-made"
"""The secret of every access key that a run makes; the one given as `x` is `canary-x`."""


def run_program(
    engine: Recorder,
    raw: Mapping[str, Any],
    *,
    secrets: Collection[str] = (),
    made: Mapping[str, dict[str, Any]],
    live: Mapping[str, Live] = MappingProxyType({}),
    key: str = "canary-apiKey",
) -> dict[str, Any]:
    """Runs the program on a stack file's content with canaries as `secrets`; returns the outputs. `made` maps types to
    the outputs that only the cloud or cluster knows, `live` services to the groups that have their requests. `key` is
    the API key, if there is one."""
    config = parse(dict(raw), secrets=secrets)
    plans = {name: replace(planned, live=live.get(name)) for name, planned in plan_services(config).items()}
    outputs: dict[str, Any] = {}
    engine.made |= made

    def program() -> pulumi.Output[None]:
        keys = {f"{PROJECT}:{each}": key if each == API_KEY else f"canary-{each}" for each in secrets}
        pulumi.runtime.set_all_config(keys, list(keys))
        return pulumi.Output.from_input(build(config, plans)).apply(outputs.update)

    engine.run(program)
    return outputs


def merged(whole: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `whole` with the changes merged in recursively; None removes a key."""
    found = copy.deepcopy(dict(whole))
    for key, value in changes.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return {key: value for key, value in found.items() if value is not None}


def kinds(engine: Recorder) -> list[str]:
    """The kind of every resource."""
    return [kind_of(token) for token, _ in engine.seen]


def kind_of(token: str) -> str:
    """The last part of a type."""
    return token.rpartition(":")[2]


def before(engine: Recorder, later: str) -> set[str]:
    """`Kind name` of every resource that is created before `later` (not a component) and outlives it at a destroy."""
    requests = {engine.urn(request): request for request in (*engine.seen.values(), *engine.reads.values())}
    own = {urn: request for urn, request in requests.items() if getattr(request, "custom", True)}
    (start,) = (urn for urn, request in own.items() if f"{kind_of(request.type)} {request.name}" == later)
    found, left = set(), [start]
    while left:
        request = requests.get(left.pop())
        if request is None:
            continue
        below = {*request.dependencies, request.parent} - found
        found |= below
        left += below
    return {f"{kind_of(requests[urn].type)} {requests[urn].name}" for urn in found if urn in requests}


def env(template: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a pod template's first container."""
    return {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}


def secret_data(engine: Recorder, name: str) -> dict[str, str]:
    """A Secret's fields in plain text; checks that each is marked as secret on the wire."""
    data = inputs(engine.one("Secret", name))["data"]
    assert is_secret(data) or all(is_secret(value) for value in data.values())
    return {key: base64.b64decode(value).decode() for key, value in unmarked(data).items()}


def leaked(engine: Recorder) -> list[str]:
    """Every text of the run that contains a canary and is not marked as secret on the wire."""
    coded = (base64.b64encode(f"canary-{key}".encode()).decode() for key in (*SECRETS, "made"))
    canaries = ["canary", *coded]
    texts = [text for request in engine.requests() for text in _plain(json_format.MessageToDict(request))]
    assert len(texts) > 500
    return [text for text in texts if any(canary in text for canary in canaries)]


def _plain(value: Any) -> Iterator[str]:
    if is_secret(value):
        return
    if isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from _plain(below)
    elif isinstance(value, list):
        for below in value:
            yield from _plain(below)
    else:
        yield str(value)
