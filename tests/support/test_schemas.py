"""The validation finds a mistake in every kind that the program creates. For mistakes at any depth: test_schema.py."""

from __future__ import annotations

import pytest

from tests.support.schemas import problems


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("orchestration.aibrix.ai/v1alpha1", "RayClusterFleet"),
        ("autoscaling.aibrix.ai/v1alpha1", "PodAutoscaler"),
        ("data.fluid.io/v1alpha1", "Dataset"),
        ("data.fluid.io/v1alpha1", "JindoRuntime"),
        ("data.fluid.io/v1alpha1", "DataLoad"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
        ("batch/v1", "Job"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    ],
)
def test_an_unknown_field_is_refused(version: str, kind: str):
    made = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": {"nonsense": 1}}
    assert any("'nonsense' was unexpected" in problem for problem in problems(made))
