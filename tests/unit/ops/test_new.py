"""`ops new`: a stack file that says the same as the one it is made like, with every key, and nothing by mistake."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import pulumi_yaml
from config.judge import judge
from config.keys import parts
from config.stack import StackConfig
from config.stack_file import read
from local.paths import ROOT
from ops import stack_text
from ops.__main__ import main
from tests.support.ways import WAYS, secrets

OWN = ("--set", "cluster.context=here", "--set", "weights.bucket.name=dev-weights")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in ROOT.glob("Pulumi*.yaml"):
        if file.name.count(".") == 1 or file.name.split(".")[1] in ("local", "acs", "volcengine"):
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    return tmp_path


def made(*args: str) -> dict[str, Any]:
    assert main(["new", "dev", *args]) == 0
    return read(Path("Pulumi.dev.yaml")).raw


@pytest.mark.parametrize("way", WAYS)
def test_a_written_file_says_what_it_was_given_in_every_way_through_the_builders(way: str):
    raw = WAYS[way]
    text = stack_text.written("A stack.", raw, {}, {"encryptionsalt": "v1:x="}, raw["cloud"]["kind"])
    document = pulumi_yaml.read(text)
    assert document.problems == []
    assert document.value["config"] == {f"modelserve:{key}": value for key, value in raw.items()}
    assert document.value["encryptionsalt"] == "v1:x="
    assert max(map(len, text.splitlines())) <= 120 or way == "acs, a series of its own"


@pytest.mark.parametrize("cloud", ["local", "acs", "volcengine"])
def test_every_key_that_the_cloud_has_a_use_for_is_there_and_without_its_number_sign_it_is_a_known_key(cloud: str):
    raw = WAYS[cloud]
    text = stack_text.written("A stack.", raw, {}, {}, cloud)
    whole = pulumi_yaml.read(re.sub(r"(?m)^( *)#(?! )", r"\1", text))
    assert whole.problems == []
    config = {key.removeprefix("modelserve:"): value for key, value in whole.value["config"].items()}
    _, problems = judge(config, secrets=secrets(cloud))
    assert [problem for problem in problems if problem.why == "unknown key"] == []
    assert config.keys() == {key.name for key in parts()["StackConfig"].keys if cloud in key.clouds}
    service = next(iter(config["services"].values()))
    assert service.keys() == {key.name for key in parts()["Service"].keys if cloud in key.clouds}
    assert service["pod"].keys() == {key.name for key in parts()["EnginePod"].keys}


def test_a_key_that_is_a_comment_applies_as_the_comment_says():
    raw = WAYS["acs"]
    text = stack_text.written("A stack.", raw, {}, {}, "acs")
    on = re.sub(r"(?m)^( *)#(port|unproven|servedModelName|paths|restartPolicy|reasoningParser|read):", r"\1\2:", text)
    assert on != text
    config = {key.removeprefix("modelserve:"): value for key, value in pulumi_yaml.read(on).value["config"].items()}
    assert parsed(config) == parsed(raw)


def parsed(raw: dict[str, Any]) -> StackConfig:
    config, problems = judge(raw, secrets=("apiKey",))
    assert problems == []
    return config


def test_a_new_stack_has_the_other_ones_values_but_for_its_own_and_its_secrets(capsys):
    like = read(Path("Pulumi.acs.yaml")).raw
    assert made(
        "--like", "acs", *OWN, "--set", "services.ds.replicas=2", "--set", "services.ds.engine.extraArgs=null"
    ) == {
        **like,
        "cluster": {**like["cluster"], "context": "here"},
        "weights": {**like["weights"], "bucket": {**like["weights"]["bucket"], "name": "dev-weights"}},
        "services": {
            "ds": {
                **like["services"]["ds"],
                "replicas": 2,
                "engine": {key: v for key, v in like["services"]["ds"]["engine"].items() if key != "extraArgs"},
            }
        },
    }
    assert "python -m ops check dev" in capsys.readouterr().out


def test_a_new_local_stack_needs_no_value_of_its_own_and_names_the_secret_that_is_not_copied(capsys):
    assert made("--like", "local") == read(Path("Pulumi.local.yaml")).raw
    assert "pulumi config set --secret modelserve:apiKey -s dev" in capsys.readouterr().out
    text = Path("Pulumi.dev.yaml").read_text()
    assert "secure" not in text and "encryptionsalt" not in text


def test_what_pulumi_has_already_written_of_a_stack_stays(capsys):
    begun = {"config": {"modelserve:apiKey": {"secure": "v1:abc:def="}}, "encryptionsalt": "v1:salt="}
    Path("Pulumi.dev.yaml").write_text(yaml.safe_dump(begun))
    made("--like", "local")
    whole = yaml.safe_load(Path("Pulumi.dev.yaml").read_text())
    assert whole["config"]["modelserve:apiKey"] == begun["config"]["modelserve:apiKey"]
    assert whole["encryptionsalt"] == "v1:salt=" and "modelserve:cloud" in whole["config"]
    assert "config set" not in capsys.readouterr().out


def test_values_that_stacks_share_stay_in_the_project_file():
    Path("Pulumi.yaml").write_text(
        "name: modelserve\nruntime: python\nconfig:\n  modelserve:registry: {value: registry.example.com}\n"
    )
    assert made("--like", "local")["registry"] == "registry.example.com"
    assert "\n  #modelserve:registry:" in Path("Pulumi.dev.yaml").read_text()


REFUSED = {
    "it exists": (["local", "--like", "acs", *OWN], "stack local: Pulumi.local.yaml exists already; take another name"),
    "no name": (["a/b", "--like", "local"], "stack a/b: is not a stack's name; write at most 100"),
    "like nothing": (["dev", "--like", "prod"], "stack prod: Pulumi.prod.yaml does not exist; stacks here: acs, local"),
    "missing": (
        ["dev", "--like", "acs"],
        "cluster.context: is missing, and must be the stack's own; write --set cluster.context=…",
        "weights.bucket.name: is missing, and must be the stack's own; write --set weights.bucket.name=…",
    ),
    "misspelt": (
        ["dev", "--like", "acs", *OWN, "--set", "cluster.contxt=x"],
        "cluster.contxt: x: unknown key; did you",
    ),
    "wrong": (["dev", "--like", "local", "--set", "services.ds.replicas=two"], "services.ds.replicas: two: is not a"),
    "does not fit": (["dev", "--like", "local", "--set", "cloud.gpu=H20-96:40"], "modelserve:services.ds"),
    "no assignment": (
        ["dev", "--like", "local", "--set", "cluster"],
        "--set cluster: is no assignment; write one such",
    ),
    "through a text": (["dev", "--like", "local", "--set", "cluster.context.a=1"], "--set cluster.context.a: leads"),
    "no yaml": (
        ["dev", "--like", "local", "--set", "cluster.context={"],
        "cluster.context: {: is not YAML; put it in quotes",
    ),
    "a secret": (
        ["dev", "--like", "local", "--set", "apiKey=sk-canary"],
        "--set apiKey: is a secret; once the file is there, run: pulumi config set --secret modelserve:apiKey",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_and_nothing_is_written(name: str, folder: Path, capsys):
    (args, *said) = REFUSED[name]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert main(["new", *args]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [part for part in said if not any(part in line for line in lines)] == []
    assert len(lines) == len(said) and "sk-canary" not in "".join(lines)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_terminal_is_asked_for_what_must_be_its_own_and_offered_the_rest(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return {"cluster.context": "here", "weights.bucket.name": "dev-weights"}.get(question.partition(":")[0], "")

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    raw = made("--like", "acs")
    assert (raw["cluster"]["context"], raw["weights"]["bucket"]["name"]) == ("here", "dev-weights")
    assert raw["cloud"]["region"] == "cn-hangzhou"
    assert "cloud.region: the region of cluster and bucket, such as cn-hangzhou [cn-hangzhou]\n> " in asked
    assert "cluster.context: the kubeconfig's context, by name\n> " in asked


def test_a_placeholder_of_the_other_stack_is_asked_for(capsys):
    text = Path("Pulumi.local.yaml").read_text().replace("model-weights", '"<your claim>"')
    Path("Pulumi.start.yaml").write_text(text)
    assert main(["new", "dev", "--like", "start"]) == 2
    assert "weights.claim: is missing" in capsys.readouterr().err
    assert made("--like", "start", "--set", "weights.claim=mine")["weights"]["claim"] == "mine"


def test_the_workflows_list_is_shown_with_the_new_stack(folder: Path, capsys):
    (folder / ".github").mkdir()
    (folder / ".github" / "stacks.json").write_text('["acs"]')
    made("--like", "local")
    assert 'next: write ["acs", "dev"] into .github/stacks.json' in capsys.readouterr().out


def test_a_workflows_list_that_is_none_is_not_added_to(folder: Path, capsys):
    (folder / ".github").mkdir()
    (folder / ".github" / "stacks.json").write_text("5")
    made("--like", "local")
    assert "stacks.json" not in capsys.readouterr().out
