"""What a job writes to GitHub is found again by its marker, on whatever page, and nobody else's is touched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ci.github import GitHub
from planning.problems import Refused
from report.pages import marker
from tests.support import github

REPORT = marker("report", "modelserve", "acs")
DRIFT = marker("drift", "modelserve", "acs")


@pytest.fixture
def repository() -> Iterator[github.Repository]:
    with github.serve() as repository:
        repository.pull_request(7)
        yield repository


@pytest.fixture
def told(repository: github.Repository) -> GitHub:
    return GitHub(repository.url, github.REPOSITORY, github.TOKEN)


def test_a_stack_has_one_comment_that_is_edited_in_place(repository: github.Repository, told: GitHub):
    for number in range(130):
        repository.say(7, f"comment {number}", "alice")
    quoted = f"{REPORT}\nlook at this"
    repository.say(7, quoted, "mallory")
    assert told.put_comment(7, f"{REPORT}\nfirst", ["restart"]) == "made"
    for number in range(100):
        repository.say(7, f"later {number}", "bob")
    assert told.put_comment(7, f"{marker('report', 'modelserve', 'vke')}\nother") == "made"
    assert told.put_comment(7, f"{REPORT}\nsecond") == "changed"
    assert told.put_comment(7, f"{REPORT}\nsecond") == "same"
    ours = [body for body in repository.bodies(7) if body.startswith(REPORT)]
    assert len(ours) == 2 and ours[0] == quoted and ours[1].endswith("\nsecond")
    assert len(repository.bodies(7)) == 233


def test_of_two_comments_of_a_stack_the_first_is_written_and_the_other_goes(
    repository: github.Repository, told: GitHub
):
    for text in ("first", "second"):
        repository.say(7, f"{REPORT}\n{text}")
    told.put_comment(7, f"{REPORT}\nnew")
    (body,) = repository.bodies(7)
    assert body.endswith("new")


def test_a_comment_that_somebody_edited_in_a_browser_is_still_found(repository: github.Repository, told: GitHub):
    repository.say(7, f"{REPORT}\r\nold\r\n")
    assert told.put_comment(7, f"{REPORT}\nnew") == "changed"


def test_a_comment_that_is_too_long_is_cut_and_keeps_its_marker(repository: github.Repository, told: GitHub):
    told.put_comment(7, f"{REPORT}\nverdict\n{'x' * 70_000}", ["delete"])
    (body,) = repository.bodies(7)
    assert body.startswith(REPORT) and "verdict" in body and len(body) == 65_536


@pytest.mark.parametrize("body", ["no marker", f" {REPORT}\nx", "<!-- modelserve report a/b --> x\n"])
def test_a_text_without_a_marker_is_refused_because_it_could_not_be_found_again(
    repository: github.Repository, told: GitHub, body: str
):
    with pytest.raises(Refused):
        told.put_comment(7, body)
    assert repository.writes == []


def test_labels_are_those_that_all_stacks_show_together_and_others_stay(repository: github.Repository, told: GitHub):
    repository.pull_request(8, labels=("bug", "replace", "allow-delete"))
    told.put_comment(8, f"{REPORT}\nx", ["restart"])
    told.put_comment(8, f"{marker('report', 'modelserve', 'vke')}\nx", ["delete", "restart"])
    told.put_comment(8, f"{marker('report', 'modelserve', 'old')}\nx", ["replace"])
    known = ["restart", "replace", "delete"]
    assert told.settle_labels(8, known, ["acs", "vke"]) == ["delete", "restart"]
    assert repository.labels(8) == ["allow-delete", "bug", "delete", "restart"]
    assert not any("/old" in body for body in repository.bodies(8))
    told.put_comment(8, f"{REPORT}\nx")
    told.settle_labels(8, known, ["acs"])
    assert repository.labels(8) == ["allow-delete", "bug"]


def test_a_stack_has_one_issue_that_is_closed_and_opened_again(repository: github.Repository, told: GitHub):
    for number in range(120):
        repository.issue(f"other drift {number}", labels=("drift",))
    forged = repository.issue(f"{DRIFT}\nforged", labels=("drift",), user="mallory")
    repository.issues[9] = {**repository.issues[forged], "user": {"login": github.BOT}, "pull_request": {}}
    assert told.close_issue(DRIFT, "drift", "gone") == "none"
    assert told.put_issue("acs: drift", f"{DRIFT}\nreplicas", "drift") == "made"
    (number,) = [number for number, each in repository.issues.items() if each["title"] == "acs: drift"]
    for _ in range(40):
        repository.issue("newer", labels=("drift",))
    assert told.put_issue("acs: drift", f"{DRIFT}\nreplicas", "drift") == "same"
    assert told.put_issue("acs: drift", f"{DRIFT}\nimage", "drift") == "changed"
    assert told.close_issue(DRIFT, "drift", "No drift any more.") == "closed"
    assert repository.issues[number]["state"] == "closed" and repository.bodies(number) == ["No drift any more."]
    assert told.close_issue(DRIFT, "drift", "gone") == "none"
    assert told.put_issue("acs: drift", f"{DRIFT}\nimage", "drift") == "changed"
    assert repository.issues[number]["state"] == "open"
    assert repository.issues[forged]["body"] == f"{DRIFT}\nforged"


def test_of_two_issues_of_a_stack_the_open_one_is_written(repository: github.Repository, told: GitHub):
    still_open, closed = (
        repository.issue(f"{DRIFT}\nold", state=state, labels=("drift",)) for state in ("open", "closed")
    )
    told.put_issue("acs: drift", f"{DRIFT}\nnew", "drift")
    assert [repository.issues[number]["body"] for number in (still_open, closed)] == [f"{DRIFT}\nnew", f"{DRIFT}\nold"]
    second = repository.issue(f"{DRIFT}\nold", labels=("drift",))
    told.close_issue(DRIFT, "drift", "No drift any more.")
    assert {repository.issues[number]["state"] for number in (still_open, second)} == {"closed"}


@pytest.mark.parametrize(
    ("runs", "attempt", "unfinished"),
    [
        ([], 1, False),
        ([], 2, True),
        ([("up (acs)", "success")], 1, False),
        ([("up (acs)", "cancelled")], 1, True),
        ([("up (acs)", "failure")], 1, True),
        ([("up (acs)", "timed_out")], 1, True),
        ([("up (acs)", "cancelled"), ("up (vke)", "success")], 1, True),
        ([("up (acs)", "cancelled"), ("up (acs)", "skipped")], 1, True),
        ([("up (acs)", "success"), ("up (acs)", "skipped")], 1, False),
        ([("up (acs)", "cancelled"), ("up (acs)", "success")], 1, False),
        ([("up (acs)", "cancelled"), *[("up (vke)", "success")] * 29], 1, True),
        ([("up (acs)", "success"), *[("up (vke)", "success")] * 29], 1, False),
        ([("up (acs)", "success"), *[("up (vke)", "success")] * 30], 1, True),
    ],
)
def test_the_last_job_of_the_stack_tells_whether_a_run_was_cut_off(
    repository: github.Repository, told: GitHub, runs: list[tuple[str, str]], attempt: int, unfinished: bool
):
    repository.runs = [{"id": at, "jobs": {name: end}} for at, (name, end) in enumerate(runs)]
    repository.runs += [{"id": 500, "jobs": {"up (acs)": None}}, {"id": 501, "jobs": {"up (acs)": "success"}}]
    assert told.unfinished("deploy.yml", 500, attempt, "up (acs)") is unfinished


@pytest.mark.parametrize(
    ("permissions", "token", "status"), [({}, github.TOKEN, "403"), ({"issues": "read"}, "other", "401")]
)
def test_a_missing_right_is_one_line_that_says_what_to_give(
    repository: github.Repository, permissions: dict[str, str], token: str, status: str
):
    repository.permissions = permissions
    with pytest.raises(Refused) as refused:
        GitHub(repository.url, github.REPOSITORY, token).put_comment(7, f"{REPORT}\nx")
    (problem,) = refused.value.problems
    assert problem.value == status and problem.instead and token not in str(problem)


@pytest.mark.parametrize(
    ("status", "said"), [(404, "look whether the repository has it"), (200, "something else than")]
)
def test_an_answer_that_is_not_the_one_asked_for_is_one_line(
    repository: github.Repository, told: GitHub, status: int, said: str
):
    repository.failures = [status]
    with pytest.raises(Refused, match=said):
        told.put_comment(7, f"{REPORT}\nx")
    assert repository.writes == []


def test_what_may_have_been_made_is_not_asked_for_again(repository: github.Repository, told: GitHub):
    told.put_comment(7, f"{marker('report', 'modelserve', 'vke')}\nx")
    repository.requests.clear()
    repository.failures = [0, 502]
    with pytest.raises(Refused, match="502"):
        told.put_comment(7, f"{REPORT}\nx")
    assert repository.writes == ["POST"]


def test_a_server_that_stumbles_is_asked_again_but_nothing_is_made_twice(repository: github.Repository, told: GitHub):
    repository.failures = [429, 500, 503]
    assert told.put_comment(7, f"{REPORT}\nx") == "made"
    assert repository.writes == ["POST"]
