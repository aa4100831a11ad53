"""Every key of the stack file's types, with values to try, and what the program makes of a file with that key."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components.weights import oss_bucket, tos_bucket
from config.judge import parse
from config.plans import plan_services
from config.stack import StackConfig
from planning.problems import Refused
from tests.support import volcengine
from tests.support.program import run_program
from tests.support.recorder import Recorder
from tests.support.stack_files import with_values
from tests.support.volcengine import GATEWAY, GATEWAY_TYPE
from watch.cache_state import CacheReader

Path = tuple[str, ...]
_RELEASE = "kubernetes:helm.sh/v3:Release"


@dataclass(frozen=True)
class Key:
    """One optional key. `samples` are values other than its default, each a map of the key and those that must be set
    with it; `beside` holds the keys that its section always needs."""

    path: Path
    samples: tuple[Mapping[str, Any], ...]
    beside: Mapping[str, Any]

    @property
    def dotted(self) -> str:
        """The key as a person would write it."""
        return ".".join(self.path)


def optional_keys(samples: Mapping[str, Any], together: Mapping[str, Mapping[str, Any]], name: str) -> list[Key]:
    """The optional keys of the whole file, with the service called `name`. `samples` maps a key, by the last parts of
    its path, to values that do not follow from its type; a key without samples is tried with plain text. `together`
    maps a key to the section that it is tried with."""
    found = []
    for key in _keys(StackConfig, (), samples, name):
        known = together.get(key.path[-1])
        fits = known is not None and known.keys() <= _names(key.path)
        found.append(replace(key, samples=(known,)) if known is not None and fits else key)
    return found


def _names(path: Path) -> set[str]:
    """The keys beside the one at `path`."""
    models = [StackConfig]
    for part in path[:-1]:
        fields = {field.alias or key: field for model in models for key, field in model.model_fields.items()}
        models = _models(fields[part].annotation) if part in fields else models
    return {field.alias or key for model in models for key, field in model.model_fields.items()}


def _keys(model: type[BaseModel], at: Path, samples: Mapping[str, Any], name: str) -> Iterator[Key]:
    fields = {field.alias or key: field for key, field in model.model_fields.items()}
    beside = {key: _values((*at, key), field, samples)[0] for key, field in fields.items() if field.is_required()}
    for key, field in fields.items():
        path = (*at, key)
        # A section with only optional keys means nothing by itself.
        says = not _models(field.annotation) or any(_least(each, path, samples) for each in _models(field.annotation))
        if not field.is_required() and says:
            values = [value for value in _values(path, field, samples) if value != field.default]
            yield Key(path, tuple({key: value} for value in values), beside)
        for below in _models(field.annotation):
            yield from _keys(below, (*path, name) if _is_map(field.annotation) else path, samples, name)


def _values(path: Path, field: FieldInfo, samples: Mapping[str, Any]) -> tuple[Any, ...]:
    """Values to try; for a section, one with only its required keys."""
    for length in range(len(path), 0, -1):
        if (told := samples.get(".".join(path[-length:]))) is not None:
            return told if isinstance(told, tuple) else (told,)
    if models := _models(field.annotation):
        return tuple(_least(model, path, samples) for model in models)
    kinds = list(_leaves(field.annotation))
    if named := [each for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)]:
        return tuple(each for each in (*named, *((True, False) if bool in kinds else ())) if each is not None)
    if bool in kinds:
        return True, False
    if int in kinds:
        return 3, 64
    if float in kinds:
        return 0.5, 3.0
    if any(get_origin(kind) is dict for kind in kinds):
        return ({"sample": "value"},)
    if any(get_origin(kind) is tuple for kind in kinds):
        return (["sample"],)
    return ("sample",)


def _least(model: type[BaseModel], path: Path, samples: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field.alias or key: _values((*path, field.alias or key), field, samples)[0]
        for key, field in model.model_fields.items()
        if field.is_required()
    }


def _leaves(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin in (Literal, dict, tuple) or not get_args(annotation):
        yield annotation
        return
    for each in get_args(annotation):
        yield from _leaves(each)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in get_args(annotation) for found in _models(each)]


def _is_map(annotation: Any) -> bool:
    return any(get_origin(kind) is dict for kind in _leaves(annotation))


def with_key(file: dict[str, Any], key: Key, sample: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The file with the key as in the sample, or without it; its section is there either way."""
    place: Any = file
    for part in key.path[:-1]:
        place = place.get(part, {}) if isinstance(place, Mapping) else {}
    there = {k: v for k, v in (place if isinstance(place, Mapping) else {}).items() if k != key.path[-1]}
    made = {**key.beside, **there, **sample}
    return with_values(file, {"/".join(key.path[:-1]): made}) if key.path[:-1] else made


@functools.cache
def accepted(text: str, secrets: tuple[str, ...]) -> StackConfig | None:
    """The config of a file (as JSON), None where a check refuses it."""
    try:
        config = parse(json.loads(text), secrets=secrets)
        plan_services(config)
    except Refused:
        return None
    return config


@functools.cache
def made_of(text: str, secrets: tuple[str, ...]) -> tuple[str, ...]:
    """All that the program makes of a file (as JSON) that is accepted: its plans' numbers and every request to the
    engine. What is only said of it, in warnings, is nothing."""
    raw = json.loads(text)
    plans = plan_services(parse(raw, secrets=secrets))
    engine = Recorder(preview=True)
    engine.found |= {GATEWAY_TYPE: GATEWAY, _RELEASE: {"status": {}}, oss_bucket.BUCKET: {}, tos_bucket.BUCKET: {}}
    with pytest.MonkeyPatch.context() as patch, volcengine.apart():
        patch.setattr(CacheReader, "_read", lambda *_: None)
        patch.setenv("MODELSERVE_MANIFESTS", str(volcengine.manifests()))
        outputs = run_program(engine, raw, secrets=secrets, made={})
    told = [repr((plan.plan, plan.startup_seconds, plan.copy_seconds)) for plan in plans.values()]
    return (*told, *sorted(map(_steady, engine.requests())), json.dumps(outputs, default=str))


# Where in our own code a request came from, which differs from one call to the next.
_PLACES = ("stackTrace", "sourcePosition")


def _steady(request: Message) -> str:
    """A request as text, the same for the same: without its place, what it depends on in order."""
    told = {key: value for key, value in json_format.MessageToDict(request).items() if key not in _PLACES}
    return json.dumps(_in_order(told), sort_keys=True)


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_order(below) for key, below in value.items()}
    if isinstance(value, list):
        below = [_in_order(each) for each in value]
        return sorted(below) if all(isinstance(each, str) and each.startswith("urn:") for each in below) else below
    return value
