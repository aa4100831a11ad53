"""From nothing to a stack: `pulumi new`, `ops new`, `ops check`, `pulumi up`, as a newcomer types them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from local import pulumi_home
from local.control_plane import ControlPlane
from tests.rehearsal.pulumi_stack import Stack
from tests.support import checkout
from tests.support.git_server import serving
from tests.support.patience import PATIENCE_SECONDS


def run(folder: Path, env: Mapping[str, str], *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.soak
def test_a_new_stack_like_the_local_one_is_accepted_goes_up_and_answers_without_an_edit(stack: Stack):
    key = stack.config["modelserve:apiKey"]
    stack.renew()
    stack.run("up", "--skip-preview", "--yes", "--non-interactive")
    assert "ds: ds answered" in stack.ops("verify", stack.name)
    assert stack.config["modelserve:apiKey"] == key


def test_pulumi_new_with_the_repositorys_url_makes_a_project_in_which_a_new_stack_is_accepted(
    control_plane: ControlPlane, tmp_path: Path
):
    source, project = tmp_path / "source", tmp_path / "project"
    checkout.copy_to(source)
    project.mkdir()
    env = pulumi_home.environment(control_plane, tmp_path / "state")
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main")
    for command in (("init", "-q"), ("add", "-A", "-f"), ("commit", "-q", "-m", "all")):
        run(source, env, *git, *command)
    run(tmp_path, env, "git", "clone", "-q", "--bare", str(source), "served/team/modelserve.git")
    with serving(tmp_path / "served") as (url, trusted):
        command = ("pulumi", "new", f"{url}/team/modelserve", "--generate-only", "--yes")
        said = run(project, {**env, "SSL_CERT_FILE": str(trusted)}, *command)
    assert "python -m ops new STACK" in said
    made = yaml.safe_load((project / "Pulumi.yaml").read_text())
    assert made["name"] == "modelserve" and "template" not in made
    own = ("--set", "cluster.context=rehearsal", "--set", "weights.bucket.name=dev-weights")
    run(project, env, "pulumi", "stack", "init", "dev")
    run(project, env, sys.executable, "-m", "ops", "new", "dev", "--like", "acs", *own)
    assert "dev: 1 service, 16 GPUs: fine" in run(project, env, sys.executable, "-m", "ops", "check", "dev")
    assert "dev-weights" in run(project, env, "pulumi", "config", "-s", "dev", "--json")
