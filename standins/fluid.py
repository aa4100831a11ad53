"""Plays Fluid's controllers for Dataset, JindoRuntime and DataLoad, limited to their objects in the cluster.

`python -m standins.fluid --kubeconfig F --folder D --load-seconds N`, one process per control plane. Finalizers,
owners, phases, events, volumes and their order are those of github.com/fluid-cloudnative/fluid v1.0.8
(pkg/controllers, pkg/ddc/base, pkg/ddc/jindocache); the waits are shorter. There are no pods, no loader Job and no file
system behind them, and the webhook that adds a sidecar to pods is not simulated. `standins/faults.py` says what
should fail.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from local import faults
from local.api import Api, ApiError
from standins import fluid_model, watching
from standins.watching import Things, WatchingApi, deleting, now, place_of, play

Thing = dict[str, Any]

GROUP = "data.fluid.io/v1alpha1"
PLURALS = {"Dataset": "datasets", "JindoRuntime": "jindoruntimes", "DataLoad": "dataloads"}
_FINALIZERS = {
    "Dataset": "fluid-dataset-controller-finalizer",
    "JindoRuntime": "jindo-runtime-controller-finalizer",
    "DataLoad": "fluid-dataload-controller-finalizer",
}
_TICK_SECONDS = 0.2
# Maximum age of a Dataset's cache states; 15 s in Fluid's chart.
_SYNC_SECONDS = 1.0
# Time after which Fluid reports a claim whose pods remain; 10 s in Fluid.
_CLAIM_SECONDS = 2.0
_EVENT_SECONDS = 10.0
_READY_AFTER = "rehearsal.modelserve.dev/ready-after"
_MADE_BY_FLUID = {"CreatedBy": "fluid"}


class Fluid:
    """The controllers of one control plane. `tick` advances every object."""

    def __init__(self, api: Api, folder: Path, load_seconds: float) -> None:
        self._api, self._folder, self._load_seconds = api, folder, load_seconds
        self.lock = threading.RLock()
        self.kinds = {kind: Things(self.lock) for kind in PLURALS}
        # When a runtime's pods began to start, or a load began to run, by uid.
        self._begun: dict[str, float] = {}
        self._loads: dict[str, fluid_model.Loading] = {}
        # By uid of a runtime: bytes cached in its workers at the last report, and bytes that it found in the bucket.
        self._cached: dict[str, float] = {}
        self._totals: dict[str, int] = {}
        self._told: dict[tuple[str, str], float] = {}

    def tick(self) -> None:
        """Reconciles every object once."""
        work = {"Dataset": self._dataset, "JindoRuntime": self._runtime, "DataLoad": self._load}
        with self.lock:
            for kind, reconcile in work.items():
                for thing in list(self.kinds[kind].things.values()):
                    try:
                        reconcile(thing)
                    except ApiError as error:
                        # The object has changed or gone since it was observed; the watch will report that.
                        if error.code not in (404, 409):
                            print(f"{kind} {'/'.join(place_of(thing))}: {error}", flush=True)

    def _dataset(self, thing: Thing) -> None:
        if deleting(thing):
            if pod := self._pod_on(thing):
                namespace, name = thing["metadata"]["namespace"], pod["metadata"]["name"]
                text = f"can not delete dataset because Pod {name} in Namespace {namespace} is using it"
                self._event(thing, "ErrorDeleteDataset", f"Failed to delete dataset because err: {text}")
                return
            self._release(thing)
        elif self._held(thing) and not _status(thing).get("phase"):
            self._tell(thing, {"phase": "NotBound", "conditions": []})

    def _runtime(self, thing: Thing) -> None:
        files = self.kinds["Dataset"].named(thing)
        if deleting(thing):
            self._delete_runtime(thing, files)
        elif files is None or deleting(files):
            self._event(thing, "ErrorProcessRuntime", "No dataset can be bound to the runtime, waiting.")
        elif self._owned(thing, files) and self._held(thing):
            uid = thing["metadata"]["uid"]
            age = time.monotonic() - self._begun.setdefault(uid, time.monotonic())
            fault = faults.of(self._folder, "JindoRuntime", thing["metadata"]["name"])
            status = fluid_model.runtime_status(thing, age, fault)
            self._tell(thing, status)
            if status["masterPhase"] == "Ready" and status["workerNumberReady"]:
                self._bind(thing, files)

    def _bind(self, runtime: Thing, files: Thing) -> None:
        fault = faults.of(self._folder, "Dataset", files["metadata"]["name"])
        if fault == "stuck":
            return
        if _status(files).get("phase") not in ("Bound", "Failed"):
            files = self._tell(files, fluid_model.bound(files, runtime, failed=fault == "failed", now=now()))
        if fault is None:
            self._make_volume(files)
            self._sync(runtime, files)

    def _sync(self, runtime: Thing, files: Thing) -> None:
        """Updates the cache states, no more often than Fluid does."""
        uid = runtime["metadata"]["uid"]
        if not self._due((uid, "sync"), _SYNC_SECONDS):
            return
        # Fluid counts once, when it sets up the runtime, and never again (pkg/ddc/jindocache/metadata.go).
        total = self._totals.setdefault(uid, fluid_model.bucket_bytes(self._folder, files))
        states = fluid_model.cache_states(runtime, self._cached.get(uid, 0.0), total)
        self._tell(runtime, {"cacheStates": states})
        self._tell(files, {"cacheStates": states, "ufsTotal": fluid_model.bytes_size(total)})

    def _load(self, thing: Thing) -> None:
        if deleting(thing):
            self._loads.pop(thing["metadata"]["uid"], None)
            self._release(thing)
            return
        files = self.kinds["Dataset"].named(thing, thing["spec"]["dataset"]["name"])
        runtime = self.kinds["JindoRuntime"].named(files) if files else None
        if files is None:
            self._event(thing, "TargetDatasetNotFound", "Target dataset not found")
        elif runtime is None or not _status(files).get("runtimes"):
            self._event(thing, "RuntimeNotReady", "Bounded accelerate runtime not ready", "Normal")
        elif self._held(thing) and self._owned(thing, files):
            phase = _status(thing).get("phase")
            if not phase:
                self._tell(thing, {"phase": "Pending", "duration": "Unfinished", "conditions": []})
            elif phase == "Pending":
                self._tell(thing, {"phase": "Executing"})
            elif phase == "Executing":
                self._execute(thing, runtime, files)

    def _execute(self, thing: Thing, runtime: Thing, files: Thing) -> None:
        uid, holds = thing["metadata"]["uid"], runtime["metadata"]["uid"]
        loading = self._loads.get(uid)
        if loading is None:
            after = (thing["metadata"].get("annotations") or {}).get(_READY_AFTER, "")
            loading = self._loads[uid] = fluid_model.Loading(
                begun=time.monotonic(),
                seconds=fluid_model.seconds(after) or self._load_seconds,
                bytes=min(fluid_model.bucket_bytes(self._folder, files), fluid_model.capacity(runtime, usable=True)),
            )
        fault = faults.of(self._folder, "DataLoad", thing["metadata"]["name"])
        share, ended = loading.progress(time.monotonic(), fault)
        self._cached[holds] = max(self._cached.get(holds, 0.0), share * loading.bytes)
        if ended:
            failed = fault == "failed"
            self._tell(thing, fluid_model.load_ended(failed=failed, lasted=loading.seconds, now=now()))
            name = thing["metadata"]["name"]
            if failed:
                self._event(thing, "DataOperationFailed", f"DataLoad {name} failed")
            else:
                self._event(thing, "DataOperationSucceed", f"DataLoad {name} succeeded", "Normal")

    def _delete_runtime(self, thing: Thing, files: Thing | None) -> None:
        namespace, name = place_of(thing)
        claim = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"
        for path, patience in ((claim, _CLAIM_SECONDS), (_volume_path(namespace, name), None)):
            found = self._get(path)
            if found and (found["metadata"].get("annotations") or {}).get("CreatedBy") == "fluid":
                if not deleting(found):
                    self._api.delete(path)
                    self._begun[path] = time.monotonic()
                elif patience and time.monotonic() - self._begun.get(path, 0.0) > patience:
                    text = f"the PVC {name} in ns {namespace} is not cleaned up after 10-second retry"
                    self._event(thing, "ErrorProcessRuntime", f"Failed to delete volume {text}")
                return
        if files:
            gone = dict.fromkeys(("ufsTotal", "fileNum", "runtimes", "cacheStates"))
            self._tell(files, {"phase": "NotBound", "conditions": []} | gone)
        for known in (self._begun, self._cached, self._totals):
            known.pop(thing["metadata"]["uid"], None)
        self._release(thing)

    def _make_volume(self, files: Thing) -> None:
        """Creates what pods mount: a volume and a claim with the Dataset's name."""
        namespace, name = place_of(files)
        if not self._due((files["metadata"]["uid"], "volume"), _EVENT_SECONDS):
            return
        claim = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
        if self._get(f"{claim}/{name}"):
            return
        volume, amount = f"{namespace}-{name}", {"storage": "100Pi"}
        access = {"accessModes": files["spec"].get("accessModes") or ["ReadOnlyMany"], "storageClassName": "fluid"}
        driver = {"driver": "fuse.csi.fluid.io", "volumeHandle": volume}
        of = {"capacity": amount, "claimRef": {"namespace": namespace, "name": name}, "csi": driver}
        wants = {"volumeName": volume, "resources": {"requests": amount}}
        for path, called, spec in (("/api/v1/persistentvolumes", volume, of), (claim, name, wants)):
            metadata = {"name": called, "annotations": _MADE_BY_FLUID}
            self._api.request("POST", path, {"metadata": metadata, "spec": access | spec})

    def _pod_on(self, files: Thing) -> Thing | None:
        """A pod that mounts the Dataset's claim and has not ended."""
        namespace, name = place_of(files)
        for pod in self._api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
            claims = [volume.get("persistentVolumeClaim") or {} for volume in pod["spec"].get("volumes") or []]
            uses = any(each.get("claimName") == name for each in claims)
            if uses and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                return pod
        return None

    def _held(self, thing: Thing) -> bool:
        """Whether our finalizer is already there; if not, adds it."""
        finalizer, held = _FINALIZERS[thing["kind"]], thing["metadata"].get("finalizers") or []
        if finalizer in held:
            return True
        self._change(thing, {"finalizers": [*held, finalizer]})
        return False

    def _owned(self, thing: Thing, files: Thing) -> bool:
        """Whether the Dataset is already its owner; if not, makes it the owner."""
        owners, uid = thing["metadata"].get("ownerReferences") or [], files["metadata"]["uid"]
        if any(owner["uid"] == uid for owner in owners):
            return True
        owner = {"apiVersion": GROUP, "kind": "Dataset", "name": files["metadata"]["name"], "uid": uid}
        self._change(thing, {"ownerReferences": [*owners, owner]})
        return False

    def _release(self, thing: Thing) -> None:
        finalizer, held = _FINALIZERS[thing["kind"]], thing["metadata"].get("finalizers") or []
        if finalizer in held:
            self._change(thing, {"finalizers": [each for each in held if each != finalizer]})

    def _change(self, thing: Thing, metadata: Thing) -> None:
        version = {"resourceVersion": thing["metadata"]["resourceVersion"]}
        self.kinds[thing["kind"]].see(self._api.merge(_path(thing), {"metadata": metadata | version}))

    def _tell(self, thing: Thing, status: Thing) -> Thing:
        """Writes the changes to a status; returns the object after that."""
        known = self.kinds[thing["kind"]].things.get(thing["metadata"]["uid"], thing)
        if all(_status(known).get(key) == value for key, value in status.items()):
            return known
        changed = self._api.merge(f"{_path(thing)}/status", {"status": status})
        self.kinds[thing["kind"]].see(changed)
        return changed

    def _event(self, thing: Thing, reason: str, message: str, severity: str = "Warning") -> None:
        metadata = thing["metadata"]
        if not self._due((metadata["uid"], reason), _EVENT_SECONDS):
            return
        about = {"apiVersion": GROUP, "kind": thing["kind"], "name": metadata["name"], "uid": metadata["uid"]}
        body = {
            "metadata": {"generateName": f"{metadata['name']}."},
            "involvedObject": about | {"namespace": metadata["namespace"]},
            "type": severity,
            "reason": reason,
            "message": message,
            "source": {"component": "fluid"},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        self._api.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", body)

    def _due(self, what: tuple[str, str], every: float) -> bool:
        at = time.monotonic()
        if at - self._told.get(what, -every) < every:
            return False
        self._told[what] = at
        return True

    def _get(self, path: str) -> Thing | None:
        try:
            return self._api.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise


def _path(thing: Thing) -> str:
    namespace, name = place_of(thing)
    return f"/apis/{GROUP}/namespaces/{namespace}/{PLURALS[thing['kind']]}/{name}"


def _volume_path(namespace: str, name: str) -> str:
    return f"/api/v1/persistentvolumes/{namespace}-{name}"


def _status(thing: Thing) -> Thing:
    return thing.get("status") or {}


def main(argv: Sequence[str]) -> None:
    """Runs until it is stopped or its control plane is gone."""
    parser = watching.parser("python -m standins.fluid", __doc__)
    parser.add_argument("--load-seconds", type=float, default=10, help="how long a DataLoad takes")
    options = parser.parse_args(argv)
    api = WatchingApi.of(options.kubeconfig, options.folder)
    fluid = Fluid(api, options.folder, options.load_seconds)
    sinks = {f"/apis/{GROUP}/{plural}": fluid.kinds[kind] for kind, plural in PLURALS.items()}
    play(api, options.folder, sinks, fluid.tick, _TICK_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1:])
