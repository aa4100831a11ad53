"""Reads Pulumi's JSON record of a run: `preview --json`, `refresh --preview-only --json`, or a run's events.

Owns both formats, which become one `Run`. Secrets are removed here, so that no later step can show one. Not here: what
a change means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from planning.problems import Problem, Refused
from report import redaction

STACK = "pulumi:pulumi:Stack"
_PROVIDER = "pulumi:providers:"
_REPLACES = {"replace", "create-replacement", "delete-replaced", "import-replacement"}
_AS_IT_IS = {
    "same",
    "refresh",
    "read",
    "read-replacement",
    "read-discard",
    "discard-replaced",
    "remove-pending-replace",
}
_OPERATIONS = {"create", "update", "delete", "import"} | _REPLACES | _AS_IT_IS


@dataclass(frozen=True)
class State:
    """One side of a change, without secrets. `ignored` are paths that the program leaves to others; `errors` is why
    the engine calls the resource unfinished."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    id: str = ""
    parent: str = ""
    protected: bool = False
    kept: bool = False
    ignored: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What happens, or happened, to one resource. `action` is create, update, replace, delete or none; `differing` are
    the paths that the provider names, `because` those that force a replacement."""

    urn: str
    action: str
    old: State | None
    new: State | None
    differing: tuple[str, ...] = ()
    because: tuple[str, ...] = ()
    failed: bool = False

    @property
    def type(self) -> str:
        """The type's token, such as `kubernetes:core/v1:Secret`."""
        return self.urn.split("::")[2].rpartition("$")[2]

    @property
    def kind(self) -> str:
        """The last word of the type."""
        return self.type.rpartition(":")[2]

    @property
    def name(self) -> str:
        """The logical name."""
        return self.urn.split("::", 3)[3]

    @property
    def is_real(self) -> bool:
        """Whether it exists outside of Pulumi: a component, a provider and the stack do not."""
        return self.type.startswith("kubernetes:") or (
            not self.type.startswith((_PROVIDER, "pulumi:")) and "/" in self.type
        )


@dataclass(frozen=True)
class Message:
    """A message of a run; `severity` is info, warning or error, `about` a URN or empty."""

    severity: str
    text: str
    about: str = ""


@dataclass(frozen=True)
class Run:
    """A run. `config` is the stack's, by keys with namespaces, secrets as `[secret]`. `ended` is false if the record
    stops before the run's end. `planned` is whether it was a preview, `refreshed` whether it only read what there is;
    None if the record has no step that shows it."""

    project: str
    stack: str
    config: Mapping[str, str]
    changes: tuple[Change, ...]
    messages: tuple[Message, ...]
    planned: bool = True
    ended: bool = True
    result: str = ""
    policies: tuple[Mapping[str, Any], ...] = ()
    refreshed: bool | None = None

    @cached_property
    def outputs(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The stack's own outputs, before and after, as far as the record has them."""
        own = next((each for each in self.changes if each.type == STACK), None)
        old, new = (own.old, own.new) if own else (None, None)
        return (old.outputs if old else {}), (new.outputs if new else {})

    @property
    def errors(self) -> list[Message]:
        """The run's error messages, as they were given."""
        return [each for each in self.messages if each.severity == "error"]

    @property
    def failed(self) -> bool:
        """Whether the run ended badly, or not at all."""
        return bool(self.errors) or not self.ended or self.result in ("failed", "canceled")


@dataclass
class _Parts:
    """A run while it is being read."""

    config: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)


def read(text: str, file: str, *, events: bool | None = None, project: str = "") -> Run:
    """The run that `text`, the content of `file`, records. With `events` None, the text shows which format it has.

    Raises Refused if it is cut off, not a record of a run, or of another project than `project`.
    """
    try:
        documents = _documents(text, file)
        is_digest = len(documents) == 1 and "sequence" not in documents[0]
        if events is not None and events == is_digest:
            was, instead = ("a preview's JSON", "leave --events out") if events else ("events", "write --events")
            raise Refused(Problem(file, "", f"holds {was}", instead))
        run = _digest(documents[0], file) if is_digest else _events(documents, file)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        # A part of it has another shape than Pulumi gives it, and nobody knows what else is wrong.
        raise Refused(Problem(file, "", "is no record of a run", "give what `pulumi preview --json` prints")) from error
    if project and run.project != project:
        raise Refused(Problem(file, run.project, "is the project that it tells of", f"give one of {project}"))
    return run


def _documents(text: str, file: str) -> list[dict[str, Any]]:
    again = "run the command again, with its output into a file"
    if not text.strip():
        raise Refused(Problem(file, "", "is empty", again))
    try:
        whole = _loaded(text)
    except ValueError as error:
        lines = text.strip().splitlines()
        if not lines[0].endswith("}"):
            raise Refused(Problem(file, "", _why(error, text), again)) from None
        documents = []
        for number, line in enumerate(lines, 1):
            try:
                documents.append(_loaded(line))
            except ValueError:
                last = number == len(lines)
                why = "its last event is cut off" if last else f"line {number} is no JSON"
                raise Refused(Problem(file, "", why, again)) from None
    else:
        documents = [whole]
    if not all(isinstance(each, dict) for each in documents):
        raise Refused(Problem(file, "", "is no record of a run", "give what `pulumi preview --json` prints"))
    return documents


def _loaded(text: str) -> Any:
    """JSON, in which half a surrogate pair, which could not be printed, is a question mark."""
    loaded = json.loads(text)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        return json.loads(json.dumps(loaded, ensure_ascii=False).encode("utf-8", "replace"))
    return loaded


def _why(error: ValueError, text: str) -> str:
    at = getattr(error, "pos", 0)
    cut = at >= len(text.rstrip()) - len("false") or "Unterminated" in str(error)
    return f"is cut off after {len(text)} characters" if cut else f"is no JSON from character {at} on"


def _digest(found: dict[str, Any], file: str) -> Run:
    parts = _Parts(config=_strings(found.get("config")))
    for each in _maps(found.get("steps")):
        detailed = each.get("detailedDiff")
        parts.steps.append(
            {
                "op": each.get("op"),
                "urn": each.get("urn"),
                "old": each.get("oldState"),
                "new": each.get("newState"),
                "differing": list(detailed) if isinstance(detailed, dict) else each.get("diffReasons"),
                "because": _forcing(detailed, "kind") or each.get("replaceReasons"),
            }
        )
    parts.messages = [_message(each) for each in _maps(found.get("diagnostics"))]
    if not parts.steps and not parts.messages:
        raise Refused(Problem(file, "", "is no record of a run", "give what `pulumi preview --json` prints"))
    of_stack = {step["op"] for step in parts.steps if f"::{STACK}::" in str(step["urn"])}
    return replace(_run(parts, file), refreshed=of_stack == {"refresh"} if of_stack else None)


def _events(found: list[dict[str, Any]], file: str) -> Run:
    parts, summary = _Parts(), None
    steps: dict[tuple[Any, Any], dict[str, Any]] = {}
    for event in sorted(found, key=lambda each: each.get("sequence", 0)):
        if prelude := event.get("preludeEvent"):
            parts.config = _strings(prelude.get("config"))
        elif said := event.get("diagnosticEvent"):
            if not said.get("ephemeral") and said.get("severity") != "debug":
                parts.messages.append(_message(said))
        elif policy := event.get("policyEvent"):
            parts.policies.append({**policy, "message": redaction.text(str(policy.get("message", "")))})
        elif ended := event.get("summaryEvent"):
            summary = ended
        for phase in ("resourcePreEvent", "resOutputsEvent", "resOpFailedEvent"):
            if about := (event.get(phase) or {}).get("metadata"):
                _note(steps, about, phase)
    parts.steps = list(steps.values())
    if not parts.steps and not parts.messages:
        raise Refused(Problem(file, "", "is no record of a run", "give what `pulumi up --json` prints"))
    run = _run(parts, file)
    told = summary or {}
    begun = {event["resourcePreEvent"]["metadata"]["op"] for event in found if event.get("resourcePreEvent")}
    return replace(
        run,
        planned=bool(told.get("isPreview", _is_planned(found))),
        ended=summary is not None,
        result=str(told.get("result", "")),
        policies=tuple(parts.policies),
        refreshed=begun == {"refresh"} if begun else None,
    )


def _note(steps: dict[tuple[Any, Any], dict[str, Any]], about: dict[str, Any], phase: str) -> None:
    """Record a step; its end overwrites its beginning. What a refresh finds begins as «refresh»."""
    detailed, urn, operation = about.get("detailedDiff"), about.get("urn"), about.get("op")
    key, read = (urn, operation), (urn, "refresh")
    if phase == "resourcePreEvent" and key != read:
        steps.pop(read, None)  # the engine read it before it changed it
    elif key not in steps and read in steps:
        key = read
    steps[key] = {
        "op": operation,
        "urn": urn,
        "old": about.get("old"),
        "new": about.get("new"),
        "differing": list(detailed or ()) or about.get("diffs"),
        "because": _forcing(detailed, "diffKind") or about.get("keys"),
        "failed": phase == "resOpFailedEvent",
    }


def _is_planned(found: Iterable[Mapping[str, Any]]) -> bool:
    return any((event.get("resourcePreEvent") or {}).get("planning") for event in found)


def _run(parts: _Parts, file: str) -> Run:
    steps: dict[str, list[dict[str, Any]]] = {}
    for step in parts.steps:
        if not isinstance(step["urn"], str) or step["urn"].count("::") < 3 or step["op"] not in _OPERATIONS:
            what = f"{step['op']} of {step['urn']}"
            raise Refused(Problem(file, what, "is no step that is known here", "give what Pulumi 3.2 prints"))
        steps.setdefault(step["urn"], []).append(step)
    stacks = {tuple(urn.split("::")[:2]) for urn in [*steps, *(said.about for said in parts.messages if said.about)]}
    (stack, project), *_ = sorted(stacks) or [("", "")]
    changes = tuple(_change(urn, found) for urn, found in steps.items())
    return Run(project, stack.rpartition(":")[2], parts.config, changes, tuple(parts.messages))


def _change(urn: str, steps: list[dict[str, Any]]) -> Change:
    """A replacement has up to three steps, each with one side of it."""
    operations = {step["op"] for step in steps}
    kind = urn.split("::")[2].rpartition(":")[2]
    if operations == {"delete-replaced"}:
        action = "delete"  # what an earlier run left behind of a replacement
    elif operations & _REPLACES:
        action = "replace"
    else:
        action = next((each for each in ("create", "update", "delete") if each in operations), "none")
        action = "create" if "import" in operations else action
    named = [step for step in steps if step["op"] != "delete-replaced"] or steps
    old = next((step["old"] for step in [*steps[::-1]] if step["old"]), None)
    new = next((step["new"] for step in named if step["new"]), None)
    return Change(
        urn,
        action,
        _state(old, kind) if action != "create" else None,
        _state(new, kind) if action != "delete" else None,
        tuple(dict.fromkeys(path for step in steps for path in step["differing"] or ())),
        tuple(dict.fromkeys(path for step in steps for path in step["because"] or ())),
        any(step.get("failed") for step in steps),
    )


def _state(found: Any, kind: str) -> State | None:
    if not isinstance(found, dict):
        return None
    of_kind = {"kind": kind} if kind == "Secret" else {}
    inputs, outputs = (redaction.cleaned({**of_kind, **(found.get(side) or {})}) for side in ("inputs", "outputs"))
    return State(
        inputs,
        outputs,
        str(found.get("id") or ""),
        str(found.get("parent") or ""),
        bool(found.get("protect")),
        bool(found.get("retainOnDelete")),
        tuple(found.get("ignoreChanges") or ()),
        tuple(map(str, found.get("initErrors") or ())),
    )


def _message(found: Mapping[str, Any]) -> Message:
    severity = str(found.get("severity") or "info").partition("#")[0]
    # A digest repeats the severity in the text.
    said = str(found.get("message") or "").replace("\r", "").removeprefix(f"{severity}: ").strip()
    return Message(severity, redaction.text(said), str(found.get("urn") or ""))


def _forcing(detailed: Any, kind: str) -> list[str]:
    """The paths that force a resource's replacement."""
    listed = detailed.items() if isinstance(detailed, dict) else ()
    return [path for path, each in listed if str(each.get(kind, "")).endswith("-replace")]


def _maps(found: Any) -> list[dict[str, Any]]:
    return [each for each in found or () if isinstance(each, dict)] if isinstance(found, list) else []


def _strings(found: Any) -> dict[str, str]:
    return (
        {str(key): value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
    )
