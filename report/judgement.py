"""The verdict on a run: what it does to the models, the money and the data, worst first. Pure.

Owns which resources hold data, how long a restart takes, which labels allow what, and the exit code.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from planning.problems import Problem, Refused
from report import redaction, service_changes
from report.run_file import Change, Message, Run
from report.service_changes import Row, ServiceChange

# Types that hold data, by the last word of the type.
_HOLDS = {
    "Bucket": "bucket",
    "PersistentVolumeClaim": "claim",
    "PersistentVolume": "volume",
    "Dataset": "cache",
    "JindoRuntime": "cache",
}
_PREFIX = "allow-"
_ALLOWS = ("replace", "delete", "policy")
LABEL = re.compile(rf"{_PREFIX}(?P<what>{'|'.join(_ALLOWS)})(:(?P<which>.+))?")
"""A label that allows something."""


class Level(enum.IntEnum):
    """How much a run asks of the person who approves it."""

    NOTHING = 0
    SAFE = 1
    RESTART = 2
    STOP = 3
    DATA = 4
    FAILED = 5


SEVERITIES = {"mandatory": True, "error": True, "advisory": False, "warning": False, "info": False}
"""Whether a finding of that severity stops a change."""


@dataclass(frozen=True)
class Finding:
    """What a policy found. Its severity is one of SEVERITIES."""

    id: str
    severity: str
    resource: str
    reason: str
    remedy: str = ""

    @property
    def stops(self) -> bool:
        """Whether the change needs a label."""
        return SEVERITIES[self.severity]


@dataclass(frozen=True)
class Numbers:
    """A summary of a service's plan, as the program exports it; None is unknown. Seconds, tokens, money per hour."""

    kv_tokens: int | None = None
    context: int | None = None
    first_answer: int | None = None
    cost: float | None = None
    currency: str | None = None
    restart: int | None = None
    load: int | None = None
    fill: int | None = None
    longest_answer: int | None = None

    @classmethod
    def of(cls, said: Any) -> Numbers:
        """From the `plan` in the stack's outputs, with what `ops report` adds to it."""
        found = said if isinstance(said, Mapping) else {}

        def number(key: str) -> Any:
            value = found.get(key)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                return None
            return value

        def whole(key: str) -> int | None:
            value = number(key)
            return None if value is None else round(value)

        currency = found.get("currency")
        return cls(
            whole("kvTokens"),
            whole("maxModelLen"),
            whole("startupSeconds"),
            number("costPerHour"),
            currency if isinstance(currency, str) else None,
            whole("restartSeconds"),
            whole("loadSeconds"),
            whole("fillSeconds"),
            whole("longestAnswerSeconds"),
        )


@dataclass(frozen=True)
class Data:
    """What a run does to a resource that holds data: `action` is replace or delete."""

    action: str
    holds: str
    name: str
    kept: bool


@dataclass(frozen=True)
class Judgement:
    """A run, judged. `before` and `after` are the services' numbers; `planned` is false if no plan could be made."""

    run: Run
    before: Mapping[str, Numbers]
    after: Mapping[str, Numbers]
    findings: Sequence[Finding] = ()
    labels: Sequence[str] = ()
    unplanned: str = ""
    services: Sequence[ServiceChange] = field(default_factory=tuple)

    @cached_property
    def changes(self) -> list[Change]:
        """The changes to what exists outside of Pulumi."""
        return [each for each in self.run.changes if each.action != "none" and each.is_real]

    @cached_property
    def data(self) -> list[Data]:
        """What is replaced or deleted among the resources that hold data, each once."""
        found = []
        for change in self.changes:
            holds = _HOLDS.get(change.kind)
            if holds and change.action in ("replace", "delete"):
                kept = bool(change.old and change.old.kept)
                found.append(Data(change.action, holds, _object_name(change), kept))
        return list(dict.fromkeys(found))

    @cached_property
    def level(self) -> Level:
        """The worst level of anything in the run."""
        if self.run.failed:
            return Level.FAILED
        fates = {each.fate for each in self.services}
        if any(not each.kept for each in self.data):
            return Level.DATA
        if "removed" in fates:
            return Level.STOP
        if fates & {"replaced", "restarted"}:
            return Level.RESTART
        return Level.SAFE if self.changes else Level.NOTHING

    def restart_seconds(self, service: ServiceChange) -> int | None:
        """How long one replica of a service answers nothing, from its old pods' end to the first answer; None unknown.

        If its cache is replaced too, the cache loads the model first.
        """
        numbers = self.after.get(service.name, Numbers())
        if numbers.restart is None:
            return None
        replaced = {each.name for each in self.data if each.holds == "cache" and each.action == "replace"}
        loads = service.fate == "replaced" and replaced & {*service.claims}
        return numbers.restart + ((numbers.load or 0) if loads else 0)

    @cached_property
    def rules(self) -> list[tuple[str, str]]:
        """What needs a label: `(replace or delete, kind)`, or `(policy, id)`."""
        data = [(each.action, each.holds) for each in self.data if not each.kept]
        return list(dict.fromkeys([*data, *(("policy", each.id) for each in self.findings if each.stops)]))

    @cached_property
    def open(self) -> list[tuple[str, str]]:
        """Those of `rules` that no label allows."""
        return [rule for rule in self.rules if not any(_allows(label, rule) for label in self.labels)]

    @cached_property
    def idle_labels(self) -> list[str]:
        """Labels that allow what is not in the change: they would allow it later, unnoticed."""
        return [
            label
            for label in self.labels
            if LABEL.fullmatch(label) and not any(_allows(label, each) for each in self.rules)
        ]

    @property
    def exit_code(self) -> int:
        """1 if the run failed or needs a label that is missing; else 0."""
        return 1 if self.run.failed or self.open else 0

    def numbers(self, name: str) -> list[Row]:
        """What changes in a service's numbers."""
        old, new = self.before.get(name), self.after.get(name)
        if (old is None and new is None) or self.unplanned:
            return []
        sides = [each or Numbers() for each in (old, new)]
        rows = []
        for what, shown in _SHOWN.items():
            before, after = (shown(each) if given else None for each, given in zip(sides, (old, new), strict=True))
            if before != after:
                rows.append(Row(what, before, after))
        return rows

    @cached_property
    def warnings(self) -> list[Message]:
        """What somebody should read before approving the change."""
        return list(dict.fromkeys(each for each in self.run.messages if each.severity == "warning"))


def judge(
    run: Run,
    *,
    after: Mapping[str, Any],
    findings: Sequence[Finding] = (),
    labels: Sequence[str] = (),
    unplanned: str = "",
) -> Judgement:
    """The judgement on a run. `after` is each service's plan as the program exports it, `unplanned` why there is none.

    Ignores other people's labels. Raises Refused for one of ours that is misspelt.
    """
    wrong = [label for label in labels if label.startswith(_PREFIX) and not LABEL.fullmatch(label)]
    if wrong:
        instead = (
            f"write one of {', '.join(f'{_PREFIX}{each}' for each in _ALLOWS)}, or one with a kind: allow-delete:cache"
        )
        raise Refused(*(Problem("--allow", label, "allows nothing", instead) for label in wrong))
    told = run.outputs[0].get("plan")
    before = {str(name): Numbers.of(each) for name, each in told.items()} if isinstance(told, Mapping) else {}
    planned = {name: Numbers.of(each) for name, each in after.items()}
    # Others wrote them, or they repeat what is in the stack file.
    unplanned = redaction.text(unplanned)
    if unknown := [each.severity for each in findings if each.severity not in SEVERITIES]:
        instead = f"write one of {', '.join(SEVERITIES)}"
        raise Refused(*(Problem("--findings", each, "is no severity", instead) for each in dict.fromkeys(unknown)))
    findings = [Finding(*(redaction.text(each) for each in vars(finding).values())) for finding in findings]
    return Judgement(run, before, planned, tuple(findings), tuple(labels), unplanned, tuple(service_changes.of(run)))


def _allows(label: str, rule: tuple[str, str]) -> bool:
    match = LABEL.fullmatch(label)
    return match is not None and match["what"] == rule[0] and match["which"] in (None, rule[1])


def _object_name(change: Change) -> str:
    side = change.old or change.new
    inputs = side.inputs if side else {}
    metadata = inputs.get("metadata")
    named = metadata.get("name") if isinstance(metadata, Mapping) else inputs.get("bucket") or inputs.get("bucketName")
    return str(named or change.name)


def minutes(seconds: float) -> str:
    """A time for people: whole minutes, rounded up; seconds if it is below one minute."""
    return f"{math.ceil(seconds)} s" if seconds < 60 else f"{math.ceil(seconds / 60)} min"


def _tokens(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _first(numbers: Numbers) -> str:
    return "unknown" if numbers.first_answer is None else minutes(numbers.first_answer)


def _cost(numbers: Numbers) -> str:
    return "unknown" if numbers.cost is None else f"{numbers.cost:,.2f} {numbers.currency or ''}".rstrip()


_SHOWN = {
    "KV cache": lambda numbers: f"{_tokens(numbers.kv_tokens)} tokens",
    "first answer after an empty start": _first,
    "cost per hour": _cost,
}
