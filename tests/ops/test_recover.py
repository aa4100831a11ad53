"""Which leftovers of a killed run are taken over: our own objects, and no others."""

from __future__ import annotations

from typing import Any

from ops.recover import adopt

URN = "urn:pulumi:dev::modelserve::kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet::ds"
OURS = {"app.kubernetes.io/managed-by": "modelserve", "modelserve.dev/stack": "dev"}


def pending(kind: str = "creating", **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "resource": {
            "urn": URN,
            "custom": True,
            "type": "kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet",
            "provider": "p",
            "inputs": {
                "apiVersion": "leaderworkerset.x-k8s.io/v1",
                "kind": "LeaderWorkerSet",
                "metadata": {"name": "ds", "namespace": "default"},
            },
            **more,
        },
    }


def state(*operations: dict[str, Any], resources: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"deployment": {"resources": resources or [], "pending_operations": list(operations)}}


def live(labels: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"labels": labels}}


def test_our_own_object_is_taken_into_the_state_as_not_yet_ready():
    found = state(pending(parent="urn:parent"))
    lines, foreign = adopt(found, "dev", lambda manifest: live(OURS))
    assert (foreign, lines) == (False, ["LeaderWorkerSet default/ds: was made; taken into the state"])
    [entry] = found["deployment"]["resources"]
    assert entry["id"] == "default/ds" and entry["initErrors"] and entry["parent"] == "urn:parent"
    assert entry["outputs"] == entry["inputs"] and found["deployment"]["pending_operations"] == []


def test_an_object_that_was_never_made_is_forgotten():
    found = state(pending())
    lines, foreign = adopt(found, "dev", lambda manifest: None)
    assert (foreign, lines) == (False, ["LeaderWorkerSet default/ds: was not made; forgotten"])
    assert found == state()


def test_somebody_elses_object_is_left_alone_and_named():
    for labels in ({}, OURS | {"modelserve.dev/stack": "prod"}, OURS | {"app.kubernetes.io/managed-by": "helm"}):
        found = state(pending())
        [line], foreign = adopt(found, "dev", lambda manifest, labels=labels: live(labels))
        assert foreign and line.startswith("LeaderWorkerSet default/ds: is there but not this stack's")
        assert found == state()


def test_an_older_entry_of_the_same_urn_is_replaced_not_doubled():
    found = state(pending(), resources=[{"urn": URN, "id": "old"}, {"urn": "other"}])
    adopt(found, "dev", lambda manifest: live(OURS))
    assert [r["urn"] for r in found["deployment"]["resources"]] == ["other", URN]


def test_interrupted_updates_and_deletes_stay_pending():
    operations = [pending("updating"), pending("deleting")]
    found = state(*operations)
    lines, foreign = adopt(found, "dev", lambda manifest: live(OURS))
    assert found["deployment"]["pending_operations"] == operations and not foreign
    assert lines[0] == "ds: updating was cut off; the next up or destroy repeats it"


def test_what_only_a_clouds_plugin_could_look_up_is_forgotten_with_what_to_do_if_it_exists():
    bucket = {"type": "creating", "resource": {"urn": "u::bucket", "type": "alicloud:oss/bucket:Bucket", "inputs": {}}}
    found = state(bucket)
    [line], foreign = adopt(found, "dev", lambda manifest: None)
    assert line.startswith("alicloud:oss/bucket:Bucket bucket: whether it was made is unknown; forgotten: ")
    assert "`pulumi import` it" in line and not foreign and found == state()
