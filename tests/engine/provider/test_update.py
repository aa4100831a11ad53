"""What is updated in place, what is replaced and in which order, and who wins when several write one object."""

from __future__ import annotations

from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from tests.engine.provider.conftest import WIDGET_VERSION, Cluster, Engine, widget


def config_map(namespace: str, labels: dict[str, str] | None = None, **options: Any) -> None:
    metadata = {"name": "cm", "namespace": namespace} | ({"labels": labels} if labels else {})
    k8s.core.v1.ConfigMap("cm", metadata=metadata, data=options.pop("data", {"a": "1"}), **options)


def not_live(where: str, reason: str) -> str:
    return f'the Kubernetes API server reported that "{where}" failed to fully initialize or become live: {reason}'


def one_error(line: str) -> str:
    return f"1 error occurred:\n\t* {line}\n\n"


def test_labels_change_in_place_and_data_by_deleting_the_old_object_first(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/cm"
    assert engine.up(lambda: config_map(namespace, {"x": "1", "y": "1"})).ok
    created = cluster.get(path)
    assert {entry["manager"] for entry in created["metadata"]["managedFields"]} == {"pulumi-kubernetes"}

    labelled = engine.up(lambda: config_map(namespace, {"x": "2"}))
    assert labelled.ok and labelled.steps == [("update", "cm")]
    assert labelled.detail["cm"] == {"metadata.labels.x": "update", "metadata.labels.y": "delete(input)"}
    live = cluster.get(path)
    assert live["metadata"]["uid"] == created["metadata"]["uid"] and live["metadata"]["labels"] == {"x": "2"}
    manager = engine.resource("cm")["outputs"]["__fieldManager"]
    assert [(e["manager"], e["operation"]) for e in live["metadata"]["managedFields"]] == [(manager, "Apply")]
    assert engine.up().steps == [("same", "cm")]

    bare = engine.preview(lambda: config_map(namespace))
    assert bare.detail["cm"] == {"metadata.labels": "delete(input)"}
    replaced = engine.up(lambda: config_map(namespace, {"x": "2"}, data={"a": "2"}))
    assert replaced.ok and replaced.replaced_by["cm"] == ["data.a"]
    assert replaced.detail["cm"] == {"data.a": "update-replace"}
    assert [op for op, _ in replaced.steps] == ["delete-replaced", "replace", "create-replacement"]
    assert cluster.get(path)["metadata"]["uid"] != created["metadata"]["uid"]


def test_another_name_is_created_before_the_old_object_goes(engine: Engine, cluster: Cluster, namespace: str) -> None:
    def program(name: str) -> None:
        k8s.core.v1.ConfigMap("cm", metadata={"name": name, "namespace": namespace})

    assert engine.up(lambda: program("one")).ok
    renamed = engine.up(lambda: program("two"))
    assert renamed.ok and renamed.replaced_by["cm"] == ["metadata.name"]
    assert [op for op, _ in renamed.steps] == ["create-replacement", "replace", "delete-replaced"]
    assert not cluster.exists(f"/api/v1/namespaces/{namespace}/configmaps/one")


def test_replace_on_changes_passes_preview_and_fails_up_unless_the_old_object_is_deleted_first(
    engine: Engine, namespace: str
) -> None:
    def program(size: int, delete_first: bool = False) -> None:
        opts = ResourceOptions(replace_on_changes=["spec.size"], delete_before_replace=delete_first or None)
        widget(namespace, size=size, opts=opts)

    assert engine.up(lambda: program(1)).ok
    preview = engine.preview(lambda: program(2))
    assert preview.ok and preview.replaced_by["w"] == [] and preview.detail["w"] == {"spec.size": "update-replace"}
    assert [op for op, _ in preview.steps] == ["create-replacement", "replace", "delete-replaced"]
    failed = engine.up()
    assert 'widgets.provider.example.com "w" already exists\n\nThe resource already exists' in failed.error


def test_what_the_server_refuses_fails_preview_and_up_and_heals_with_a_good_program(
    engine: Engine, namespace: str
) -> None:
    assert engine.up(lambda: widget(namespace, role="x", size=1)).ok
    words = not_live(
        f"{namespace}/w",
        'Widget.provider.example.com "w" is invalid: spec.role: Invalid value: "string": role is immutable',
    )
    preview = engine.preview(lambda: widget(namespace, role="y", size=1))
    assert preview.steps == [("update", "w")] and preview.error == f"Preview failed: {one_error(words)}"
    assert engine.up().error == one_error(words)
    assert engine.resource("w")["initErrors"] == [words]

    healed = engine.up(lambda: widget(namespace, role="x", size=1))
    assert healed.ok and healed.steps == [("update", "w")]
    assert "initErrors" not in engine.resource("w")
    assert engine.up().steps == [("same", "w")]


def test_an_update_of_an_object_that_is_gone_fails_until_a_refresh(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    assert engine.up(lambda: config_map(namespace)).ok
    cluster.delete(f"/api/v1/namespaces/{namespace}/configmaps/cm")
    assert engine.up().steps == [("same", "cm")]
    words = (
        f'update of resource "{engine.urn("core/v1:ConfigMap", "cm")}" failed: configmaps "cm" not found\n'
        'unable to get cluster state: configmaps "cm" not found'
    )
    assert engine.preview(lambda: config_map(namespace, {"x": "1"})).error == f"Preview failed: {words}"
    assert engine.up().error == words
    refreshed = engine.refresh()
    assert refreshed.ok and engine.names() == []
    assert engine.up().steps == [("create", "cm")]


CONFLICT = (
    "server-side apply field conflict detected, see https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/"
    "managing-resources-with-server-side-apply/#handle-field-conflicts-on-existing-resources for troubleshooting help\n"
    'The resource managed by field manager "{manager}" had an apply conflict: Apply failed with 1 conflict: '
    'conflict with "other" using provider.example.com/v1: .spec.size'
)


def test_a_field_that_another_manager_took_fails_every_later_change_unless_forced(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets/w"
    assert engine.up(lambda: widget(namespace, size=1, mode="a")).ok
    cluster.merge(path, {"spec": {"size": 2}})
    assert engine.up().steps == [("same", "w")] and cluster.get(path)["spec"]["size"] == 2

    # Nothing but the create has written the object: the preview does not see the conflict yet.
    assert engine.preview(lambda: widget(namespace, size=1, mode="b")).ok
    manager = engine.resource("w")["outputs"]["__fieldManager"]
    words = one_error(not_live(f"{namespace}/w", CONFLICT.format(manager=manager)))
    assert engine.up().error == words
    assert engine.preview().error == f"Preview failed: {words}"

    forced = engine.up(lambda: widget(namespace, {"pulumi.com/patchForce": "true"}, size=1, mode="b"))
    assert forced.ok and cluster.get(path)["spec"] == {"size": 1, "mode": "b"}


def test_what_kubectl_wrote_is_taken_over_at_up_though_preview_shows_a_conflict(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets/w"
    assert engine.up(lambda: widget(namespace, size=1)).ok
    assert engine.up(lambda: widget(namespace, size=3)).ok
    cluster.merge(path, {"spec": {"size": 2}}, manager="kubectl-edit")
    assert 'conflict with "kubectl-edit"' in engine.preview(lambda: widget(namespace, size=3, mode="b")).error
    assert engine.up().ok and cluster.get(path)["spec"] == {"size": 3, "mode": "b"}


def test_an_ignored_field_stays_with_the_manager_that_owns_it(engine: Engine, cluster: Cluster, namespace: str) -> None:
    path = f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets/w"
    opts = ResourceOptions(ignore_changes=["spec.size"])
    assert engine.up(lambda: widget(namespace, size=1, opts=opts)).ok
    cluster.merge(path, {"spec": {"size": 5}})
    assert engine.up(lambda: widget(namespace, {"note": "1"}, size=1, opts=opts)).ok
    assert cluster.get(path)["spec"]["size"] == 5
