"""What a killed run left becomes a state that is true: our own goes in, what is gone goes out, the foreign is named."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops import recover
from ops.recover import drop_torn_attributes
from watch.cloud_lists import _CALLERS, BALANCERS, KINDS, Clouds, Item
from watch.helm_releases import Release, moment
from watch.outcomes import Found, UnreadError, Verdict, compare, settle, verdict
from watch.stack_objects import StackObjects

GROUP, CHART = "kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet", "kubernetes:helm.sh/v3:Release"
KEY = "volcengine:iam/accessKey:AccessKey"
FOREIGN = Found(ours=False)


def group(**more: Any) -> dict[str, Any]:
    metadata = {"name": "ds", "namespace": "default"}
    inputs = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": metadata}
    return {"urn": f"urn:pulumi:dev::modelserve::{GROUP}::ds", "type": GROUP, "custom": True, "inputs": inputs, **more}


def release(**more: Any) -> dict[str, Any]:
    inputs = {"name": "ack-fluid", "namespace": "fluid-system", "timeout": 600}
    urn = f"urn:pulumi:dev::modelserve::{CHART}::addons-fluid"
    return {"urn": urn, "type": CHART, "custom": True, "inputs": inputs, **more}


def key(**more: Any) -> dict[str, Any]:
    urn = f"urn:pulumi:dev::modelserve::{KEY}::reader"
    return {"urn": urn, "type": KEY, "custom": True, "inputs": {"userName": "r"}, **more}


def state(*operations: tuple[str, dict[str, Any]], resources: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    pending = [{"type": kind, "resource": resource} for kind, resource in operations]
    return {"deployment": {"resources": resources or [], "pending_operations": pending}}


@pytest.mark.parametrize(
    ("operation", "found", "outcome"),
    [
        ("creating", None, Verdict.NOT_MADE),
        ("creating", Found(), Verdict.MADE),
        ("creating", FOREIGN, Verdict.FOREIGN),
        ("creating", Found(setting=True), Verdict.WRITTEN_AGAIN),
        ("creating", Found(lost=True), Verdict.LOST),
        ("creating", Found(unlisted=True), Verdict.UNLISTED),
        ("updating", None, Verdict.GONE),
        ("updating", Found(), Verdict.CHANGED),
        ("updating", FOREIGN, Verdict.CHANGED),
        ("deleting", None, Verdict.GONE),
        ("deleting", Found(), Verdict.KEPT),
        ("deleting", Found(going=True), Verdict.GOING),
        ("deleting", Found(unlisted=True), Verdict.REPEATED),
    ],
)
def test_each_cut_off_operation_has_one_outcome(operation: str, found: Found | None, outcome: Verdict):
    assert verdict(operation, found) is outcome


def test_a_provider_without_inputs_is_in_nobodys_way():
    provider = {"urn": "urn:pulumi:dev::modelserve::pulumi:providers:pulumi::default", "custom": True}
    found = state(("creating", group()), resources=[{**provider, "type": "pulumi:providers:pulumi"}])
    with pytest.raises(UnreadError):
        Clouds(found, None).look(group())


@pytest.mark.parametrize(
    ("made", "said", "id"),
    [
        (group(parent="urn:parent"), "LeaderWorkerSet default/ds", "default/ds"),
        (release(parent="urn:parent"), "Release fluid-system/ack-fluid", "fluid-system/ack-fluid"),
    ],
)
def test_what_was_made_is_taken_into_the_state_as_not_yet_ready(made: dict[str, Any], said: str, id: str):
    found = state(("creating", made))
    [outcome] = settle(found, lambda resource: Found(id=id))
    assert outcome.line == f"{said}: was made; taken into the state" and not outcome.is_reread
    [entry] = found["deployment"]["resources"]
    assert entry["id"] == id and entry["initErrors"] and entry["parent"] == "urn:parent"
    assert entry["outputs"] == entry["inputs"] and found["deployment"]["pending_operations"] == []


def test_an_object_that_was_made_is_written_by_the_manager_of_the_killed_run_from_then_on():
    found = state(("creating", group()))
    settle(found, lambda resource: Found(id="default/ds", manager="pulumi-kubernetes-1"))
    [entry] = found["deployment"]["resources"]
    assert entry["outputs"] == entry["inputs"] | {"__fieldManager": "pulumi-kubernetes-1"}


def test_what_a_cloud_made_is_taken_into_the_state_and_read_there():
    made = {"urn": "u::bucket", "type": "alicloud:oss/bucket:Bucket", "custom": True, "inputs": {"bucket": "b"}}
    found = state(("creating", made))
    [outcome] = settle(found, lambda resource: Found(id="b"))
    [entry] = found["deployment"]["resources"]
    assert outcome.line == "Bucket bucket: was made; taken into the state" and outcome.is_reread
    assert entry["id"] == "b" and "initErrors" not in entry


def test_a_key_whose_secret_died_with_its_maker_is_entered_only_to_be_deleted():
    found = state(("creating", key()), resources=[key(id="known")])
    settle(found, lambda resource: Found(id="lost", lost=True))
    assert [(each["id"], each.get("delete", False)) for each in found["deployment"]["resources"]] == [
        ("known", False),
        ("lost", True),
    ]


@pytest.mark.parametrize("found", [None, FOREIGN, Found(setting=True), Found(unlisted=True)])
def test_what_is_not_there_or_not_ours_to_keep_is_forgotten(found: Found | None):
    stood = state(("creating", group()))
    settle(stood, lambda resource: found)
    assert stood == state()


def test_what_could_not_be_looked_up_stays_pending_with_the_reason():
    def look(resource: dict[str, Any]) -> Found | None:
        raise UnreadError("no such host")

    found = state(("creating", group()))
    [outcome] = settle(found, look)
    assert outcome.line.endswith("could not be looked up (no such host)") and found == state(("creating", group()))


@pytest.mark.parametrize("kind", ["pulumi:pulumi:Stack", "pulumi:providers:alicloud"])
def test_what_is_nowhere_but_in_the_state_is_not_looked_up(kind: str):
    entry = {"urn": f"u::{kind}::a", "type": kind, "custom": kind.startswith("pulumi:providers:")}
    found = state(("creating", entry))
    assert settle(found, lambda resource: pytest.fail("looked up")) == [] and found == state()


def test_nothing_is_written_where_something_could_not_be_looked_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An import of a state throws away whatever is pending in it."""
    exported, asked = json.dumps(state(("creating", group()), ("creating", key()))), []

    def pulumi(*words: str, given: str | None = None) -> str:
        asked.append(words[:2])
        return {"whoami": '{"url": "https://api"}'}.get(words[0], exported)

    def unread(resource: dict[str, Any]) -> Found | None:
        raise UnreadError("no such host")

    monkeypatch.setattr(recover, "pulumi", pulumi)
    monkeypatch.setattr(recover, "_unlock", lambda *given, **options: None)
    monkeypatch.setattr(recover, "stack_file", lambda args: SimpleNamespace(config=lambda: None))
    monkeypatch.setattr(recover, "_cluster", lambda *given: SimpleNamespace(look=lambda resource: Found(id="a/b")))
    monkeypatch.setattr(recover, "Clouds", lambda *given: SimpleNamespace(look=unread))
    monkeypatch.setattr(recover.orphans, "plugins", lambda folder: [])
    assert recover.run(argparse.Namespace(stack="dev", force=False, force_user=None)) == 1
    assert ("stack", "import") not in asked
    assert capsys.readouterr().out.splitlines() == [
        "AccessKey reader: could not be looked up (no such host)",
        "dev: nothing was changed; recover again when that can be looked up",
    ]


def test_an_older_entry_of_the_same_urn_is_replaced_not_doubled():
    found = state(("creating", group()), resources=[group(id="old"), {"urn": "other"}])
    settle(found, lambda resource: Found())
    assert [each["urn"] for each in found["deployment"]["resources"]] == ["other", group()["urn"]]


@pytest.mark.parametrize("kind", ["deleting", "updating"])
@pytest.mark.parametrize("gone", [group(id="default/ds"), release(id="fluid-system/ack-fluid"), key(id="k")])
def test_what_is_gone_leaves_the_state(kind: str, gone: dict[str, Any]):
    replaced = copy.deepcopy(gone) | {"id": "another"}
    found = state((kind, gone), resources=[copy.deepcopy(gone), replaced])
    settle(found, lambda resource: None)
    assert found == state(resources=[replaced])


def test_nothing_in_the_state_names_what_has_left_it():
    urn = group()["urn"]
    other = {"urn": "o", "dependencies": ["a", urn], "propertyDependencies": {"spec": [urn]}, "deletedWith": urn}
    found = state(("deleting", group(id="x")), resources=[group(id="x"), other])
    settle(found, lambda resource: None)
    assert found == state(resources=[{"urn": "o", "dependencies": ["a"], "propertyDependencies": {"spec": []}}])


@pytest.mark.parametrize("kind", ["updating", "deleting"])
def test_what_was_being_changed_is_written_again_by_the_next_up_even_by_the_program_of_before(kind: str):
    found = state((kind, group(id="default/ds")), resources=[group(id="default/ds")])
    settle(found, lambda resource: Found())
    [entry] = found["deployment"]["resources"]
    assert entry["initErrors"] and found["deployment"]["pending_operations"] == []


def test_what_is_still_going_stays_in_the_state_and_is_said():
    found = state(("deleting", group(id="default/ds")), resources=[group(id="default/ds")])
    [outcome] = settle(found, lambda resource: Found(going=True))
    assert "is still being deleted" in outcome.line and found == state(resources=[group(id="default/ds")])


def test_what_the_cluster_has_otherwise_is_marked_or_taken_out_and_the_rest_is_left_as_it_is():
    waiting, doomed = group(urn="waiting", initErrors=["not yet"]), group(urn="doomed", delete=True)
    resources = [group(urn=name) for name in ("same", "differs", "gone")] + [waiting, doomed, key(urn="elsewhere")]
    found, looks = state(resources=resources), {"differs": Verdict.DIFFERS, "gone": Verdict.GONE}
    outcomes = compare(found, copy.deepcopy(found), lambda resource: looks.get(resource["urn"]))
    assert [(each.resource["urn"], each.verdict) for each in outcomes] == list(looks.items())
    left = {each["urn"]: each.get("initErrors") for each in found["deployment"]["resources"]}
    assert left.pop("differs") and left == {"same": None, "waiting": ["not yet"], "doomed": None, "elsewhere": None}


def test_what_is_still_to_be_deleted_is_not_taken_for_what_is_in_its_place():
    new, old = group(id="new"), group(id="old", delete=True)
    found, seen = state(resources=[new, old]), []
    compare(found, copy.deepcopy(found), lambda resource: seen.append(resource["id"]))
    assert seen == ["new"]


def test_what_a_stack_only_reads_is_not_looked_up_as_if_it_were_its_own():
    read = {key: value for key, value in group(external=True).items() if key != "inputs"}
    found = state(("reading", read), resources=[read])
    assert settle(found, pytest.fail) == compare(found, copy.deepcopy(found), pytest.fail) == []
    assert found == state(resources=[read])


def test_the_cluster_is_compared_with_secrets_in_plain_and_the_state_keeps_them_encrypted():
    mark = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
    hidden, open_ = (
        group(inputs={"data": mark | {"ciphertext": "x"}}),
        group(inputs={"data": mark | {"plaintext": '"v"'}}),
    )
    found, seen = state(resources=[hidden]), []
    compare(found, state(resources=[open_]), lambda resource: seen.append(resource["inputs"]))
    assert seen == [{"data": "v"}] and found == state(resources=[hidden])


@pytest.mark.parametrize(
    ("made", "since", "ours"),
    [
        ("2026-11-29", "2026-11-29T10:00:00.5Z", True),
        ("2026-11-28", "2026-11-29T10:00:00Z", False),
        ("2026-11-29T10:00:00.000Z", "2026-11-29T18:00:00.5+08:00", True),
        ("2026-11-29T09:59:59.000Z", "2026-11-29T10:00:00Z", False),
        (None, "2026-11-29T10:00:00Z", False),
    ],
)
def test_a_bucket_is_of_the_run_as_far_as_the_cloud_tells_when_it_was_made(made: str | None, since: str, ours: bool):
    assert Item("b", made).is_since(moment(since)) is ours


def test_every_type_that_buckets_and_their_users_are_made_of_can_be_looked_up_and_no_other():
    from standins.providers.alicloud.alicloud_plugin import Provider as Alicloud
    from standins.providers.volcengine.volcengine_plugin import Provider as Volcengine

    played = {**Alicloud.kinds, **Volcengine.kinds}
    assert KINDS.keys() == played.keys()
    asked = {kind.lookup.function for kind in {**KINDS, **BALANCERS}.values() if kind.lookup}
    asked |= {function for _, function, _ in _CALLERS.values()}
    functions = {**Alicloud.functions, **Volcengine.functions}
    assert asked == functions.keys()


def test_of_every_type_that_can_be_looked_up_a_found_one_can_be_ours():
    """By its name, or by when it was created; else `recover` would call foreign what the killed run had created."""
    assert [name for name, kind in KINDS.items() if kind.lookup and not (kind.named or kind.lookup.since)] == []


@pytest.mark.parametrize(
    ("description", "first", "since", "ours"),
    [
        ("modelserve stack dev", "2026-11-01T10:00:00.123456789Z", None, True),
        ("modelserve stack prod", "2026-11-01T10:00:00Z", "2026-11-29T10:00:00Z", False),
        ("Initial install underway", "2026-11-29T11:00:01.5+01:00", "2026-11-29T10:00:00Z", True),
        ("Initial install underway", "2026-11-29T09:59:59Z", "2026-11-29T10:00:00Z", False),
        ("Initial install underway", "2026-11-29T10:00:01Z", None, False),
    ],
)
def test_a_release_is_ours_by_its_description_or_as_made_during_the_run(
    description: str, first: str, since: str | None, ours: bool
):
    record = {"info": {"description": description, "first_deployed": first, "status": "deployed"}}
    assert Release("lws-system", "secret", record).is_of("modelserve stack dev", since) is ours


@pytest.mark.parametrize(("id", "ours"), [("fluid-system/ack-fluid", True), (None, False)])
def test_an_upgrade_that_was_cut_off_is_marked_as_failed_where_the_state_has_the_release(
    monkeypatch: pytest.MonkeyPatch, id: str | None, ours: bool
):
    """Helm refuses to touch a release that is pending. While it upgrades one, its record names no stack."""
    info = {"status": "pending-upgrade", "description": "Preparing upgrade", "first_deployed": "2026-11-01T10:00:00Z"}
    pending, failed = Release("fluid-system", "v2", {"info": info}), []
    cluster = StackObjects("dev", None)  # type: ignore[arg-type]
    monkeypatch.setattr(cluster, "_release", lambda resource: pending)
    monkeypatch.setattr(cluster._releases, "fail", failed.append)
    found = cluster.look(release(id=id))
    assert found is not None and found.ours is ours and failed == [pending] * ours


def test_attributes_that_a_kill_left_empty_are_removed_and_whole_ones_and_other_backends_are_not(tmp_path: Path):
    place = tmp_path / ".pulumi" / "stacks" / "modelserve"
    place.mkdir(parents=True)
    torn, whole = place / "dev.json.attrs", place / "prod.json.attrs"
    torn.touch()
    whole.write_text("{}")
    (place / "dev.json").write_text("{}")
    assert drop_torn_attributes(f"file://{tmp_path}", "prod") is None
    assert drop_torn_attributes("s3://bucket", "dev") is None and torn.exists()
    assert drop_torn_attributes(f"file://{tmp_path}", "dev") == torn
    assert not torn.exists() and whole.exists() and (place / "dev.json").exists()


@pytest.mark.parametrize(
    ("owner", "host", "user", "force", "removed"),
    [
        ("runner", "runner-of-yesterday", "runner", False, True),
        ("alice", "laptop", "runner", False, False),
        ("runner", "runner-of-yesterday", None, False, False),
        ("alice", "laptop", None, True, True),
    ],
)
def test_a_lock_from_another_machine_is_removed_only_if_its_user_was_named_or_by_force(
    monkeypatch: pytest.MonkeyPatch, owner: str, host: str, user: str | None, force: bool, removed: bool
):
    said = f"the stack is currently locked by 1 lock(s)\n  x: created by {owner}@{host} (pid 7) at 2026-11-29T00:00:00Z"
    ran: list[str] = []
    locked = SimpleNamespace(returncode=255, stderr=said)
    monkeypatch.setattr(recover.subprocess, "run", lambda *_, **__: locked)
    monkeypatch.setattr(recover, "pulumi", lambda *words, **_: ran.append(words[0]))
    state = {"deployment": {"resources": [group()]}}
    if removed:
        assert recover._unlock("dev", state, force=force, user=user) == "2026-11-29T00:00:00Z"
    else:
        with pytest.raises(recover.RequestError):
            recover._unlock("dev", state, force=force, user=user)
    assert ran == ["cancel"] * removed
