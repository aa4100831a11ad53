"""The workflows hold to their rules: pinned actions, few rights, no secret for forks, and no shell of their own."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local import toolchain
from tests.support import workflows
from tests.support.workflows import FILES, FOLDER, Step

FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
# What a job may ask of its token, at most.
GRANTS = {
    "check.yml": {"contents": "read"},
    "preview.yml": {"contents": "read", "id-token": "write", "pull-requests": "write"},
    "deploy.yml": {"contents": "read", "id-token": "write", "actions": "read"},
    "soak.yml": {"contents": "read"},
    "nightly.yml": {"contents": "read", "id-token": "write", "issues": "write"},
}


def steps_of(key: str) -> list[Step]:
    return [step for step in workflows.steps() if key in step.given]


def test_every_action_is_pinned_by_its_commit_with_its_version_beside_it():
    lines = [line for file in FILES for line in file.read_text().splitlines() if "uses:" in line]
    assert len(lines) == len(steps_of("uses"))
    pinned = re.compile(r"\s*- uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in lines if not pinned.fullmatch(line)] == []
    versions = {line.split("uses: ")[1] for line in lines}
    assert len({version.partition("@")[0] for version in versions}) == len(versions), "one action in two versions"


def test_every_run_block_is_one_call_of_make_or_of_ops():
    for step in steps_of("run"):
        words = shlex.split(step.given["run"])
        assert words[0] == "make" or words[:3] == [".venv/bin/python", "-m", "ops"], step
        assert "\n" not in step.given["run"].strip() and not set("|&;<>`") & set(step.given["run"]), step


def test_no_expression_is_pasted_into_a_shell():
    assert [step for step in steps_of("run") if "${{" in step.given["run"]] == []


@FILE
def test_a_job_has_no_more_rights_than_it_needs(file: Path):
    workflow = workflows.load(file)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        granted = job.get("permissions", workflow["permissions"])
        assert granted.items() <= GRANTS[file.name].items(), name
        assert job["timeout-minutes"] <= 360, name


def test_the_code_of_a_fork_gets_no_secret_and_no_token_that_writes():
    guard = "github.event.pull_request.head.repo.full_name == github.repository"
    for file in FILES:
        workflow = workflows.load(file)
        assert "pull_request_target" not in workflow["on"] and "workflow_run" not in workflow["on"]
        if "pull_request" not in workflow["on"] or "secrets." not in file.read_text():
            continue
        gates = {name for name, job in workflow["jobs"].items() if job.get("if") == guard}
        for name, job in workflow["jobs"].items():
            # A job whose needs were skipped is skipped, unless it says otherwise; then it asks for their success.
            needs = {job["needs"]} if isinstance(job.get("needs"), str) else {*job.get("needs", ())}
            assert name in gates or needs & gates, name
            condition = str(job.get("if", ""))
            assert "always()" not in condition or "needs.changed.result == 'success'" in condition, name


def test_the_token_of_a_job_is_never_in_reach_of_the_stacks_program():
    for step in workflows.steps():
        environment = step.given.get("env", {})
        assert not {"GITHUB_TOKEN", "PULUMI_CONFIG_PASSPHRASE"} <= environment.keys(), step
        if "checkout@" in step.given.get("uses", ""):
            assert step.given["with"]["persist-credentials"] is False, step


def test_runs_that_change_a_stack_exclude_each_other_and_are_never_cut_off():
    changing = [job for _, name, job in workflows.jobs() if name in ("up", "expire")]
    assert len(changing) == 2
    for job in changing:
        assert job["concurrency"] == {"group": "stack-${{ matrix.stack }}", "cancel-in-progress": False}


def test_a_stack_is_changed_only_in_an_environment_of_its_own():
    found = {name: job["environment"] for _, name, job in workflows.jobs() if "environment" in job}
    stack = "${{ matrix.stack }}"
    assert found == {
        "up": stack,
        "preview": f"{stack}-preview",
        "drift": f"{stack}-preview",
        "expire": f"{stack}-destroy",
    }


def test_the_job_that_up_asks_for_is_its_own():
    (before,) = [step.given["run"] for step in steps_of("run") if " ci before " in step.given["run"]]
    asked = shlex.split(before)[-1].replace("$STACK", "${{ matrix.stack }}")
    assert workflows.load(FOLDER / "deploy.yml")["jobs"]["up"]["name"] == asked


@pytest.mark.rehearsal
def test_actionlint_finds_nothing():
    # Without what it would call beside it where that is installed: no run block has a shell script in it.
    program = toolchain.ensure("actionlint")["actionlint"]
    done = subprocess.run([program, "-shellcheck=", "-pyflakes=", *FILES], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.rehearsal
def test_zizmor_finds_nothing():
    program = shutil.which("zizmor") or str(Path(sys.executable).with_name("zizmor"))
    done = subprocess.run([program, "--offline", "--no-progress", "--quiet", FOLDER], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
