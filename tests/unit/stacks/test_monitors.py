"""Monitoring as the stack file sets it: on every cloud, with which labels, and only on request."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from config.stack import parse
from stacks import monitors
from stacks.service_plans import plan_services
from tests.support.recorder import Recorder, inputs
from tests.support.stack_files import StackFile


def run(engine: Recorder, stack: str, **changes: Any) -> None:
    config = parse(StackFile(stack).changed(**changes))
    engine.run(lambda: monitors.monitor(config, plan_services(config), pulumi.ResourceOptions()))


@pytest.mark.parametrize(
    ("stack", "service", "label"),
    [
        ("local", "ds", {}),
        ("acs", "ds", {}),
        ("volcengine", "deepseek-r1-671b", {"volcengine.vmp": "true"}),
    ],
)
def test_every_cloud_has_it_by_its_own_prometheus_labels(
    engine: Recorder, stack: str, service: str, label: dict[str, str]
):
    run(engine, stack, monitoring={"enabled": True})
    found = inputs(engine.one("ServiceMonitor"))
    assert found["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == service
    assert label.items() <= found["metadata"]["labels"].items()
    assert engine.one("ConfigMap")


def test_the_stack_files_labels_take_the_place_of_the_clouds(engine: Recorder):
    run(engine, "volcengine", monitoring={"enabled": True, "labels": {"release": "prometheus"}, "dashboard": False})
    found = inputs(engine.one("ServiceMonitor"))["metadata"]["labels"]
    assert found["release"] == "prometheus" and "volcengine.vmp" not in found
    assert [token for token, _ in engine.seen if token.endswith(":ConfigMap")] == []


def test_nothing_is_made_unless_it_is_asked_for(engine: Recorder):
    run(engine, "acs")
    assert not any("monitoring" in name for _, name in engine.seen)
