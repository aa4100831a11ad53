"""What a refresh found to differ from the state: drift, which is reported, and what others own, which is not.

Only what the program states can drift: statuses, and what controllers add, belong to others. So do paths that the
program leaves to others, such as an autoscaler's replicas, which the state itself lists, and those that an operator is
known to write (`planning/catalog/owners.json`). What an interrupted update wrote is drift like any other: the cluster
has it, and the state does not. Whether a refresh failed is read from its messages, because its exit code does not tell
drift from failure (https://github.com/pulumi/pulumi/issues/8992).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from planning.catalog import entries
from planning.scaling import KINDS
from report.differences import lines, paths, without
from report.pages import bounded, marker, plain, visible
from report.run_file import Change, Run


@dataclass(frozen=True)
class Drifted:
    """A resource that differs from the state. `gone` means that it no longer exists; `difference` is YAML."""

    change: Change
    gone: bool
    paths: tuple[str, ...] = ()
    difference: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a refresh found."""

    run: Run

    @cached_property
    def drifted(self) -> list[Drifted]:
        """What has drifted, in the run's order."""
        scaled = _scaled(self.run)
        return [found for change in self.run.changes for found in _drifted(change, scaled)]

    @cached_property
    def cut_off(self) -> list[Change]:
        """What the engine itself calls unfinished: a run was cut off in the middle of it."""
        return [each for each in self.run.changes if each.is_real and each.old and each.old.errors]

    @property
    def verdict(self) -> str:
        """`error` if nobody can tell, else `drift` or `none`."""
        if self.run.failed:
            return "error"
        return "drift" if self.drifted or self.cut_off else "none"

    @property
    def exit_code(self) -> int:
        """0 for none, 1 for drift, 2 for an error."""
        return {"none": 0, "drift": 1, "error": 2}[self.verdict]


def look(run: Run) -> Seen:
    """What a refresh found, from its run."""
    return Seen(run)


def headline(seen: Seen) -> str:
    """One line."""
    if seen.verdict == "error":
        return "the refresh failed, so nobody knows whether anything drifted"
    if seen.verdict == "none":
        return "no drift"
    names = dict.fromkeys(_title(each.change) for each in seen.drifted)
    names |= dict.fromkeys(_title(each) for each in seen.cut_off)
    first = list(names)[:3]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"drift: {', '.join(first)}{more}"


def sentences(seen: Seen) -> list[str]:
    """What to say about each finding, and what to do."""
    if seen.verdict == "error":
        return [each.text for each in seen.run.errors] or ["Its record stops before its end."]
    said = [
        f"{_title(each.change)} is gone."
        if each.gone
        else f"{_title(each.change)} differs at {', '.join(f'`{path}`' for path in each.paths)}."
        for each in seen.drifted
    ]
    said += [f"{_title(each)} was left unfinished by a run that was cut off." for each in seen.cut_off]
    if said:
        said.append(
            "After an interrupted run: `python -m ops recover STACK`. Else `pulumi up --refresh` writes again what the "
            "stack file says."
        )
    return said


def markdown(seen: Seen) -> str:
    """The text of a comment or an issue, with a marker of its own."""
    sign = {"none": "✅", "drift": "⚠️", "error": "❌"}[seen.verdict]
    mark = marker("drift", seen.run.project, seen.run.stack)
    head = f"{mark}\n### {sign} {plain(seen.run.stack)}: {plain(headline(seen))}\n"
    body = "".join(f"- {plain(each)}\n" for each in sentences(seen))
    folds = [(_title(each.change), each.difference) for each in seen.drifted if each.difference]
    return bounded(head, [f"\n{body}"] if body else [], folds, title="What differs: state → cluster")


def text(seen: Seen) -> str:
    """For a terminal."""
    out = [f"{seen.run.stack}: {headline(seen)}", *(f"  {each.replace('`', '')}" for each in sentences(seen))]
    for each in seen.drifted:
        out += ["", _title(each.change), *(f"  {line}" for line in each.difference)] if each.difference else []
    return visible("\n".join(out))


def to_json(seen: Seen) -> dict[str, Any]:
    """For scripts."""
    return {
        "project": seen.run.project,
        "stack": seen.run.stack,
        "verdict": seen.verdict,
        "headline": headline(seen),
        "drifted": [{"urn": each.change.urn, "gone": each.gone, "paths": list(each.paths)} for each in seen.drifted],
        "cutOff": [each.urn for each in seen.cut_off],
        "errors": [each.text for each in seen.run.errors],
    }


def _title(change: Change) -> str:
    return f"{change.kind} {change.name}"


def _scaled(run: Run) -> set[str]:
    """Names of what the stack's autoscalers scale: events do not say which paths a program leaves to others."""
    specs = [each.old.inputs.get("spec") for each in run.changes if each.old and each.kind in KINDS]
    targets = [spec.get("scaleTargetRef") for spec in specs if isinstance(spec, Mapping)]
    return {str(target.get("name")) for target in targets if isinstance(target, Mapping)}


def _drifted(change: Change, scaled: set[str]) -> Iterator[Drifted]:
    if not change.is_real or not change.old:
        return
    if change.action == "delete":
        yield Drifted(change, gone=True)
        return
    if not change.new:
        return
    metadata = change.old.inputs.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    replicas = ["spec.replicas"] if name in scaled else []
    others = [_pattern(path) for path in (*change.old.ignored, *replicas, *_owned(change.kind))]
    old, new = (without(side.inputs, others) for side in (change.old, change.new))
    if old == new and change.new.outputs:
        # A refresh copies changed values into the inputs, but not what somebody added to a list.
        stated = (_stated(side.outputs, change.old.inputs) for side in (change.old, change.new))
        old, new = (without(side, others) for side in stated)
    found = tuple(".".join(map(str, path)) for path, _, _ in paths(old, new))
    # Secrets are hidden on both sides: only the provider can tell that one differs.
    hidden = () if found else tuple(path for path in change.differing if _is_hidden(change, path))
    if found or hidden:
        yield Drifted(change, False, found or hidden, tuple(lines(old, new)))


def _stated(live: Any, inputs: Any) -> Any:
    """The live value, limited to what the program states: of a map only the program's keys, of a list everything."""
    if isinstance(live, Mapping) and isinstance(inputs, Mapping):
        return {key: _stated(below, inputs[key]) for key, below in live.items() if key in inputs}
    if isinstance(live, list) and isinstance(inputs, list):
        return [_stated(each, inputs[at] if at < len(inputs) else each) for at, each in enumerate(live)]
    return live


def _owned(kind: str) -> list[str]:
    """Paths that others write on objects of that kind."""
    listed = (entry["value"] for entry in entries("owners")["fields"].values())
    return [path for each in listed if each["kind"] == kind for path in each["paths"]]


def _pattern(path: str) -> re.Pattern[str]:
    """Matches, as dotted paths, an engine's path such as `webhooks[*].clientConfig.caBundle` and all below it."""
    dotted = re.sub(r'\["?([^"\]]+)"?\]', r".\1", path)
    parts = [r"[^.]+" if part == "*" else re.escape(part) for part in dotted.split(".")]
    return re.compile(rf"{'[.]'.join(parts)}([.].*)?")


def _is_hidden(change: Change, path: str) -> bool:
    """Whether the value there is content of a Secret that the program states."""
    key = path.partition(".")[0].partition("[")[0]
    stated = change.old.inputs if change.old else {}
    return (
        change.kind == "Secret"
        and key in ("data", "stringData")
        and bool(stated.get("data") or stated.get("stringData"))
    )
