"""The provider resource: which of its changes replace everything, and what an unreachable cluster means."""

from __future__ import annotations

import copy
import json
from typing import Any

import pulumi_kubernetes as k8s
import pytest
import yaml
from pulumi import ResourceOptions

from local.providers.kubernetes import kubeconfig as kubeconfigs
from local.providers.wire import UNKNOWN
from tests.engine.provider.conftest import Cluster, Engine


@pytest.fixture
def kubeconfig(cluster: Cluster) -> dict[str, Any]:
    return yaml.safe_load(cluster.kubeconfig.read_text())


def elsewhere(kubeconfig: dict[str, Any], server: str) -> dict[str, Any]:
    other = copy.deepcopy(kubeconfig)
    for cluster in other["clusters"]:
        cluster["cluster"]["server"] = server
    return other


def program(kubeconfig: dict[str, Any], namespace: str, labels: dict[str, str] | None = None, **settings: Any) -> None:
    provider = k8s.Provider("cluster", kubeconfig=json.dumps(kubeconfig), **settings)
    metadata = {"name": "cm", "namespace": namespace, "labels": labels or {"a": "1"}}
    k8s.core.v1.ConfigMap("cm", metadata=metadata, opts=ResourceOptions(provider=provider))


def test_another_server_address_replaces_everything_unless_the_cluster_is_identified(
    engine: Engine, kubeconfig: dict[str, Any], namespace: str
) -> None:
    server = kubeconfig["clusters"][0]["cluster"]["server"]
    other = elsewhere(kubeconfig, f"{server}/")
    assert engine.up(lambda: program(kubeconfig, namespace)).ok
    moved = engine.preview(lambda: program(other, namespace))
    assert ("replace", "cm") in moved.steps and ("replace", "cluster") in moved.steps
    assert moved.replaced_by["cluster"] == ["kubeconfig"] and moved.replaced_by["cm"] == ["provider"]

    named = engine.up(lambda: program(kubeconfig, namespace, cluster_identifier="a"))
    assert named.ok and named.steps == [("update", "cluster"), ("same", "cm")]
    same = engine.up(lambda: program(other, namespace, cluster_identifier="a"))
    assert same.ok and same.steps == [("update", "cluster"), ("same", "cm")]
    renamed = engine.preview(lambda: program(other, namespace, cluster_identifier="b"))
    assert renamed.replaced_by["cluster"] == ["clusterIdentifier"] and renamed.replaced_by["cm"] == ["provider"]
    assert 'configmaps "cm" already exists' in engine.up().error


REASON = (
    "configured Kubernetes cluster is unreachable: unable to load schema information from the API server: "
    'Get "https://127.0.0.1:9/openapi/v2?timeout=32s": dial tcp 127.0.0.1:9: connect: connection refused'
)
HINT = (
    "If the cluster was deleted, you can remove this resource from Pulumi state by rerunning the operation with the "
    'PULUMI_K8S_DELETE_UNREACHABLE environment variable set to "true"'
)


def test_an_unreachable_cluster_passes_preview_and_fails_what_would_touch_it(
    engine: Engine, kubeconfig: dict[str, Any], namespace: str
) -> None:
    away = elsewhere(kubeconfig, "https://127.0.0.1:9")
    assert engine.up(lambda: program(kubeconfig, namespace, cluster_identifier="a")).ok
    unchanged = engine.up(lambda: program(away, namespace, cluster_identifier="a"))
    assert unchanged.ok and ("same", "cm") in unchanged.steps
    assert engine.preview(lambda: program(away, namespace, {"a": "2"}, cluster_identifier="a")).ok
    assert engine.up().error == REASON
    refreshed, destroyed = engine.refresh(), engine.destroy()
    assert refreshed.warnings == [REASON] and destroyed.warnings == [REASON]
    assert refreshed.error == f"failed to read resource state due to unreachable cluster. {HINT}"
    assert destroyed.error == f"configured Kubernetes cluster is unreachable. {HINT}"

    assert engine.up(lambda: program(away, namespace, cluster_identifier="a", delete_unreachable=True)).ok
    assert engine.refresh().ok and engine.names() == []


def test_a_kubeconfig_that_is_no_yaml_fails_the_preview(engine: Engine, namespace: str) -> None:
    outcome = engine.preview(lambda: k8s.Provider("cluster", kubeconfig="{a: [}\n"))
    assert "failed to parse kubeconfig: yaml: line 1: did not find expected" in outcome.error


def test_an_unknown_kubeconfig_replaces_unless_the_identifier_is_known_and_the_same() -> None:
    old = {"kubeconfig": "{}", "clusterIdentifier": "a"}
    unknown = {"kubeconfig": UNKNOWN, "clusterIdentifier": "a"}
    assert kubeconfigs.compare(old, unknown) == (["kubeconfig"], [])
    assert kubeconfigs.compare({"kubeconfig": "{}"}, {"kubeconfig": UNKNOWN}) == (["kubeconfig"], ["kubeconfig"])
