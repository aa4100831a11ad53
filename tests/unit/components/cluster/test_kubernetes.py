"""The provider uses the plugin that the pinned SDK names, and identifies the cluster only by its context."""

from __future__ import annotations

import importlib.metadata

import pulumi
import pytest

from components.cluster.kubernetes import PLUGIN_VERSION, kubernetes_provider
from planning.units import quantity
from tests.support.recorder import Recorder, inputs, is_secret


def test_the_plugin_is_the_one_of_the_installed_sdk():
    assert importlib.metadata.version("pulumi-kubernetes") == PLUGIN_VERSION


def test_the_provider_is_tied_to_the_context_and_records_no_path_of_this_machine(engine: Recorder, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/home/somebody/.kube/config")
    engine.run(lambda: kubernetes_provider("cluster", "prod", None).id)
    request = engine.one("kubernetes")
    assert inputs(request) == {
        "kubeconfig": "",
        "context": "prod",
        "clusterIdentifier": "prod",
        "enableSecretMutable": "true",
    }
    assert request.version == PLUGIN_VERSION


@pytest.mark.preview_too
def test_a_kubeconfig_stays_secret(engine: Recorder):
    engine.run(lambda: kubernetes_provider("cluster", "prod", pulumi.Output.secret("apiVersion: v1")).id)
    assert is_secret(inputs(engine.one("kubernetes"))["kubeconfig"])


@pytest.mark.parametrize(
    ("written", "kept"),
    [("1024Gi", "1Ti"), ("2Ti", "2Ti"), ("1536Gi", "1536Gi"), ("1048576Mi", "1Ti"), ("2048Ti", "2048Ti")],
)
def test_a_quantity_is_written_as_kubernetes_keeps_it(written: str, kept: str):
    assert quantity(written) == kept
