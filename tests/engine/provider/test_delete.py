"""What a delete waits for, and what it leaves."""

from __future__ import annotations

import pulumi_kubernetes as k8s
from pulumi import CustomTimeouts, ResourceOptions

from tests.engine.provider.conftest import Cluster, Engine, until


def test_a_finalizer_that_stays_ends_the_delete_by_timeout_and_keeps_the_state(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/cm"

    def program(value: str = "1") -> None:
        metadata = {"name": "cm", "namespace": namespace, "finalizers": ["provider.example.com/never"]}
        opts = ResourceOptions(custom_timeouts=CustomTimeouts(delete="500ms"))
        k8s.core.v1.ConfigMap("cm", metadata=metadata, data={"a": value}, opts=opts)

    assert engine.up(program).ok
    replaced = engine.up(lambda: program("2"))
    assert replaced.steps == [("delete-replaced", "cm")]
    stuck = engine.destroy()
    for outcome in (replaced, stuck):
        assert outcome.warnings == ["finalizers might be preventing deletion (provider.example.com/never)"]
        assert outcome.error == "timed out waiting for the condition"
    assert engine.names() == ["cm"] and "initErrors" not in engine.resource("cm")
    assert not engine.state().get("pending_operations")
    assert engine.refresh().ok and engine.names() == ["cm"]

    cluster.merge(path, {"metadata": {"finalizers": None}})
    until(lambda: not cluster.exists(path))
    gone = engine.destroy()
    assert gone.ok and gone.steps == [("delete", "cm")] and engine.names() == []


def test_a_delete_waits_for_dependents_unless_the_object_says_orphan(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def program() -> None:
        orphan = {"pulumi.com/deletionPropagationPolicy": "Orphan"}
        for name, policy, seconds in (("foreground", {}, "1s"), ("orphan", orphan, "30s")):
            opts = ResourceOptions(custom_timeouts=CustomTimeouts(delete=seconds))
            metadata = {"name": name, "namespace": namespace, "annotations": policy}
            k8s.core.v1.ConfigMap(name, metadata=metadata, opts=opts)

    assert engine.up(program).ok
    for name in ("foreground", "orphan"):
        uid = cluster.get(f"{path}/{name}")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": True}
        child = {"name": f"{name}-child", "ownerReferences": [owner], "finalizers": ["provider.example.com/never"]}
        cluster.create(path, {"metadata": child})
    held = engine.destroy()
    assert held.error == "timed out waiting for the condition" and engine.names() == ["foreground"]
    assert held.warnings == ["finalizers might be preventing deletion (foregroundDeletion)"]
    assert "Resource scheduled for deletion" in held.status

    cluster.merge(f"{path}/foreground-child", {"metadata": {"finalizers": None}})
    assert engine.destroy().ok and not cluster.exists(f"{path}/foreground-child")
    orphan = cluster.get(f"{path}/orphan-child")["metadata"]
    assert "ownerReferences" not in orphan and "deletionTimestamp" not in orphan
    cluster.merge(f"{path}/orphan-child", {"metadata": {"finalizers": None}})
