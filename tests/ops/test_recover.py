"""What a killed run left becomes a state that is true: our own goes in, what is gone goes out, the foreign is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ops.recover import Found, drop_torn_attributes, settle
from ops.releases import Release

GROUP, CHART = "kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet", "kubernetes:helm.sh/v3:Release"
OURS, FOREIGN = Found(ours=True), Found(ours=False)


def group(**more: Any) -> dict[str, Any]:
    metadata = {"name": "ds", "namespace": "default"}
    inputs = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": metadata}
    return {"urn": f"urn:pulumi:dev::modelserve::{GROUP}::ds", "type": GROUP, "inputs": inputs, **more}


def release(**more: Any) -> dict[str, Any]:
    inputs = {"name": "ack-fluid", "namespace": "fluid-system", "timeout": 600}
    return {"urn": f"urn:pulumi:dev::modelserve::{CHART}::addons-fluid", "type": CHART, "inputs": inputs, **more}


def state(*operations: tuple[str, dict[str, Any]], resources: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    pending = [{"type": kind, "resource": resource} for kind, resource in operations]
    return {"deployment": {"resources": resources or [], "pending_operations": pending}}


@pytest.mark.parametrize(
    ("made", "said", "id"),
    [
        (group(parent="urn:parent"), "LeaderWorkerSet default/ds", "default/ds"),
        (release(parent="urn:parent"), "Release fluid-system/ack-fluid", "fluid-system/ack-fluid"),
    ],
)
def test_what_was_made_is_taken_into_the_state_as_not_yet_ready(made: dict[str, Any], said: str, id: str):
    found = state(("creating", made))
    assert settle(found, lambda resource: OURS) == ([f"{said}: was made; taken into the state"], False)
    [entry] = found["deployment"]["resources"]
    assert entry["id"] == id and entry["initErrors"] and entry["parent"] == "urn:parent"
    assert entry["outputs"] == entry["inputs"] and found["deployment"]["pending_operations"] == []


@pytest.mark.parametrize("made", [group(), release()])
def test_what_was_never_made_is_forgotten(made: dict[str, Any]):
    found = state(("creating", made))
    [line], foreign = settle(found, lambda resource: None)
    assert line.endswith(": was not made; forgotten") and not foreign and found == state()


@pytest.mark.parametrize("made", [group(), release()])
def test_somebody_elses_of_that_name_is_left_alone_and_named(made: dict[str, Any]):
    found = state(("creating", made))
    [line], foreign = settle(found, lambda resource: FOREIGN)
    assert foreign and ": is there but not this stack's" in line and found == state()


def test_an_older_entry_of_the_same_urn_is_replaced_not_doubled():
    found = state(("creating", group()), resources=[group(id="old"), {"urn": "other"}])
    settle(found, lambda resource: OURS)
    assert [each["urn"] for each in found["deployment"]["resources"]] == ["other", group()["urn"]]


@pytest.mark.parametrize("kind", ["deleting", "updating"])
@pytest.mark.parametrize("gone", [group(id="default/ds"), release(id="fluid-system/ack-fluid")])
def test_what_is_gone_leaves_the_state(kind: str, gone: dict[str, Any]):
    replaced = copy.deepcopy(gone) | {"id": "another"}
    found = state((kind, gone), resources=[copy.deepcopy(gone), replaced])
    [line], foreign = settle(found, lambda resource: None)
    assert line.endswith(": is gone; taken out of the state") and not foreign
    assert found == state(resources=[replaced])


@pytest.mark.parametrize("kind", ["updating", "deleting"])
def test_what_was_being_changed_is_written_again_by_the_next_up_even_by_the_program_of_before(kind: str):
    found = state((kind, group(id="default/ds")), resources=[group(id="default/ds")])
    settle(found, lambda resource: OURS)
    [entry] = found["deployment"]["resources"]
    assert entry["initErrors"] and found["deployment"]["pending_operations"] == []


def test_what_is_still_going_stays_in_the_state_and_is_said():
    found = state(("deleting", group(id="default/ds")), resources=[group(id="default/ds")])
    [line], _ = settle(found, lambda resource: Found(ours=True, going=True))
    assert "is still being deleted" in line and found == state(resources=[group(id="default/ds")])


def test_what_only_a_clouds_plugin_could_look_up_is_forgotten_with_what_to_do_if_it_exists():
    bucket = {"urn": "u::bucket", "type": "alicloud:oss/bucket:Bucket", "inputs": {}}
    found = state(("creating", bucket))
    [line], foreign = settle(found, lambda resource: None)
    assert line.startswith("alicloud:oss/bucket:Bucket bucket: whether it was made is unknown; forgotten: ")
    assert "`pulumi import` it" in line and not foreign and found == state()


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
