"""The rehearsal's simulated Fluid controllers, on the real API server, volume controllers and garbage collector."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from local import faults, object_store
from local.api import ApiError, wait_until
from local.control_plane import ControlPlane
from standins.fluid import GROUP, PLURALS


class Room:
    """A separate namespace with a cache in it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.api, self.name = plane, plane.api, f"fluid-{secrets.token_hex(4)}"
        self.cache = f"m{secrets.token_hex(2)}"
        self.bucket = object_store.buckets(plane.folder) / self.name
        self.fill(64)
        self.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.name}})
        accounts = f"/api/v1/namespaces/{self.name}/serviceaccounts"
        self.wait(lambda: bool(self.api.get(accounts)["items"]), "no service account")

    def fill(self, gib: int) -> None:
        """Puts this much into the bucket, as a sparse file."""
        self.bucket.mkdir(exist_ok=True)
        with (self.bucket / "model.safetensors").open("wb") as file:
            file.truncate(gib * 1024**3)

    def path(self, kind: str) -> str:
        return f"/apis/{GROUP}/namespaces/{self.name}/{PLURALS[kind]}"

    def make(self, *kinds: str) -> None:
        level = {"mediumtype": "MEM", "path": "/dev/shm", "quota": "10Gi", "high": "0.95", "low": "0.9"}
        specs: dict[str, dict[str, Any]] = {
            "Dataset": {"mounts": [{"mountPoint": f"oss://{self.name}/", "name": "m"}]},
            "JindoRuntime": {"replicas": 3, "tieredstore": {"levels": [level]}},
            "DataLoad": {"dataset": {"name": self.cache, "namespace": self.name}},
        }
        for kind in kinds:
            body = {"apiVersion": GROUP, "kind": kind, "metadata": {"name": self.cache}, "spec": specs[kind]}
            self.api.request("POST", self.path(kind), body)

    def get(self, kind: str) -> dict[str, Any] | None:
        return self.find(f"{self.path(kind)}/{self.cache}")

    def find(self, path: str) -> dict[str, Any] | None:
        try:
            return self.api.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def status(self, kind: str, key: str) -> Any:
        return ((self.get(kind) or {}).get("status") or {}).get(key)

    def delete(self, kind: str) -> None:
        self.api.delete(f"{self.path(kind)}/{self.cache}")

    def events(self) -> str:
        items = self.api.get(f"/api/v1/namespaces/{self.name}/events")["items"]
        return "\n".join(f"{item['reason']}: {item['message']}" for item in items)

    def claim(self) -> dict[str, Any] | None:
        return self.find(f"/api/v1/namespaces/{self.name}/persistentvolumeclaims/{self.cache}")

    def volume(self) -> str:
        return f"/api/v1/persistentvolumes/{self.name}-{self.cache}"

    def pod(self) -> None:
        volume = {"name": "w", "persistentVolumeClaim": {"claimName": self.cache}}
        spec = {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}
        self.api.request("POST", f"/api/v1/namespaces/{self.name}/pods", {"metadata": {"name": "p"}, "spec": spec})

    def wait(self, done: Any, what: str, seconds: float = 60) -> None:
        wait_until(done, seconds, lambda: f"{what}: {[self.get(kind) for kind in PLURALS]} {self.events()}")


@pytest.fixture
def room(control_plane: ControlPlane) -> Iterator[Room]:
    """A room; deletes everything in it afterwards, in any order."""
    made = Room(control_plane)
    yield made
    made.api.delete(f"/api/v1/namespaces/{made.name}/pods")
    for kind in reversed(PLURALS):
        made.api.delete(made.path(kind))
    made.wait(lambda: not any(made.get(kind) for kind in PLURALS), "objects stay")
    made.api.delete(f"/api/v1/namespaces/{made.name}")
    shutil.rmtree(made.bucket)


def test_a_dataset_is_bound_only_by_a_runtime_and_a_load_begins_only_then(room: Room) -> None:
    room.make("DataLoad")
    room.wait(lambda: "TargetDatasetNotFound" in room.events(), "the load does not complain")
    room.make("Dataset")
    room.wait(lambda: room.status("Dataset", "phase") == "NotBound", "the dataset is not seen")
    assert room.status("DataLoad", "phase") is None and not room.get("DataLoad")["metadata"].get("finalizers")
    room.make("JindoRuntime")
    room.wait(lambda: room.status("DataLoad", "phase") == "Complete", "the load does not end")
    dataset = room.get("Dataset")
    assert dataset["status"]["phase"] == "Bound" and dataset["status"]["runtimes"][0]["name"] == room.cache
    owners = [room.get(kind)["metadata"]["ownerReferences"][0]["uid"] for kind in ("JindoRuntime", "DataLoad")]
    assert owners == [dataset["metadata"]["uid"]] * 2
    room.wait(lambda: room.claim()["status"].get("phase") == "Bound", "the claim is not bound")
    # Three workers each hold 95 % of 10 GiB, and Fluid calls that complete.
    room.wait(lambda: room.status("Dataset", "cacheStates")["cached"] == "28.50GiB", "the states do not come")


def test_neither_dataset_nor_runtime_goes_while_a_pod_mounts_them(room: Room) -> None:
    room.make("Dataset", "JindoRuntime")
    room.wait(lambda: (room.claim() or {}).get("status", {}).get("phase") == "Bound", "the claim is not bound")
    room.pod()
    room.delete("Dataset")
    refused = f"err: can not delete dataset because Pod p in Namespace {room.name} is using it"
    room.wait(lambda: refused in room.events(), "the dataset does not refuse")
    room.delete("JindoRuntime")
    held = f"ErrorProcessRuntime: Failed to delete volume the PVC {room.cache} in ns {room.name} is not cleaned up"
    room.wait(lambda: held in room.events(), "the runtime does not refuse")
    assert room.get("Dataset") and room.get("JindoRuntime")
    room.api.delete(f"/api/v1/namespaces/{room.name}/pods/p")
    room.wait(lambda: not room.get("Dataset") and not room.get("JindoRuntime"), "they stay without the pod")
    assert room.claim() is None and room.find(room.volume()) is None


def test_a_dataset_that_goes_first_takes_its_runtime_and_load_along(room: Room) -> None:
    room.make("Dataset", "JindoRuntime", "DataLoad")
    room.wait(lambda: room.status("DataLoad", "phase") == "Complete", "the load does not end")
    room.delete("Dataset")
    room.wait(lambda: not any(room.get(kind) for kind in PLURALS), "the garbage collector leaves something")
    # The garbage collector deletes what the Dataset owns. It does not own the volume: the runtime's controller deletes
    # that.
    assert room.claim() is None and room.find(room.volume()) is None


def test_a_runtime_that_goes_leaves_its_dataset_unbound(room: Room) -> None:
    room.make("Dataset", "JindoRuntime")
    room.wait(lambda: room.status("Dataset", "phase") == "Bound", "the dataset is not bound")
    room.delete("JindoRuntime")
    room.wait(lambda: room.get("JindoRuntime") is None, "the runtime stays")
    status = room.get("Dataset")["status"]
    assert status["phase"] == "NotBound" and not {"runtimes", "cacheStates", "ufsTotal"} & status.keys()


def test_the_bucket_is_counted_once_in_a_runtimes_life(room: Room) -> None:
    room.make("Dataset", "JindoRuntime")
    room.wait(lambda: room.status("Dataset", "ufsTotal") == "64.00GiB", "the bucket is not counted")
    room.fill(7)
    room.make("DataLoad")
    room.wait(lambda: room.status("Dataset", "cacheStates")["cached"] == "7.00GiB", "the load does not see the bucket")
    assert room.status("Dataset", "ufsTotal") == "64.00GiB"
    room.delete("JindoRuntime")
    room.wait(lambda: room.get("JindoRuntime") is None, "the runtime stays")
    room.make("JindoRuntime")
    room.wait(lambda: room.status("Dataset", "ufsTotal") == "7.00GiB", "a new runtime does not count again")


@pytest.mark.parametrize(
    ("kind", "how", "seen"),
    [
        ("Dataset", "failed", ("Dataset", "phase", "Failed")),
        ("JindoRuntime", "failed", ("JindoRuntime", "workerPhase", "NotReady")),
        ("DataLoad", "failed", ("DataLoad", "phase", "Failed")),
    ],
)
def test_what_is_to_fail_fails_as_fluid_shows_it(room: Room, kind: str, how: str, seen: tuple[str, str, str]) -> None:
    faults.put(room.plane.folder, kind, room.cache, how)
    room.make("Dataset", "JindoRuntime", "DataLoad")
    shown, key, value = seen
    room.wait(lambda: room.status("JindoRuntime", "masterPhase") == "Ready", "the master does not come up")
    room.wait(lambda: room.status(shown, key) == value, "the fault does not show")
    assert room.status("DataLoad", "phase") in (None, "Failed")
