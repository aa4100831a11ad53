"""Sixteen data-parallel engines with whole experts on a rehearsal: the stack files of today's recipes, unchanged, and
the same as a fleet that Ray joins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.control_plane import ControlPlane
from planning import flags
from planning.names import group_object
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.conftest import checked
from tests.rehearsal.fleets import NAME, Fleets
from tests.rehearsal.pulumi_stack import Cluster, Stack

ENGINES = "--data-parallel-size 16 --enable-expert-parallel"
OURS = f"aibrix-system/{NAME}-router"


@pytest.fixture
def acs_next(control_plane: ControlPlane, cluster: Cluster, cloud: Cloud, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack from the stack file for ACS of today's recipe."""
    with checked(Stack(control_plane, tmp_path, "acs-next"), cluster) as made:
        yield made


@pytest.fixture
def volcengine_next(equipped: ControlPlane, cluster: Cluster, cloud: Cloud, tmp_path: Path) -> Iterator[Stack]:
    """A fresh stack from the stack file for Volcengine of today's recipe."""
    with checked(Stack(equipped, tmp_path, "volcengine-next"), cluster) as made:
        yield made


def log(cluster: Cluster, pod: str) -> str:
    return cluster.core.read_namespaced_pod_log(pod, "default") or ""


def taken(pod: Any) -> str:
    """The engine's arguments, which its release takes."""
    (engine,) = pod.spec.containers
    assert flags.problems(engine.args, engine.image.rpartition(":v")[2]) == []
    return " ".join(engine.args)


def joined_by_vllm(cluster: Cluster, group: str) -> None:
    """The group's leader serves for all engines, and its worker runs half of them without HTTP."""
    leader, worker = log(cluster, f"{group}-0"), log(cluster, f"{group}-0-1")
    assert f"modelserve: native: leading 2 nodes at {group}-0.{group}.default:29550, starting vLLM" in leader
    assert "world_size=16 rank=0" in leader and "(EngineCore_DP0 pid=" in leader
    assert "Application startup complete." in leader
    assert "Launching 8 data parallel engine(s) in headless mode" in worker and "(Worker_DP8_EP8 pid=" in worker
    assert "Uvicorn" not in worker and "ray" not in leader + worker
    for name in cluster.pods(group):
        assert ENGINES in taken(cluster.core.read_namespaced_pod(name, "default"))


def test_a_group_of_engines_goes_up_answers_stays_and_goes(acs_next: Stack, cluster: Cluster):
    acs_next.up()
    assert cluster.ready()
    joined_by_vllm(cluster, "ds")
    acs_next.up("--refresh", "--expect-no-changes")
    assert "ds answered" in acs_next.ops("verify", acs_next.name)


@pytest.mark.soak
def test_an_engine_of_two_pods_has_its_own_process_in_the_first_of_them(stack: Stack, cluster: Cluster):
    stack.services["ds"] |= {
        "layout": {"nodes": 4, "gpusPerNode": 4, "data": 2, "tensor": 8, "pipeline": 1, "expertParallel": True},
        "engine": {"image": "vllm/vllm-openai:v0.33.0", "version": "0.33.0", "launcher": "native"},
        "unproven": True,
    }
    stack.up()
    assert cluster.ready() and "Application startup complete." in log(cluster, "ds-0")
    helps, leads, helps_too = (log(cluster, f"ds-0-{index}") for index in (1, 2, 3))
    assert "Launching 1 data parallel engine(s) in headless mode" in leads and "(Worker_DP1_TP0_EP8 pid=" in leads
    assert "headless multiproc executor" in helps and "headless multiproc executor" in helps_too
    for name in cluster.pods("ds"):
        assert "--data-parallel-size 2 " in taken(cluster.core.read_namespaced_pod(name, "default"))
    assert "ds answered" in stack.ops("verify", stack.name)


@pytest.mark.soak
def test_a_group_of_engines_answers_behind_a_gateway_and_so_does_a_fleet_that_ray_joins(
    volcengine_next: Stack, cluster: Cluster, fleets: Fleets
):
    volcengine_next.up()
    joined_by_vllm(cluster, group_object(NAME))
    assert fleets.way() == OURS
    # Pulumi makes the fleet before it takes the group away, and there are GPUs for one of them.
    volcengine_next.destroy("--exclude-protected")
    service = volcengine_next.services[NAME]
    service["workload"] = "fleet"
    service["engine"] |= {"launcher": "ray", "imageHasRay": True}
    volcengine_next.up()
    assert fleets.ready() and fleets.way() == OURS
    said = taken(fleets.head())
    assert "--data-parallel-size 16 --data-parallel-backend ray --data-parallel-size-local 8" in said
    assert "--distributed-executor-backend ray" in said and "--enable-expert-parallel" in said
    assert "16 of 16 GPUs joined" in log(cluster, fleets.head().metadata.name)
