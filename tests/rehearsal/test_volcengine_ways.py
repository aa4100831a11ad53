"""Stacks on Volcengine other than the committed one, on an existing AIBrix: each source of weights, models side by
side, a LeaderWorkerSet behind the gateway, and starts that fail."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from local.__main__ import main
from local.control_plane import ControlPlane
from standins.vllm_server import TOKEN_SECONDS
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.fleets import NAME, Fleets
from tests.rehearsal.pulumi_stack import STARTUP_SECONDS, Cluster, Stack, one_node
from tests.rehearsal.test_answers import asked, endpoints
from tests.support.patience import PATIENCE_SECONDS

# Each test needs AIBrix, which a separate stack installs beforehand; that takes minutes.
pytestmark = pytest.mark.soak
FLEET = f"RayClusterFleet/{NAME}"
RAYCLUSTERS = "/apis/ray.io/v1/namespaces/default/rayclusters"
ROUTE = f"/apis/gateway.networking.k8s.io/v1/namespaces/aibrix-system/httproutes/{NAME}-router"
HUB = {"source": "huggingface", "endpoint": "https://hf-mirror.com"}
BUCKET = {"name": "modelserve-vke-weights", "keep": False}
SYNC = {"from": "modelscope"}


@pytest.fixture(scope="module")
def platform(equipped: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """AIBrix, installed by a stack whose own model has no replica."""
    made = Stack(equipped, tmp_path_factory.mktemp("platform"), "volcengine")
    made.config["modelserve:weights"] = HUB
    made.config["modelserve:monitoring"] = {"enabled": False}
    made.config["modelserve:services"] = {"none": {**made.services[NAME], "replicas": 0}}
    try:
        made.up()
        yield made
        made.destroy()
    finally:
        Cluster(equipped).clear()
    assert made.leaks() == []


@pytest.fixture
def volcengine(platform: Stack, volcengine: Stack) -> Stack:
    """A stack on the installed platform, with a short time limit for the start."""
    volcengine.config["modelserve:addons"]["aibrix"] = {"install": False, "version": "0.7.0"}
    volcengine.services[NAME]["startupSeconds"] = STARTUP_SECONDS
    volcengine.set_secret("hubToken", "hub-canary-77d0")
    return volcengine


@pytest.fixture
def storage_class(control_plane: ControlPlane) -> Iterator[str]:
    """One that has a volume for the first pod that asks for it."""
    name = "file-store"
    made = {
        f"/apis/storage.k8s.io/v1/storageclasses/{name}": {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        # Named so that nothing takes it for an object of a stack.
        f"/api/v1/persistentvolumes/{name}": {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "capacity": {"storage": "2Ti"},
                "hostPath": {"path": "/nowhere"},
                "storageClassName": name,
            },
        },
    }
    for path, manifest in made.items():
        control_plane.api.apply(path, manifest)
    yield name
    for path in made:
        control_plane.api.delete(path)


def volumes(pod: Any) -> dict[str, Any]:
    """A pod's volumes with weights, by name."""
    return {each.name: each for each in pod.spec.volumes if each.name.startswith("weights")}


def steps_before(pod: Any) -> list[str]:
    """The pod's init containers, except KubeRay's own."""
    return [each.name for each in pod.spec.init_containers or [] if each.name != "wait-gcs-ready"]


def environment(container: Any) -> dict[str, Any]:
    """Maps each variable to its value, or to the Secret key that holds it."""
    return {
        each.name: each.value
        if each.value_from is None or each.value_from.secret_key_ref is None
        else (each.value_from.secret_key_ref.name, each.value_from.secret_key_ref.key)
        for each in container.env
    }


def moved(stack: Stack, fleets: Fleets, weights: dict[str, Any], *before_it: str) -> list[Any]:
    """The pods after an `up` with these weights; checks that they come after these steps, and that a second `up`
    changes nothing."""
    before = fleets.uids()
    stack.config["modelserve:weights"] = weights
    stack.up()
    assert stack.in_order(*before_it, FLEET) and fleets.ready() and not fleets.uids() & before
    assert f"{NAME} answered" in stack.ops("verify", stack.name)
    stack.up("--expect-no-changes")
    return fleets.pods()


def test_a_model_moves_from_one_source_of_weights_to_the_next(
    volcengine: Stack, cluster: Cluster, cloud: Cloud, fleets: Fleets, storage_class: str
):
    for pod in moved(volcengine, fleets, HUB):
        (engine,) = pod.spec.containers
        env = environment(engine)
        assert env["HF_TOKEN"] == ("deepseek-r1-download-keys", "token")
        assert env["HF_ENDPOINT"] == "https://hf-mirror.com" and steps_before(pod) == []
        assert volumes(pod)["weights"].empty_dir.size_limit
        assert engine.resources.requests["ephemeral-storage"] == engine.resources.limits["ephemeral-storage"]
    assert fleets.head().spec.containers[0].args[0] == "deepseek-ai/DeepSeek-R1"

    create = {"storageClass": storage_class, "size": "1536Gi", "keep": False}
    volume = {"source": "pvc", "claim": "models", "create": create, "sync": SYNC}
    for pod in moved(volcengine, fleets, volume, "Job/deepseek-r1-sync"):
        (mounted,) = volumes(pod).values()
        assert cluster.object("PersistentVolumeClaim", mounted.persistent_volume_claim.claim_name)["status"] == {
            "phase": "Bound",
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "2Ti"},
        }
        assert steps_before(pod) == [] and "HF_TOKEN" not in environment(pod.spec.containers[0])
    assert "done: 9 files" in cluster.sync_log() and cloud.left() == {}

    download = {"threads": 4, "suffixes": ["json", "safetensors"]}
    bucket = {"source": "bucket", "bucket": BUCKET, "read": "download", "download": download, "sync": SYNC}
    for pod in moved(volcengine, fleets, bucket, "Bucket/weights", "Job/deepseek-r1-sync"):
        assert steps_before(pod) == ["weights"] and volumes(pod)["weights"].empty_dir.size_limit
        downloader = pod.spec.init_containers[0]
        env = environment(downloader)
        assert downloader.command[2] == "tos://modelserve-vke-weights/models/DeepSeek-R1/"
        assert downloader.image.endswith("aibrix/runtime:v0.7.0")
        assert env["TOS_ACCESS_KEY"] == ("deepseek-r1-download-keys", "id")
        assert env["TOS_SECRET_KEY"] == ("deepseek-r1-download-keys", "secret")
        assert (env["DOWNLOADER_NUM_THREADS"], env["DOWNLOADER_ALLOW_FILE_SUFFIX"]) == ("4", "json,safetensors")
    assert not [name for name in cluster.ours() if name.startswith("PersistentVolumeClaim/")]
    written = cloud.written(BUCKET["name"])

    disk = {"source": "nvme", "path": "/mnt/nvme0/models", "bucket": {**BUCKET, "keep": True}, "sync": SYNC}
    for pod in moved(volcengine, fleets, disk):
        assert steps_before(pod) == ["weights-tool", "weights"]
        place = volumes(pod)["weights"].host_path
        assert (place.path, place.type) == ("/mnt/nvme0/models", "Directory")
        assert environment(pod.spec.init_containers[1])["MODELSERVE_KEY_SECRET"] == (
            "deepseek-r1-download-keys",
            "secret",
        )
    assert cloud.written(BUCKET["name"]) == written

    # A kept bucket is not deleted with the source that used it. To leave it, the user makes the stack forget it.
    pods = fleets.uids()
    volcengine.config["modelserve:weights"] = HUB
    said = volcengine.up(ok=False)
    assert re.search(r"cannot be deleted\s+because it is protected", said) and "Traceback" not in said
    assert fleets.ready() and not fleets.uids() & pods
    (urn,) = [each["urn"] for each in volcengine.state()["deployment"]["resources"] if each.get("protect")]
    volcengine.run("state", "delete", urn, "--force", "--target-dependents", "--yes")
    volcengine.up()
    volcengine.up("--expect-no-changes")
    assert cloud.left() == {"buckets": [BUCKET["name"]]} and cloud.written(BUCKET["name"]) == written


def two_models(stack: Stack) -> str:
    """Adds a second model beside the first, each on one node; returns its name."""
    stack.config["modelserve:weights"] = HUB
    stack.services[NAME] = one_node({**stack.services[NAME], "unproven": True})
    stack.services["twin"] = {**stack.services[NAME], "model": "DeepSeek-V3"}
    return "twin"


def test_one_of_two_models_goes_and_the_other_keeps_its_way_through_the_gateway(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    twin = two_models(volcengine)
    volcengine.up()
    ways = {name: fleets.way(name) for name in (NAME, twin)}
    assert ways == {name: f"aibrix-system/{name}-router" for name in (NAME, twin)}
    pods = fleets.uids()

    del volcengine.services[twin]
    volcengine.up()
    assert f"HTTPRoute/{twin}-router" not in cluster.ours()
    assert {f"HTTPRoute/{NAME}-router", f"ReferenceGrant/{NAME}-gateway"} <= set(cluster.ours())
    assert fleets.way() == ways[NAME] and fleets.way(twin) == 400 and fleets.uids() == pods
    volcengine.up("--refresh", "--expect-no-changes")


def test_a_leaderworkerset_answers_beside_a_fleet_behind_the_same_gateway(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    twin = two_models(volcengine)
    volcengine.services[twin] |= {"workload": "lws", "gateway": "aibrix"}
    volcengine.up()
    group = f"LeaderWorkerSet/{twin}"
    assert volcengine.in_order("Release/addons-lws", group) and volcengine.in_order(f"HTTPRoute/{twin}-route", group)
    assert [fleets.way(name) for name in (NAME, twin)] == [f"aibrix-system/{name}-router" for name in (NAME, twin)]
    assert f"{twin} answered" in volcengine.ops("verify", volcengine.name)
    volcengine.up("--expect-no-changes")


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("never-ready", r"-head-\S+: Readiness probe failed|-head-\S+: .*/health"),
        ("worker-missing", r"-worker-\S+: ImagePullBackOff"),
    ],
)
def test_a_fleet_that_fails_is_told_with_its_cause_and_the_next_up_heals_it(
    volcengine: Stack, cluster: Cluster, fleets: Fleets, how: str, cause: str
):
    volcengine.config["modelserve:weights"] = HUB
    volcengine.fault(FLEET, how)
    said = volcengine.up(ok=False)
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith("error: ")]
    assert any(re.search(f"{NAME} is not ready: .*({cause})", line) for line in lines), said
    assert "Traceback" not in said and fleets.way() == 503
    volcengine.fault(FLEET, None)
    for pod in fleets.pods():
        cluster.core.delete_namespaced_pod(pod.metadata.name, "default")
    volcengine.up()
    assert fleets.ready() and fleets.way() == f"aibrix-system/{NAME}-router"
    volcengine.up("--expect-no-changes")


def test_a_head_that_is_not_ready_any_more_gets_a_second_raycluster_which_answers_once_the_broken_one_is_deleted(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    volcengine.config["modelserve:weights"] = HUB
    volcengine.services[NAME]["verifyAfterUp"] = True
    volcengine.up()
    asked = cluster.object("Job", f"{NAME}-verify")
    assert asked and asked["status"]["succeeded"] == 1, "through the gateway"
    head = fleets.head()
    assert main(["fail", head.metadata.name, "--how", "never-ready", "--name", cluster.plane.name]) == 0
    cluster.wait("there is a second RayCluster", lambda: len(rayclusters(cluster)) == 2)
    cluster.wait(
        "its pods wait for GPUs",
        lambda: any(pod.status.phase == "Pending" and not pod.spec.node_name for pod in fleets.pods()),
    )
    # The runbook: another comes for the one that waits; without the broken one, the one that waits gets its GPUs.
    broken = head.metadata.labels["ray.io/cluster"]
    (waiting,) = rayclusters(cluster) - {broken}
    cluster.plane.api.delete(f"{RAYCLUSTERS}/{waiting}")
    cluster.wait("another one waits", lambda: len(rayclusters(cluster) - {broken, waiting}) == 1)
    cluster.plane.api.delete(f"{RAYCLUSTERS}/{broken}")
    cluster.wait("the one that waited answers", fleets.ready)
    assert len(rayclusters(cluster) - {broken, waiting}) == 1


def rayclusters(cluster: Cluster) -> set[str]:
    found = cluster.plane.api.get(RAYCLUSTERS)["items"]
    return {each["metadata"]["name"] for each in found}


def test_load_brings_a_second_replica_and_its_end_takes_one_away_without_a_lost_answer(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    service = volcengine.services[NAME]
    del service["replicas"]
    # Two long requests fill most of the KV cache, for half a minute each.
    service |= {"maxModelLen": 4096, "autoscaling": {"minimum": 1, "maximum": 2}}
    service["engine"]["env"] = {TOKEN_SECONDS: "0.5"}
    stop, statuses = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            statuses.append(fleets.ask(content="word " * 3900, max_tokens=60).status_code)

    with fleets.more_nodes(2), ThreadPoolExecutor(2) as clients:
        volcengine.up()
        before = fleets.uids()
        try:
            running = [clients.submit(load) for _ in range(2)]
            cluster.wait("the load has brought a second replica", lambda: fleets.ready(replicas=2))
            assert before < fleets.uids()
        finally:
            stop.set()
        cluster.wait("its end has taken one away", lambda: fleets.ready(replicas=1), 2 * PATIENCE_SECONDS)
        [each.result() for each in running]
        assert statuses and set(statuses) == {200}
        volcengine.up("--expect-no-changes")


# --- an update beside what serves


def beside(stack: Stack, workload: str, **rollout: object) -> dict[str, Any]:
    """The stack's model on one node, updated blue-green; returns the service."""
    stack.config["modelserve:weights"] = HUB
    stack.config["modelserve:monitoring"] = {"enabled": False}
    service = one_node({**stack.services[NAME], "unproven": True}) | {"workload": workload, "gateway": "aibrix"}
    service["rollout"] = {"strategy": "blueGreen", **rollout}
    service["engine"]["env"] = {TOKEN_SECONDS: "0.05"}
    stack.services[NAME] = service
    return service


def weights(cluster: Cluster) -> dict[str, int]:
    """The shares of the colours, as the route has them."""
    rules = cluster.plane.api.get(ROUTE)["spec"]["rules"]
    return {each["name"].removeprefix(f"{NAME}-"): each.get("weight", 1) for each in rules[0]["backendRefs"]}


def workloads(cluster: Cluster) -> set[str]:
    kinds = ("RayClusterFleet/", "LeaderWorkerSet/")
    return {each.rpartition("-")[2] for each in cluster.ours() if each.startswith(kinds) and NAME in each}


def answered(cluster: Cluster, colour: str) -> int:
    """How many requests the leaders of a colour have answered."""
    found = 0
    for url in endpoints(cluster, f"{NAME}-{colour}"):
        for line in requests.get(f"{url}/metrics", timeout=PATIENCE_SECONDS).text.splitlines():
            if line.startswith("vllm:request_success_total"):
                found += int(float(line.rpartition(" ")[2]))
    return found


def share(cluster: Cluster, fleets: Fleets, old: str, new: str) -> float:
    """The share of the new colour in some hundred requests, in percent."""
    before = {colour: answered(cluster, colour) for colour in (old, new)}
    with ThreadPoolExecutor(8) as many:
        assert {each.status_code for each in many.map(lambda _: fleets.ask(max_tokens=1), range(300))} == {200}
    more = {colour: answered(cluster, colour) - count for colour, count in before.items()}
    return 100 * more[new] / sum(more.values())


def shares_during(stack: Stack, cluster: Cluster, fleets: Fleets) -> dict[int, float]:
    """Brings the stack up; returns the share of the new colour that was counted at each step."""
    (old,) = weights(cluster)
    (new,) = {"blue", "green"} - {old}
    counted: dict[int, float] = {}
    with ThreadPoolExecutor(1) as one:
        up = one.submit(stack.up)
        while not up.done():
            percent = weights(cluster).get(new)
            if percent and len(weights(cluster)) > 1 and percent not in counted:
                time.sleep(1)
                counted[percent] = share(cluster, fleets, old, new)
            time.sleep(0.1)
        up.result()
    return counted


@pytest.mark.parametrize("workload", ["fleet", "lws"])
def test_behind_the_gateway_a_good_version_takes_over_by_shares_and_a_bad_one_is_kept_off_without_a_failed_request(
    volcengine: Stack, cluster: Cluster, fleets: Fleets, workload: str
):
    service = beside(volcengine, workload)
    volcengine.up()
    assert (workloads(cluster), weights(cluster)) == ({"blue"}, {"blue": 1})
    assert fleets.way() == f"aibrix-system/{NAME}-router"
    with asked(cluster, f"a good version, {workload}", fleets) as outcomes:
        service["podAnnotations"] = {"version": "2"}
        volcengine.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (workloads(cluster), weights(cluster)) == ({"green"}, {"green": 1})
    with asked(cluster, f"a bad version, {workload}", fleets) as outcomes:
        service["maxModelLen"] = 32
        said = volcengine.up(ok=False)
    assert outcomes.keys() == {"whole"}, outcomes
    assert f"{NAME}: the new group did not answer: 400" in said and "Traceback" not in said
    assert (workloads(cluster), weights(cluster)) == ({"blue", "green"}, {"green": 1})
    with asked(cluster, f"shares, {workload}", fleets) as outcomes:
        service |= {"maxModelLen": "auto", "podAnnotations": {"version": "3"}}
        service["rollout"] |= {"canary": [10, 50], "stepSeconds": 20}
        counted = shares_during(volcengine, cluster, fleets)
    print(f"counted: {counted}")
    assert outcomes.keys() == {"whole"} and counted.keys() == {10, 50}, (outcomes, counted)
    assert 4 < counted[10] < 18 and 38 < counted[50] < 62
    assert (workloads(cluster), weights(cluster)) == ({"blue"}, {"blue": 1})
    assert f"{NAME} answered" in volcengine.ops("verify", volcengine.name)
    volcengine.up("--refresh", "--expect-no-changes")


def test_a_run_that_is_killed_amid_the_shares_is_finished_left_or_overtaken_without_a_failed_request(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    service = beside(volcengine, "fleet", canary=[10, 50], stepSeconds=6)
    volcengine.up()
    with asked(cluster, "killed amid the shares", fleets) as outcomes:
        for percent, wanted, then in ((10, "2", "2"), (50, "3", "2"), (10, "4", "5")):
            (old,) = weights(cluster)
            (new,) = {"blue", "green"} - {old}
            service["podAnnotations"] = {"version": wanted}
            run = volcengine.begin("up")
            cluster.wait(f"{percent} % go to the new group", lambda: weights(cluster).get(new) == percent)  # noqa: B023
            volcengine.interrupt(run, signal.SIGKILL)
            assert weights(cluster) == {old: 100 - percent, new: percent}
            volcengine.ops("recover", volcengine.name)
            service["podAnnotations"] = {"version": then}
            volcengine.up()
            goes_on = old if then == "2" and wanted == "3" else new
            assert (workloads(cluster), weights(cluster)) == ({goes_on}, {goes_on: 1})
    assert outcomes.keys() == {"whole"}, outcomes
    volcengine.up("--refresh", "--expect-no-changes")


def test_a_version_that_stops_answering_amid_its_share_loses_it_and_up_ends_with_the_reason(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    service = beside(volcengine, "fleet", canary=[10], stepSeconds=60)
    volcengine.up()
    service["podAnnotations"] = {"version": "2"}
    with ThreadPoolExecutor(1) as one:
        up = one.submit(volcengine.up, ok=False)
        cluster.wait("a tenth goes to the new group", lambda: weights(cluster).get("green") == 10)
        (head,) = [pod for pod in fleets.pods() if pod.metadata.labels.get("modelserve.dev/fleet") == f"{NAME}-green"]
        cluster.core.delete_namespaced_pod(head.metadata.name, "default")
        said = up.result()
    assert f"{NAME}: the new group did not answer: " in said and "the old group keeps the requests" in said
    assert weights(cluster) == {"blue": 1} and fleets.way() == f"aibrix-system/{NAME}-router"
    del service["podAnnotations"]
    volcengine.up()
    assert workloads(cluster) == {"blue"} and fleets.way() == f"aibrix-system/{NAME}-router"


def test_an_aibrix_fleet_becomes_blue_green_and_plain_again_and_keeps_its_route(
    volcengine: Stack, cluster: Cluster, fleets: Fleets
):
    service = beside(volcengine, "fleet")
    rollout = service.pop("rollout")
    volcengine.up()
    with asked(cluster, "the first switch", fleets) as outcomes:
        service["rollout"] = rollout
        volcengine.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (workloads(cluster), weights(cluster)) == ({"blue"}, {"blue": 1})
    del service["rollout"]
    volcengine.up()
    assert fleets.ready(size=1) and fleets.way() == f"aibrix-system/{NAME}-router"
    volcengine.up("--refresh", "--expect-no-changes")
    cluster.plane.api.delete(ROUTE)
    cluster.wait("AIBrix's plugin refuses a model without its route", lambda: fleets.way() == 400)
    volcengine.up("--refresh")
    assert fleets.way() == f"aibrix-system/{NAME}-router"
