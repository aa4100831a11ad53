"""The policy pack in the real engine, on the program itself. A preview needs no cluster, so there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from local import pulumi_home
from local.paths import PROGRAM, ROOT
from tests.support.patience import PATIENCE_SECONDS

# They install the pack's own packages, and run the engine six times; the rules themselves have unit tests.
pytestmark = pytest.mark.soak
_NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "rehearsal", "cluster": {"server": "http://127.0.0.1:9"}}],
    "users": [{"name": "rehearsal", "user": {}}],
    "contexts": [{"name": "rehearsal", "context": {"cluster": "rehearsal", "user": "rehearsal"}}],
}


class Project:
    """The program in its own folder, with a stack `dev` and the pack beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in PROGRAM:
            (folder / part).symlink_to(ROOT / part)
        (folder / "kubeconfig").write_text(json.dumps(_NOWHERE))
        plane: Any = SimpleNamespace(kubeconfig=folder / "kubeconfig", folder=folder / "plane")
        self.environment = pulumi_home.environment(plane, folder / "state")
        self.settings = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())["config"]
        del self.settings["modelserve:apiKey"]
        assert self.run("stack", "init", "dev").returncode == 0

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pulumi", *words, "--non-interactive", "--color", "never"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def preview(self, pack_config: dict[str, Any], **settings: Any) -> subprocess.CompletedProcess[str]:
        whole = self.settings | {f"modelserve:{key}": value for key, value in settings.items()}
        path = self.folder / "Pulumi.dev.yaml"
        salt = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(salt | {"config": whole}))
        (self.folder / "pack.json").write_text(json.dumps(pack_config))
        pack = ("--policy-pack", str(ROOT / "policy"), "--policy-pack-config", "pack.json")
        return self.run("preview", "--stack", "dev", *pack)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    pulumi_home.install()
    subprocess.run(["make", "-s", "policy"], cwd=ROOT, check=True, env=os.environ | {"MAKEFLAGS": ""})
    return Project(tmp_path_factory.mktemp("project"))


def test_the_engine_says_what_a_stack_is_advised_and_lets_it_pass(project: Project) -> None:
    done = project.preview({})
    assert done.returncode == 0, done.stdout + done.stderr
    for rule in ("image-digest", "engine-holes", "tagged"):
        assert f"[advisory]  {rule}  (" in done.stdout, done.stdout
    assert "[mandatory]" not in done.stdout and "can't run policy" not in done.stdout


def test_the_engine_stops_a_stack_that_breaks_a_mandatory_rule_by_the_packs_config(project: Project) -> None:
    prices = {"currency": "CNY", "perGpuHour": 10, "asOf": "2026-11-01"}
    given = {"price-at-most": {"most": 100}, "image-registry": {"allowed": ["registry.example.com"]}}
    done = project.preview(given, prices=prices, owner="team")
    assert done.returncode != 0
    assert "it costs 160.00 CNY an hour, the bound is 100" in done.stdout, done.stdout
    assert "image vllm/vllm-openai:v0.7.3 is from docker.io, which is not allowed" in done.stdout
    assert "[advisory]  tagged  (" not in done.stdout


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"price-at-mots": {"enforcementLevel": "advisory", "most": 1}},
            "price-at-mots: unknown key; did you mean price-at-most?",
        ),
        ({"price-at-most": {"mots": 1}}, "price-at-most.mots: unknown key; did you mean most?"),
    ],
)
def test_a_pack_config_with_unknown_keys_is_refused(project: Project, wrong: dict[str, Any], said: str) -> None:
    done = project.preview(wrong)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_the_engine_finds_in_a_state_what_the_command_finds(project: Project, tmp_path: Path) -> None:
    bucket = "alicloud:oss/bucket:Bucket"
    urn = "urn:pulumi:dev::modelserve::"
    manifest = {"time": "2026-11-29T00:00:00Z", "magic": "", "version": ""}
    root = {"urn": f"{urn}pulumi:pulumi:Stack::modelserve-dev", "type": "pulumi:pulumi:Stack", "custom": False}
    weights = {"urn": f"{urn}{bucket}::weights", "type": bucket, "custom": True, "id": "w", "inputs": {}, "outputs": {}}
    kept = {**weights, "urn": f"{urn}{bucket}::kept", "id": "k", "protect": True}
    outputs = {"owner": "team", "expires": "2020-01-01"}
    whole = {"manifest": manifest, "resources": [{**root, "outputs": outputs}, weights, kept]}
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"version": 3, "deployment": whole}))
    pack = ("--policy-pack", str(ROOT / "policy"))
    done = project.run("policy", "analyze", "--file", str(path), *pack)
    command = [sys.executable, "-m", "ops", "policy", str(path), "--format", "json"]
    listed = json.loads(
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout
    )
    assert sorted(each["id"] for each in listed) == ["not-expired", "weights-kept"]
    assert done.returncode != 0
    for each in listed:
        assert each["reason"] in done.stdout, done.stdout + done.stderr
