"""The few things that a job asks of GitHub: one comment per stack, labels, one issue per stack, how earlier jobs ended.

Each comment or issue has a marker as its first line, by which it is found again, over all pages. Only those of the
job's own user count: anybody can quote a marker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import requests

from ci import http
from planning.catalog import fact
from planning.problems import Problem, Refused, printable

MARKER = re.compile(r"<!-- modelserve (?P<what>[a-z]+) (?P<project>[\w.-]+)/(?P<stack>[\w.-]+) -->")
_SHOWS = re.compile(r"<!-- shows (?P<labels>[a-z,]*) -->")
_SECONDS = 30
# Each costs one request, of the 1,000 per hour that a repository's jobs have.
_MOST_RUNS = 30
_CUT = "\n\n…cut: the rest is in the job's log.\n"
# Methods that have no effect the second time. If a comment was created but the answer got lost, do not create it again.
_REPEATABLE = ("GET", "PATCH", "PUT", "DELETE")


class GitHub:
    """One repository, with the rights of the job's token."""

    def __init__(self, url: str, repository: str, token: str) -> None:
        self._root = f"{url.rstrip('/')}/repos/{repository}"
        self._author = fact("ci", "github", "author")
        self._session = http.session(_REPEATABLE)
        self._session.headers.update(
            {
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {token}",
                "X-GitHub-Api-Version": fact("ci", "github", "apiVersion"),
            }
        )

    @classmethod
    def of_job(cls) -> GitHub:
        """The repository and token in a job's environment. Raises Refused with everything that is missing."""
        names = ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            instead = "run it in a job of GitHub Actions, with GITHUB_TOKEN in the step's env"
            raise Refused(*(Problem(name, "", "is not set", instead) for name in missing))
        return cls(*(os.environ[name] for name in names))

    def put_comment(self, number: int, body: str, labels: Iterable[str] = ()) -> str:
        """Writes a stack's one comment on a pull request, new or over the old one. Returns made, changed or same.

        Two jobs that ran at once may have made two: the later ones are deleted.

        `labels` are those that the stack asks for; the comment keeps them in hidden text.
        """
        first, _, rest = body.partition("\n")
        text = _bounded(f"{_marked(first)}\n<!-- shows {','.join(sorted(labels))} -->\n{rest}")
        there = [each for each in self._own(f"/issues/{number}/comments") if _first(each) == first]
        if not there:
            self._ask("POST", f"/issues/{number}/comments", {"body": text})
            return "made"
        for comment in there[1:]:
            self._ask("DELETE", f"/issues/comments/{comment['id']}", fine=(404,))
        if there[0]["body"] == text:
            return "same"
        self._ask("PATCH", f"/issues/comments/{there[0]['id']}", {"body": text})
        return "changed"

    def settle_labels(self, number: int, known: Sequence[str], stacks: Sequence[str]) -> list[str]:
        """Sets on a pull request those `known` labels that the comments of `stacks` ask for, and removes the others.

        Deletes comments of stacks that the pull request no longer changes. Leaves all other labels alone.
        """
        shown: set[str] = set()
        for comment in list(self._own(f"/issues/{number}/comments")):
            mark = MARKER.fullmatch(_first(comment))
            if mark is None or mark["what"] != "report":
                continue
            if mark["stack"] not in stacks:
                self._ask("DELETE", f"/issues/comments/{comment['id']}", fine=(404,))
            elif found := _SHOWS.search(comment["body"]):
                shown |= {label for label in found["labels"].split(",") if label in known}
        there = {label["name"] for label in self._all(f"/issues/{number}/labels")}
        if new := sorted(shown - there):
            self._ask("POST", f"/issues/{number}/labels", {"labels": new})
        for label in sorted((there & set(known)) - shown):
            # 404: somebody else has already removed it.
            self._ask("DELETE", f"/issues/{number}/labels/{label}", fine=(404,))
        return sorted(shown)

    def put_issue(self, title: str, body: str, label: str) -> str:
        """Writes a stack's one issue: updates the open one, else reopens the closed one, else creates a new one."""
        first = _marked(body.partition("\n")[0])
        text = _bounded(body)
        there = self._issues(first, label)
        if not there:
            self._ask("POST", "/issues", {"title": title, "body": text, "labels": [label]})
            return "made"
        issue = there[0]
        new = {"title": title, "body": text, "state": "open"}
        if all(issue[key] == value for key, value in new.items()):
            return "same"
        self._ask("PATCH", f"/issues/{issue['number']}", new)
        return "changed"

    def close_issue(self, first: str, label: str, why: str) -> str:
        """Closes a stack's open issues, found by their marker, and says why. Returns closed or none."""
        there = [each for each in self._issues(first, label) if each["state"] == "open"]
        for issue in there:
            self._ask("POST", f"/issues/{issue['number']}/comments", {"body": why})
            self._ask("PATCH", f"/issues/{issue['number']}", {"state": "closed", "state_reason": "completed"})
        return "closed" if there else "none"

    def unfinished(self, workflow: str, run: int, attempt: int, job: str) -> bool:
        """Whether the last job of this name, in an earlier run or attempt, ended in any way but success.

        A skipped job has touched nothing, so the one before it counts. If there was no earlier job, nothing is
        unfinished. If many runs had no job of the name, the search stops, and the answer is yes, to be safe.
        """
        if attempt > 1:
            return True
        runs = self._all(f"/actions/workflows/{workflow}/runs?exclude_pull_requests=true", "workflow_runs")
        for number, earlier in enumerate(each for each in runs if each["id"] < run):
            if number == _MOST_RUNS:
                return True
            for each in self._all(f"/actions/runs/{earlier['id']}/jobs", "jobs"):
                if each["name"] == job and each["conclusion"] != "skipped":
                    return each["conclusion"] != "success"
        return False

    def _issues(self, first: str, label: str) -> list[dict[str, Any]]:
        """The stack's issues: the one to write comes first, an open one or else the newest."""
        open_ones = [
            issue
            for issue in self._own(f"/issues?state=all&labels={label}")
            if "pull_request" not in issue and _first(issue) == first
        ]
        return sorted(open_ones, key=lambda issue: (issue["state"] != "open", -issue["number"]))

    def _own(self, path: str) -> Iterator[dict[str, Any]]:
        return (each for each in self._all(path) if (each.get("user") or {}).get("login") == self._author)

    def _all(self, path: str, below: str = "") -> Iterator[dict[str, Any]]:
        """Every entry of a list, page by page."""
        url: str | None = f"{self._root}{path}{'&' if '?' in path else '?'}per_page={fact('ci', 'github', 'pageSize')}"
        while url:
            answer = self._send("GET", url)
            try:
                found = answer.json()
                listed = found[below] if below else found
            except (ValueError, KeyError, TypeError):
                listed = None
            if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
                key, instead = f"GitHub: GET {path.partition('?')[0]}", "look at GITHUB_API_URL, and at proxies"
                raise Refused(Problem(key, "", "is answered by something else than GitHub", instead))
            yield from listed
            url = answer.links.get("next", {}).get("url")

    def _ask(self, method: str, path: str, body: Any = None, fine: Sequence[int] = ()) -> None:
        self._send(method, self._root + path, body, fine)

    def _send(self, method: str, url: str, body: Any = None, fine: Sequence[int] = ()) -> requests.Response:
        key = f"GitHub: {method} {url.removeprefix(self._root).partition('?')[0]}"
        try:
            answer = self._session.request(method, url, json=body, timeout=_SECONDS)
        except requests.RequestException as error:
            why = f"no answer ({type(error).__name__})"
            raise Refused(Problem(key, "", why, "run the job again")) from None
        if answer.ok or answer.status_code in fine:
            return answer
        try:
            said = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            said = answer.reason
        instead = _INSTEAD.get(answer.status_code, "run the job again")
        raise Refused(Problem(key, str(answer.status_code), printable(said), instead))


_INSTEAD = {
    401: "hand the step `GITHUB_TOKEN: ${{ github.token }}`",
    403: "give the job the permission that this needs (`permissions:` in the workflow), or wait for the rate limit",
    404: "look whether the repository has it, and whether the job may see it",
}


def _first(written: dict[str, Any]) -> str:
    # Somebody may have edited it in a browser, which ends lines with CR LF.
    return (written.get("body") or "").partition("\n")[0].rstrip("\r")


def _marked(first: str) -> str:
    if not MARKER.fullmatch(first):
        raise Refused(Problem("first line", first, "is no marker", "give what `ops report` or `ops drift` wrote"))
    return first


def _bounded(text: str) -> str:
    most = fact("ci", "github", "commentCharacters")
    return text if len(text) <= most else text[: most - len(_CUT)] + _CUT
