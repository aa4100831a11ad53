"""`python -m ops report`: its exit codes, its forms, and what it refuses."""

from __future__ import annotations

import json

import pytest

from ops.__main__ import main
from policy import pack_config
from tests.support.reports import DRIFT, PREVIEWS, text_of


@pytest.fixture
def file(tmp_path):
    """A recorded preview as a file."""

    def put(name: str):
        path = tmp_path / f"{name}.json"
        path.write_text(text_of(PREVIEWS / f"{name}.json.xz"))
        return str(path)

    return put


def test_a_preview_is_told_in_every_form(file, capsys):
    for form, said in {"markdown": "### 🔁 prod", "text": "prod: restarts ds", "json": '"verdict": "restart"'}.items():
        assert main(["report", file("image"), "--format", form]) == 0
        assert said in capsys.readouterr().out


def test_data_that_goes_stops_until_its_label_is_there(file, capsys):
    assert main(["report", file("model-removed"), "--format", "json"]) == 1
    missing = json.loads(capsys.readouterr().out)["missing"]
    assert main(["report", file("model-removed"), "--allow", "bug", *missing]) == 0


def test_a_policy_error_stops_too(file, tmp_path, capsys):
    findings = tmp_path / "findings.json"
    findings.write_text(json.dumps([{"id": "guard", "severity": "error", "resource": "Service ds", "reason": "open"}]))
    assert main(["report", file("no-op"), "--findings", str(findings)]) == 1
    assert "error `guard` at Service ds: open" in capsys.readouterr().out
    assert main(["report", file("no-op"), "--findings", str(findings), "--allow", "allow-policy"]) == 0


def test_the_policies_of_check_judge_the_config_of_the_preview_and_stop_it_until_its_label(
    file, tmp_path, monkeypatch, capsys
):
    pack = tmp_path / "config.json"
    pack.write_text(json.dumps({"price-at-most": {"most": 1}}))
    monkeypatch.setattr(pack_config, "FILE", pack)
    assert main(["report", file("no-op")]) == 1
    said = capsys.readouterr().out
    assert "### 🛑 prod: breaks the policy price-at-most; nothing changes" in said
    assert "mandatory `price-at-most` at prod: it costs 756.00 CNY an hour, the bound is 1; " in said
    assert "labelled `allow-policy:price-at-most`" in said
    assert main(["report", file("replicas")]) == 1
    assert "prod: breaks the policy price-at-most; scales qwen" in capsys.readouterr().out
    assert main(["report", file("no-op"), "--allow", "allow-policy"]) == 0
    assert "(a label allows it)" in capsys.readouterr().out
    pack.write_text("{}")
    assert main(["report", file("no-op")]) == 0
    assert "olicy" not in capsys.readouterr().out
    assert main(["report", file("image")]) == 0
    assert "Also advised: " in capsys.readouterr().out


def test_a_finding_of_a_severity_that_nobody_knows_is_refused_rather_than_let_pass(file, tmp_path, capsys):
    findings = tmp_path / "findings.json"
    findings.write_text(json.dumps([{"id": "a", "severity": "critical", "resource": "b", "reason": "c"}]))
    assert main(["report", file("no-op"), "--findings", str(findings)]) == 2
    assert "--findings critical: is no severity; write one of mandatory, error, " in capsys.readouterr().err


def test_what_cannot_be_read_is_refused_in_one_line(file, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\xff\xfe")
    half = tmp_path / "half.json"
    half.write_text(text_of(PREVIEWS / "image.json.xz")[:900])
    for arguments, said in {
        (str(tmp_path / "none.json"),): "No such file",
        (str(tmp_path),): "Is a directory",
        (str(broken),): "is no text",
        (str(half),): "is cut off",
        (file("image"), "--allow", "allow-all"): "--allow allow-all: allows nothing",
        (file("image"), "--events"): "leave --events out",
        (file("image"), "--findings", str(broken)): "is no list of findings",
        (file("image"), "--findings", str(tmp_path / "none")): "No such file",
    }.items():
        assert main(["report", *arguments]) == 2
        told = capsys.readouterr()
        assert said in told.err and told.err.count("\n") == 1 and not told.out


@pytest.mark.parametrize("form", [["--format", "json"], ["--format=json"]])
def test_who_asks_for_json_gets_refusals_as_json(form, capsys):
    assert main(["drift", "nowhere.json", *form]) == 2
    assert "nowhere.json" in json.loads(capsys.readouterr().out)["refusals"][0]["why"]


@pytest.mark.parametrize(
    ("command", "record", "other"),
    [
        ("drift", PREVIEWS / "image.json.xz", "report"),
        ("drift", PREVIEWS / "up-image.json.xz", "report"),
        ("report", DRIFT / "image-digest.json.xz", "drift"),
        ("report", DRIFT / "interrupted.json.xz", "drift"),
    ],
)
def test_a_record_for_the_other_command_is_sent_there(command, record, other, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(text_of(record))
    assert main([command, str(path)]) == 2
    told = capsys.readouterr()
    assert f"give it to `python -m ops {other}`" in told.err and not told.out


def test_a_preview_of_another_project_is_refused(file, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(text_of(PREVIEWS / "image.json.xz").replace("::modelserve::", "::webshop::"))
    assert main(["report", str(other)]) == 2
    assert "webshop: is the project that it tells of" in capsys.readouterr().err
