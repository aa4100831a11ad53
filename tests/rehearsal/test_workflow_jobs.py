"""The jobs of the workflows, end to end: their steps on the real engine and a control plane, with GitHub simulated."""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from local.paths import ROOT
from tests.rehearsal.pulumi_stack import Cluster, Stack
from tests.support import github, workflows


@pytest.mark.soak
def test_from_pull_request_to_the_end_of_a_stack(
    stack: Stack, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
):
    runner = tmp_path_factory.mktemp("runner")
    (stack.folder / ".github").mkdir()
    (stack.folder / ".github" / "stacks.json").write_text(json.dumps([stack.name]))

    def label(*names: str) -> None:
        event = {"pull_request": {"number": 7, "labels": [{"name": name} for name in names]}}
        (runner / "event.json").write_text(json.dumps(event))

    label()
    with github.serve() as repository:
        repository.pull_request(7)
        run = _runner(stack, runner, repository)

        def comment() -> str:
            (body,) = repository.bodies(7)
            return body

        def issues() -> list[str]:
            return [each["state"] for each in repository.issues.values() if "pull_request" not in each]

        assert run("preview.yml", "preview") and run("preview.yml", "labels")
        assert stack.name in comment() and repository.labels(7) == []
        assert run("deploy.yml", "up")
        assert run("preview.yml", "preview")
        assert "nothing" in comment().splitlines()[2]
        stack.services["ds"]["engine"]["extraArgs"] = ["--seed", "7"]
        stack.write()
        assert run("preview.yml", "preview") and run("preview.yml", "labels")
        assert repository.labels(7) == ["restart"]

        def is_changed() -> bool:
            return "--seed" in json.dumps(cluster.group()["spec"])

        # It is merged, its job is cancelled amid the update, and another commit takes the change back.
        update = stack.begin("up")
        cluster.wait("the change is in the cluster", is_changed)
        stack.interrupt(update, signal.SIGKILL)
        stack.services["ds"]["engine"].pop("extraArgs")
        stack.write()
        repository.runs = [{"id": 400, "jobs": {f"up ({stack.name})": "cancelled"}}]
        assert run("deploy.yml", "up")
        assert "removed the lock of" in stack.said[-1] and not is_changed() and cluster.ready()
        assert run("nightly.yml", "drift") and issues() == []
        # `up` leaves a field that somebody else has overwritten, and says so; it recreates deleted objects.
        stack.plane.api.delete("/api/v1/namespaces/default/services/ds-leader")
        assert run("nightly.yml", "drift") and issues() == ["open"]
        assert run("deploy.yml", "up")
        assert run("nightly.yml", "drift") and issues() == ["closed"]

        # The team bounds the price, and nobody knows this stack's.
        (stack.folder / "policy").unlink()
        shutil.copytree(ROOT / "policy", stack.folder / "policy")
        (stack.folder / "policy" / "config.json").write_text(json.dumps({"price-at-most": {"most": 100}}))
        assert not run("preview.yml", "preview")
        assert "breaks the policy price-at-most; nothing changes" in comment()
        label("allow-policy:price-at-most", "allow-anything")
        assert run("preview.yml", "preview") and "a label allows it" in comment()

        assert run("nightly.yml", "expire") and stack.has_resources()
        day = datetime.date.today() - datetime.timedelta(1)
        stack.config["modelserve:expires"] = day.isoformat()
        stack.write()
        assert run("nightly.yml", "expire") and not stack.has_resources()
        del stack.config["modelserve:expires"]


def _runner(stack: Stack, folder: Path, repository: github.Repository) -> Callable[[str, str], bool]:
    names = {
        "matrix.stack": stack.name,
        "github.token": github.TOKEN,
        "vars.PULUMI_BACKEND_URL": stack.env["PULUMI_BACKEND_URL"],
        "secrets.PULUMI_CONFIG_PASSPHRASE": stack.env["PULUMI_CONFIG_PASSPHRASE"],
        "needs.changed.outputs.stacks": json.dumps([stack.name]),
    }
    kept_back = ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE")
    environment = {name: value for name, value in stack.env.items() if name not in kept_back} | {
        name: value for name, value in repository.environment().items() if name != "GITHUB_TOKEN"
    }
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        environment[name] = str(folder / name)
    environment |= {"RUNNER_TEMP": str(folder), "GITHUB_EVENT_PATH": str(folder / "event.json")}
    environment |= {"GITHUB_RUN_ID": "500", "GITHUB_RUN_ATTEMPT": "1"}

    def execute(line: str, surroundings: dict[str, str]) -> int:
        done = subprocess.run(
            ["bash", "-ec", line], cwd=stack.folder, env=surroundings, text=True, capture_output=True, timeout=600
        )
        stack.said.append(done.stdout + done.stderr)
        print(done.stdout, done.stderr)
        return done.returncode

    def run(file: str, job: str) -> bool:
        reference = f"{github.REPOSITORY}/.github/workflows/{file}@refs/heads/main"
        return workflows.run(file, job, names, environment | {"GITHUB_WORKFLOW_REF": reference}, execute)

    return run
