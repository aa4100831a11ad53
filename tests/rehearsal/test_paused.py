"""A service whose GPUs go and come back: by replicas: 0, and by its schedule's CronJobs, with all else kept."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from kubernetes import client

from planning.schedule import DAYS
from tests.rehearsal.pulumi_stack import Cluster, Stack, one_node
from tests.rehearsal.test_answers import REFUSED, asked, slow
from tests.support.patience import PATIENCE_SECONDS

SCHEDULE: dict[str, Any] = {
    "timezone": "Asia/Shanghai",
    "on": [{"days": ["mon"], "from": "08:00", "to": "20:00"}],
}


def kept(cluster: Cluster) -> dict[str, str]:
    """The uids of what a pause leaves as it is."""
    names = [each.split("/") for each in cluster.ours() if each.startswith(("Service/", "ConfigMap/", "Secret/"))]
    found = {name: cluster.object(kind, name) for kind, name in names}
    return {name: each["metadata"]["uid"] for name, each in found.items() if each}


def fire(cluster: Cluster, name: str) -> None:
    """Runs a CronJob now, as its controller would at its time, and waits until its Job is done."""
    path = "/apis/batch/v1/namespaces/default"
    made = cluster.plane.api.get(f"{path}/cronjobs/{name}")
    template = made["spec"]["jobTemplate"]
    metadata = template["metadata"] | {"name": f"{name}-{secrets.token_hex(2)}"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}
    cluster.plane.api.request("POST", f"{path}/jobs", job)

    def done() -> bool:
        return bool(cluster.plane.api.get(f"{path}/jobs/{metadata['name']}")["status"].get("succeeded"))

    cluster.wait(f"{metadata['name']} is done", done)
    cluster.plane.api.delete(f"{path}/jobs/{metadata['name']}")


@pytest.mark.soak
def test_a_service_pauses_and_resumes_by_its_replicas_and_keeps_all_but_its_pods(stack: Stack, cluster: Cluster):
    stack.services["ds"] = one_node(stack.services["ds"])
    stack.up()
    before = kept(cluster)
    assert {"ds-leader", "ds-api-key"} <= before.keys() and cluster.ready()

    stack.services["ds"]["replicas"] = 0
    stack.up()
    assert cluster.pods() == {}, "ready when nothing runs"
    assert kept(cluster) == before
    assert "ds: paused: replicas is 0" in stack.ops("verify", stack.name)

    stack.services["ds"]["replicas"] = 1
    stack.up()
    assert cluster.ready() and kept(cluster) == before
    assert "ds answered" in stack.ops("verify", stack.name)


def test_a_schedule_stops_and_starts_a_service_and_no_up_fights_it(stack: Stack, cluster: Cluster):
    stack.services["ds"] = one_node(stack.services["ds"]) | {"schedule": SCHEDULE}
    said = stack.up()
    assert "ds: on mon 08:00 to 20:00 (Asia/Shanghai), 12 of 168 hours a week" in said
    fire(cluster, "ds-off-2000")
    cluster.wait("no pod is left", lambda: cluster.pods() == {})
    told = stack.ops("verify", stack.name)
    assert "ds: paused: its schedule has it on mon 08:00 to 20:00" in told

    stack.up("--refresh", "--expect-no-changes")
    stack.services["ds"]["podLabels"] = {"changed": "yes"}
    stack.up()
    assert cluster.pods() == {} and cluster.group()["spec"]["replicas"] == 0

    fire(cluster, "ds-on-0800")
    cluster.wait("the pods are ready", cluster.ready)
    assert "ds answered" in stack.ops("verify", stack.name)
    stack.up("--refresh", "--expect-no-changes")

    # The pods of the schedule may not touch another workload.
    account = "system:serviceaccount:default:ds-schedule"
    reviews = client.AuthorizationV1Api(cluster.core.api_client)
    for resource, name, allowed in (("scale", "ds", True), ("scale", "other", False), ("", "ds", False)):
        asked = client.V1ResourceAttributes(
            group="leaderworkerset.x-k8s.io",
            resource="leaderworkersets",
            subresource=resource,
            name=name,
            namespace="default",
            verb="patch",
        )
        spec = client.V1SubjectAccessReviewSpec(resource_attributes=asked, user=account)
        review = reviews.create_subject_access_review(client.V1SubjectAccessReview(spec=spec))
        assert review.status.allowed is allowed, (resource, name)

    del stack.services["ds"]["schedule"]
    stack.up()
    assert cluster.ready()
    assert not any(each.startswith("CronJob/") for each in cluster.ours())


@pytest.mark.soak
def test_the_clusters_own_cron_stops_starts_and_stops_a_service_with_its_answers_given_and_all_else_kept(
    stack: Stack, cluster: Cluster
):
    stack.services["ds"] = one_node(slow(stack))
    stack.up()
    before = kept(cluster)
    # A zone that is 45 minutes off every whole hour. It is on now; then off, on and off at minutes that come.
    zone = "Asia/Kathmandu"
    now = datetime.now(ZoneInfo(zone))
    hour_ago, off, on, end = (f"{now + timedelta(minutes=each):%H:%M}" for each in (-60, 3, 5, 7))
    windows = [{"days": [*DAYS], "from": hour_ago, "to": off}, {"days": [*DAYS], "from": on, "to": end}]
    stack.services["ds"]["schedule"] = {"timezone": zone, "on": windows}
    stack.up()
    made = {"ds-schedule"}
    patience = PATIENCE_SECONDS + 240
    with asked(cluster, "a day of seven minutes") as outcomes:
        cluster.wait(f"no pod is left after {off}", lambda: cluster.pods() == {}, patience)
        cluster.wait(f"the pods are ready after {on}", cluster.ready, patience)
        again = outcomes["whole"]
        cluster.wait("it answers again", lambda: outcomes["whole"] > again)
        cluster.wait(f"no pod is left after {end}", lambda: cluster.pods() == {}, patience)
    assert outcomes["whole"] and outcomes.keys() <= {"whole", REFUSED[0]}, outcomes
    assert {name: uid for name, uid in kept(cluster).items() if name not in made} == before
    stack.up("--refresh", "--expect-no-changes")
    assert cluster.pods() == {}
