"""The cached and the uncached volume on the real engine, API server and volume controllers; Fluid's controllers are
simulated."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest

from components.cluster.credentials import KeyPair
from components.cluster.kubernetes import kubernetes_object, kubernetes_provider
from components.weights.fluid_cache import FluidCache, FluidCacheArgs
from components.weights.model_volume import ModelVolume, ModelVolumeArgs
from local import object_store, pulumi_home
from local.api import wait_until
from local.control_plane import ControlPlane
from local.paths import ROOT
from standins.fluid import GROUP, PLURALS
from tests.rehearsal.small_program import Engine, Outcome
from tests.support.patience import PATIENCE_SECONDS
from watch.cache_state import CacheReader
from watch.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SOAK = pytest.mark.soak
KEY = "AKID-canary-90f1"
SECRET = "secret-canary-77ab"
GIB = 1024**3
NAME = "m"
PREFIX = "models/DeepSeek-R1"
CHAIN = [f"{NAME}-cache-key", f"{NAME}-dataset", f"{NAME}-runtime", f"{NAME}-load"]


class Room:
    """A separate namespace, a stack in it, and the program to run there."""

    def __init__(self, plane: ControlPlane, engine: Engine, namespace: str) -> None:
        self.plane, self.api, self.engine, self.namespace = plane, plane.api, engine, namespace
        self.settings: dict[str, Any] = {}
        self.mounted = False
        self.planned = 20 * GIB
        self.name = f"m{secrets.token_hex(2)}"
        self.bucket = f"b{secrets.token_hex(4)}"
        self.fill(20 * GIB)

    def fill(self, size: int, prefix: str = PREFIX) -> None:
        """Puts this much into the bucket, as a sparse file."""
        file = object_store.buckets(self.plane.folder) / self.bucket / prefix / "model.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.truncate(size)

    def object(self, plural: str) -> dict[str, Any]:
        return self.api.get(f"/apis/{GROUP}/namespaces/{self.namespace}/{plural}/{self.name}")

    def left(self) -> list[str]:
        """All remaining objects of the cache or volume."""
        paths = [f"/apis/{GROUP}/namespaces/{self.namespace}/{plural}" for plural in PLURALS.values()]
        paths += [f"/api/v1/namespaces/{self.namespace}/{plural}" for plural in ("secrets", "persistentvolumeclaims")]
        found = [item["metadata"]["name"] for path in paths for item in self.api.get(path)["items"]]
        volumes = self.api.get("/api/v1/persistentvolumes")["items"]
        return found + [v["metadata"]["name"] for v in volumes if v["metadata"]["name"].startswith(self.namespace)]

    def local(self, *command: str) -> None:
        given = [sys.executable, "-m", "local", *command, "--name", self.plane.name]
        subprocess.run(given, cwd=ROOT, check=True, timeout=PATIENCE_SECONDS, capture_output=True)

    def steps(self, outcome: Outcome) -> list[tuple[str, str]]:
        """The steps on the objects, without the room's own name for the model."""
        assert not [error for error in outcome.errors if "Traceback" in error]
        short = [(op, name.replace(self.name, NAME)) for op, name in outcome.steps]
        return [(op, name) for op, name in short if name not in ("cluster", NAME)]

    def cache(self) -> None:
        """The program: the cache, and an object that depends on it: a pod if `mounted`, otherwise a ConfigMap."""
        provider = pulumi.ResourceOptions(provider=kubernetes_provider("cluster", "rehearsal", _kubeconfig(self.plane)))
        look = CacheReader("rehearsal", self.namespace, self.plane.kubeconfig.read_text(), patience_seconds=4)
        progress = Progress("rehearsal", self.namespace, self.plane.kubeconfig.read_text())
        settings: dict[str, Any] = {
            "stack": "test",
            "namespace": self.namespace,
            "bucket": self.bucket,
            "endpoint": "oss-cn-hangzhou-internal.aliyuncs.com",
            "prefix": PREFIX,
            "key": _key(),
            "workers": 2,
            "quota_gib": 12,
            "limit_gib": 13,
            "cpu": 2,
            "high": 0.95,
            "low": 0.9,
            "ready_seconds": 20,
            "load_seconds": 20,
        } | self.settings
        cache = FluidCache(
            self.name,
            FluidCacheArgs(attempt=look.attempt(self.name), **settings),
            provider,
            progress.load_hooks(),
            runtime_hooks=progress.runtime_hooks(),
            shortfall=look.shortfall(self.name, self.planned),
        )
        if self.mounted:
            _mounts("workload", cache, self.namespace, provider)
        else:
            _needs("workload", cache.claim, self.namespace, provider)

    def volume(self) -> None:
        """The program without a cache."""
        provider = pulumi.ResourceOptions(provider=kubernetes_provider("cluster", "rehearsal", _kubeconfig(self.plane)))
        volume = ModelVolume(
            self.name,
            ModelVolumeArgs(
                stack="test",
                namespace=self.namespace,
                bucket=self.settings.get("bucket", self.bucket),
                endpoint="oss-cn-hangzhou-internal.aliyuncs.com",
                prefix=PREFIX,
                key=_key(),
                size_gib=20,
            ),
            provider,
        )
        _needs("workload", volume.claim, self.namespace, provider)


def _kubeconfig(plane: ControlPlane) -> pulumi.Output[str]:
    return pulumi.Output.secret(plane.kubeconfig.read_text())


def _key() -> KeyPair:
    return KeyPair(pulumi.Output.secret(KEY), pulumi.Output.secret(SECRET))


def _needs(name: str, claim: pulumi.Output[str], namespace: str, opts: pulumi.ResourceOptions) -> None:
    metadata = {"name": name, "namespace": namespace}
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"claim": claim}}
    kubernetes_object(name, manifest, opts)


def _mounts(name: str, cache: FluidCache, namespace: str, opts: pulumi.ResourceOptions) -> None:
    """A pod with the claim, as in a cluster without Fluid's sidecar; it is deleted with what it mounts."""
    volume = {"name": "weights", "persistentVolumeClaim": {"claimName": cache.claim, "readOnly": True}}
    # Only its mount matters, from the moment the pod exists; so nothing waits for the scheduler to place it.
    unawaited = {"pulumi.com/skipAwait": "true"}
    container = {"name": "c", "image": "i", "volumeMounts": [{"name": "weights", "mountPath": "/weights"}]}
    metadata = {"name": name, "namespace": namespace, "annotations": unawaited}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    with_it = pulumi.ResourceOptions(replace_with=list(cache.parts), delete_before_replace=True)
    opts = pulumi.ResourceOptions.merge(opts, with_it)
    kubernetes_object(name, manifest | {"spec": {"containers": [container], "volumes": [volume]}}, opts)


@pytest.fixture(scope="module")
def only_engine(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("fluid")
    return Engine(pulumi_home.environment(control_plane, folder / "state"), folder)


@pytest.fixture
def room(control_plane: ControlPlane, only_engine: Engine) -> Iterator[Room]:
    """After each test: no object of it is left, and neither state nor output contains the key."""
    api, namespace = control_plane.api, f"fluid-{secrets.token_hex(4)}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_until(lambda: bool(api.get(account)), PATIENCE_SECONDS, lambda: f"no {account}")
    with only_engine.fresh() as engine:
        made = Room(control_plane, engine, namespace)
        yield made
        state = json.dumps(engine.state())
        assert engine.destroy().ok
        wait_until(lambda: made.left() == [], PATIENCE_SECONDS, lambda: f"left: {made.left()}")
        api.delete(f"/api/v1/namespaces/{namespace}")
        shutil.rmtree(object_store.buckets(control_plane.folder) / made.bucket)
        assert KEY not in state and SECRET not in state


def creates(*names: str) -> list[tuple[str, str]]:
    return [("create", name) for name in names]


def test_a_cache_comes_up_link_by_link_loads_the_whole_model_and_goes_backwards(room: Room) -> None:
    first = room.engine.up(room.cache)
    assert first.ok, first.errors
    assert room.steps(first) == creates(*CHAIN, "workload")
    dataset = room.object("datasets")
    assert dataset["status"]["phase"] == "Bound" and dataset["status"]["cacheStates"]["cached"] == "20.00GiB"
    claim = room.api.get(f"/api/v1/namespaces/{room.namespace}/persistentvolumeclaims/{room.name}")
    assert claim["status"]["phase"] == "Bound"
    again = room.engine.up()
    assert again.ok and {op for op, _ in again.steps} == {"same"}
    gone = room.engine.destroy()
    assert gone.ok, gone.errors
    assert room.steps(gone) == [("delete", name) for name in ["workload", *reversed(CHAIN)]]
    assert room.left() == []


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("failed", "Fluid calls the load Failed (BackoffLimitExceeded: Job has reached the specified backoff limit)"),
        ("partial", "Fluid calls the load complete, but 10.00GiB of the bucket's 20.00GiB are cached"),
    ],
)
@SOAK
def test_a_load_without_success_fails_up_with_the_cause_and_the_next_up_loads_anew(
    room: Room, how: str, cause: str
) -> None:
    room.local("fail", f"DataLoad/{room.name}", how)
    failed = room.engine.up(room.cache)
    assert not failed.ok and room.steps(failed) == creates(*CHAIN)
    assert any(cause in error for error in failed.errors), failed.errors
    first = room.object("dataloads")["metadata"]["uid"]

    room.local("heal", f"DataLoad/{room.name}")
    healed = room.engine.up()
    assert healed.ok, healed.errors
    assert [step for step in room.steps(healed) if step[0] != "same"] == [
        ("delete-replaced", f"{NAME}-load"),
        ("replace", f"{NAME}-load"),
        ("create-replacement", f"{NAME}-load"),
        ("create", "workload"),
    ]
    load = room.object("dataloads")
    assert load["metadata"]["uid"] != first and load["metadata"]["annotations"]["modelserve.dev/attempt"] == "2"
    settled = room.engine.up()
    assert settled.ok and {op for op, _ in settled.steps} == {"same"}


@SOAK
def test_a_load_that_does_not_end_fails_up_with_how_far_it_is_and_the_next_up_waits_on(room: Room) -> None:
    room.settings = {"load_seconds": 10}
    room.local("fail", f"DataLoad/{room.name}", "stuck")
    stuck = room.engine.up(room.cache)
    assert not stuck.ok and room.steps(stuck) == creates(*CHAIN)
    assert f"{room.name}-load is not ready: load Executing: 5.00GiB of 20.00GiB cached" in stuck.errors, stuck.errors
    first = room.object("dataloads")["metadata"]["uid"]
    room.local("heal", f"DataLoad/{room.name}")
    ended = room.engine.up()
    assert ended.ok and room.object("dataloads")["metadata"]["uid"] == first, ended.errors


@SOAK
def test_another_quota_replaces_what_mounts_the_cache_and_the_cache_in_an_order_that_fluid_lets_through(
    room: Room,
) -> None:
    room.mounted = True
    assert room.engine.up(room.cache).ok
    runtime, load = room.object("jindoruntimes")["metadata"]["uid"], room.object("dataloads")["metadata"]["uid"]
    room.settings = {"quota_gib": 11}
    changed = room.engine.up()
    assert changed.ok, changed.errors
    steps = room.steps(changed)
    gone = [name for op, name in steps if op == "delete-replaced"]
    made = [name for op, name in steps if op == "create-replacement"]
    assert sorted(gone[:2]) == sorted(["workload", f"{NAME}-load"]) and gone[2:] == [f"{NAME}-runtime"]
    assert made == [f"{NAME}-runtime", f"{NAME}-load", "workload"]
    assert room.object("jindoruntimes")["metadata"]["uid"] != runtime
    assert room.object("dataloads")["metadata"]["uid"] != load


@SOAK
def test_another_prefix_takes_what_mounts_the_cache_before_runtime_and_dataset(room: Room) -> None:
    room.mounted = True
    assert room.engine.up(room.cache).ok
    room.fill(20 * GIB, "models/other")
    room.settings = {"prefix": "models/other"}
    changed = room.engine.up()
    assert changed.ok, changed.errors
    gone = [name for op, name in room.steps(changed) if op == "delete-replaced"]
    key, dataset, runtime, load = CHAIN
    # The engine chooses whether to delete the workload or the load first; Fluid accepts either order.
    assert sorted(gone[:2]) == sorted(["workload", load]) and gone[2:] == [key, runtime, dataset]
    assert room.object("datasets")["spec"]["mounts"][0]["mountPoint"] == f"oss://{room.bucket}/models/other/"


@SOAK
def test_more_workers_come_in_place_and_are_waited_for_and_the_model_is_loaded_anew(room: Room) -> None:
    assert room.engine.up(room.cache).ok
    runtime = room.object("jindoruntimes")["metadata"]["uid"]
    room.settings = {"workers": 3}
    changed = room.engine.up()
    assert changed.ok, changed.errors
    assert ("update", f"{NAME}-runtime") in room.steps(changed)
    assert ("delete-replaced", f"{NAME}-load") in room.steps(changed)
    live = room.object("jindoruntimes")
    assert live["metadata"]["uid"] == runtime and live["status"]["workerNumberReady"] == 3


@SOAK
def test_workers_that_do_not_all_get_ready_fail_up_with_their_number(room: Room) -> None:
    room.settings = {"ready_seconds": 5}
    room.local("fail", f"JindoRuntime/{room.name}", "partial")
    failed = room.engine.up(room.cache)
    assert not failed.ok and room.steps(failed) == creates(*CHAIN[:3])
    assert f"{room.name}-runtime is not ready: cache workers ready: 1 of 2" in failed.errors
    room.local("heal", f"JindoRuntime/{room.name}")


@SOAK
def test_the_cache_is_switched_off_and_on_while_the_workload_moves_over(room: Room) -> None:
    volume = [f"{NAME}-volume-key", f"{NAME}-volume", f"{NAME}-volume-claim"]
    assert room.engine.up(room.volume).ok
    assert {op for op, _ in room.engine.up().steps} == {"same"}
    on = room.engine.up(room.cache)
    assert on.ok, on.errors
    steps = room.steps(on)
    assert steps[:4] == creates(*CHAIN) and steps[-3:] == [("delete", name) for name in reversed(volume)]
    off = room.engine.up(room.volume)
    assert off.ok, off.errors
    steps = room.steps(off)
    assert steps[:3] == creates(*volume) and steps[-4:] == [("delete", name) for name in reversed(CHAIN)]


@SOAK
def test_a_volume_of_another_bucket_is_made_beside_the_old_one_which_goes_last(room: Room) -> None:
    assert room.engine.up(room.volume).ok
    room.settings = {"bucket": "others"}
    moved = room.engine.up()
    assert moved.ok, moved.errors
    steps = room.steps(moved)
    assert steps[0:2] == [("same", f"{NAME}-volume-key"), ("create-replacement", f"{NAME}-volume")]
    assert steps[-2:] == [("delete-replaced", f"{NAME}-volume-claim"), ("delete-replaced", f"{NAME}-volume")]
