"""Recorded previews: the verdict on each, and its comment word for word. `tests/record_previews.py` renews them."""

from __future__ import annotations

import pytest

from report import pages
from tests.support.reports import DRIFT, PREVIEWS, judged, recorded, text_of

# Verdict, exit code, labels that a pull request shows, labels that it lacks.
VERDICTS = {
    "no-op": ("nothing", 0, [], []),
    "image": ("restart", 0, ["restart"], []),
    "layout": ("restart", 0, ["restart"], []),
    "rdma": ("restart", 0, ["restart"], []),
    "cache-off": ("data", 1, ["restart", "delete"], ["allow-delete:cache"]),
    "public-endpoint": ("restart", 0, ["restart"], []),
    "bucket-renamed": (
        "data",
        1,
        ["restart", "replace"],
        ["allow-policy:weights-kept", "allow-replace:bucket", "allow-replace:cache"],
    ),
    "protected-bucket-renamed": ("failed", 1, ["restart", "replace"], ["allow-replace:bucket", "allow-replace:cache"]),
    "replicas": ("safe", 0, [], []),
    "addon-version": ("safe", 0, [], []),
    "model-added": ("safe", 0, [], []),
    "model-removed": ("data", 1, ["delete"], ["allow-delete:cache"]),
    "key-rotated": ("restart", 0, ["restart"], []),
    "refused": ("failed", 1, [], []),
    # Recorded while the bucket was not to be kept.
    "up-image": ("restart", 1, ["restart"], ["allow-policy:weights-kept"]),
    "up-interrupted": ("failed", 1, ["restart"], ["allow-policy:weights-kept"]),
}


def test_every_record_has_an_expectation_and_a_comment():
    names = {file.name.removesuffix(".json.xz") for file in PREVIEWS.glob("*.json.xz")}
    assert names == VERDICTS.keys() == {file.stem for file in PREVIEWS.glob("*.md")}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_preview_gets_its_verdict(name):
    found = judged(name)
    told = pages.to_json(found)
    assert (told["verdict"], found.exit_code, told["labels"], told["missing"]) == VERDICTS[name]


@pytest.mark.parametrize("name", VERDICTS)
def test_a_comment_reads_as_it_was_approved(name):
    assert pages.markdown(judged(name)) == (PREVIEWS / f"{name}.md").read_text()


@pytest.mark.parametrize("name", VERDICTS)
def test_a_comment_begins_with_marker_and_verdict(name):
    marker, verdict, *_ = pages.markdown(judged(name)).splitlines()
    assert marker == "<!-- modelserve report modelserve/prod -->"
    assert verdict.startswith("### ") and " prod: " in verdict


@pytest.mark.parametrize("name", VERDICTS)
def test_labels_for_all_that_is_open_let_a_preview_pass_unless_it_failed(name):
    found = judged(name, labels=VERDICTS[name][3])
    assert found.exit_code == (1 if VERDICTS[name][0] == "failed" else 0) and not found.idle_labels


def test_nothing_is_said_where_nothing_changes():
    assert len(pages.markdown(judged("no-op")).splitlines()) == 2


def test_the_plan_of_a_preview_is_the_one_that_an_up_exports():
    """So that numbers before and after are of one kind: the layout that was exported is planned from the config."""
    found = judged("image")
    assert {name: (each.kv_tokens, each.cost, each.first_answer) for name, each in found.before.items()} == {
        name: (each.kv_tokens, each.cost, each.first_answer) for name, each in found.after.items()
    }


@pytest.mark.parametrize("file", [*PREVIEWS.glob("*.xz"), *DRIFT.glob("*.xz")], ids=lambda file: file.name)
def test_records_tell_of_no_machine(file):
    found = text_of(file)
    assert not [word for word in ("/tmp/", "/root", "/home/", ".rehearsal", "sk-canary", "sk-another") if word in found]
    assert recorded(file.name.removesuffix(".json.xz"), file.parent).stack == "prod"
