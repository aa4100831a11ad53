"""The status of a weight cache: JindoCache's workers, then the load into them, with Fluid's warnings about both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.weights.fluid_cache import API_VERSION, failure
from watch.rollout import Reader, RolloutStatus, failures, pod_name, unplaced

# Warnings that Fluid emits at every start, while it only waits.
_PATIENT = ("RuntimeNotReady", "TargetDatasetNotFound")


def describe_runtime(
    runtime: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], warnings: Sequence[str]
) -> RolloutStatus:
    """What the cache's workers wait for. `pods` are the runtime's, `warnings` are Fluid's events about it."""
    status, wanted = runtime.get("status") or {}, runtime["spec"].get("replicas", 1)
    problems = [text for pod in pods for text in failures(pod, {}, "it is started again")]
    refused = {why: pod_name(pod) for pod in reversed(pods) if (why := unplaced(pod))}
    problems += [f"no node for {name}: {why}" for why, name in refused.items()]
    ready = f"cache workers ready: {status.get('workerNumberReady', 0)} of {wanted}"
    if status.get("masterPhase") != "Ready":
        ready = "the cache's master is not ready"
    return RolloutStatus(ready, (*problems, *_told(warnings)))


def describe_load(
    load: Mapping[str, Any],
    dataset: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    ends: Mapping[str, str],
    warnings: Sequence[str],
) -> RolloutStatus:
    """How far a load is. `pods` are its loader's, `ends` has the last lines of those that ended, `warnings` are Fluid's
    events about it."""
    phase, files = (load.get("status") or {}).get("phase"), (dataset or {}).get("status") or {}
    states = files.get("cacheStates") or {}
    problems = [text for pod in pods for text in failures(pod, ends, "Fluid tries once more")]
    problems += [f"no node for {pod_name(pod)}: {why}" for pod in pods if (why := unplaced(pod))]
    if phase == "Failed" and (why := failure(load.get("status"))):
        problems.append(why)
    if not phase:
        status = f"the Dataset is {files.get('phase') or 'not there'}, the load begins when it is Bound"
    else:
        status = f"load {phase}: {states.get('cached', '0.00B')} of {files.get('ufsTotal') or '[Calculating]'} cached"
    return RolloutStatus(status, (*problems, *_told(warnings)))


def _told(warnings: Sequence[str]) -> list[str]:
    return [f"Fluid says: {text}" for text in warnings if not text.startswith(_PATIENT)]


def look_at_runtime(reader: Reader, name: str) -> RolloutStatus | None:
    """The status of the JindoRuntime `name`; None while it cannot be read."""
    runtime, pods = reader.custom(API_VERSION, "jindoruntimes", name), reader.pods(f"release={name}")
    if runtime is None or pods is None:
        return None
    return describe_runtime(runtime, pods, reader.warnings(runtime["metadata"]["uid"]))


def look_at_load(reader: Reader, name: str) -> RolloutStatus | None:
    """The status of the DataLoad `name`; None while it cannot be read."""
    load, pods = reader.custom(API_VERSION, "dataloads", name), reader.pods(f"release={name}-loader")
    if load is None or pods is None:
        return None
    ends = {pod_name(pod): reader.end(pod) for pod in pods}
    dataset = reader.custom(API_VERSION, "datasets", load["spec"]["dataset"]["name"])
    return describe_load(load, dataset, pods, ends, reader.warnings(load["metadata"]["uid"]))
