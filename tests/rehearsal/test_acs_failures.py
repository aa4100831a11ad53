"""Failures while a service on ACS starts: `up` ends early with the cause, before it costs more, and the next one
repairs the stack."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from local.paths import ROOT
from tests.rehearsal.clouds import BUCKETS, Cloud
from tests.rehearsal.pulumi_stack import STARTUP_SECONDS, Cluster, Stack
from tests.support.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.soak
BUCKET = "modelserve-llm-weights"
MODEL = "deepseek-r1"
BUSY = {"Job", "Pod", "Dataset", "JindoRuntime", "DataLoad", "LeaderWorkerSet"}


@pytest.fixture
def acs(acs: Stack) -> Stack:
    """The stack with the add-ons already installed, and short time limits for start, sync and cache check."""
    acs.config["modelserve:addons"] = {"lws": {"install": False}, "fluid": {"install": False}}
    acs.services["ds"]["startupSeconds"] = STARTUP_SECONDS
    planning = acs.folder / "planning"
    planning.unlink()
    shutil.copytree(ROOT / "planning", planning, ignore=shutil.ignore_patterns("__pycache__"))
    for file, room, fact, value in (("sync", "pod", "retries", 1), ("fluid", "fluid", "syncSeconds", 1)):
        path = planning / "catalog" / f"{file}.json"
        facts = json.loads(path.read_text())
        facts[room][fact]["value"] = value
        path.write_text(json.dumps(facts))
    return acs


def kinds(cluster: Cluster) -> set[str]:
    return {name.partition("/")[0] for name in cluster.ours()}


def errors(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if line.strip().startswith("error: ")]


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("failed", "Fluid calls the load Failed (BackoffLimitExceeded: Job has reached the specified backoff limit)"),
        ("partial", "Fluid calls the load complete, but "),
    ],
)
def test_a_load_that_fails_ends_up_in_fluids_words_without_a_group_and_the_next_up_loads_anew(
    acs: Stack, cluster: Cluster, how: str, cause: str
):
    acs.fault(f"DataLoad/{MODEL}", how)
    said = acs.up(ok=False)
    assert f"error: {MODEL}: {cause}" in said and "Traceback" not in said
    assert "LeaderWorkerSet" not in kinds(cluster) and cluster.pods() == {}
    failed = cluster.object("DataLoad", MODEL)
    acs.fault(f"DataLoad/{MODEL}", None)
    acs.up()
    load = cluster.object("DataLoad", MODEL)
    assert load["metadata"]["uid"] != failed["metadata"]["uid"] and load["status"]["phase"] == "Complete"
    assert load["metadata"]["annotations"]["modelserve.dev/attempt"] == "2" and cluster.ready()
    acs.up("--expect-no-changes")


def test_a_sync_that_fails_ends_up_in_its_own_words_before_cache_and_gpus_and_the_next_up_replaces_it(
    acs: Stack, cluster: Cluster
):
    acs.fault(f"Job/{MODEL}-sync", "failed")
    said = acs.up(ok=False)
    assert any("modelserve: sync: failed: the rehearsal was told to let this fail" in line for line in errors(said))
    assert "Traceback" not in said
    assert not kinds(cluster) & {"Dataset", "JindoRuntime", "DataLoad", "LeaderWorkerSet"}
    failed = cluster.object("Job", f"{MODEL}-sync")
    acs.fault(f"Job/{MODEL}-sync", None)
    acs.up()
    assert cluster.object("Job", f"{MODEL}-sync")["metadata"]["uid"] != failed["metadata"]["uid"] and cluster.ready()


def test_a_hub_that_is_down_for_a_while_is_told_while_up_goes_on_and_comes_up(acs: Stack, cluster: Cluster):
    def failed_pods() -> list[str]:
        found = cluster.core.list_namespaced_pod("default", label_selector="app.kubernetes.io/component=sync").items
        return [pod.metadata.name for pod in found if pod.status.phase == "Failed"]

    acs.fault(f"Job/{MODEL}-sync", "hub-down")
    process = acs.begin("up")
    cluster.wait("the first try has failed", lambda: failed_pods() != [], PATIENCE_SECONDS)
    acs.fault(f"Job/{MODEL}-sync", None)
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    acs.said.append(said)
    assert process.returncode == 0, said
    assert re.search(r"warning: \S+: its container ended with exit code 2, .* last words: .*failed for now: ", said)
    assert cluster.ready()


def test_a_group_that_fails_is_told_with_its_cause_and_the_next_up_heals_it_alone(acs: Stack, cluster: Cluster):
    acs.services["ds"]["podAnnotations"] = {"rehearsal.modelserve.dev/fail": "crash"}
    said = acs.up(ok=False)
    assert any(re.search("ds is not ready: .*its container ended with exit code", line) for line in errors(said)), said
    load = cluster.object("DataLoad", MODEL)["metadata"]["uid"]
    del acs.services["ds"]["podAnnotations"]
    acs.up()
    assert cluster.ready() and cluster.object("DataLoad", MODEL)["metadata"]["uid"] == load


def test_credentials_that_the_cloud_does_not_know_are_told_before_anything_runs(acs: Stack, cluster: Cluster):
    acs.env["ALICLOUD_ACCESS_KEY"] = "denied"
    said = acs.up(ok=False)
    assert "InvalidAccessKeyId" in said and "Traceback" not in said
    assert not kinds(cluster) & BUSY
    acs.env["ALICLOUD_ACCESS_KEY"] = "rehearsal"


def test_a_bucket_name_of_another_account_is_told_before_anything_runs(acs: Stack, cluster: Cluster, cloud: Cloud):
    cloud.put_bucket(BUCKET, BUCKETS["acs"] | {"owner": "2000000000000002"})
    said = acs.up(ok=False)
    assert re.search(r"oss:Bucket \(weights\).*BucketAlreadyExists", said, re.DOTALL) and "Traceback" not in said
    assert not kinds(cluster) & BUSY and cloud.left() == {"buckets": [BUCKET]}


def test_a_bucket_that_is_not_kept_and_not_empty_stops_a_destroy_by_name_and_loses_nothing(
    acs: Stack, cluster: Cluster, cloud: Cloud
):
    acs.config["modelserve:weights"]["bucket"]["keep"] = False
    acs.up()
    files = sorted(cloud.objects(BUCKET).rglob("*.safetensors"))
    said = acs.destroy(ok=False)
    assert re.search(f"{BUCKET} .*BucketNotEmpty", said, re.DOTALL) and "Traceback" not in said
    cluster.wait_for_end()
    assert cloud.left() == {"buckets": [BUCKET]} and sorted(cloud.objects(BUCKET).rglob("*.safetensors")) == files
    shutil.rmtree(cloud.objects(BUCKET) / "models")
