"""A judgement in sentences: the verdict first, then service by service what it costs and risks, and what to do.

Owns the words, for a preview and for a finished run. Not here: the layout (`pages`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from planning.answers import LONGEST_WAIT_SECONDS
from report.judgement import Data, Judgement, Level, minutes
from report.run_file import Change
from report.service_changes import Row, ServiceChange

# The words for a preview, and those for a finished run.
_DONE = {
    "opens": "opened",
    "restarts": "restarted",
    "stops": "stopped",
    "starts": "started",
    "replaces": "replaced",
    "deletes": "deleted",
    "scales": "scaled",
    "switches": "switched",
}
# Names shown of a list in one line; the rest is only counted.
_MOST_NAMES = 3
# What the engine says at the end of every failure.
_CLOSING = {
    "preview failed",
    "update failed",
    "an unhandled error occurred: Program exited with non-zero exit code: 1",
}
_GROUPS = {
    "modelserve:storage:ModelBucket": "the bucket and its users",
    "modelserve:storage:ModelSync": "what fills the bucket",
    "modelserve:weights:FluidCache": "the cache",
    "modelserve:weights:ModelVolume": "the volume of the weights",
    "modelserve:cluster:ClusterAddons": "the add-ons",
}


@dataclass(frozen=True)
class Part:
    """What there is to say about one thing: sentences, then a table. `heading` is a service's name, or a title."""

    heading: str
    sentences: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


def verdict(judged: Judgement) -> str:
    """One line, worst first."""
    broken = [which for what, which in judged.open if what == "policy"]
    said = _fate_of_all(judged)
    if not broken or judged.level is Level.FAILED:
        return said
    found = [said.removeprefix("safe: "), f"breaks the polic{'y' if len(broken) == 1 else 'ies'} {_listed(broken)}"]
    return "; ".join(found if judged.level is Level.DATA else found[::-1])


def _fate_of_all(judged: Judgement) -> str:
    run = judged.run
    if judged.level is Level.FAILED:
        what = "preview" if run.planned else "update"
        if not run.ended:
            return f"the {what} was cut off before its end"
        return f"the {what} {'was cancelled' if run.result == 'canceled' else 'failed'}"
    if judged.level is Level.NOTHING:
        return "nothing changes" if run.planned else "nothing changed"
    said = [*_data(judged), *_opened(judged), *_fates(judged)]
    if said:
        return "; ".join(said)
    scaled = [each for each in judged.services if each.fate == "scaled"]
    if scaled:
        rest = "no model restarts" if run.planned else "no model restarted"
        return f"safe: {_verb(judged, 'scales')} {_names(scaled)}, and {rest}"
    return "safe: no model restarts, and no data goes" if run.planned else "safe: no model restarted, and no data went"


def parts(judged: Judgement) -> list[Part]:
    """Everything to read without unfolding."""
    sections = [_errors(judged), _state(judged), *(_service(judged, each) for each in judged.services)]
    sections += [_around(judged), _policy(judged), _warnings(judged)]
    return [part for part in sections if part and (part.sentences or part.rows)]


def counted(changes: Sequence[Change]) -> str:
    """How many resources have which action, such as «1 updated, 2 created»."""
    words = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}
    counts = Counter(each.action for each in changes)
    return ", ".join(f"{counts[action]} {word}" for action, word in words.items() if counts[action])


def title(change: Change) -> str:
    """A resource by its kind and name, and what happens to it."""
    words = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}
    failed = ", and failed" if change.failed else ""
    because = (
        f" because of {', '.join(f'`{each}`' for each in change.because)}"
        if change.action == "replace" and change.because
        else ""
    )
    return f"{change.kind} {change.name}: {words.get(change.action, change.action)}{because}{failed}"


def _verb(judged: Judgement, word: str) -> str:
    return word if judged.run.planned else _DONE[word]


def _names(services: Sequence[ServiceChange]) -> str:
    return _listed([each.name for each in services])


def _listed(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMES + 1:
        names = [*names[:_MOST_NAMES], f"{len(names) - _MOST_NAMES} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _data(judged: Judgement) -> list[str]:
    sentences: list[str] = []
    for action in ("delete", "replace"):
        gone = [each for each in judged.data if each.action == action and not each.kept]
        if gone:
            things = _listed(list(dict.fromkeys(f"the {each.holds} {each.name}" for each in gone)))
            sentences.append(f"{_verb(judged, f'{action}s')} {things}")
    return sentences


def _opened(judged: Judgement) -> list[str]:
    """Which services the internet can now reach: independent of restarts, and what a reader wants to know first."""
    opened = [each.name for each in judged.services if each.opens and each.fate != "removed"]
    return [f"{_verb(judged, 'opens')} {_listed(opened)} to the internet"] if opened else []


def _fates(judged: Judgement) -> list[str]:
    sentences = []
    if stopped := [each for each in judged.services if each.fate == "removed"]:
        sentences.append(f"{_verb(judged, 'stops')} {_names(stopped)} for good")
    ending = [each for each in judged.services if each.fate in ("replaced", "restarted")]
    if ending:
        times = [judged.restart_seconds(each) for each in ending]
        known = [each for each in times if each is not None]
        long = f" for about {minutes(max(known))}" if len(known) == len(times) else ""
        sentences.append(f"{_verb(judged, 'restarts')} {_names(ending)}{long}")
    safe = "safe: " if judged.level is Level.SAFE else ""
    if switched := [each for each in judged.services if each.fate == "switched"]:
        sentences.append(f"{safe}{_verb(judged, 'switches')} {_names(switched)} to new replicas")
    if added := [each for each in judged.services if each.fate == "added"]:
        sentences.append(f"{'' if sentences else safe}{_verb(judged, 'starts')} {_names(added)}")
    return sentences


def _errors(judged: Judgement) -> Part | None:
    if not judged.run.failed:
        return None
    about = {each.about: f"{each.about.split('::')[-1]}: " for each in judged.run.errors if each.about}
    said = [f"{about.get(each.about, '')}{each.text}" for each in judged.run.errors if each.text not in _CLOSING]
    protected = [each for each in judged.changes if each.old and each.old.protected]
    said += [_shielded(each) for each in protected if judged.run.planned and each.action in ("replace", "delete")]
    done = counted([each for each in judged.changes if not each.failed])
    if not judged.run.planned:
        until = f"Until then: {done}. " if done else ""
        said.append(
            f"{until}The next `pulumi up` does what is left; after a kill or Ctrl-C, `python -m ops recover` first."
        )
    return Part("What went wrong", tuple(dict.fromkeys(said)) or ("Nobody says why.",))


def _shielded(change: Change) -> str:
    return (
        f"It would {change.action} the {change.kind} {change.name}, which the state protects, with all that is in it."
    )


def _state(judged: Judgement) -> Part | None:
    if judged.level is Level.FAILED or not judged.data:
        return None
    return Part("Data", tuple(dict.fromkeys(_loss(judged, each) for each in judged.data)))


def _loss(judged: Judgement, data: Data) -> str:
    what = f"{data.holds} `{data.name}`"
    if data.kept:
        return f"The {what} leaves the stack and stays where it is, with all that it holds."
    becomes = "is deleted" if data.action == "delete" else "is replaced by an empty one"
    allowed = "" if (data.action, data.holds) in judged.open else " A label allows that."
    means = {
        "bucket": f"The weights in it go with it.{_filled(judged, data)}",
        "claim": "What it holds goes with it, unless its volume is kept.",
        "volume": "What it holds goes with it, unless it only points at a bucket.",
        "cache": "Its model has to be loaded again." if data.action == "replace" else "It holds copies of files alone.",
    }
    return f"The {what} {becomes}. {means[data.holds]}{allowed}"


def _filled(judged: Judgement, data: Data) -> str:
    times = [each.fill for each in judged.after.values() if each.fill]
    if data.action == "delete" or not times:
        return ""
    return f" The new one is filled from the hub, which takes about {minutes(max(times))}."


def _service(judged: Judgement, service: ServiceChange) -> Part | None:
    if judged.level is Level.FAILED:
        return None  # what was done to it before the failure is among the resources
    rows = [*service.rows, *judged.numbers(service.name)]
    if service.fate == "removed":
        rows = [row for row in rows if row.what == "cost per hour"]
    return Part(service.name, tuple(_sentences(judged, service)), tuple(rows))


def _sentences(judged: Judgement, service: ServiceChange) -> list[str]:
    seconds = judged.restart_seconds(service)
    long = f"about {minutes(seconds)}" if seconds is not None else "an unknown time"
    before, after = service.replicas
    if service.fate == "added":
        numbers = judged.after.get(service.name)
        first = numbers.first_answer if numbers else None
        return [f"New. From nothing, it answers after about {minutes(first)}." if first else "New."]
    if service.fate == "removed":
        return ["It is removed, and answers nobody any more.", *_risk(judged, service)]
    if service.fate == "scaled":
        if (after or 0) < (before or 0):
            return [f"Replicas go from {before} to {after}. Those that go give their answers first; the others stay."]
        return [f"Replicas go from {before} to {after}. The ones that run stay; each new one answers after {long}."]
    if service.fate == "switched":
        how = (
            f"New replicas start beside the old ones and are asked for a completion, after {long}; then they take over."
        )
        return [f"{how} The old ones give their answers and end. No request waits."]
    if service.fate == "replaced":
        return [f"All replicas end, then new ones start. It answers nothing for {long}.", *_risk(judged, service)]
    if service.fate == "restarted":
        if (before or 1) > 1:
            how = f"The {before} replicas restart one after the other, {long} each; the others answer meanwhile."
        elif service.surge:
            how = f"A second replica starts beside it in {long}, then the first one ends."
        else:
            how = f"It has one replica, which restarts: it answers nothing for {long}."
        return [how, *_risk(judged, service)]
    return ["No pod restarts."]


def _risk(judged: Judgement, service: ServiceChange) -> list[str]:
    """Which answers may be lost."""
    drain, numbers = service.drain_seconds, judged.after.get(service.name) or judged.before.get(service.name)
    if drain is None:
        return []
    longest = numbers.longest_answer if numbers else None
    # LONGEST_WAIT_SECONDS as the longest answer is only a cap: pods wait no longer, but some answers may take longer.
    if longest is not None and longest <= drain and longest < LONGEST_WAIT_SECONDS:
        return [f"No answer is cut: the longest takes {minutes(longest)}, and pods that end wait {minutes(drain)}."]
    return [f"Answers at risk: pods that end wait {minutes(drain)} for their answers, and cut what takes longer."]


def _around(judged: Judgement) -> Part | None:
    """What changes outside the services, grouped by what it belongs to."""
    if judged.level is Level.FAILED:
        return None
    from report.service_changes import service_of

    groups: dict[str, list[Change]] = {}
    for change in judged.changes:
        if service_of(change) is None:
            chain = change.urn.split("::")[2].split("$")
            group = next((_GROUPS[each] for each in chain if each in _GROUPS), "the rest")
            groups.setdefault(group, []).append(change)
    said = [f"{group[0].upper()}{group[1:]}: {_what(changes)}." for group, changes in groups.items()]
    versions = tuple(_versions(judged))
    return Part("Around the services" if judged.services else "What changes", tuple(said), versions)


def _what(changes: Sequence[Change]) -> str:
    if len(changes) > 3:
        return counted(changes)
    return "; ".join(title(each) for each in changes)


def _versions(judged: Judgement) -> list[Row]:
    sentences = []
    for change in judged.changes:
        if change.kind == "Release" and change.old and change.new:
            before, after = (
                side.inputs.get("version") or side.inputs.get("chart") for side in (change.old, change.new)
            )
            if before != after:
                sentences.append(Row(change.name, str(before), str(after)))
    return sentences


def _policy(judged: Judgement) -> Part:
    said = []
    for each in judged.findings:
        if each.stops:
            note = "" if ("policy", each.id) in judged.open else " (a label allows it)"
            remedy = f"; {each.remedy}" if each.remedy else ""
            said.append(f"{each.severity} `{each.id}` at {each.resource}: {each.reason}{remedy}{note}")
    for policy in judged.run.policies:
        where = str(policy.get("resourceUrn", "")).split("::")[-1]
        said.append(
            f"{policy.get('enforcementLevel')} `{policy.get('policyName')}` at {where}: {policy.get('message')}"
        )
    advised = dict.fromkeys(f"`{each.id}`" for each in judged.findings if not each.stops)
    if advised and (said or judged.changes):
        command = f"python -m ops check {judged.run.stack} --json"
        said.append(f"Also advised: {', '.join(advised)}. `{command}` says of what.")
    return Part("Policy", tuple(said))


def _warnings(judged: Judgement) -> Part:
    said = [each.text for each in judged.warnings]
    if judged.unplanned and not judged.run.failed:
        said.append(f"No plan of this change: {judged.unplanned}")
    said += [f"The label {label} allows nothing that is in this change: take it off." for label in judged.idle_labels]
    if judged.open and judged.level is not Level.FAILED:
        labels = _listed(sorted({f"`allow-{what}:{which}`" for what, which in judged.open}))
        said.append(f"It stops here until the pull request is labelled {labels}.")
    return Part("Before you approve" if judged.run.planned else "Warnings", tuple(said))
