"""The base of every part of the stack file. It reports every wrong field, not only the first.

Pydantic gives up on a model that has a wrong field. Here such a part is still built from its valid fields, and keeps
the refusals of the others, so that validation goes on around it. Reading a refused field raises `Unjudged`. A rule may
let it through: that rule is then skipped, and all others run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from config.errors import Refusal, as_written, join, of_field, shown, unknown_key, without_inner_keys
from planning.problems import Problem, Unjudged

# Pydantic looks for plugins in the metadata of every installed package, and stack files need none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

_Part = TypeVar("_Part", bound="Strict")
_MOST_STEPS = 3  # from a remedy to one that the field's other rules accept too
_ABSENT = object()


@dataclass(frozen=True)
class Judging:
    """The validation context in which parts are built whatever is wrong in them. `_work`: the parts being built."""

    _work: list[_Work] = field(default_factory=list, kw_only=True, repr=False, compare=False)

    @property
    def above(self) -> Mapping[str, Any]:
        """The valid fields of the surrounding part, as far as they come before the one being judged."""
        return self._work[-2].right if len(self._work) > 1 else {}


@dataclass
class _Work:
    """One part's valid fields (`right`), and its values (`below`) before rules that join fields have run."""

    right: Mapping[str, Any] = field(default_factory=dict)
    below: dict[str, Any] = field(default_factory=dict)


class Strict(BaseModel):
    """Base of every part of the stack file: no unknown keys, no silent conversion, no later change.

    A rule that joins fields is a validator of the last one and reads `info.data`, so it also runs if another field is
    wrong. A rule across sections reads the others through `config.clouds.context_of`.
    """

    # Defer building: few files use every part.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel, defer_build=True)

    _refusals: tuple[Refusal, ...] = PrivateAttr(())

    if not TYPE_CHECKING:  # otherwise the type checker would accept every misspelt attribute

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise Unjudged(name)
            return super().__getattr__(name)

    def model_dump(self, **how: Any) -> dict[str, Any]:
        """The part as plain data. Raises Unjudged if anything in it is refused."""
        if refusals(self):
            raise Unjudged
        return super().model_dump(**how)

    @classmethod
    def _elsewhere(cls, key: str) -> str | None:
        """The stack file's name for a key that this part does not have but other programs do; None if there is none."""
        return None

    @field_validator("*")
    @classmethod
    def _right_so_far(cls, value: Any, info: ValidationInfo) -> Any:
        """Record the valid fields: pydantic fills `info.data` as it goes through a part's fields."""
        if isinstance(info.context, Judging) and info.field_name:
            info.context._work[-1].right = info.data
            info.context._work[-1].below[info.field_name] = value
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _of_what_is_right(
        cls: type[_Part], given: Any, handler: ModelWrapValidatorHandler[_Part], info: ValidationInfo
    ) -> _Part:
        if not isinstance(info.context, Judging):
            return handler(given)
        work = _Work()
        info.context._work.append(work)
        try:
            return handler(given)
        except ValidationError as error:
            done = _Work(dict(work.right), dict(work.below))
            return cls._partial(given, done, error.errors(include_url=False), handler)
        finally:
            info.context._work.pop()

    @classmethod
    def _partial(
        cls: type[_Part],
        given: Any,
        done: _Work,
        details: Iterable[ErrorDetails],
        handler: ModelWrapValidatorHandler[_Part],
    ) -> _Part:
        fields = {info.alias or name: info for name, info in cls.model_fields.items()}
        aliases = {name: info.alias or name for name, info in cls.model_fields.items()}
        problems: list[Refusal] = []
        spelt: dict[str, str] = {}
        details = list(details)
        for detail in (detail for detail in details if detail["type"] == "extra_forbidden"):
            key = str(detail["loc"][0])
            why, instead, near = unknown_key(key, fields, cls._elsewhere(key))
            spelt |= {key: near} if near and near not in given else {}
            problems.append(Refusal((key,), detail["input"], why, instead))
        meant = {*spelt.values()}
        # What is wrong with keys that are not there only because others are misspelt.
        still = _wrong({spelt.get(key, key): value for key, value in given.items()}, handler) if spelt else {*fields}
        reported: set[tuple[object, ...]] = set()
        for detail in details:
            # Pydantic reports a refused default under the field's Python name.
            first, *rest = detail["loc"] or ("",)
            key = aliases.get(str(first), str(first))
            path = (key, *without_inner_keys(given, key, rest)) if detail["loc"] else ()
            caused = detail["type"] == "extra_forbidden" or (detail["type"] == "missing" and key in meant)
            caused |= bool(spelt) and key in aliases.values() and key not in given and not {str(first), key} & still
            unjudged = isinstance(detail.get("ctx", {}).get("error"), Unjudged)
            # Each member of a union reports an error of its own: keep the first.
            if caused or unjudged or path in reported:
                continue
            reported.add(path)
            if not path and detail["type"] != "refused":
                wanted = [alias for alias, info in fields.items() if info.is_required()] or list(fields)[:1]
                instead = f"write a map with {' and '.join(wanted)}"
                problems.append(Refusal((), detail["input"], "is not a map", instead))
                continue
            union = len(path) <= len(rest) and rest[-1:] != ["[key]"]
            for refusal in of_field(path, detail, fields.get(key), union=union):
                problems.append(_followed(refusal, given, handler))
        wrong = {str(detail["loc"][0]) for detail in details if detail["loc"]} | meant
        lost = [(name, value) for name, value in done.below.items() if {name, aliases[name]} & wrong]
        below = [
            _followed(refusal, given, handler) for name, value in lost for refusal in _below(value, (aliases[name],))
        ]
        # What is no map at all is told that alone, not also what a rule of the surrounding part says of it.
        problems = [each for each in problems if each.path not in {refusal.path for refusal in below}] + below
        partial = cls.__new__(cls)
        kept = {name: value for name, value in done.right.items() if not {name, aliases[name]} & wrong}
        for name, value in {
            "__dict__": kept,
            "__pydantic_fields_set__": set(kept),
            "__pydantic_extra__": None,
            "__pydantic_private__": {"_refusals": tuple(problems)},
        }.items():
            object.__setattr__(partial, name, value)
        return partial


def refusals(part: object) -> list[Problem]:
    """Everything that is wrong in a part of the stack file and below it."""
    problems = []
    for refusal in _below(part, ()):
        name = refusal.path[-1] if refusal.path else ""
        problems.append(Problem(join(refusal.path), shown(refusal.value, name), refusal.why, refusal.instead))
    return problems


def _below(part: object, path: tuple[object, ...]) -> Iterator[Refusal]:
    if isinstance(part, Strict):
        yield from (replace(refusal, path=(*path, *refusal.path)) for refusal in part._refusals)
        for name, value in part.__dict__.items():
            yield from _below(value, (*path, type(part).model_fields[name].alias or name))
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _below(value, (*path, key))
    elif isinstance(part, tuple):
        for index, value in enumerate(part):
            yield from _below(value, (*path, index))


def _followed(refusal: Refusal, given: Any, handler: ModelWrapValidatorHandler[Any]) -> Refusal:
    """The refusal, with a remedy that the field's other rules accept too."""
    better, instead = refusal.better, refusal.instead
    for _ in range(_MOST_STEPS):
        judged = {value: _again(refusal.path, value, given, handler) for value in better}
        good = [value for value, again in judged.items() if again is None]
        if good or not judged:
            # Of several words, name those that the other rules accept.
            some = f"write {' or '.join(map(as_written, good))}" if 0 < len(good) < len(judged) else instead
            return replace(refusal, instead=some)
        if len(judged) > 1 and _again(refusal.path, _ABSENT, given, handler) is None:
            return replace(refusal, instead="leave it out")  # no word would have a meaning here
        last = next(again for again in judged.values() if again is not None)
        if last.path != refusal.path:
            break  # a rule of the surrounding part: it gets its own line once this one is right
        better, instead = last.better, last.instead
    return replace(refusal, instead=instead)


def _wrong(given: Any, handler: ModelWrapValidatorHandler[Any]) -> set[str]:
    """The keys with which something is wrong."""
    try:
        handler(given)
    except ValidationError as error:
        return {str(detail["loc"][0]) for detail in error.errors(include_url=False) if detail["loc"]}
    return set()


def _again(
    path: tuple[object, ...], value: object, given: Any, handler: ModelWrapValidatorHandler[Any]
) -> Refusal | None:
    """What would be wrong with `value` at `path`."""
    try:
        handler(_with(given, path, value))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["loc"][:1] == path[:1] and not isinstance(detail.get("ctx", {}).get("error"), Unjudged):
                inner = (path[0], *without_inner_keys(given, str(path[0]), detail["loc"][1:]))
                here = [refusal for refusal in of_field(inner, detail, None) if refusal.path in (path, path[:1])]
                return here[0] if here else None
    return None


def _with(given: Any, path: tuple[object, ...], value: object) -> Any:
    if not path:
        return value
    first, *rest = path
    if isinstance(given, Mapping):
        if value is _ABSENT and not rest:
            return {key: other for key, other in given.items() if key != first}
        return {**given, first: _with(given.get(first), tuple(rest), value)}
    return [_with(item, tuple(rest), value) if index == first else item for index, item in enumerate(given)]
