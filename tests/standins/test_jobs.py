"""What backs a sync's fake pod: the pod's own program as a real process. A dictionary stands in for the API server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from local import faults
from local.api import ApiError, wait_until
from standins.jobs import Jobs, ended, translated, volume_folder, write_addresses
from tests.support.patience import PATIENCE_SECONDS

PROGRAM = """
import os, pathlib, time
for name in sorted(os.environ):
    if name.startswith("MODELSERVE_"):
        print(f"{name}={os.environ[name]}")
scratch = pathlib.Path(os.environ["MODELSERVE_SCRATCH"])
print("rclone", pathlib.Path(os.environ["MODELSERVE_RCLONE"]).read_text())
(scratch / "written").touch()
if os.environ["MODELSERVE_THEN"] == "sleep":
    print("asleep", os.getpid(), flush=True)
    time.sleep(1000)
raise SystemExit(int(os.environ["MODELSERVE_THEN"]))
"""
KEYS = "/api/v1/namespaces/default/secrets/keys"
POD = "/api/v1/namespaces/default/pods/r1-abcde"
BOOK = {"STORE": "http://127.0.0.1:1111", "HUB": "http://127.0.0.1:2222"}


class FakeApi:
    """Objects by path, and a record of the writes."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {
            "/api/v1/namespaces/default/configmaps/program": {"data": {"__init__.py": "", "__main__.py": PROGRAM}},
            KEYS: {"data": {"secret": base64.b64encode(b"s3cret").decode()}},
        }
        self.applied: list[dict[str, Any]] = []
        self.merged: dict[str, Any] = {}

    def get(self, path: str) -> Any:
        if path not in self.objects:
            raise ApiError(404, f"{path} not found")
        return self.objects[path]

    def apply(self, path: str, manifest: dict[str, Any]) -> None:
        self.applied.append(manifest)

    def merge(self, path: str, patch: Any) -> None:
        self.merged[path] = patch


def pod(then: str = "0", uid: str = "u1", **labels: str) -> dict[str, Any]:
    """A running pod of a sync, whose program exits with the code `then`."""
    values = {
        "SCRATCH": "/scratch",
        "RCLONE": "/tools/rclone",
        "ENDPOINT": "oss-cn-hangzhou-internal.aliyuncs.com",
        "HUB_URL": "https://modelscope.cn",
        "PREFIX": "models/DeepSeek-R1",
        "THEN": then,
    }
    reference = {"secretKeyRef": {"name": "keys", "key": "secret"}}
    container = {
        "name": "sync",
        "command": ["python3", "-m", "sync"],
        "workingDir": "/etc/modelserve",
        "env": [
            *({"name": f"MODELSERVE_{name}", "value": value} for name, value in values.items()),
            {"name": "MODELSERVE_KEY_SECRET", "valueFrom": reference},
        ],
        "volumeMounts": [
            {"name": "program", "mountPath": "/etc/modelserve/sync"},
            {"name": "tools", "mountPath": "/tools"},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
    }
    helper = {
        "command": ["cp", "/usr/local/bin/rclone", "/tools/rclone"],
        "volumeMounts": [{"name": "tools", "mountPath": "/tools"}],
    }
    state = {"running": {"startedAt": "2026-11-22T00:00:00Z"}}
    return {
        "metadata": {
            "name": "r1-abcde",
            "namespace": "default",
            "uid": uid,
            "labels": {"app.kubernetes.io/component": "sync", "batch.kubernetes.io/job-name": "r1"} | labels,
        },
        "spec": {
            "containers": [container],
            "initContainers": [helper],
            "volumes": [
                {"name": "program", "configMap": {"name": "program"}},
                {"name": "tools", "emptyDir": {}},
                {"name": "scratch", "emptyDir": {}},
            ],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "sync", "image": "python", "ready": True, "state": state}],
        },
    }


class Room:
    """One control plane's folder with its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.api = folder, FakeApi()
        (folder / "rclone").write_text("the tool")
        write_addresses(folder, BOOK["STORE"], BOOK["HUB"])
        self.jobs = Jobs(self.api, folder, folder / "rclone")

    def see(self, seen: dict[str, Any]) -> None:
        self.api.objects[POD] = seen
        self.jobs.see(seen)

    def log(self, uid: str = "u1") -> list[str]:
        file = self.folder / "pod-logs" / uid / "current.log"
        return [line.split(" F ", 1)[1] for line in file.read_text().splitlines()] if file.exists() else []

    def outcome(self) -> dict[str, Any]:
        """The last status that was written."""
        wait_until(lambda: bool(self.api.merged), PATIENCE_SECONDS, lambda: f"no end: {self.log()}", 0.01)
        return self.api.merged[f"{POD}/status"]["status"]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.jobs.keep_only(set())


@pytest.mark.parametrize(("code", "phase"), [("0", "Succeeded"), ("1", "Failed"), ("2", "Failed")])
def test_the_programs_exit_code_ends_the_pod(room: Room, code: str, phase: str):
    room.see(pod(code))
    status = room.outcome()
    assert status["phase"] == phase
    (container,) = status["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == int(code) and not container["ready"]
    assert {each["type"]: each["status"] for each in status["conditions"]} == {"Initialized": "True", "Ready": "False"}


def test_the_program_finds_its_volumes_its_secrets_and_the_clouds_hosts_on_loopback(room: Room):
    room.see(pod())
    room.outcome()
    said = dict(line.split("=", 1) for line in room.log() if "=" in line)
    assert said["MODELSERVE_KEY_SECRET"] == "s3cret"
    assert said["MODELSERVE_ENDPOINT"] == BOOK["STORE"] and said["MODELSERVE_HUB_URL"] == BOOK["HUB"]
    assert said["MODELSERVE_PREFIX"] == "models/DeepSeek-R1"
    assert said["MODELSERVE_SCRATCH"].startswith(str(room.folder))
    assert room.log()[-1] == "rclone the tool"
    assert list((room.folder / "sync-pods").iterdir()) == [], "the pod's folders outlive it"


def test_the_api_servers_own_service_which_selects_no_pods_leads_to_loopback(room: Room):
    write_addresses(room.folder, BOOK["STORE"], BOOK["HUB"], api="https://127.0.0.1:3333")
    room.api.objects["/api/v1/namespaces/default/services/kubernetes"] = {"spec": {"clusterIP": "10.0.0.1"}}
    asking = pod()
    asking["spec"]["containers"][0]["env"].append({"name": "MODELSERVE_API", "value": "https://kubernetes.default.svc"})
    room.see(asking)
    assert room.outcome()["phase"] == "Succeeded"
    assert "MODELSERVE_API=https://127.0.0.1:3333" in room.log()


def test_what_lies_on_a_claims_volume_outlives_the_pod(room: Room):
    seen = pod()
    seen["spec"]["volumes"][2] = {"name": "scratch", "persistentVolumeClaim": {"claimName": "models"}}
    room.see(seen)
    room.outcome()
    assert [file.name for file in volume_folder(room.folder, "default", "models").iterdir()] == ["written"]


def test_its_output_is_the_pods_log_behind_the_api_server(room: Room):
    room.see(pod())
    room.outcome()
    (shown,) = room.api.applied
    assert shown["kind"] == "Logs" and shown["metadata"]["name"] == "r1-abcde"
    (log,) = shown["spec"]["logs"]
    assert log["containers"] == ["sync"] and Path(log["logsFile"]).read_text()


def test_a_pod_is_run_once_however_often_it_is_seen_and_only_when_it_runs(room: Room):
    waiting = pod()
    waiting["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ContainerCreating"}}
    room.see(waiting)
    assert room.jobs._runs == {}
    for _ in range(3):
        room.see(pod())
    room.outcome()
    assert room.log().count("rclone the tool") == 1


def test_other_pods_are_left_alone(room: Room):
    room.see(pod(**{"app.kubernetes.io/component": "leader"}))
    assert room.jobs._runs == {} and room.api.applied == []


def test_deleting_the_pod_kills_the_program_and_nobody_reports(room: Room):
    room.see(pod("sleep"))
    wait_until(
        lambda: any("asleep" in line for line in room.log()), PATIENCE_SECONDS, lambda: "it does not start", 0.01
    )
    (pid,) = (int(line.split()[1]) for line in room.log() if "asleep" in line)
    deleted = pod("sleep")
    deleted["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:01Z"
    room.see(deleted)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE_SECONDS, lambda: "it still runs", 0.01)
    wait_until(
        lambda: not list((room.folder / "sync-pods").iterdir()), PATIENCE_SECONDS, lambda: "its folders stay", 0.01
    )
    assert room.api.merged == {}
    room.jobs.forget("u1")
    assert not (room.folder / "pod-logs" / "u1").exists()


def test_a_job_that_was_told_to_fail_fails_before_its_program_starts(room: Room):
    faults.put(room.folder, "Job", "r1", "failed")
    room.see(pod())
    assert room.outcome()["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 1
    assert room.log() == ["modelserve: sync: failed: the rehearsal was told to let this fail"]


def test_a_hub_that_is_down_is_one_where_nobody_answers(room: Room):
    faults.put(room.folder, "Job", "r1", "hub-down")
    room.see(pod())
    room.outcome()
    assert "MODELSERVE_HUB_URL=http://127.0.0.1:9" in room.log()
    assert f"MODELSERVE_ENDPOINT={BOOK['STORE']}" in room.log()


def test_a_missing_secret_ends_the_pod_with_its_name(room: Room):
    del room.api.objects[KEYS]
    room.see(pod())
    assert room.outcome()["phase"] == "Failed"
    assert room.log() == [f"Error: {KEYS} not found"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://modelscope.cn", BOOK["HUB"]),
        ("https://www.modelscope.cn/api/x", f"{BOOK['HUB']}/api/x"),
        ("oss-cn-beijing.aliyuncs.com", BOOK["STORE"]),
        ("https://tos-s3-cn-beijing.ivolces.com", BOOK["STORE"]),
        ("tos-cn-beijing.volces.com", BOOK["STORE"]),
        ("https://example.com/a", "https://example.com/a"),
        ("models/DeepSeek-R1", "models/DeepSeek-R1"),
        ("30", "30"),
        ("http://[", "http://["),
    ],
)
def test_only_hosts_of_the_address_book_are_translated(tmp_path: Path, value: str, expected: str):
    write_addresses(tmp_path, BOOK["STORE"], BOOK["HUB"])
    assert translated(value, json.loads((tmp_path / "addresses.json").read_text())) == expected


def test_a_killed_program_has_an_exit_code_as_in_a_container():
    status = ended(pod()["status"], -9, datetime.now(timezone.utc))
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
