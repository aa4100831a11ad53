"""What is wrong with a request, as data from where it is found to where it is printed: nothing reads the text back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong: what it is about, in the words of whoever was asked; what stands there, empty for
    nothing; why that cannot be; what to write instead, empty where nobody knows."""

    key: str
    value: str
    why: str
    instead: str = ""

    def __str__(self) -> str:
        what = f"{self.key} {self.value}" if self.value else self.key
        return f"{what}: {self.why}{'; ' if self.instead else ''}{self.instead}"


def printable(text: str) -> str:
    """Text on one line: what would move a terminal's cursor is named instead."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class Refused(Exception):
    """What was asked for cannot be, for at least one reason: a refusal that says nothing would be lost."""

    def __init__(self, *problems: Problem) -> None:
        assert problems, "a refusal without a problem"
        super().__init__(*problems)
        self.problems = problems

    @property
    def lines(self) -> list[str]:
        """One finding each, ready to print."""
        return [printable(str(problem)) for problem in self.problems]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Unjudged(ValueError):
    """A rule reads what is refused already: it cannot be judged, and has nothing to say."""


class Alternative(Protocol):
    """Another way to ask (`planning.choose.Choice` is one)."""

    def to_json(self) -> dict[str, Any]:
        """It as plain data."""

    def __str__(self) -> str:
        """It in one clause, such as «1 x 8, TP8 fits and holds 400000 KV tokens»."""


class PlanError(Refused):
    """The request cannot be planned. `alternatives` are the nearest layouts that can."""

    def __init__(self, *problems: Problem, alternatives: Sequence[Alternative] = ()) -> None:
        super().__init__(*problems)
        self.alternatives = tuple(alternatives)

    @property
    def lines(self) -> list[str]:
        """The findings, and the alternatives after them."""
        return [
            *super().lines,
            *(f"instead, {each}" for each in self.alternatives),
        ]

    def to_json(self) -> dict[str, Any]:
        """A plan's JSON, under its names, of what has no plan."""
        return {
            "fits": False,
            "stages": [],
            "kv_tokens": 0,
            "max_model_len": 0,
            "max_concurrency": 0.0,
            "reasons": self.lines,
            "alternatives": [each.to_json() for each in self.alternatives],
            "startup": None,
            "cost": None,
            "refusals": self.lines,
        }


class NoLayoutError(PlanError):
    """No layout fits."""
