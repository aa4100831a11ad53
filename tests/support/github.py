"""A loopback stand-in for GitHub's REST API, and for the services that issue OIDC tokens and cloud keys.

The behaviour that it reproduces, with sources (docs.github.com/en/rest, read 2026-11-29):

- lists are paginated, with 30 entries per page by default and at most 100; the Link header names the next page, and is
  absent when there is only one page (using-the-rest-api/using-pagination-in-the-rest-api);
- comments are sorted by ascending id, issues by descending number; pull requests are listed among the issues, with the
  key pull_request (issues/comments, issues/issues);
- a body of more than 65,536 characters is refused with 422 (github.com/orgs/community/discussions/27190);
- adding labels to an issue keeps its existing ones; removing a label that the issue does not have gives 404
  (issues/labels). Adding an unknown label creates it in the repository;
- a missing token gives 401, a token without the permission 403 (authentication, "Resource not accessible by
  integration");
- github-actions[bot] is the author of what a job's own token writes;
- a workflow's runs and their jobs are listed under workflow_runs and jobs, newest first (actions/workflow-runs);
- Volcengine's STS answers an error in ResponseMetadata, as the case may be with status 200 (volcengine-go-sdk,
  volcengine/credentials/sts_request.go);
- a GET with the request token as bearer returns an OIDC token in `value` (actions/reference/security/oidc).
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_server import Handler, serving

BOT = "github-actions[bot]"
REPOSITORY = "team/modelserve"
TOKEN = "ghs_job"
_MOST = 65_536


@dataclass
class Repository:
    """The repository's content. `issues` includes pull requests. The server answers with `failures` first, one per
    request; 0 answers as usual."""

    url: str = ""
    issues: dict[int, dict[str, Any]] = field(default_factory=dict)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    permissions: dict[str, str] = field(default_factory=lambda: {"issues": "write", "actions": "read"})
    failures: list[int] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    exchanged: list[dict[str, str]] = field(default_factory=list)
    trusts: bool = True
    _next: int = 1000

    def number(self) -> int:
        """A new id."""
        self._next += 1
        return self._next

    def pull_request(self, number: int, labels: tuple[str, ...] = ()) -> None:
        """Opens a pull request."""
        self.issues[number] = _issue(number, "a change", "", labels, "alice") | {"pull_request": {}}

    def issue(self, body: str, *, state: str = "open", labels: tuple[str, ...] = (), user: str = BOT) -> int:
        """Creates an issue, open or closed."""
        number = self.number()
        self.issues[number] = _issue(number, "an issue", body, labels, user) | {"state": state}
        return number

    def say(self, number: int, body: str, user: str = BOT) -> int:
        """Writes a comment."""
        made = {"id": self.number(), "body": body, "user": {"login": user}}
        self.comments.setdefault(number, []).append(made)
        return made["id"]

    def bodies(self, number: int) -> list[str]:
        """The texts of the comments, in order."""
        return [each["body"] for each in self.comments.get(number, [])]

    def labels(self, number: int) -> list[str]:
        """The labels' names, in order."""
        return sorted(label["name"] for label in self.issues[number]["labels"])

    @property
    def writes(self) -> list[str]:
        """The HTTP methods of all requests that change something."""
        return [method for method, _ in self.requests if method != "GET"]

    def environment(self) -> dict[str, str]:
        """GitHub's variables in a job's environment, with the token that a step asks for."""
        return {
            "GITHUB_API_URL": self.url,
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_TOKEN": TOKEN,
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/oidc?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token",
            "MODELSERVE_STS": f"{self.url}/sts",
        }


def _issue(number: int, title: str, body: str, labels: tuple[str, ...], user: str) -> dict[str, Any]:
    named = [{"name": label} for label in labels]
    return {"number": number, "title": title, "body": body, "state": "open", "labels": named, "user": {"login": user}}


@contextmanager
def serve() -> Iterator[Repository]:
    """The API of one repository, on a port of this machine."""
    repository = Repository()

    class Answers(_Handler):
        pass

    Answers.repository = repository
    with serving(Answers) as repository.url:
        yield repository


class _Handler(Handler):
    repository: Repository
    disable_nagle_algorithm = True

    def _do(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        here = self.repository
        if url.path == "/oidc":
            good = self.headers.get("Authorization") == "Bearer request-token"
            return self._answer(200, {"value": f"jwt-for-{query.get('audience', 'owner')}"}) if good else self._no(401)
        if url.path == "/sts":
            return self._exchange(query, dict(urllib.parse.parse_qsl(raw)))
        here.requests.append((self.command, url.path))
        if here.failures and (status := here.failures.pop(0)):
            return self._no(status)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._no(401)
        path = url.path.removeprefix(f"/repos/{REPOSITORY}")
        need = "actions" if path.startswith("/actions") else "issues"
        if here.permissions.get(need) not in ("write", *(["read"] if self.command == "GET" else [])):
            return self._no(403)
        body = json.loads(raw) if raw else {}
        if len(body.get("body") or "") > _MOST:
            return self._answer(422, {"message": "Validation Failed"})
        for pattern, answer in _ROUTES.items():
            if (found := re.fullmatch(pattern, path)) and self.command in answer:
                return getattr(self, answer[self.command])(*found.groups(), query=query, body=body)
        return self._no(404)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _do

    def _comments(self, number: str, query: dict[str, str], **_: Any) -> None:
        self._page(self.repository.comments.get(int(number), []), query)

    def _comment(self, number: str, body: dict[str, Any], **_: Any) -> None:
        made = self.repository.say(int(number), body["body"])
        self._answer(201, {"id": made})

    def _edit_comment(self, identity: str, body: dict[str, Any], **_: Any) -> None:
        for each in (each for listed in self.repository.comments.values() for each in listed):
            if each["id"] == int(identity):
                each["body"] = body["body"]
                return self._answer(200, each)
        return self._no(404)

    def _remove_comment(self, identity: str, **_: Any) -> None:
        for listed in self.repository.comments.values():
            listed[:] = [each for each in listed if each["id"] != int(identity)]
        self._answer(204, None)

    def _labels(self, number: str, query: dict[str, str], **_: Any) -> None:
        self._page(self.repository.issues[int(number)]["labels"], query)

    def _add_labels(self, number: str, body: dict[str, Any], **_: Any) -> None:
        there = self.repository.issues[int(number)]["labels"]
        there += [{"name": name} for name in body["labels"] if name not in [each["name"] for each in there]]
        self._answer(200, there)

    def _take_label(self, number: str, name: str, **_: Any) -> None:
        there = self.repository.issues[int(number)]["labels"]
        if not any(each["name"] == name for each in there):
            return self._answer(404, {"message": "Label does not exist"})
        there[:] = [each for each in there if each["name"] != name]
        return self._answer(200, there)

    def _issues(self, query: dict[str, str], **_: Any) -> None:
        found = [
            each
            for _, each in sorted(self.repository.issues.items(), reverse=True)
            if query.get("state", "open") in ("all", each["state"])
            and query.get("labels") in (None, *(label["name"] for label in each["labels"]))
        ]
        self._page(found, query)

    def _open_issue(self, body: dict[str, Any], **_: Any) -> None:
        number = self.repository.issue(body["body"], labels=tuple(body.get("labels", ())))
        self.repository.issues[number]["title"] = body["title"]
        self._answer(201, self.repository.issues[number])

    def _edit_issue(self, number: str, body: dict[str, Any], **_: Any) -> None:
        self.repository.issues[int(number)].update(body)
        self._answer(200, self.repository.issues[int(number)])

    def _runs(self, query: dict[str, str], **_: Any) -> None:
        listed = [{"id": each["id"]} for each in sorted(self.repository.runs, key=lambda each: -each["id"])]
        self._page(listed, query, "workflow_runs")

    def _jobs(self, run: str, query: dict[str, str], **_: Any) -> None:
        (found,) = [each for each in self.repository.runs if each["id"] == int(run)]
        self._page([{"name": name, "conclusion": end} for name, end in found["jobs"].items()], query, "jobs")

    def _exchange(self, query: dict[str, str], form: dict[str, str]) -> None:
        self.repository.exchanged.append(query | form)
        if not self.repository.trusts:
            said = {"Code": "AuthenticationFail.NoPermission", "Message": "This operator is not authorized"}
            if "RoleTrn" in form:
                return self._answer(200, {"ResponseMetadata": {"Error": said}})
            return self._answer(403, said)
        if "RoleArn" in form:
            keys = {"AccessKeyId": "STS.id", "AccessKeySecret": "sts-secret", "SecurityToken": "sts-token"}
            return self._answer(200, {"Credentials": keys})
        keys = {"AccessKeyId": "AKTP.id", "SecretAccessKey": "tp-secret", "SessionToken": "tp-token"}
        return self._answer(200, {"ResponseMetadata": {}, "Result": {"Credentials": keys}})

    def _page(self, listed: list[Any], query: dict[str, str], below: str = "") -> None:
        size, page = min(int(query.get("per_page", 30)), 100), int(query.get("page", 1))
        found = listed[(page - 1) * size : page * size]
        headers = {}
        if page * size < len(listed):
            address = self.path.partition("?")[0]
            following = urllib.parse.urlencode({**query, "page": page + 1})
            headers["Link"] = f'<{self.repository.url}{address}?{following}>; rel="next"'
        self._answer(200, {"total_count": len(listed), below: found} if below else found, headers)

    def _no(self, status: int) -> None:
        said = {401: "Bad credentials", 403: "Resource not accessible by integration", 404: "Not Found"}
        self._answer(status, {"message": said.get(status, "Server Error")})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


_ROUTES = {
    r"/issues/(\d+)/comments": {"GET": "_comments", "POST": "_comment"},
    r"/issues/comments/(\d+)": {"PATCH": "_edit_comment", "DELETE": "_remove_comment"},
    r"/issues/(\d+)/labels": {"GET": "_labels", "POST": "_add_labels"},
    r"/issues/(\d+)/labels/(\w+)": {"DELETE": "_take_label"},
    r"/issues": {"GET": "_issues", "POST": "_open_issue"},
    r"/issues/(\d+)": {"PATCH": "_edit_issue"},
    r"/actions/workflows/[\w.]+/runs": {"GET": "_runs"},
    r"/actions/runs/(\d+)/jobs": {"GET": "_jobs"},
}
