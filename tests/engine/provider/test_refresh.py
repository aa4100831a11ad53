"""Drift, objects gone, import: what the state learns from the cluster, and when."""

from __future__ import annotations

import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from tests.engine.provider.conftest import WIDGET_VERSION, Cluster, Engine, widget


def test_drift_shows_only_after_a_refresh_and_only_in_what_the_program_owns(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets/w"
    assert engine.up(lambda: widget(namespace, size=1)).ok
    cluster.merge(path, {"metadata": {"labels": {"other": "1"}}, "spec": {"mode": "b"}})
    assert engine.refresh().steps == [("refresh", "w")]
    assert engine.resource("w")["inputs"]["spec"] == {"size": 1}

    cluster.merge(path, {"spec": {"size": 2}}, manager="kubectl-edit")
    assert engine.preview().steps == [("same", "w")]
    assert engine.refresh().ok and engine.resource("w")["inputs"]["spec"] == {"size": 2}
    back = engine.up()
    assert back.ok and back.detail["w"] == {"spec.size": "update"} and cluster.get(path)["spec"]["size"] == 1


def test_a_refresh_marks_an_unready_deployment_and_the_next_up_waits_for_it(engine: Engine, namespace: str) -> None:
    labels = {"app": "dep"}

    def program(skip: bool) -> None:
        pod = {"node_selector": {"nowhere": "yes"}, "containers": [{"name": "c", "image": "busybox"}]}
        k8s.apps.v1.Deployment(
            "dep",
            metadata={
                "name": "dep",
                "namespace": namespace,
                "annotations": {"pulumi.com/skipAwait": str(skip).lower()},
            },
            spec={"selector": {"match_labels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
            opts=ResourceOptions(custom_timeouts={"create": "500ms", "update": "500ms"}),
        )

    created = engine.up(lambda: program(False))
    assert "'dep' timed out waiting to be Ready\n\t* Minimum number of live Pods was not attained" in created.error
    assert created.error.startswith("2 errors occurred:")
    skipped = engine.up(lambda: program(True))
    assert skipped.ok and "Skipping await logic" in skipped.status and "initErrors" not in engine.resource("dep")
    assert engine.up(lambda: program(False)).error.endswith(
        "Minimum number of Pods to consider the application live was not attained\n\n"
    )


def test_an_unready_deployment_is_a_warning_of_the_refresh(engine: Engine, cluster: Cluster, namespace: str) -> None:
    labels = {"app": "dep"}
    pod = {"node_selector": {"nowhere": "yes"}, "containers": [{"name": "c", "image": "busybox"}]}

    def program() -> None:
        k8s.apps.v1.Deployment(
            "dep",
            metadata={"name": "dep", "namespace": namespace},
            spec={
                "replicas": 0,
                "selector": {"match_labels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        )

    created = engine.up(program)
    assert created.ok and created.status == ['Replicas scaled to 0 for Deployment "dep"']
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/dep"
    cluster.merge(path, {"spec": {"replicas": 1}})
    refreshed = engine.refresh()
    assert refreshed.ok and refreshed.warnings == [
        "Refreshed resource is in an unhealthy state:\n* Resource 'dep' was created but failed to initialize\n"
        "* Minimum number of Pods to consider the application live was not attained"
    ]
    assert len(engine.resource("dep")["initErrors"]) == 2


def test_an_import_adopts_a_custom_resource_and_needs_the_right_id(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets"
    body = {"apiVersion": WIDGET_VERSION, "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}}
    cluster.create(path, body)
    missing = engine.preview(lambda: widget(namespace, size=1, opts=ResourceOptions(import_=f"{namespace}/nope")))
    assert missing.error == f"Preview failed: resource '{namespace}/nope' does not exist"

    imported = engine.up(lambda: widget(namespace, size=1, opts=ResourceOptions(import_=f"{namespace}/w")))
    assert imported.ok and [op for op, _ in imported.steps] == ["import", "update"]
    assert imported.detail["w"] == {"spec": "add"}
    assert engine.up(lambda: widget(namespace, size=1)).steps == [("same", "w")]


def test_an_object_that_is_only_read_stays_when_the_stack_goes(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/cm"
    cluster.create(path.removesuffix("/cm"), {"metadata": {"name": "cm"}, "data": {"a": "1"}})
    missing = engine.preview(lambda: k8s.core.v1.ConfigMap.get("cm", f"{namespace}/none"))
    assert f"resource '{namespace}/none' does not exist" in missing.error
    read = engine.up(lambda: k8s.core.v1.ConfigMap.get("cm", f"{namespace}/cm"))
    assert read.ok and read.steps == [("read", "cm")]
    assert engine.resource("cm")["outputs"]["data"] == {"a": "1"}
    assert engine.destroy().ok and cluster.exists(path)
