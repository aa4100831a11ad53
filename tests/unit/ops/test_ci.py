"""Whole jobs of the workflows, run against a stand-in of GitHub: their steps as the files have them, in this process.

Pulumi, and the commands that read what it printed, are played here; tests/rehearsal/test_workflow_jobs.py runs them.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import string
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from ops import __main__ as ops_main
from ops import ci
from tests.support import github, workflows

BACKEND = "s3://team-state?region=cn-hangzhou&endpoint=https://s3.oss-cn-hangzhou.aliyuncs.com"
REPORT = "<!-- modelserve report modelserve/acs -->"
DRIFT = "<!-- modelserve drift modelserve/acs -->"

# What the played programs print is in files of the folder $PLAYED, their exit codes too; what they are asked in a log.
PULUMI = """#!/bin/sh
[ "$1" = version ] && { echo v3.272.0; exit; }
echo "pulumi $* | ${ALICLOUD_ACCESS_KEY:-none} ${AWS_SESSION_TOKEN:-none} ${GITHUB_TOKEN:-none}" >> "$PLAYED/log"
[ -e "$PLAYED/pulumi-$1" ] && cat "$PLAYED/pulumi-$1"
exit "$(cat "$PLAYED/pulumi-$1.code" 2>/dev/null || echo 0)"
"""
OPS = """#!/bin/sh
echo "ops $* | ${GITHUB_TOKEN:-none}" >> "$PLAYED/log"
[ -e "$PLAYED/$1.$4" ] && cat "$PLAYED/$1.$4"
exit "$(cat "$PLAYED/$1.code" 2>/dev/null || echo 0)"
"""


@dataclass
class Job:
    """A checkout with one stack, its runner and GitHub."""

    folder: Path
    repository: github.Repository
    names: dict[str, str]

    def play(self, **files: str) -> None:
        """What the programs print or return from now on."""
        for name, text in files.items():
            (self.folder / "played" / name.replace("__", "-").replace("_", ".")).write_text(text)

    @property
    def log(self) -> list[str]:
        """What the programs were asked, each without what follows the bar."""
        file = self.folder / "played" / "log"
        return [line.partition(" | ")[0] for line in self.lines] if file.exists() else []

    @property
    def lines(self) -> list[str]:
        """The same, with the keys that they saw."""
        return (self.folder / "played" / "log").read_text().splitlines()

    def event(self, **event: object) -> None:
        """What the workflow runs for."""
        (self.folder / "event.json").write_text(json.dumps(event))

    def run(self, file: str, job: str) -> bool:
        """Whether the job ended well."""
        (self.folder / "played" / "log").write_text("")
        runner = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PLAYED": str(self.folder / "played"),
            "RUNNER_TEMP": str(self.folder / "temp"),
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            "GITHUB_EVENT_PATH": str(self.folder / "event.json"),
            "GITHUB_RUN_ID": "500",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_WORKFLOW_REF": f"{github.REPOSITORY}/.github/workflows/{file}@refs/heads/main",
            **self.repository.environment(),
        }
        del runner["GITHUB_TOKEN"]  # only for the steps that ask for it
        return workflows.run(file, job, self.names, runner, _execute)


def _execute(line: str, environment: dict[str, str]) -> int:
    words = [string.Template(word).substitute(environment) for word in shlex.split(line)]
    assert words[:3] == [".venv/bin/python", "-m", "ops"], line
    with mock.patch.dict(os.environ, environment, clear=True):
        return ops_main.main(words[3:])


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    for name in ("bin", "played", "temp", ".github"):
        (tmp_path / name).mkdir()
    for name, text in (("bin/pulumi", PULUMI), ("bin/ops", OPS)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".github" / "stacks.json").write_text('["acs"]')
    (tmp_path / "Pulumi.acs.yaml").write_text("config: {modelserve:cloud: {kind: acs}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ci, "_OPS", (str(tmp_path / "bin" / "ops"),))
    names = {
        "matrix.stack": "acs",
        "github.token": github.TOKEN,
        "vars.PULUMI_BACKEND_URL": BACKEND,
        "vars.MODELSERVE_ROLE": "acs:ram::1:role/reader",
        "vars.MODELSERVE_OIDC_PROVIDER": "acs:ram::1:oidc-provider/github",
        "secrets.PULUMI_CONFIG_PASSPHRASE": "secret",
        "needs.changed.outputs.stacks": '["acs"]',
    }
    with github.serve() as repository:
        repository.pull_request(7)
        made = Job(tmp_path, repository, names)
        labels = [{"name": name} for name in ("bug", "allow-delete:cache", "allow-list", "allow-deletes")]
        made.event(pull_request={"number": 7, "labels": labels})
        yield made


def verdict(kind: str, *labels: str) -> str:
    return json.dumps({"stack": "acs", "verdict": kind, "labels": labels})


def test_a_pull_request_gets_one_comment_and_the_labels_of_it(job: Job):
    job.play(report_markdown=f"{REPORT}\nrestarts ds", report_json=verdict("restart", "restart"))
    assert job.run("preview.yml", "preview") and job.run("preview.yml", "labels")
    assert job.repository.labels(7) == ["restart"]
    job.play(report_markdown=f"{REPORT}\nnothing changes", report_json=verdict("nothing"))
    assert job.run("preview.yml", "preview") and job.run("preview.yml", "labels")
    (body,) = job.repository.bodies(7)
    assert body.startswith(REPORT) and body.endswith("nothing changes")
    assert job.repository.labels(7) == []


def test_a_preview_has_the_roles_keys_and_no_token_that_writes(job: Job):
    job.play(report_markdown=f"{REPORT}\nx", report_json=verdict("safe"))
    assert job.run("preview.yml", "preview")
    assert job.lines[0] == "pulumi preview --json -s acs --non-interactive | STS.id sts-token none"
    assert [line.rpartition(" ")[2] for line in job.lines] == ["none"] * 3
    assert job.log[1].endswith("--format markdown --allow allow-delete:cache")


def test_what_needs_a_label_fails_the_job_and_is_told(job: Job):
    job.play(report_markdown=f"{REPORT}\ndeletes", report_json=verdict("data", "delete"), report_code="1")
    assert not job.run("preview.yml", "preview")
    assert job.repository.bodies(7)[0].endswith("deletes")


@pytest.mark.parametrize("code", ["2", "0"])
def test_a_preview_that_tells_nothing_replaces_what_an_older_one_told(job: Job, code: str):
    job.repository.say(7, f"{REPORT}\nsafe")
    job.play(report_markdown="", report_json="", report_code=code)
    assert not job.run("preview.yml", "preview")
    (body,) = job.repository.bodies(7)
    assert body.startswith(REPORT) and "failed" in body and "nothing was printed" in body


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["labels", "--stacks", "{}"], "--stacks: {}: is no JSON list of names"),
        (["labels", "--stacks", "[1]"], "--stacks: [1]: is no JSON list of names"),
        (["labels", "--stacks", "[]"], "GITHUB_EVENT_PATH"),
        (["comment", "nowhere"], "nowhere/text.md: No such file"),
        (["comment", "told"], "told: is not what `ci preview`"),
    ],
)
@pytest.mark.parametrize("event", ["{", "[]", '{"pull_request": null}'])
def test_what_is_missing_or_wrong_is_one_line(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
    event: str,
):
    for name, value in job.repository.environment().items():
        monkeypatch.setenv(name, value)
    (job.folder / "event.json").write_text(event)
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(job.folder / "event.json"))
    (job.folder / "told").mkdir()
    for file in ("text.md", "verdict.json"):
        (job.folder / "told" / file).write_text("")
    assert ops_main.main(["ci", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_nothing_runs_against_a_state_url_in_path_style(job: Job, capsys: pytest.CaptureFixture[str]):
    job.names["vars.PULUMI_BACKEND_URL"] = f"{BACKEND}&s3ForcePathStyle=true"
    assert not job.run("deploy.yml", "up")
    assert job.log == [] and "SecondLevelDomainForbidden" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["success", "cancelled", None])
def test_after_a_run_that_was_cut_off_the_next_repairs_and_refreshes_first(job: Job, end: str | None):
    job.repository.runs = [{"id": 400, "jobs": {"up (acs)": end}}] if end else []
    assert job.run("deploy.yml", "up")
    first = [line for line in job.log if line.startswith("ops recover acs --force-user ")]
    updates = [line for line in job.log if line.startswith("pulumi up ")]
    assert len(first) == len(updates) - (end != "cancelled") and len(updates) == 1
    assert updates[0].endswith(" --refresh") is (end == "cancelled")
    assert job.log[-1] == "ops verify acs"


@pytest.mark.parametrize("failing", ["pulumi__up_code", "verify_code", "recover_code"])
def test_an_update_that_fails_or_serves_nothing_fails_the_job(job: Job, failing: str):
    job.repository.runs = [{"id": 400, "jobs": {"up (acs)": "cancelled"}}]
    job.play(**{failing: "1"})
    assert not job.run("deploy.yml", "up")
    asked = [line.split()[1] for line in job.log]
    assert asked == {"recover_code": ["recover"], "pulumi__up_code": ["recover", "up"]}.get(
        failing, ["recover", "up", "verify"]
    )


def test_drift_has_one_issue_that_closes_itself(job: Job):
    def night(kind: str, text: str, code: str) -> bool:
        job.play(drift_markdown=f"{DRIFT}\n{text}", drift_json=verdict(kind), drift_code=code)
        return job.run("nightly.yml", "drift")

    def issues() -> list[tuple[str, str]]:
        there = [each for each in job.repository.issues.values() if "pull_request" not in each]
        return [(each["state"], each["body"].partition("\n")[2]) for each in there]

    assert night("none", "no drift", "0") and issues() == []
    assert night("drift", "replicas", "1") and issues() == [("open", "replicas")]
    assert night("drift", "image", "1") and issues() == [("open", "image")]
    assert [line.split()[1] for line in job.log] == ["refresh", "drift", "drift", "stack", "policy"]
    assert not night("error", "failed", "2") and issues() == [("open", "image")]
    assert night("none", "no drift", "0") and issues() == [("closed", "image")]
    assert night("drift", "replicas", "1") and issues() == [("open", "replicas")]
    job.play(policy_code="1")
    assert not night("drift", "replicas", "1")


def test_a_stack_is_destroyed_when_its_last_day_is_over_and_what_is_left_fails_the_job(job: Job):
    def lasts_until(days: int) -> None:
        day = datetime.date.today() + datetime.timedelta(days)
        text = f"config: {{modelserve:cloud: {{kind: acs}}, modelserve:expires: '{day}'}}\n"
        (job.folder / "Pulumi.acs.yaml").write_text(text)

    def resource(kind: str, **more: object) -> dict[str, object]:
        return {"type": kind, "urn": f"urn::{kind}::x", "custom": True, **more}

    bucket = resource("alicloud:oss/bucket:Bucket", protect=True)
    job.play(pulumi__stack=json.dumps({"deployment": {"resources": [bucket]}}))
    assert job.run("nightly.yml", "expire") and job.log == []
    lasts_until(0)
    assert job.run("nightly.yml", "expire") and job.log == []
    lasts_until(-1)
    assert job.run("nightly.yml", "expire")
    assert job.log[0] == "ops destroy acs --yes"
    assert "Bucket x is kept" in (job.folder / "summary").read_text()
    group = resource("kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet")
    job.play(pulumi__stack=json.dumps({"deployment": {"resources": [bucket, group]}}))
    assert not job.run("nightly.yml", "expire")
    job.play(pulumi__stack=json.dumps({"deployment": {}}), destroy_code="1")
    assert not job.run("nightly.yml", "expire")
    assert [line.split()[1] for line in job.log] == ["destroy", "recover", "destroy", "stack"]
    job.play(recover_code="1")
    assert not job.run("nightly.yml", "expire")
    assert [line.split()[1] for line in job.log] == ["destroy", "recover", "stack"]


def test_a_night_looks_at_every_stack_and_a_commit_at_those_that_it_may_change(job: Job):
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], check=True, capture_output=True)

    def told(file: str, name: str) -> str:
        assert job.run(file, name)
        return (job.folder / "output").read_text().strip()

    git("init", "-q", "-b", "main")
    git("add", "Pulumi.acs.yaml", ".github")
    git("commit", "-qm", "first")
    base = (job.folder / ".git" / "refs" / "heads" / "main").read_text().strip()
    (job.folder / "README.md").write_text("x")
    git("add", "README.md")
    git("commit", "-qm", "second")
    job.event(pull_request={"number": 7, "base": {"sha": base}})
    assert told("preview.yml", "changed") == "stacks=[]"
    for before, found in ((base, "[]"), ("0" * 40, '["acs"]'), ("1" * 40, '["acs"]')):
        job.event(before=before)
        assert told("deploy.yml", "changed") == f"stacks={found}"
    job.event()
    assert told("nightly.yml", "stacks") == 'stacks=["acs"]'
    (job.folder / "Pulumi.acs.yaml").write_text("config: {modelserve:cloud: {kind: acs}, x: 1}\n")
    git("commit", "-qam", "third")
    job.event(before=base)
    assert told("deploy.yml", "changed") == 'stacks=["acs"]'
