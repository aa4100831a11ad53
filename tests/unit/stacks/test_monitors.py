"""Monitoring as the stack file sets it: on every cloud, with which labels, and only on request."""

from __future__ import annotations

import json
import re
from typing import Any

import pulumi
import pytest

from components.monitoring.cloud_alerts import ARMS_RULE, VMP_RULE
from config.judge import parse
from config.plans import plan_services
from stacks import monitors
from tests.support.clouds_sdk import constructor
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


@pytest.mark.parametrize(
    ("stack", "chosen", "made"),
    [
        ("local", {}, True),
        ("local", {"alerts": {"enabled": False}}, False),
        ("acs", {}, False),
        ("volcengine", {}, False),
        ("volcengine", {"prometheus": "operator"}, True),
    ],
)
def test_rules_are_made_for_a_prometheus_that_reads_them(
    engine: Recorder, stack: str, chosen: dict[str, Any], made: bool
):
    run(engine, stack, monitoring={"enabled": True, **chosen})
    assert [name for token, name in engine.seen if token.endswith(":PrometheusRule")] == (
        [f"monitoring-{'deepseek-r1-671b' if stack == 'volcengine' else 'ds'}-alerts"] if made else []
    )
    if "prometheus" in chosen:
        assert "volcengine.vmp" not in inputs(engine.one("ServiceMonitor"))["metadata"]["labels"]


@pytest.mark.parametrize(
    ("stack", "chosen", "token"),
    [
        ("acs", {"instance": "c1"}, ARMS_RULE),
        ("acs", {"instance": "c1", "policy": "7"}, ARMS_RULE),
        ("volcengine", {"instance": "w1", "groupPolicy": "g1"}, VMP_RULE),
        ("volcengine", {"instance": "w1", "groupPolicy": "g1", "policy": "p1"}, VMP_RULE),
    ],
)
def test_the_clouds_own_prometheus_gets_every_alert_as_a_rule_of_its_own(engine: Recorder, stack, chosen, token):
    run(engine, stack, monitoring={"enabled": True, "alerts": chosen})
    assert not [name for kind, name in engine.seen if kind.endswith(":PrometheusRule")]
    made = {name: inputs(request) for (kind, name), request in engine.seen.items() if kind == token}
    names = {name.rpartition("-")[2] for name in made}
    assert {"ModelserveNoAnswer", "ModelserveStartOverdue", "ModelserveReplacementLoop"} <= names
    known = constructor(token)
    needed = {name for name, required in known.items() if required}
    for name, given in made.items():
        assert needed <= given.keys() <= known.keys(), name
        told = {each["name"]: each["value"] for each in given["annotations"]}
        assert told["runbook_url"].startswith("docs/runbook.md#")
        ids = json.dumps(given)
        assert all(json.dumps(each) in ids for each in chosen.values())


def test_the_pods_and_jobs_that_are_watched_are_those_that_the_stack_makes(engine: Recorder):
    """Names that LeaderWorkerSet, KubeRay and Fluid give, and names of those of other services."""
    for stack, service, ours, others in (
        ("local", "ds", ("ds-0", "ds-0-1", "ds-12-3"), ("ds-0-0", "ds-leader-0", "other-0", "ds")),
        (
            "volcengine",
            "deepseek-r1-671b",
            ("deepseek-r1-671b-5f6d-x2k9z-head-abcde", "deepseek-r1-671b-5f6d-x2k9z-workers-worker-abcde"),
            ("deepseek-r1-671b-0", "deepseek-r1-sync-abcde"),
        ),
    ):
        config = parse(StackFile(stack).changed(monitoring={"enabled": True}))
        found = monitors.scraped(config, service, plan_services(config)[service])
        assert all(re.fullmatch(found.pods, name) for name in ours), stack
        assert not any(re.fullmatch(found.pods, name) for name in others), stack
    config = parse(StackFile("acs").changed(prices={"perGpuHour": 10.0, "currency": "CNY", "asOf": "2026-11-01"}))
    found = monitors.scraped(config, "ds", plan_services(config)["ds"])
    assert (found.sync, found.load, found.replica_hour) == ("deepseek-r1-sync", "deepseek-r1-loader-job", 160.0)
    assert found.limits.load_seconds and found.limits.fill_rate and found.limits.copy_rate is None


def test_pods_that_a_schedule_stops_are_not_expected_at_any_hour():
    on = {"timezone": "Asia/Shanghai", "on": [{"days": ["mon"], "from": "08:00", "to": "20:00"}]}
    for changes, pauses in (({}, False), ({"services/ds/schedule": on}, True)):
        config = parse(StackFile("local").changed(monitoring={"enabled": True}, **changes))
        assert monitors.scraped(config, "ds", plan_services(config)["ds"]).pauses is pauses


def test_nothing_is_made_unless_it_is_asked_for(engine: Recorder):
    run(engine, "acs")
    assert not any("monitoring" in name for _, name in engine.seen)
