"""The simulated engines: what they remove and break, checked with a client that records its calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local import faults
from standins.engines import Engines
from standins.members import FAIL, Log, Member, engine_container


class Client:
    """Holds kwok's objects for two pods, one of which no longer exists."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.applied: list[str] = []
        self.marked: dict[str, str] = {}

    def get(self, path: str) -> dict[str, Any]:
        names = ("here", "gone") if path.endswith("/logs") else ("gone",)
        return {"items": [{"metadata": {"namespace": "default", "name": name}} for name in names]}

    def apply(self, path: str, _: Any) -> None:
        self.applied.append(path.partition("/namespaces/default/")[2])

    def merge(self, path: str, patch: dict[str, Any]) -> None:
        self.marked[path.rpartition("/")[2]] = patch["metadata"]["annotations"][FAIL]

    def delete(self, path: str) -> None:
        self.deleted.append(path.partition("/namespaces/default/")[2])


def test_what_an_earlier_process_left_of_a_pod_that_is_gone_is_removed_and_nothing_else(tmp_path: Path) -> None:
    client = Client()
    Engines(client, tmp_path).keep_only([{"metadata": {"namespace": "default", "name": "here", "uid": "1"}}])
    assert client.deleted == ["logs/gone", "portforwards/gone"]


def pod(kind: str, *, ready: bool = True) -> dict[str, Any]:
    """A running pod of KubeRay's."""
    labels = {
        "ray.io/node-type": kind,
        "ray.io/cluster": "ds-1",
        "orchestration.aibrix.ai/raycluster-fleet-name": "ds",
    }
    container = {
        "name": "vllm",
        "image": "vllm/vllm-openai:v0.8.5",
        "command": ["bash", "/etc/modelserve/launch.sh"],
        "args": ["/weights/m", "--served-model-name", "ds"] if kind == "head" else [],
        "env": [{"name": "MODELSERVE_NODES", "value": "2"}, {"name": "FQ_RAY_IP", "value": "ds-head-svc"}],
    }
    running = {"name": "vllm", "state": {"running": {"startedAt": "2026-11-22T00:00:00Z"}}}
    return {
        "metadata": {"namespace": "default", "name": kind, "uid": kind, "labels": labels},
        "spec": {"containers": [container]},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}], "containerStatuses": [running]},
    }


def test_a_fleets_head_leads_the_pods_of_its_raycluster(tmp_path: Path) -> None:
    head, worker = (Member(each, engine_container(each) or {}, Log(tmp_path)) for each in (pod("head"), pod("worker")))
    assert head.leads and not worker.leads
    assert head.group == worker.group == ("default", "ds-1", "")
    assert worker.leader_address == "ds-head-svc" and not worker.runs_vllm


@pytest.mark.parametrize(
    ("engines", "index", "place"),
    [
        (
            "0",
            "1",
            "--data-parallel-rpc-port 29550 --nnodes 2 --node-rank 1 --master-addr ds-0.ds --master-port 29501 "
            "--data-parallel-address ds-0.ds --headless",
        ),
        ("8", "0", "--data-parallel-size-local 8 --data-parallel-rpc-port 29550 --data-parallel-address 10.0.0.1"),
        (
            "8",
            "1",
            "--data-parallel-size-local 8 --data-parallel-rpc-port 29550 --data-parallel-address ds-0.ds "
            "--data-parallel-start-rank 8 --headless",
        ),
    ],
)
def test_a_pod_of_engines_has_the_place_that_the_launch_script_gives(
    tmp_path: Path, engines: str, index: str, place: str
) -> None:
    env = {
        "MODELSERVE_NODES": "2",
        "MODELSERVE_LAUNCHER": "native",
        "MODELSERVE_ENGINES": engines,
        "MODELSERVE_DATA_PORT": "29550",
        "MODELSERVE_MASTER_PORT": "29501",
        "MODELSERVE_JOIN_PORT": "8000",
        "LWS_LEADER_ADDRESS": "ds-0.ds",
    }
    member = pod("head")
    member["metadata"]["labels"] = {"leaderworkerset.sigs.k8s.io/worker-index": index}
    (container,) = member["spec"]["containers"]
    container |= {
        "image": "vllm/vllm-openai:v0.33.0",
        "command": ["bash", "/etc/modelserve/launch_data.sh"],
        "args": ["m", "--data-parallel-size", "16"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }
    found = Member(member, engine_container(member) or {}, Log(tmp_path))
    assert found.words == ["m", "--data-parallel-size", "16", *place.split()] and found.refuses() == []


def test_a_head_answers_as_long_as_it_is_ready_and_none_of_its_raycluster_is_missing(tmp_path: Path) -> None:
    client = Client()
    engines = Engines(client, tmp_path / "pod-logs")
    engines.see(pod("head"))
    assert "portforwards/head" not in client.applied
    engines.see(pod("worker"))
    assert "portforwards/head" in client.applied and "portforwards/worker" not in client.applied
    engines.forget("worker")
    assert "portforwards/head" in client.deleted


@pytest.mark.parametrize(
    ("how", "marked"), [("never-ready", {"head": "never-ready"}), ("worker-missing", {"worker": "image-pull"})]
)
def test_a_fleets_fault_befalls_the_pod_that_it_means(tmp_path: Path, how: str, marked: dict[str, str]) -> None:
    client = Client()
    faults.put(tmp_path, "RayClusterFleet", "ds", how)
    engines = Engines(client, tmp_path / "pod-logs")
    for kind in ("head", "worker"):
        engines.see(pod(kind, ready=False))
    assert client.marked == marked
