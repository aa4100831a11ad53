"""An update beside what serves: a second group that is asked for a completion before it gets any request."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from standins.vllm_server import TOKEN_SECONDS
from tests.rehearsal.fleets import Fleets
from tests.rehearsal.pulumi_stack import STARTUP_SECONDS, Cluster, Stack, one_node
from tests.rehearsal.test_answers import REFUSED, asked, slow

GOOD = "vllm/vllm-openai:v0.7.2"
TEXT = {"type": "string"}


def beside(stack: Stack) -> None:
    stack.services["ds"] = one_node(slow(stack)) | {"rollout": {"strategy": "blueGreen"}}


def groups(cluster: Cluster) -> list[str]:
    return sorted(each.removeprefix("LeaderWorkerSet/") for each in cluster.ours() if each.startswith("LeaderWorkerS"))


def serves(cluster: Cluster) -> str:
    service = cluster.core.read_namespaced_service("ds-leader", "default")
    return service.spec.selector["leaderworkerset.sigs.k8s.io/name"]


def test_no_request_fails_while_a_good_version_takes_over_and_none_while_a_bad_one_is_kept_off(
    stack: Stack, cluster: Cluster
):
    beside(stack)
    stack.up()
    assert (groups(cluster), serves(cluster)) == (["ds-blue"], "ds-blue")
    service = stack.services["ds"]
    with asked(cluster, "a good version") as outcomes:
        service["engine"]["image"] = GOOD
        stack.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (groups(cluster), serves(cluster)) == (["ds-green"], "ds-green")
    assert stack.in_order("LeaderWorkerSet/ds-green", "Service/ds-service", "LeaderWorkerSet/ds-blue")
    # Its context is shorter than the answer that is asked for.
    with asked(cluster, "a bad version") as outcomes:
        service["maxModelLen"] = 32
        said = stack.up(ok=False)
    assert outcomes.keys() == {"whole"}, outcomes
    assert "ds: the new group did not answer: 400 Bad Request: This model's maximum context length is 32" in said
    assert (groups(cluster), serves(cluster)) == (["ds-blue", "ds-green"], "ds-green")
    with asked(cluster, "the version from before") as outcomes:
        service["maxModelLen"] = "auto"
        stack.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (groups(cluster), serves(cluster)) == (["ds-green"], "ds-green")
    assert list(stack.steps()) == ["LeaderWorkerSet/ds-blue", "ConfigMap/ds-blue-launch"]


@pytest.mark.soak
def test_a_group_from_before_gives_way_a_third_version_takes_the_place_of_a_bad_one_and_a_pause_asks_nobody(
    stack: Stack, cluster: Cluster
):
    service = stack.services["ds"] = one_node(slow(stack))
    stack.up()
    with asked(cluster, "the first switch") as outcomes:
        beside(stack)
        stack.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (groups(cluster), serves(cluster)) == (["ds-blue"], "ds-blue")
    service = stack.services["ds"]
    with asked(cluster, "a version that never starts, then a good one") as outcomes:
        service["podAnnotations"] = {"rehearsal.modelserve.dev/fail": "never-ready"}
        stack.up(ok=False)
        assert serves(cluster) == "ds-blue"
        service["podAnnotations"] = {"a": "b"}
        stack.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (groups(cluster), serves(cluster)) == (["ds-green"], "ds-green")
    service["replicas"] = 0
    stack.up()
    assert "ds: paused: replicas is 0" in stack.ops("verify", stack.name)
    service |= {"replicas": 1, "podAnnotations": {}}
    stack.up()
    assert "ds: ds answered" in stack.ops("verify", stack.name)
    # There are GPUs for this one alone.
    service["layout"] = {"nodes": 2, "gpusPerNode": 8, "tensor": 16, "pipeline": 1}
    del service["rollout"]
    stack.up()
    assert (groups(cluster), serves(cluster)) == (["ds"], "ds") and cluster.ready()
    stack.up("--refresh", "--expect-no-changes")


@pytest.mark.soak
def test_a_destroy_lets_the_group_give_its_answers_before_its_service_goes(stack: Stack, cluster: Cluster):
    beside(stack)
    stack.up()
    with asked(cluster, "destroy") as outcomes, ThreadPoolExecutor(1) as threads:
        run = threads.submit(stack.ops, "destroy", stack.name, "--yes")
        cluster.wait("the Service has gone", lambda: cluster.object("Service", "ds-leader") is None)
        # Where a load balancer goes with it, it cuts what still runs.
        assert cluster.pods("ds-blue") == {}
        run.result()
    assert outcomes["whole"] and outcomes.keys() <= {"whole", REFUSED[0]}, outcomes
    assert groups(cluster) == []


@pytest.mark.soak
def test_a_switch_that_is_killed_at_any_step_is_finished_by_recover_and_up_without_a_failed_request(
    stack: Stack, cluster: Cluster
):
    beside(stack)
    stack.up()
    seen: set[str] = set()
    with asked(cluster, "killed switches") as outcomes:
        for number in range(20):
            stack.services["ds"]["podAnnotations"] = {"version": str(number)}
            before = serves(cluster)
            killed = stack.kill_at_news(seen, "up")
            if killed:
                stack.ops("recover", stack.name)
                stack.up()
            assert before != serves(cluster) and groups(cluster) == [serves(cluster)]
            if number % 2 and not killed:
                break
    assert outcomes.keys() == {"whole"}, outcomes
    stack.up("--refresh", "--expect-no-changes")


@pytest.mark.soak
@pytest.mark.parametrize(("start", "workload"), [("acs", "lws"), ("volcengine", "lws"), ("volcengine", "fleet")])
def test_a_cloud_switches_without_a_failed_request(
    request: pytest.FixtureRequest, cluster: Cluster, fleets: Fleets, start: str, workload: str
):
    stack = request.getfixturevalue(start)
    (service,) = stack.services.values()
    service |= {"rollout": {"strategy": "blueGreen"}, "startupSeconds": STARTUP_SECONDS}
    service["engine"]["env"] = {TOKEN_SECONDS: "0.1"}
    if start == "volcengine":
        service |= {"workload": workload, "gateway": "none"}
        service.pop("routing", None)
        if workload == "lws":
            stack.config["modelserve:addons"].pop("aibrix", None)
        stack.config.pop("modelserve:monitoring", None)
    stack.config["modelserve:services"] = {"ds": service}
    with fleets.more_nodes(2):
        stack.up()
        with asked(cluster, f"a good version on {start}, {workload}") as outcomes:
            service["podAnnotations"] = {"version": "2"}
            stack.up()
        assert outcomes.keys() == {"whole"}, outcomes
        kinds = ("LeaderWorkerSet/", "RayClusterFleet/")
        assert [each.partition("/")[2] for each in cluster.ours() if each.startswith(kinds)] == ["ds-green"]
        stack.up("--refresh", "--expect-no-changes")
        stack.destroy("--exclude-protected")


@pytest.mark.soak
def test_kinds_that_are_older_are_brought_up_and_those_with_more_in_them_stay(volcengine: Stack, cluster: Cluster):
    api, path = cluster.plane.api, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    scalers, fleets = f"{path}/podautoscalers.autoscaling.aibrix.ai", f"{path}/rayclusterfleets.orchestration.aibrix.ai"
    whole = {each: api.get(each)["spec"] for each in (scalers, fleets)}

    def fields(kind: str) -> dict[str, Any]:
        (version,) = api.get(kind)["spec"]["versions"]
        return version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]

    try:
        for kind, change in (
            (scalers, lambda spec: spec.pop("minReplicas")),
            (fleets, lambda spec: spec.update(old=TEXT)),
        ):
            spec = copy.deepcopy(whole[kind])
            change(spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])
            api.merge(kind, {"spec": {"versions": spec["versions"]}})
        older = "the kind podautoscalers.autoscaling.aibrix.ai (v1alpha1) from an unknown release to 0.7.0"
        stays = (
            "rayclusterfleets.orchestration.aibrix.ai stays as it is: it is of an unknown release, and 0.7.0 lacks spec"
        )
        said = volcengine.preview()
        assert f"would bring {older}" in said and stays in said and "minReplicas" not in fields(scalers)
        said = volcengine.up()
        assert f"brought {older}" in said and stays in said
        assert "minReplicas" in fields(scalers) and "old" in fields(fleets)
    finally:
        for kind, spec in whole.items():
            api.merge(kind, {"spec": {"versions": spec["versions"]}})
