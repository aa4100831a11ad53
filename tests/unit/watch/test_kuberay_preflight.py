"""The look for another KubeRay: what it refuses, and that a cluster which does not tell is no reason to refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from kubernetes import client

from config.errors import ConfigError
from config.stack import parse
from tests.support.stack_files import StackFile
from watch import kuberay_preflight

FILE = StackFile("volcengine")


def deployment(namespace: str) -> client.V1Deployment:
    container = client.V1Container(name="c", image="quay.io/kuberay/operator:v1.3.0")
    template = client.V1PodTemplateSpec(spec=client.V1PodSpec(containers=[container]))
    spec = client.V1DeploymentSpec(selector=client.V1LabelSelector(), template=template, replicas=1)
    return client.V1Deployment(metadata=client.V1ObjectMeta(name="operator", namespace=namespace), spec=spec)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Lets the cluster have these Deployments, or raise; gives a list that grows with every question."""
    asked: list[int] = []

    def has(*found: client.V1Deployment, error: Exception | None = None) -> list[int]:
        def answer(*_: Any, **__: Any) -> client.V1DeploymentList:
            asked.append(1)
            if error:
                raise error
            return client.V1DeploymentList(items=list(found))

        monkeypatch.setattr(client.AppsV1Api, "list_deployment_for_all_namespaces", answer)
        monkeypatch.setattr(kuberay_preflight.client, "api_client", lambda *_: client.ApiClient())
        return asked

    return has


def test_another_operator_is_refused_with_its_place(cluster: Callable[..., list[int]]):
    cluster(deployment("aibrix-system"), deployment("ray-system"))
    with pytest.raises(ConfigError) as caught:
        kuberay_preflight.check(parse(FILE.whole), None)
    assert "addons.aibrix.kuberay: aibrix: another KubeRay operator runs in this cluster, ray-system/operator" in str(
        caught.value
    )


def test_its_own_operator_and_a_cluster_that_does_not_tell_are_no_reason(cluster: Callable[..., list[int]]):
    for answer in ({}, {"error": client.ApiException(403)}, {"error": urllib3.exceptions.HTTPError()}):
        asked = cluster(deployment("aibrix-system"), **answer)
        kuberay_preflight.check(parse(FILE.whole), None)
    assert len(asked) == 3


@pytest.mark.parametrize("aibrix", [{"install": False}, {"kuberay": "none"}])
def test_who_brings_none_asks_nobody(aibrix: dict[str, Any], cluster: Callable[..., list[int]]):
    asked = cluster(deployment("ray-system"))
    kuberay_preflight.check(parse(FILE.changed(addons__aibrix=aibrix)), None)
    assert asked == []
