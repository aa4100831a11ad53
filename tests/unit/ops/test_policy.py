"""`ops policy` on states, and what `ops check` says of the same rules from the stack file alone."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.plans import checked
from config.stack_file import read
from local.paths import ROOT
from ops import render
from ops.__main__ import main
from ops.outline import outline
from policy import document, pack_config, rules
from policy.rule_types import Resource, Stack

STACK_URN = "urn:pulumi:acs::modelserve::pulumi:pulumi:Stack::modelserve-acs"
TODAY = datetime.date(2026, 11, 29)
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:abc"}


def state(*resources: dict[str, Any], **outputs: Any) -> dict[str, Any]:
    root = {"urn": STACK_URN, "type": "pulumi:pulumi:Stack", "outputs": {"owner": "team", **outputs}}
    return {"version": 3, "deployment": {"manifest": {}, "resources": [root, *resources]}}


def bucket(**more: Any) -> dict[str, Any]:
    kind = "alicloud:oss/bucket:Bucket"
    return {"urn": f"urn:pulumi:acs::modelserve::{kind}::weights", "type": kind, "inputs": {"bucket": "w"}, **more}


@pytest.fixture
def policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(given: Any, *more: str) -> tuple[int, str, str]:
        path = tmp_path / "state.json"
        path.write_text(given if isinstance(given, str) else json.dumps(given))
        code = main(["policy", str(path), *more])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_findings_of_a_state_are_one_plain_list_and_a_mandatory_one_is_exit_code_1(policy):
    code, out, _ = policy(state(bucket()), "--format", "json")
    assert code == 1
    assert json.loads(out) == [
        {
            "id": "weights-kept",
            "severity": "mandatory",
            "resource": "weights",
            "reason": "it may hold weights, and a destroy takes it along",
            "remedy": "write keep: true",
        }
    ]


@pytest.mark.parametrize("kept", [{"protect": True}, {"retainOnDelete": True}, {"delete": True}])
def test_a_bucket_that_is_kept_or_gone_already_is_let_pass(policy, kept):
    assert json.loads(policy(state(bucket(**kept)), "--format", "json")[1]) == []


def test_an_advisory_finding_is_no_failure_and_text_says_what_to_do(policy):
    code, out, _ = policy(state(owner=""))
    first, last = out.splitlines()
    assert code == 0
    assert first == "advisory tagged: modelserve-acs: it says no owner; write it into the stack file"
    assert last.endswith("0 mandatory, 1 advisory")


def test_encrypted_values_are_neither_judged_nor_shown(policy):
    env = {"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET}
    pod = {"kind": "Pod", "spec": {"containers": [{"name": "a", "image": "a:v1@sha256:" + "0" * 64, "env": [env]}]}}
    kind = "kubernetes:core/v1:Pod"
    given = {"urn": f"urn:pulumi:acs::modelserve::{kind}::p", "type": kind, "outputs": {**pod, "__inputs": pod}}
    _, out, _ = policy(state(given), "--format", "json")
    assert [each["id"] for each in json.loads(out)] == ["no-plain-keys"]
    assert "v1:abc" not in out


def test_a_config_of_ones_own_decides(policy, tmp_path):
    (tmp_path / "pack.json").write_text(json.dumps({"weights-kept": "disabled"}))
    assert policy(state(bucket()), "--config", str(tmp_path / "pack.json"))[0] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"version": 3, "deploy', "is no whole JSON"),
        ({"steps": []}, "has no deployment with resources"),
        ([], "has no deployment with resources"),
        ({"deployment": {"resources": [{"type": 5, "urn": 7, "inputs": [1]}]}}, "has resources of no stack"),
        ("[" * 100_000, "is no whole JSON"),
        (json.dumps(state()).replace("::modelserve::", "::other::"), "is of project other; write one of modelserve"),
    ],
)
def test_what_is_no_state_of_this_project_is_refused_in_one_line(policy, given, said):
    code, out, err = policy(given)
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1


def test_a_stack_that_was_never_deployed_has_no_findings(policy):
    assert policy({"version": 3, "deployment": {"manifest": {}}})[0] == 0


TOUCHED = {
    "acs": {
        'image: "registry-cn': 'image: "registry-us',
        "      replicas: 1": "      autoscaling: {engine: hpa, maximum: 2}",
        "  modelserve:cache:": "  modelserve:monitoring: {enabled: true}\n  modelserve:cache:",
    },
    "volcengine": {
        "replicas: 1": "autoscaling: {minimum: 1, maximum: 2}\n      rollout: {strategy: RollingUpdate, maxSurge: 1}",
        'aibrix: {install: true, version: "0.7.0", registry: aibrix-cn-beijing.cr.volces.com, address: private}': (
            'aibrix: {install: false, version: "0.7.0"}'
        ),
    },
}


@pytest.mark.parametrize("name", TOUCHED)
def test_check_finds_from_the_stack_file_what_the_rules_find_in_the_objects(name, tmp_path):
    text = (ROOT / f"Pulumi.{name}.yaml").read_text()
    for old, new in TOUCHED[name].items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / f"Pulumi.{name}.yaml"
    path.write_text(text)
    file = read(path)
    config, plans = checked(file, with_cluster=False)
    told = pack_config.parse(
        {"image-registry": {"allowed": ["registry.example.com"]}, "drain-covers-answers": {"seconds": 9999}}
    )

    def early(resources: list[Resource]) -> set[tuple[str, str]]:
        found = rules.judge(Stack(resources, TODAY), told.values, told.levels, only=lambda rule: rule.early)
        return {(each.id, each.reason) for each in found}

    drawn = [each for each in outline(config, plans, name) if each.kind]
    objects = [Resource(f"kubernetes::{each['kind']}", "", each) for each in render.render(file, name)]
    # AIBrix's own image is beside the engine there, and no stack file names it.
    whole = {each for each in early(objects) if "aibrix/runtime" not in each[1]}
    assert early(drawn) == whole
    assert {"image-registry", "image-digest", "drain-covers-answers"} <= {rule for rule, _ in whole}


def test_check_refuses_a_stack_that_is_over_its_price_or_its_day(tmp_path, monkeypatch, capsys):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("contexts: [{name: rehearsal}]")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    pack = tmp_path / "config.json"
    pack.write_text(json.dumps({"price-at-most": {"most": 100}}))
    monkeypatch.setattr(pack_config, "FILE", pack)
    given = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())
    given["config"] |= {
        "modelserve:expires": "2020-01-01",
        "modelserve:prices": {"currency": "CNY", "perGpuHour": 10, "asOf": "2026-11-01"},
    }
    path = tmp_path / "Pulumi.dear.yaml"
    path.write_text(json.dumps(given))
    assert main(["check", "dear", "--config", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [each["id"] for each in found["policy"] if each["severity"] == "mandatory"] == [
        "price-at-most",
        "not-expired",
    ]
    assert main(["check", "dear", "--config", str(path)]) == 1
    assert "policy: mandatory price-at-most: dear: it costs 160.00 CNY an hour" in capsys.readouterr().out


def test_the_page_has_the_rules_of_now():
    text = document.PAGE.read_text()
    assert text == document.page(text), "run: python -m policy.document"
