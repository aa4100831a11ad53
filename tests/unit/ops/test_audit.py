"""What an audit says of the cloud: of load balancers that outlive their Service, and of what nothing here lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from config.judge import parse
from config.stack_file import read
from local.paths import ROOT
from ops import audit as ops_audit
from ops.audit import Audit, _unlisted, addresses, audit, lines
from tests.support.stack_files import StackFile
from watch.cloud_lists import BALANCERS, Item

SERVICE = {
    "urn": "urn:pulumi:t::modelserve::kubernetes:core/v1:Service::ds-service",
    "type": "kubernetes:core/v1:Service",
    "id": "default/ds-leader",
    "inputs": {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ds-leader", "namespace": "default"}},
    "outputs": {"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.8"}]}}},
}
GATEWAY = SERVICE | {
    "type": "kubernetes:gateway.networking.k8s.io/v1:Gateway",
    "outputs": {"status": {"addresses": [{"type": "IPAddress", "value": "10.0.0.9"}]}},
}


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The resources of the state; the cluster is empty, and the cloud has a balancer at 10.0.0.8."""
    resources: list[dict[str, Any]] = []
    told = {"alicloud::LoadBalancer": "address", "volcengine::LoadBalancer": "address"}

    def find(asked: Sequence[Mapping[str, Any]], regions: Mapping[str, str]) -> dict[str, list[Item]]:
        there = {each["urn"]: told.get(each["type"]) and each["inputs"]["address"] == "10.0.0.8" for each in asked}
        return {urn: [Item("lb-1")] if found else [] for urn, found in there.items()}

    contexts = [{"name": StackFile(stack).whole["cluster"]["context"]} for stack in ("local", "acs", "volcengine")]
    (tmp_path / "kubeconfig").write_text(json.dumps({"contexts": contexts}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(ops_audit, "pulumi", lambda *_: json.dumps({"deployment": {"resources": resources}}))
    monkeypatch.setattr(ops_audit, "kubeconfig", lambda _: None)
    monkeypatch.setattr(ops_audit, "find", find)
    monkeypatch.setattr(ops_audit.leftovers, "look", lambda *_: ([], []))
    return resources


def test_a_load_balancer_that_outlives_its_service_is_found_by_the_address_that_the_destroyed_stack_had(state):
    file = read(ROOT / "Pulumi.acs.yaml")
    state.append(SERVICE)
    assert "LoadBalancer lb-1" in audit(file, "acs", after_destroy=False).right
    state.clear()
    assert audit(file, "acs", after_destroy=True).clean, "nobody knows an address any more"
    assert audit(file, "acs", after_destroy=True, before=[SERVICE]).wrong == ("LoadBalancer lb-1",)


def test_addresses_are_those_of_services_and_gateways_and_each_clouds_plugin_is_asked_for_them():
    assert addresses([SERVICE, GATEWAY, {"type": "alicloud:oss/bucket:Bucket", "outputs": {"status": None}}]) == [
        "10.0.0.8",
        "10.0.0.9",
    ]
    assert {kind.partition(":")[0] for kind in BALANCERS} == {"alicloud", "volcengine"}


@pytest.mark.parametrize(
    ("stack", "changes", "commands"),
    [
        ("acs", {}, ("rclone backend list-multipart-uploads", "aliyun ram ListAccessKeys")),
        (
            "acs",
            {"services/ds/expose": {"to": "private"}},
            ("rclone backend", "aliyun ram ListAccessKeys", "aliyun slb DescribeLoadBalancers --RegionId cn-"),
        ),
        ("volcengine", {}, ("rclone backend list-multipart-uploads", "ve clb DescribeLoadBalancers")),
        ("local", {}, ()),
    ],
)
def test_what_nothing_here_lists_is_said_with_the_command_that_does_and_is_no_failure(stack, changes, commands):
    config = parse(StackFile(stack).changed(**changes), secrets=["apiKey"])
    told = Audit((), (), (), (), unlisted=tuple(_unlisted(config)))
    assert told.clean and len(told.unlisted) == len(commands)
    for line, command in zip(told.unlisted, commands, strict=True):
        assert command in line and "{" not in line
        assert f"{stack}: not listed here: {line}" in list(lines(stack, told))
