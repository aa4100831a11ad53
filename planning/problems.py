"""What is wrong with a request, as data from the rule that finds it to the line that prints it. No code parses text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake. `key` names its place in the terms of whoever asked. `value` is what was written, empty if nothing
    was. `why` is the reason. `instead` is what to write, empty if unknown."""

    key: str
    value: str
    why: str
    instead: str = ""

    def __str__(self) -> str:
        what = f"{self.key} {self.value}" if self.value else self.key
        return f"{what}: {self.why}{'; ' if self.instead else ''}{self.instead}"


def printable(text: str) -> str:
    """The text on one line: characters that would move a terminal's cursor are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class Refused(Exception):
    """The request is refused, for at least one reason: without a problem to print, a refusal would be lost."""

    def __init__(self, *problems: Problem) -> None:
        assert problems, "a refusal without a problem"
        super().__init__(*problems)
        self.problems = problems

    @property
    def lines(self) -> list[str]:
        """One line per problem, ready to print."""
        return [printable(str(problem)) for problem in self.problems]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Unjudged(ValueError):
    """A rule reads a value that is already refused: it cannot judge, and reports nothing."""


class Alternative(Protocol):
    """Another request that would work (`planning.choose.Choice` is one)."""

    def to_json(self) -> dict[str, Any]:
        """The alternative as plain data."""

    def __str__(self) -> str:
        """The alternative in one clause, such as «1 x 8, TP8 fits and holds 400000 KV tokens»."""


class PlanError(Refused):
    """The request cannot be planned. `alternatives` are the nearest layouts that can."""

    def __init__(self, *problems: Problem, alternatives: Sequence[Alternative] = ()) -> None:
        super().__init__(*problems)
        self.alternatives = tuple(alternatives)

    @property
    def lines(self) -> list[str]:
        """The problems, then the alternatives."""
        return [
            *super().lines,
            *(f"instead, {alternative}" for alternative in self.alternatives),
        ]

    def to_json(self) -> dict[str, Any]:
        """The JSON of a request that has no plan, under the same names as a plan's."""
        return {
            "fits": False,
            "stages": [],
            "kv_tokens": 0,
            "max_model_len": 0,
            "max_concurrency": 0.0,
            "reasons": self.lines,
            "alternatives": [alternative.to_json() for alternative in self.alternatives],
            "startup": None,
            "cost": None,
            "refusals": self.lines,
        }


class NotUnderstoodError(PlanError):
    """Nothing is wrong as far as can be judged, and what the model takes is not known."""


@dataclass
class Findings:
    """What is `wrong` in a file, and what in it is not understood (`strange`)."""

    wrong: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def require_none(self, key: str, value: str, instead: str) -> None:
        """Raise PlanError with everything; NotUnderstoodError if nothing is wrong."""
        if found := [*self.wrong, *self.strange]:
            error = PlanError if self.wrong else NotUnderstoodError
            raise error(*(Problem(key, value, why, instead) for why in found))


class NoLayoutError(PlanError):
    """No layout fits."""
