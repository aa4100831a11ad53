"""The control plane itself: the real scheduler and LeaderWorkerSet manager over fake nodes, and a clean shutdown."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from local import control_plane as planes
from local import processes
from local.__main__ import main
from local.api import ApiError, wait_until
from local.control_plane import ControlPlane
from local.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS

_LWS = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/{}/leaderworkersets"


class Room:
    """A namespace of its own on a control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self.api = plane.api
        self.plane = plane
        self.name = f"t-{secrets.token_hex(4)}"
        self.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.name}})
        accounts = f"/api/v1/namespaces/{self.name}/serviceaccounts"
        wait_until(lambda: bool(self.api.get(accounts)["items"]), PATIENCE_SECONDS, lambda: "no service account")

    def pods(self) -> dict[str, dict[str, Any]]:
        items = self.api.get(f"/api/v1/namespaces/{self.name}/pods")["items"]
        return {pod["metadata"]["name"]: pod for pod in items}

    def events(self) -> str:
        return " ".join(event["message"] for event in self.api.get(f"/api/v1/namespaces/{self.name}/events")["items"])

    def serve(self, name: str, size: int, annotations: dict[str, str] | None = None) -> None:
        """A group of `size` pods with 8 GPUs each."""
        gpus = {"nvidia.com/gpu": "8"}
        probe = {"httpGet": {"path": "/health", "port": 8000}}
        container = {"name": "vllm", "image": "vllm", "resources": {"limits": gpus}, "readinessProbe": probe}
        template = {"metadata": {"annotations": annotations or {}}, "spec": {"containers": [container]}}
        body = {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": name},
            "spec": {"leaderWorkerTemplate": {"size": size, "workerTemplate": template}},
        }
        self.api.request("POST", _LWS.format(self.name), body)

    def group(self, name: str) -> dict[str, Any]:
        return self.api.get(f"{_LWS.format(self.name)}/{name}")

    def available(self, name: str) -> bool:
        conditions = self.group(name).get("status", {}).get("conditions", [])
        return any(c["type"] == "Available" and c["status"] == "True" for c in conditions)

    def wait(self, done: Callable[[], bool], what: str) -> None:
        wait_until(
            done, PATIENCE_SECONDS, lambda: f"{what}: {json.dumps({n: p['status'] for n, p in self.pods().items()})}"
        )


@pytest.fixture
def room(control_plane: ControlPlane) -> Iterator[Room]:
    """An empty namespace; frees all GPUs afterwards."""
    made = Room(control_plane)
    yield made
    for path in (_LWS, "/apis/batch/v1/namespaces/{}/jobs", "/api/v1/namespaces/{}/pods"):
        made.api.delete(path.format(made.name))
    made.wait(lambda: not made.pods(), "pods stay")
    made.api.delete(f"/api/v1/namespaces/{made.name}")


@pytest.fixture
def other() -> Iterator[str]:
    """A name for another control plane, which is removed afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    planes.stop(name)


def ports_of(plane: ControlPlane) -> list[int]:
    options = json.loads((plane.folder / "kwokctl.json").read_text())["options"]
    return [value for key, value in options.items() if key.endswith("Port")]


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_group_of_two_pods_becomes_available_under_the_real_manager(room: Room) -> None:
    room.serve("ds", 2)
    room.wait(lambda: room.available("ds"), "the group does not become available")
    pods = room.pods()
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == {"gpu-0", "gpu-1"}
    env = {e["name"]: e["value"] for e in pods["ds-0-1"]["spec"]["containers"][0]["env"]}
    assert env == {"LWS_LEADER_ADDRESS": f"ds-0.ds.{room.name}", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}
    status = room.group("ds")["status"]
    assert status["observedGeneration"] == 1 and all(c["observedGeneration"] == 1 for c in status["conditions"])


def test_a_group_that_is_too_big_stays_pending_and_the_scheduler_names_the_gpus(room: Room) -> None:
    room.serve("ds", 3)
    room.wait(lambda: "Insufficient nvidia.com/gpu" in room.events(), "the scheduler does not complain")
    room.wait(lambda: [pod["status"]["phase"] for pod in room.pods().values()].count("Running") == 2, "two do not fit")
    assert len(room.pods()) == 3 and not room.available("ds")


def test_the_managers_webhook_refuses_a_group_of_none(room: Room) -> None:
    with pytest.raises(ApiError, match="leaderWorkerTemplate.size"):
        room.serve("ds", 0)


def test_a_killed_container_makes_the_manager_recreate_its_group(room: Room) -> None:
    room.serve("ds", 2)
    room.wait(lambda: room.available("ds"), "the group does not become available")
    before = {name: pod["metadata"]["uid"] for name, pod in room.pods().items()}
    assert main(["kill", "ds-0-1", "-n", room.name, "--name", room.plane.name]) == 0

    def renewed() -> bool:
        now = {name: pod["metadata"]["uid"] for name, pod in room.pods().items()}
        return now.keys() == before.keys() and all(now[name] != before[name] for name in now) and room.available("ds")

    room.wait(renewed, "the group is not recreated")
    assert {c["restartCount"] for p in room.pods().values() for c in p["status"]["containerStatuses"]} == {0}


def test_foreground_deletion_of_a_group_takes_its_pods_first(room: Room) -> None:
    room.serve("ds", 2)
    room.wait(lambda: room.available("ds"), "the group does not become available")
    room.api.delete(f"{_LWS.format(room.name)}/ds", propagation="Foreground")
    assert room.group("ds")["metadata"]["finalizers"] == ["foregroundDeletion"]

    def gone() -> bool:
        try:
            room.group("ds")
        except ApiError as error:
            return error.code == 404
        return False

    room.wait(gone, "the group stays")
    assert room.pods() == {}


@pytest.mark.parametrize(
    ("how", "waiting"), [("image-pull", "ImagePullBackOff"), ("crash", "CrashLoopBackOff"), ("never-ready", None)]
)
def test_a_pod_fails_as_its_annotation_says(room: Room, how: str, waiting: str | None) -> None:
    annotations = {"rehearsal.modelserve.dev/fail": how, "rehearsal.modelserve.dev/ready-after": "0s"}
    spec = {"containers": [{"name": "a", "image": "some/image"}]}
    path = f"/api/v1/namespaces/{room.name}/pods"
    room.api.request("POST", path, {"metadata": {"name": "p", "annotations": annotations}, "spec": spec})
    steady = {"metadata": {"name": "steady"}, "spec": spec}
    room.api.request("POST", path, steady)

    def state(name: str) -> dict[str, Any]:
        return (room.pods()[name]["status"].get("containerStatuses") or [{"state": {}}])[0]

    if waiting:
        room.wait(lambda: state("p")["state"].get("waiting", {}).get("reason") == waiting, "it does not fail")
    else:
        room.wait(lambda: "running" in state("p")["state"], "it does not run")
    room.wait(lambda: state("steady").get("ready", False), "the pod beside it does not get ready")
    assert not state("p")["ready"]
    assert how != "crash" or state("p")["restartCount"] > 0


def test_a_pod_that_is_told_to_end_while_it_starts_never_gets_ready(room: Room) -> None:
    path = f"/api/v1/namespaces/{room.name}/pods"

    def start(name: str, **more: Any) -> None:
        metadata = {"name": name, "annotations": {"rehearsal.modelserve.dev/ready-after": "5s"}, **more}
        spec = {"containers": [{"name": "a", "image": "some/image"}]}
        room.api.request("POST", path, {"metadata": metadata, "spec": spec})

    def container(name: str) -> dict[str, Any]:
        return (room.pods()[name]["status"].get("containerStatuses") or [{"state": {}, "ready": False}])[0]

    # As a leader whose workers have to go first.
    start("ended", finalizers=["rehearsal.modelserve.dev/others"])
    room.wait(lambda: "running" in container("ended")["state"], "it does not run")
    room.api.delete(f"{path}/ended")
    start("later")
    room.wait(lambda: container("later")["ready"], "the other pod does not get ready")
    ready = container("ended")["ready"]
    room.api.merge(f"{path}/ended", {"metadata": {"finalizers": None}})
    room.wait(lambda: "ended" not in room.pods(), "it stays")
    assert not ready


def test_a_job_completes_and_one_that_crashes_fails(room: Room) -> None:
    for name, fate in (("good", {}), ("bad", {"rehearsal.modelserve.dev/fail": "crash"})):
        pod = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "some/image"}]}
        spec = {"backoffLimit": 0, "template": {"metadata": {"annotations": fate}, "spec": pod}}
        room.api.request(
            "POST", f"/apis/batch/v1/namespaces/{room.name}/jobs", {"metadata": {"name": name}, "spec": spec}
        )

    def outcome() -> dict[str, set[str]]:
        jobs = room.api.get(f"/apis/batch/v1/namespaces/{room.name}/jobs")["items"]
        return {j["metadata"]["name"]: {c["type"] for c in j["status"].get("conditions", [])} for j in jobs}

    room.wait(lambda: "Complete" in outcome()["good"] and "Failed" in outcome()["bad"], "the jobs do not end")


def test_the_context_is_named_rehearsal_and_every_server_is_on_the_loopback(control_plane: ControlPlane) -> None:
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    assert config["current-context"] == "rehearsal" and [c["name"] for c in config["contexts"]] == ["rehearsal"]
    assert urlsplit(config["clusters"][0]["cluster"]["server"]).hostname == "127.0.0.1"
    assert json.loads((control_plane.folder / "kwokctl.json").read_text())["options"]["bindAddress"] == "127.0.0.1"
    # Webhooks that a stack installs point to Services, and the API server really connects to those.
    service = control_plane.api.get("/api/v1/namespaces/default/services/kubernetes")
    assert ipaddress.ip_address(service["spec"]["clusterIP"]).is_loopback


def test_the_volume_claim_with_weights_is_bound(control_plane: ControlPlane) -> None:
    claim = control_plane.api.get("/api/v1/namespaces/default/persistentvolumeclaims/model-weights")
    assert claim["status"]["phase"] == "Bound" and claim["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_start_returns_a_running_control_plane_as_it_is(control_plane: ControlPlane) -> None:
    before = processes.alive(control_plane.folder)
    assert planes.start(control_plane.name) == control_plane
    assert processes.alive(control_plane.folder) == before


def cut_short(name: str, sign: signal.Signals) -> tuple[Path, dict[str, int], int, str]:
    """Sends the signal to a start as soon as the API server runs; returns folder, processes, exit code and output."""
    folder = planes.find(name).folder
    up = subprocess.Popen(
        [sys.executable, "-m", "local", "up", "--name", name],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while "kube-apiserver" not in processes.alive(folder):
        assert up.poll() is None
        time.sleep(0.02)
    started = processes.alive(folder)
    os.killpg(up.pid, sign)
    _, said = up.communicate()
    return folder, started, up.returncode, said


@pytest.mark.soak
def test_an_interrupted_start_cleans_up_after_itself(other: str) -> None:
    folder, started, code, said = cut_short(other, signal.SIGINT)
    assert code == 130 and "Traceback" not in said
    assert not folder.exists() and not any(runs(pid, folder) for pid in started.values())


@pytest.mark.soak
def test_down_cleans_up_after_a_killed_start(other: str) -> None:
    folder, started, _, _ = cut_short(other, signal.SIGKILL)
    planes.stop(other)
    assert not folder.exists() and not any(runs(pid, folder) for pid in started.values())


@pytest.mark.soak
def test_a_cloud_that_is_there_is_added_no_second_time(equipped: ControlPlane) -> None:
    before = processes.alive(equipped.folder)
    said: list[str] = []
    assert planes.start(equipped.name, clouds=["volcengine"], say=said.append) == equipped
    assert processes.alive(equipped.folder) == before and said == []


def kinds(plane: ControlPlane) -> set[str]:
    """The API groups that its API server serves."""
    return {group["name"] for group in plane.api.get("/apis")["groups"]}


@pytest.mark.soak
def test_after_a_killed_start_one_starts_anew_beside_another_tells_when_it_is_hurt_and_stops_without_a_trace(
    equipped: ControlPlane, other: str
) -> None:
    folder, started, _, _ = cut_short(other, signal.SIGKILL)
    said: list[str] = []
    plane = planes.start(other, load_seconds=1, say=said.append)
    assert said[0] == f"control plane {other} was left half dead (its start was cut short): starting it anew"
    pids, ports = processes.alive(folder), ports_of(plane)
    assert not set(started.values()) & set(pids.values())

    # It lacks the components that only one cloud needs, and gets them without a restart.
    assert not planes.is_equipped(plane, "volcengine") and "ray.io" not in kinds(plane)
    planes.start(other, clouds=["volcengine"], say=said.append)
    assert said[-1] == (
        f"adding to control plane {other} what stacks on volcengine need: aibrix-controllers, kuberay, gateway"
    )
    assert pids.items() < processes.alive(folder).items()
    assert planes.is_equipped(plane, "volcengine") and kinds(plane) == kinds(equipped)
    assert (folder / "manifests" / "aibrix-core-v0.7.0.yaml").is_file()
    pids = processes.alive(folder)

    assert {equipped.name, other} <= set(planes.running())
    assert pids.keys() == processes.alive(equipped.folder).keys() and all(listening(port) for port in ports)
    assert not set(ports) & set(ports_of(equipped))
    mine = Room(plane).name
    assert mine not in {item["metadata"]["name"] for item in equipped.api.get("/api/v1/namespaces")["items"]}

    assert planes.ailments(plane) == []
    os.kill(pids["kube-scheduler"], signal.SIGKILL)
    wait_until(lambda: planes.ailments(plane) == ["kube-scheduler ended"], PATIENCE_SECONDS, lambda: "nobody notices")

    planes.stop(other)
    assert not folder.exists() and other not in planes.running()
    assert not any(listening(port) for port in ports) and not any(runs(pid, folder) for pid in pids.values())
    assert planes.ailments(equipped) == []


@pytest.mark.soak
def test_controllers_that_gave_up_before_the_api_server_was_ready_are_started_again(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = planes._create

    def impatient(plane: ControlPlane, programs: dict[str, Path]) -> None:
        create(plane, programs)
        os.kill(processes.alive(plane.folder)["kube-controller-manager"], signal.SIGKILL)

    monkeypatch.setattr(planes, "_create", impatient)
    said: list[str] = []
    plane = planes.start(other, say=said.append)
    assert len(said) == 1 and planes.ailments(plane) == []


def runs(pid: int, folder: Path) -> bool:
    try:
        return str(folder) in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
