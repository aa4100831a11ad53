"""Files that tell of no run, or of another one, are refused in one line; runs that ended badly are told as such."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from ops import report
from planning.problems import Refused
from report import drift_report, judgement, pages, run_file
from tests.support.reports import DRIFT, PREVIEWS, URN, judged, preview, step, text_of

WHOLE = text_of(PREVIEWS / "image.json.xz")
EVENTS = text_of(PREVIEWS / "up-image.json.xz")
OTHER = WHOLE.replace("::modelserve::", "::webshop::")
REFUSED = {
    "empty": ("", {}, "f: is empty"),
    "cut off": (WHOLE[: len(WHOLE) // 2], {}, "f: is cut off after"),
    "cut off, as Pulumi prints it": (json.dumps(json.loads(WHOLE), indent=4)[:5000], {}, "f: is cut off after"),
    "events that are cut off": (EVENTS[:-40], {}, "f: its last event is cut off"),
    "no JSON": ("error: no stack", {}, "f: is no JSON from character 0 on"),
    "JSON of something else": ('{"a": 1}', {}, "f: is no record of a run"),
    "a list": ("[1, 2]", {}, "f: is no record of a run"),
    "another project": (OTHER, {"project": "modelserve"}, "f webshop: is the project that it tells of"),
    "a preview as events": (WHOLE, {"events": True}, "f: holds a preview's JSON; leave --events out"),
    "too deep": ("[" * 100_000, {}, "f: is no record of a run"),
    "inputs that are none": (preview(step("a:b/c:D", "x", "update", [1], [2])), {}, "f: is no record of a run"),
    "a step of another age": (preview({"op": "sing", "urn": "a::b::c::d"}), {}, "f sing of a::b::c::d: is no step"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_record_of_a_run_of_ours_is_refused_in_one_line(case):
    text, given, said = REFUSED[case]
    with pytest.raises(Refused) as refused:
        run_file.read(text, "f", **given)
    (problem,) = refused.value.problems
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value) and problem.instead


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, below in inside for place in _places(below, (*at, key)))]


_OTHER = (None, True, -1, 1e999, "x", "\ud800", "a::b", [], [1], [{}], {}, {"a": {"b": "c"}}, "[" * 5000)


@pytest.mark.parametrize("seed", range(20))
def test_a_record_with_any_part_replaced_is_told_or_refused(seed):
    """Whatever another release of Pulumi, or another tool, may write there."""
    chance = random.Random(seed)
    file = chance.choice([PREVIEWS / "up-image.json.xz", PREVIEWS / "replicas.json.xz", DRIFT / "interrupted.json.xz"])
    documents = [json.loads(line) for line in text_of(file).splitlines()]
    for _ in range(chance.randint(1, 4)):
        *above, last = chance.choice([place for place in _places(documents) if len(place) > 1])
        holder: Any = documents
        for key in above:
            holder = holder[key]
        holder[last] = chance.choice(_OTHER)
    try:
        run = run_file.read("\n".join(map(json.dumps, documents)), "f")
        found, seen = report.judged(run), drift_report.look(run)
    except Refused:
        return
    for said in (pages.markdown(found), pages.text(found), drift_report.markdown(seen), drift_report.text(seen)):
        assert said.encode()
    assert json.dumps([pages.to_json(found), drift_report.to_json(seen)])


def test_events_without_their_end_are_a_run_that_was_cut_off():
    lines = [line for line in EVENTS.splitlines() if "summaryEvent" not in line]
    found = judgement.judge(run_file.read("\n".join(lines), "f"), after={})
    assert found.exit_code == 1 and "the update was cut off before its end" in pages.markdown(found)


def test_an_update_that_failed_says_why_and_what_was_done_until_then():
    said = pages.markdown(judged("up-interrupted"))
    assert "❌" in said.splitlines()[1] and "`python -m ops recover`" in said


def test_events_and_previews_of_one_change_are_judged_alike():
    before, after = (pages.to_json(judged(name)) for name in ("image", "up-image"))
    assert before["services"] == after["services"] and before["verdict"] == after["verdict"]


LABELS = {
    "misspelt": (["allow-deletes"], "--allow allow-deletes: allows nothing; write one of allow-replace"),
    "two": (["allow-", "allow-x:y", "bug"], "--allow allow-: allows nothing; write"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_ours_that_allow_nothing_are_refused(case):
    labels, said = LABELS[case]
    with pytest.raises(Refused) as refused:
        judged("no-op", labels=labels)
    assert str(refused.value).startswith(said)
    assert len(refused.value.problems) == len([each for each in labels if each.startswith("allow-")])


def test_a_label_that_allows_what_is_not_in_the_change_is_told_and_changes_nothing():
    found = judged("model-removed", labels=["allow-delete:cache", "allow-replace:bucket", "documentation"])
    assert found.exit_code == 0 and found.idle_labels == ["allow-replace:bucket"]
    assert "The label allow-replace:bucket allows nothing that is in this change" in pages.markdown(found)


@pytest.mark.parametrize("label", ["allow-replace:cache", "allow-delete:bucket", "allow-policy", "delete"])
def test_a_label_for_something_else_does_not_let_it_pass(label):
    assert judged("model-removed", labels=[label]).exit_code == 1


def test_policy_errors_stop_until_a_label_allows_that_policy():
    findings = [
        judgement.Finding("no-guard", "error", "Service qwen", "is open to all", "write apiKey"),
        judgement.Finding("tags", "warning", "Bucket weights", "has no owner"),
    ]
    found = judged("no-op", findings=findings)
    said = pages.markdown(found)
    assert found.exit_code == 1 and "error `no-guard` at Service qwen: is open to all; write apiKey" in said
    assert re.search("Also advised: .*`tags`", said)
    assert judged("no-op", findings=findings, labels=["allow-policy:no-guard"]).exit_code == 0
    assert judged("no-op", findings=findings, labels=["allow-policy:tags"]).exit_code == 1


HELD = {
    "kept in the cloud": ({"retainOnDelete": True}, "delete", 0),
    "gone for good": ({}, "delete", 1),
    "replaced": ({}, "replace", 1),
    "only read": ({}, "read", 0),
}


@pytest.mark.parametrize("case", HELD)
@pytest.mark.parametrize(
    "kind",
    [
        "alicloud:oss/bucket:Bucket",
        "volcengine:tos/bucket:Bucket",
        "kubernetes:core/v1:PersistentVolumeClaim",
        "kubernetes:core/v1:PersistentVolume",
        "kubernetes:data.fluid.io/v1alpha1:JindoRuntime",
    ],
)
def test_what_holds_data_does_not_go_unseen(kind, case):
    more, operation, code = HELD[case]
    new = None if operation == "delete" else {"a": 2}
    run = run_file.read(preview(step(kind, "x", operation, {"a": 1}, new, **more)), "f")
    assert judgement.judge(run, after={}).exit_code == code


def test_a_group_that_takes_over_beside_the_old_one_is_no_restart():
    def group(name: str, colour: str | None) -> dict[str, Any]:
        annotations = {"annotations": {"modelserve.dev/colour": colour}} if colour else {}
        return {"metadata": {"name": name, **annotations}, "spec": {"replicas": 1}}

    kind, parent = "kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet", f"{URN}modelserve:serving:RayLwsGroup::ds"
    new = step(kind, "ds-green", "create", None, group("ds-green", "green"), parent=parent)
    for before in (group("ds-blue", "blue"), group("ds", None)):
        old = step(kind, before["metadata"]["name"], "delete", before, None, parent=parent)
        told = judgement.judge(run_file.read(preview(new, old), "f"), after={})
        assert pages.to_json(told)["verdict"] == "safe" and pages.to_json(told)["labels"] == []
        assert "safe: switches ds to new replicas" in pages.markdown(told) and "No request waits." in pages.text(told)
    told = judgement.judge(run_file.read(preview(new), "f"), after={})
    assert "safe: starts ds" in pages.markdown(told)


def test_a_comment_never_passes_its_bound_and_keeps_verdict_and_data():
    """Even of a stack whose every object changes in every line."""
    big = [{"data": {f"key-{n}": f"value {side} " * 15 for n in range(60)}} for side in ("old", "новый")]
    steps = [step("kubernetes:core/v1:ConfigMap", f"map-{n}", "update", *big) for n in range(100)]
    steps.append(step("kubernetes:core/v1:PersistentVolumeClaim", "weights", "delete", {"metadata": {"name": "w"}}))
    said = {"severity": "warning", "message": "a long warning " * 400}
    run = run_file.read(preview(*steps, diagnostics=[{**said, "urn": f"a::b::c::{n}"} for n in range(40)]), "f")
    for limit in (pages.LIMIT, 3000, 1000):
        shown = pages.markdown(judgement.judge(run, after={}), limit)
        assert len(shown.encode()) <= limit and "deletes the claim w" in shown
        assert "would not fit here" in shown and shown.count("```") % 2 == 0
        assert shown.count("<details>") == shown.count("</details>")


MARKUP = {
    "HTML": "</details><img src=x>",
    "a link": "[x](http://e) @all",
    "code that never opens": "``` <img src=x> `",
    "an escaped backtick": "\\` <img src=x> `",
    "a title": "x\n\n# title",
    "a character that turns the order": "a\u202eb",
    "a terminal's colours": "\x1b[31mred",
}


@pytest.mark.parametrize("case", MARKUP)
def test_text_of_others_stays_text(case):
    shown = pages.visible(pages.plain(MARKUP[case]))
    assert "\n" not in shown and shown.isprintable()
    # Outside of code, where a backtick without a backslash opens and closes it.
    outside = "".join(re.split(r"(?<!\\)((?:\\\\)*)`[^`]*`", shown))
    assert not re.search(r"<|(?<!\\)[@#\[]", outside), shown


def test_nothing_that_others_wrote_becomes_markup():
    evil = "</details><script> | [x](http://e) @all ```\n# title"
    old = {"spec": {"type": "ClusterIP"}, "data": {"a": "b"}}
    run = run_file.read(
        preview(
            step("kubernetes:core/v1:ConfigMap", evil.replace("\n", " "), "update", old, {"data": {"a": evil}}),
            diagnostics=[{"severity": "warning", "message": evil.splitlines()[0]}],
        ),
        "f",
    )
    shown = pages.markdown(judgement.judge(run, after={}))
    outside = [line for line in shown.splitlines() if line.startswith(("###", "- ", "**"))]
    assert not [line for line in outside if "<script>" in line or " @all" in line or "[x](" in line]


@pytest.mark.parametrize("number", [float("inf"), float("nan"), True, "7", None])
def test_a_number_that_is_none_is_unknown(number):
    assert judgement.Numbers.of({"kvTokens": number, "costPerHour": number}) == judgement.Numbers()
