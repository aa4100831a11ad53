"""When `pulumi up` calls a custom resource ready: evaluates each wait that the program writes with the plugin's code.

The plugin parses a wait only after it has created the object, so one that it cannot parse costs an hour of GPUs. The
statuses are as the controllers write them: they omit counters that are zero.
"""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from components.cluster.aibrix import objects
from components.cluster.kubernetes import Manifest
from components.serving import group_autoscaler, model_route, pod_autoscaler, ray_cluster_fleet, ray_lws_group
from components.weights import fluid_cache
from config.stack_file import read
from local.paths import ROOT
from local.toolchain import ensure
from ops.render import render
from tests.support.volcengine import rendered
from tests.unit.components.cluster import test_aibrix
from tests.unit.components.serving import (
    test_group_autoscaler,
    test_model_route,
    test_pod_autoscaler,
    test_ray_cluster_fleet,
    test_ray_lws_group,
)
from tests.unit.components.weights import test_fluid_cache
from tests.unit.stacks import test_acs_parity, test_volcengine_parity

WAIT = "pulumi.com/waitFor"
Status = dict[str, Any]


def ask(*live: Manifest) -> list[dict[str, Any]]:
    """The plugin's verdict on each object as it is: `ready`, and `error` if it cannot parse the wait."""
    program = ensure("waitfor")["waitfor"]
    answer = subprocess.run([program], input=json.dumps(live), capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def counters(**numbers: int) -> Status:
    return {name: number for name, number in numbers.items() if number}


def conditions(generation: int = 1, **states: bool) -> list[Status]:
    """Conditions as metav1 has them."""
    return [{"type": kind, "status": str(state), "observedGeneration": generation} for kind, state in states.items()]


# --- what the controllers write, by kind: statuses that end the wait, and statuses that must not end it


def fleet(made: Manifest) -> tuple[list[Status], list[Status]]:
    def status(replicas: int, updated: int, ready: int, available: int, generation: int = 1) -> Status:
        names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        found = counters(**dict(zip(names, (replicas, updated, ready, available), strict=True)))
        return found | {"observedGeneration": generation}

    n = made["spec"]["replicas"]
    empty, stale = status(0, 0, 0, 0), status(n, n, n, n, generation=0)
    if is_autoscaled(made):
        waiting = [status(1, 1, 0, 0), status(2, 1, 2, 2), empty, stale]
        return [status(1, 1, 1, 1), status(4, 4, 2, 2)], waiting
    if n == 0:
        return [empty], [status(1, 0, 1, 1), {}, stale]
    if is_scheduled(made):
        return [status(n, n, n, n)], [status(n, n, n - 1, n), status(n, n - 1, n, n), empty, stale]
    one_less = [status(*(n - (place == left) for place in range(4))) for left in range(4)]
    an_old_one_left = status(n + 1, n, n, n)
    says_available = status(n, n, 0, 0) | {"conditions": conditions(Available=True)}
    return [status(n, n, n, n)], [*one_less, an_old_one_left, says_available, empty, stale]


def group(made: Manifest) -> tuple[list[Status], list[Status]]:
    def status(updated: int, ready: int, available: bool = True, generation: int = 1) -> Status:
        found = counters(replicas=n, updatedReplicas=updated, readyReplicas=ready)
        return found | {"conditions": conditions(generation, Available=available), "observedGeneration": generation}

    n = made["spec"]["replicas"]
    if "condition=Available" not in made["metadata"]["annotations"][WAIT]:  # an autoscaler's
        # A further replica may be starting, for which there may be no room.
        waiting = [status(n - 1, n), status(n, 0), status(n, n, generation=0), {}]
        return [status(n, n), status(n, 1, available=False)], waiting
    few = [status(n - 1, n), status(n, n - 1)] if n else [status(0, 0) | {"replicas": 1}]
    return [status(n, n)], [*few, status(n, n, available=False), status(n, n, generation=0)]


def runtime(made: Manifest) -> tuple[list[Status], list[Status]]:
    def status(ready: int, phase: str) -> Status:
        return counters(workerNumberReady=ready) | {"workerPhase": phase, "masterPhase": "Ready"}

    n = made["spec"]["replicas"]
    # From an older generation, when there were fewer or more replicas.
    waiting = [status(0, "NotReady"), status(n - 1, "PartialReady"), status(n, "PartialReady"), status(n + 1, "Ready")]
    return [status(n, "Ready")], [*waiting, status(n - 1, "Ready")]


def load(_: Manifest) -> tuple[list[Status], list[Status]]:
    # Either outcome ends the wait; the component checks afterwards which one it was.
    return [{"phase": "Complete"}, {"phase": "Failed"}], [{"phase": phase} for phase in ("", "Pending", "Executing")]


def route(_: Manifest) -> tuple[list[Status], list[Status]]:
    def status(**states: bool) -> Status:
        return {"parents": [{"controllerName": "c", "conditions": conditions(**states)}]}

    some = [{}, {"Accepted": True}, {"ResolvedRefs": True}]
    some += [{"Accepted": True, "ResolvedRefs": False}, {"Accepted": False, "ResolvedRefs": True}]
    return [status(Accepted=True, ResolvedRefs=True)], [{"parents": []}, *(status(**each) for each in some)]


def autoscaler(made: Manifest) -> tuple[list[Status], list[Status]]:
    def status(generation: int = 1, **changes: bool) -> Status:
        good = dict.fromkeys(("ValidSpec", "AbleToScale", "ScalingActive"), True)
        return {"conditions": conditions(generation, **good | changes)}

    waiting = [status(AbleToScale=False), status(generation=0), {"conditions": []}]
    if "ValidSpec" in made["metadata"]["annotations"][WAIT]:
        waiting.append(status(ValidSpec=False))
    return [status(), status(ScalingActive=False)], waiting


def group_scaler(made: Manifest) -> tuple[list[Status], list[Status]]:
    keda = made["kind"] == "ScaledObject"
    good = {"Ready": True} if keda else {"AbleToScale": True, "ScalingActive": True}
    # Of KEDA's conditions none has a generation, nor have those of an HPA.
    told = [{"type": kind, "status": "True"} for kind in good]
    waiting = [{"conditions": conditions(**good | {kind: False})} for kind in good]
    return [{"conditions": told}], [{"conditions": []}, *waiting]


def gateway(_: Manifest) -> tuple[list[Status], list[Status]]:
    waiting = [{"conditions": conditions(Accepted=True, Programmed=False)}, {"conditions": conditions(Accepted=True)}]
    stale = {"conditions": conditions(generation=0, Programmed=True)}
    return [{"conditions": conditions(Accepted=True, Programmed=True)}], [*waiting, stale]


def patches(_: Manifest) -> tuple[list[Status], list[Status]]:
    def status(**states: bool) -> Status:
        return {"ancestors": [{"controllerName": "c", "conditions": conditions(**states)}]}

    waiting = [{"ancestors": []}, status(Accepted=True), status(Accepted=True, Programmed=False)]
    return [status(Accepted=True, Programmed=True)], waiting


WRITTEN: dict[str, Callable[[Manifest], tuple[list[Status], list[Status]]]] = {
    "RayClusterFleet": fleet,
    "LeaderWorkerSet": group,
    "JindoRuntime": runtime,
    "DataLoad": load,
    "HTTPRoute": route,
    "PodAutoscaler": autoscaler,
    "ScaledObject": group_scaler,
    "HorizontalPodAutoscaler": group_scaler,
    "Gateway": gateway,
    "EnvoyPatchPolicy": patches,
}


# --- what the program writes


def is_autoscaled(made: Manifest) -> bool:
    """Whether the fleet's wait leaves the number of replicas open; no other field shows this."""
    told = f"== {made['spec']['replicas']}" in made["metadata"]["annotations"][WAIT]
    return not told and not is_scheduled(made) and made["spec"]["replicas"] > 0


def is_scheduled(made: Manifest) -> bool:
    """Whether the wait goes by the number of replicas that the object has when it is looked at."""
    return "$.spec.replicas" in made["metadata"]["annotations"][WAIT]


def by_components() -> Iterator[Manifest]:
    """Each kind in each form that its arguments allow."""
    for replicas in range(5):
        yield ray_cluster_fleet.fleet("m", replace(test_ray_cluster_fleet.ARGS, replicas=replicas))
        yield ray_lws_group.leader_worker_set("m", replace(test_ray_lws_group.ARGS, replicas=replicas))
        yield ray_cluster_fleet.fleet("m", replace(test_ray_cluster_fleet.ARGS, replicas=replicas, scheduled=True))
        yield ray_lws_group.leader_worker_set("m", replace(test_ray_lws_group.ARGS, replicas=replicas, scheduled=True))
    yield ray_cluster_fleet.fleet("m", replace(test_ray_cluster_fleet.ARGS, scaled_to=4))
    yield ray_lws_group.leader_worker_set("m", replace(test_ray_lws_group.ARGS, scaled_to=4))
    yield ray_lws_group.leader_worker_set("m", replace(test_ray_lws_group.ARGS, scaled_to=4, replicas=2))
    for engine in ("keda", "hpa"):
        yield group_autoscaler.autoscaler("m", test_group_autoscaler.arguments(engine))
    yield ray_cluster_fleet.fleet("m", replace(test_ray_cluster_fleet.ARGS, scaled_to=4, replicas=2))
    for workers in range(1, 9):
        yield fluid_cache.jindo_runtime("m", test_fluid_cache.arguments(workers=workers))
    for attempt in (1, 2):
        yield fluid_cache.data_load("m", test_fluid_cache.arguments(attempt=attempt))
    for version in ("0.2.1", "0.4.1", "0.5.0", "0.7.0"):
        yield model_route.http_route("m", test_model_route.arguments(aibrix_version=version))
        yield pod_autoscaler.pod_autoscaler("m", test_pod_autoscaler.arguments(aibrix_version=version))
    for args in (test_aibrix.OLD, test_aibrix.NEW):
        yield from objects(args)


def by_stacks() -> Iterator[Manifest]:
    """All that the committed stack files and their variants render."""
    yield from render(read(ROOT / "Pulumi.local.yaml"), "local")
    for changes in test_acs_parity.VARIANTS.values():
        file = read(ROOT / "Pulumi.acs.yaml")
        yield from render(
            replace(file, raw=file.raw | changes | {"cloud": file.raw["cloud"] | changes.get("cloud", {})}), "acs"
        )
    for changes in test_volcengine_parity.VARIANTS.values():
        yield from rendered(**changes)


@pytest.fixture(scope="module")
def waiting() -> list[Manifest]:
    """Every object with a wait, once for each combination of wait and number of replicas."""
    found = {}
    for made in itertools.chain(by_components(), by_stacks()):
        if wait := made["metadata"].get("annotations", {}).get(WAIT):
            found[made["kind"], wait, made["spec"].get("replicas")] = made
    return list(found.values())


def live(made: Manifest, status: Status | None) -> Manifest:
    """The object as the API server stores it, in its first generation."""
    found = {"apiVersion": made["apiVersion"], "kind": made["kind"], "spec": made["spec"]}
    found["metadata"] = made["metadata"] | {"generation": 1}
    return found if status is None else found | {"status": status}


def told(made: Manifest, status: Status | None, answer: dict[str, Any]) -> str:
    return f"{made['kind']} {made['metadata']['annotations'][WAIT]} at {status}: {answer}"


def test_the_plugin_can_read_every_wait(waiting: list[Manifest]):
    answers = ask(*(live(made, None) for made in waiting))
    refused = [told(made, None, each) for made, each in zip(waiting, answers, strict=True) if "error" in each]
    assert not refused, "\n".join(refused)


def test_no_wait_is_over_before_its_controller_has_said_anything(waiting: list[Manifest]):
    cases = [(made, status) for made in waiting for status in (None, {})]
    answers = ask(*(live(*case) for case in cases))
    over = [told(*case, each) for case, each in zip(cases, answers, strict=True) if each["ready"]]
    assert not over, "\n".join(over)


def test_a_wait_is_over_at_what_the_controller_says_of_a_whole_object_and_at_nothing_less(waiting: list[Manifest]):
    cases = [
        (made, status, ends)
        for made in waiting
        for statuses, ends in zip(WRITTEN[made["kind"]](made), (True, False), strict=True)
        for status in statuses
    ]
    answers = ask(*(live(made, status) for made, status, _ in cases))
    wrong = [
        told(made, status, each)
        for (made, status, ends), each in zip(cases, answers, strict=True)
        if each != {"ready": ends}
    ]
    assert not wrong, "\n".join(wrong)


def test_every_kind_that_a_component_waits_for_is_asked_about(waiting: list[Manifest]):
    assert {made["kind"] for made in waiting} == WRITTEN.keys()
    for file in sorted((ROOT / "components").rglob("*.py")):
        tree = ast.parse(file.read_text())
        # A table of waits by kind is defined beside the functions.
        tables = {
            target.id: _texts(each.value)
            for each in tree.body
            if isinstance(each, ast.Assign) and isinstance(each.value, ast.Dict)
            for target in each.targets
            if isinstance(target, ast.Name)
        }
        for function in (each for each in tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef)):
            texts = _texts(function)
            if WAIT in texts:
                names = {each.id for each in ast.walk(function) if isinstance(each, ast.Name)}
                kinds = texts.union(*(tables[name] for name in names & tables.keys()))
                assert kinds & WRITTEN.keys(), (
                    f"{file.name}: {function.name} waits for a kind of which no status is here"
                )


def _texts(tree: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)}
