"""The status of a Job: its pods, and the newest line of progress in its log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from watch.rollout import Reader, RolloutStatus, failures, pod_name, running, unplaced, waiting

_SAYS = re.compile("modelserve: (?:sync|verify): (.*)")


def describe(
    job: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    logs: Mapping[str, str | None],
    ends: Mapping[str, str],
) -> RolloutStatus:
    """What a Job waits for, and what is wrong with it. Job and pods are the API's JSON, `logs` has the pods' last
    lines, `ends` those of ended runs."""
    newest = sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
    problems = [
        f"Job {job['metadata']['name']} has failed: {condition.get('reason')}: {condition.get('message')}"
        for condition in (job.get("status") or {}).get("conditions") or []
        if condition["type"] == "Failed" and condition["status"] == "True"
    ]
    again = (job.get("spec") or {}).get("backoffLimit", 1) > 0
    then = "it is tried again, up to the Job's limit" if again else "up ends"
    for pod in reversed(newest):
        problems += failures(pod, ends, then)
        if why := unplaced(pod):
            problems.append(f"no node for {pod_name(pod)}: {why}")
    return RolloutStatus(_status(newest[-1] if newest else None, logs), tuple(problems))


def _status(pod: Mapping[str, Any] | None, logs: Mapping[str, str | None]) -> str:
    if pod is None:
        return "the Job's pod is not created"
    log = logs.get(pod_name(pod))
    if progress := _SAYS.findall(log or ""):
        return progress[-1].strip()
    if not pod["spec"].get("nodeName"):
        return f"{pod_name(pod)}: not scheduled"
    phase = pod["status"].get("phase")
    return f"{pod_name(pod)}: {waiting(pod) or (running(log) if phase == 'Running' else phase)}"


def look(reader: Reader, name: str) -> RolloutStatus | None:
    """The status of the Job `name`; None while it cannot be read."""
    job, pods = reader.job(name), reader.pods(f"batch.kubernetes.io/job-name={name}")
    if job is None or pods is None:
        return None
    logs = {pod_name(pod): reader.log(pod) for pod in pods if pod["spec"].get("nodeName")}
    return describe(job, pods, logs, {pod_name(pod): reader.end(pod) for pod in pods})
