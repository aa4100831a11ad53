"""A sync's Job on the rehearsal: the real Job controller and program (rclone); hub, store and volume on loopback."""

from __future__ import annotations

import base64
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from components.cluster.credentials import KeyPair
from components.cluster.pod_extras import NOTHING
from components.weights import model_claim, model_sync
from components.weights.model_claim import ModelClaimArgs
from components.weights.model_sync import BucketTarget, ClaimTarget, ModelSyncArgs
from local import faults, object_store
from local.api import ApiError, wait_until
from local.control_plane import ControlPlane
from planning.files import needed
from standins.jobs import volume_folder
from tests.support.patience import PATIENCE_SECONDS

_JOBS = "/apis/batch/v1/namespaces/default/jobs"
_PODS = "/api/v1/namespaces/default/pods"


class Room:
    """One sync's objects on a control plane, created without a Pulumi program."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.api, self.name = plane, plane.api, f"sync-{secrets.token_hex(3)}"
        self.bucket = object_store.buckets(plane.folder) / self.name
        self.bucket.mkdir()
        files = needed([{}])
        self.args = ModelSyncArgs(
            stack="test",
            namespace="default",
            model="DeepSeek-R1",
            repository="deepseek-ai/DeepSeek-R1",
            source="modelscope",
            revision="",
            target=BucketTarget(
                self.name, "oss-cn-hangzhou-internal.aliyuncs.com", KeyPair(None, None), scratch_gib=30
            ),
            prefix="models/DeepSeek-R1",
            tool_image="rclone/rclone:1",
            python_image="python:3",
            seconds=600,
            pod_labels={},
            token=None,
            weights=files.weights,
            leaves=files.leaves,
            extras=NOTHING,
        )
        config = model_sync.program_config(self.name, self.args)
        self.made = [f"/api/v1/namespaces/default/configmaps/{config['metadata']['name']}"]
        self.api.apply(self.made[0], config)
        data = {field: base64.b64encode(b"anything").decode() for field in ("id", "secret")}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{self.name}-keys"}, "data": data}
        self.made.append(f"/api/v1/namespaces/default/secrets/{self.name}-keys")
        self.api.apply(self.made[1], secret)

    def run(self) -> str:
        """Recreates the Job, without its retries; returns the condition that it ends with."""
        self.remove()
        job = model_sync.job(self.name, self.args)
        self.api.apply(f"{_JOBS}/{self.name}", job | {"spec": job["spec"] | {"backoffLimit": 0}})
        wait_until(lambda: bool(self.outcome()), PATIENCE_SECONDS, lambda: f"the job does not end: {self.phases()}")
        return self.outcome()

    def outcome(self) -> str:
        conditions = self.api.get(f"{_JOBS}/{self.name}").get("status", {}).get("conditions") or []
        return next((each["type"] for each in conditions if each["type"] in ("Complete", "Failed")), "")

    def pods(self) -> list[dict[str, Any]]:
        return self.api.get(f"{_PODS}?labelSelector=batch.kubernetes.io/job-name={self.name}")["items"]

    def phases(self) -> list[str]:
        return [pod["status"].get("phase", "") for pod in self.pods()]

    def log(self) -> str:
        (pod,) = self.pods()
        return self.api.request("GET", f"{_PODS}/{pod['metadata']['name']}/log")

    def remove(self) -> None:
        try:
            self.api.delete(f"{_JOBS}/{self.name}")
        except ApiError as error:
            if error.code != 404:
                raise
        wait_until(lambda: not self.pods(), PATIENCE_SECONDS, lambda: "its pods stay")


@pytest.fixture
def room(control_plane: ControlPlane) -> Iterator[Room]:
    made = Room(control_plane)
    yield made
    faults.put(control_plane.folder, "Job", made.name, None)
    made.remove()
    for path in made.made:
        made.api.delete(path)
    shutil.rmtree(made.bucket)


def test_the_job_fills_the_bucket_and_another_one_finds_nothing_to_do(room: Room) -> None:
    assert room.run() == "Complete", room.log()
    assert "modelserve: sync: done: 9 files" in room.log()
    found = {str(file.relative_to(room.bucket / "models/DeepSeek-R1")) for file in room.bucket.rglob("*.*")}
    assert {"config.json", "model-00001-of-00004.safetensors", "modelserve-manifest.json"} <= found
    assert not any(path.startswith((".git/", "metal/", "original/")) for path in found)
    assert room.run() == "Complete"
    assert room.log().splitlines() == [
        "modelserve: sync: left out, for the engine reads another copy: 3 files, 0.2 MiB: metal/*, original/*",
        "modelserve: sync: nothing to do: all 9 files, 0.4 MiB, are in the bucket",
    ]


def test_what_is_hopeless_fails_and_the_log_of_its_pod_stays(room: Room) -> None:
    room.bucket.rmdir()
    assert room.run() == "Failed"
    assert f"failed: there is no bucket {room.name} at this endpoint: check name and region" in room.log()
    room.bucket.mkdir()
    assert room.run() == "Complete", room.log()


def test_a_job_that_was_told_to_fail_fails_and_heals_when_the_cause_is_gone(room: Room) -> None:
    faults.put(room.plane.folder, "Job", room.name, "failed")
    assert room.run() == "Failed"
    assert room.log() == "modelserve: sync: failed: the rehearsal was told to let this fail\n"
    faults.put(room.plane.folder, "Job", room.name, None)
    assert room.run() == "Complete", room.log()


def test_a_claim_that_waits_for_its_first_pod_gets_it_from_the_sync_and_is_filled(room: Room) -> None:
    name = room.name
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "700Gi"},
            "hostPath": {"path": "/nowhere"},
            "storageClassName": name,
        },
    }
    claim = model_claim.claim(
        name, ModelClaimArgs(stack="test", namespace="default", size_gib=700, storage_class=name, readers=2)
    )
    at = f"/api/v1/namespaces/default/persistentvolumeclaims/{claim['metadata']['name']}"
    room.made += [at, f"/api/v1/persistentvolumes/{name}", f"/apis/storage.k8s.io/v1/storageclasses/{name}"]
    for path, manifest in zip(reversed(room.made[-3:]), (storage_class, volume, claim), strict=True):
        room.api.apply(path, manifest)
    assert room.api.get(at)["status"].get("phase") == "Pending"
    room.args = replace(room.args, target=ClaimTarget(claim["metadata"]["name"], user=0))
    assert room.run() == "Complete", room.log()
    assert room.api.get(at)["status"]["phase"] == "Bound"
    assert "modelserve: sync: done: 9 files" in room.log()
    folder = volume_folder(room.plane.folder, "default", claim["metadata"]["name"]) / "models/DeepSeek-R1"
    assert (folder / "modelserve-manifest.json").is_file() and (folder / "config.json").is_file()
    assert room.run() == "Complete"
    assert room.log().splitlines()[-1] == "modelserve: sync: nothing to do: all 9 files, 0.4 MiB, are in the volume"
