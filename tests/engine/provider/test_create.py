"""What a create lets through at preview, what it refuses, and with which words."""

from __future__ import annotations

import json
import re
import threading

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pulumi import ResourceOptions

from tests.engine.provider.conftest import WIDGET_VERSION, Cluster, Engine, widget, widget_crd


def config_map(namespace: str, name: str | None = "ex", **data: str) -> k8s.core.v1.ConfigMap:
    metadata = {"namespace": namespace} | ({"name": name} if name else {})
    return k8s.core.v1.ConfigMap("ex", metadata=metadata, data=data or {"a": "1"})


ALREADY_EXISTS = """\
resource "{urn}" was not successfully created by the Kubernetes API server: configmaps "ex" already exists

The resource already exists in the cluster. This can happen when:

  - Renaming a Pulumi resource: use an alias to preserve the identity,
    or use deleteBeforeReplace if the resource needs replacement.
  - Managing an existing resource: use a Patch resource (e.g. NamespacePatch)
    to manage specific fields without owning the resource lifecycle.
  - Adopting a resource into Pulumi: use `pulumi import`. Note that
    protected resources (e.g. kube-system) cannot be deleted on destroy.
  - Intentional upsert: set upsertExistingObjects on the provider to allow
    server-side apply to update existing objects on create."""


def test_an_existing_object_passes_preview_and_fails_up(engine: Engine, cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    cluster.create(path, {"metadata": {"name": "ex"}, "data": {"foreign": "1"}})

    preview = engine.preview(lambda: config_map(namespace))
    assert preview.ok and ("create", "ex") in preview.steps
    assert preview.status == ['Retry #0; creation failed: configmaps "ex" already exists']

    up = engine.up()
    assert up.error == ALREADY_EXISTS.format(urn=engine.urn("core/v1:ConfigMap", "ex"))
    assert engine.names() == [] and cluster.get(f"{path}/ex")["data"] == {"foreign": "1"}


def test_what_the_schema_refuses_fails_the_preview_unless_an_input_is_unknown(engine: Engine, namespace: str) -> None:
    urn = engine.urn(f"{WIDGET_VERSION}:Widget", "w")
    words = (
        f'resource "{urn}" was not successfully created by the Kubernetes API server: '
        'Widget.provider.example.com "w" is invalid: spec.size: Invalid value: 99: '
        "spec.size in body should be less than or equal to 10"
    )
    assert engine.preview(lambda: widget(namespace, size=99)).error == f"Preview failed: {words}"

    def with_unknown() -> None:
        source = k8s.core.v1.ConfigMap("source", metadata={"namespace": namespace})
        unknown = pulumi.Output.from_input(source.id).apply(lambda _: "a")
        widget(namespace, size=99, mode=unknown)

    assert engine.preview(with_unknown).ok
    up = engine.up(with_unknown)
    assert up.error == words and engine.names() == ["source"]


def test_a_missing_kind_or_namespace_passes_preview_and_is_retried_until_it_is_there(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    group = f"{namespace}.example.com"
    fresh = f"{namespace}-fresh"

    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

    def program() -> None:
        if not pulumi.runtime.is_dry_run():
            # The kind comes when the first try has failed for certain, by another hand than the engine's.
            threading.Timer(1.5, cluster.create, (kinds, widget_crd(group))).start()
        k8s.apiextensions.CustomResource(
            "w",
            api_version=f"{group}/v1",
            kind="Widget",
            metadata={"name": "w", "namespace": namespace},
            spec={"size": 1},
        )
        k8s.core.v1.Namespace("fresh", metadata={"name": fresh})
        k8s.core.v1.ConfigMap("inside", metadata={"name": "inside", "namespace": fresh})

    assert engine.preview(program).ok
    up = engine.up()
    assert up.ok and sorted(engine.names()) == ["fresh", "inside", "w"]
    assert f'Retry #0; creation failed: no matches for kind "Widget" in version "{group}/v1"' in up.status
    cluster.delete(f"{kinds}/widgets.{group}")
    cluster.delete(f"/api/v1/namespaces/{fresh}")


def test_a_missing_name_is_made_up_once_and_kept(engine: Engine, cluster: Cluster, namespace: str) -> None:
    assert engine.up(lambda: config_map(namespace, name=None)).ok
    first = engine.resource("ex")
    name = first["inputs"]["metadata"]["name"]
    assert re.fullmatch(r"ex-[0-9a-f]{8}", name)
    assert first["inputs"]["metadata"]["annotations"] == {"pulumi.com/autonamed": "true"}
    assert first["id"] == f"{namespace}/{name}"

    replaced = engine.up(lambda: config_map(namespace, name=None, a="2"))
    assert replaced.ok and replaced.replaced_by["ex"] == ["data.a"]
    assert [op for op, _ in replaced.steps] == ["create-replacement", "replace", "delete-replaced"]
    listed = cluster.get(f"/api/v1/namespaces/{namespace}/configmaps")["items"]
    names = [item["metadata"]["name"] for item in listed if item["metadata"]["name"].startswith("ex-")]
    assert len(names) == 1 and names != [name]


def test_what_rbac_forbids_passes_preview_and_fails_up_and_bad_credentials_count_as_unreachable(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    token = cluster.create(f"{path}/default/token", {"spec": {}})["status"]["token"]
    admin = yaml.safe_load(cluster.kubeconfig.read_text())

    def program(credential: str) -> None:
        user = {"name": admin["users"][0]["name"], "user": {"token": credential}}
        provider = k8s.Provider("low", kubeconfig=json.dumps({**admin, "users": [user]}))
        metadata = {"name": "ex", "namespace": namespace}
        k8s.core.v1.ConfigMap("ex", metadata=metadata, opts=ResourceOptions(provider=provider))

    assert engine.preview(lambda: program(token)).ok
    assert engine.up().error.endswith(
        f'configmaps is forbidden: User "system:serviceaccount:{namespace}:default" cannot create resource '
        f'"configmaps" in API group "" in the namespace "{namespace}"'
    )
    assert engine.preview(lambda: program("wrong")).ok
    assert engine.up().error == (
        "configured Kubernetes cluster is unreachable: unable to load schema information from the API server: "
        "the server has asked for the client to provide credentials"
    )
