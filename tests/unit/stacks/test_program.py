"""What Pulumi runs: a preview gives the same refusals and warnings as `check` for the same file."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pulumi
import pytest
from pulumi.runtime import config as engine_config

from config.plans import checked
from config.secrets import SECRETS
from config.stack_file import StackFile, read
from local.paths import ROOT
from ops.__main__ import main
from planning.names import Live
from stacks import program
from stacks.plan_summary import outputs
from watch import switchover
from watch.api_server import UnansweredError

SMALL = {"gpu: H20-96": "gpu: L20-48", "      replicas: 1": "      replicas: 1\n      unproven: true"}
KEY = "  modelserve:apiKey:"


@pytest.fixture
def said(monkeypatch, tmp_path) -> list[str]:
    """The messages that the program logs; nothing is registered."""
    found: list[str] = []
    (tmp_path / "kubeconfig").write_text("contexts: [{name: rehearsal}]")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(program, "build", lambda *_: {})
    monkeypatch.setattr(program, "held", contextlib.nullcontext)
    monkeypatch.setattr(pulumi.log, "info", found.append)
    monkeypatch.setattr(pulumi.log, "warn", lambda line: found.append(f"warning: {line}"))
    monkeypatch.setattr(engine_config, "CONFIG", engine_config.CONFIG)
    return found


@pytest.fixture
def stack(tmp_path):
    def made(changes: dict[str, str], more: str = "") -> Path:
        text = (ROOT / "Pulumi.local.yaml").read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "Pulumi.dev.yaml"
        path.write_text(text.replace("encryptionsalt", f"{more}\nencryptionsalt"))
        return path

    return made


def preview(file: StackFile, **secrets: str) -> None:
    """Runs the program with the config that the engine passes to it."""
    given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in file.plain.items()}
    ours = {f"modelserve:{key}": secrets.get(key, "canary") for key in (*file.encrypted, *secrets)}
    pulumi.runtime.set_all_config(given | ours, list(ours))
    program.run()


@pytest.mark.parametrize("more", ["", "  alicloud:secretKey: canary", "  alicloud:region: cn-beijing"])
@pytest.mark.parametrize("changes", [{}, {KEY: "  any:apiKey:"}, SMALL])
def test_check_says_what_the_preview_says(said, stack, capsys, changes, more):
    path = stack(changes, more)
    preview(read(path))
    assert main(["check", "dev", "--config", str(path)]) == 0
    verdict, *lines = capsys.readouterr().out.splitlines()
    # A preview shows those only with the policy pack, which the engine runs.
    lines = [line for line in lines if not line.startswith("policy: ")]
    assert lines == said and "canary" not in "".join(said)
    assert verdict.endswith("GPUs: ds does not fit, deployed unproven" if changes is SMALL else "GPUs: fine")
    assert main(["check", "dev", "--config", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["fits"] == found["plans"]["ds"]["fits"] == (changes is not SMALL)
    assert [f"warning: {line}" for line in found["warnings"]] == [line for line in said if line.startswith("warning")]
    assert found["plans"]["ds"]["startupSeconds"] > found["plans"]["ds"]["floorSeconds"] > 0


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize("value", ["", " \n"])
def test_a_secret_that_the_engine_decrypts_to_nothing_is_refused(said, stack, key, value):
    with pytest.raises(pulumi.RunError, match=rf"modelserve:{key}: \(empty\): an empty secret"):
        preview(read(stack({})), **{key: value})


def test_an_empty_text_in_place_of_a_secret_is_refused_by_the_program_too(said, stack):
    file = read(stack({}))
    given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in file.plain.items()}
    pulumi.runtime.set_all_config(given | {"modelserve:apiKey": ""}, [])
    with pytest.raises(pulumi.RunError, match=r"modelserve:apiKey: \(empty\)"):
        program.run()


@pytest.mark.parametrize(("day", "over"), [("2020-01-31", True), ("2999-01-01", False)])
def test_a_stack_whose_last_day_is_over_is_not_brought_up(said, stack, day, over):
    path = stack({}, f"  modelserve:expires: {day}")
    with (
        pytest.raises(pulumi.RunError, match=f"modelserve:expires: {day}: is over")
        if over
        else contextlib.nullcontext()
    ):
        preview(read(path))


def test_nothing_is_changed_where_nobody_tells_which_group_has_the_requests(said, stack, monkeypatch):
    path = stack({"      replicas: 1": "      replicas: 1\n      rollout: {strategy: blueGreen}"})
    why = (
        r"services.ds.rollout.strategy: blueGreen: the cluster does not tell which group has .* \(its kubeconfig is of"
    )
    # Whichever test ran before: the SDK keeps what the last one was.
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: False)
    with pytest.raises(pulumi.RunError, match=why):
        preview(read(path))
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: True)
    preview(read(path))
    assert any(line.startswith("warning: ds: which group has the requests is unknown (its kubeconf") for line in said)


def test_an_up_takes_back_what_a_run_has_left_divided_and_a_preview_only_reads(said, stack, monkeypatch):
    path = stack({"      replicas: 1": "      replicas: 1\n      rollout: {strategy: blueGreen}"})
    taken = []

    def take_back(_config, _kubeconfig, name):
        taken.append(name)
        return {name: UnansweredError("HTTP 403")} if len(taken) > 1 else {}

    monkeypatch.setattr(switchover, "live", lambda *_: ({"ds": Live("blue", "a1", divided=True)}, {}))
    monkeypatch.setattr(switchover, "take_back", take_back)
    for dry_run, wanted in ((True, []), (False, ["ds"])):
        monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda dry_run=dry_run: dry_run)
        preview(read(path))
        assert taken == wanted
    assert any("ds: a run has ended amid its shares: the old group gets all requests again" in line for line in said)
    with pytest.raises(pulumi.RunError, match=r"has the requests \(HTTP 403\)"):
        preview(read(path))


def test_owner_last_day_and_what_policies_read_of_a_plan_are_outputs(stack):
    config, plans = checked(
        read(stack({}, "  modelserve:owner: team\n  modelserve:expires: 2999-01-01")), with_cluster=False
    )
    found = outputs(config, plans)
    assert (found["owner"], found["expires"]) == ("team", "2999-01-01")
    planned = plans["ds"]
    told = {key: found["plan"]["ds"][key] for key in ("engine", "podStartSeconds", "longestAnswerSeconds")}
    assert told == {
        "engine": "0.7.3",
        "podStartSeconds": planned.startup_seconds,
        "longestAnswerSeconds": planned.drain_seconds,
    }
    config, plans = checked(read(stack({})), with_cluster=False)
    assert outputs(config, plans).keys() == {"plan"}
