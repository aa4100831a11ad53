"""The real API server knows every field of every object that the program can register."""

from __future__ import annotations

import copy
import functools
import re
from collections import Counter
from typing import Any

import pulumi
import pytest

from config.judge import parse
from config.plans import plan_services
from stacks.program import build
from tests.support.recorder import Recorder
from tests.support.schemas import problems

SERVICE: dict[str, Any] = {
    "model": "DeepSeek-R1",
    "engine": {"image": "vllm/vllm-openai:v0.7.3", "version": "0.7.3", "gpuMemoryUtilization": 0.95},
    "layout": {"nodes": 2, "tensor": 8, "pipeline": 2},
    "resources": {"cpu": 64, "memory": "512Gi"},
}
ONE_NODE = {"layout": {"nodes": 1, "tensor": 8, "pipeline": 1}}
EVERYTHING = {
    "servedModelName": "r1",
    "maxModelLen": 32768,
    "replicas": 3,
    "port": 9000,
    "startupPolicy": "LeaderReady",
    "restartPolicy": "RecreateGroupAfterStart",
    "readinessProbe": False,
    "engine": {
        "image": "vllm/vllm-openai:v0.14.0",
        "version": "0.14.0",
        "launcher": "ray",
        "extraArgs": ["--enforce-eager"],
        "gpuMemoryUtilization": 0.95,
        "env": {"NCCL_DEBUG": "INFO"},
    },
    "resources": {"cpu": 64, "memory": "1Ti", "shm": "32Gi", "ephemeralStorage": "30Gi"},
    "podLabels": {"team": "a"},
    "podAnnotations": {"note": "b"},
}
SCHEDULE = {
    "timezone": "Asia/Shanghai",
    "on": [{"days": ["mon", "tue"], "from": "08:00", "to": "20:00"}],
    "image": "mirror/python:3.12-slim",
}
STACKS = {
    "two nodes": {"ds": {}},
    "one node": {"ds": ONE_NODE},
    "no replicas": {"ds": {"replicas": 0}},
    "restart policy none": {"ds": {"restartPolicy": "None"}},
    "several services": {"ds": {}, "ds-2": {}, "small": ONE_NODE},
    "everything said": {"ds": EVERYTHING},
    "on a schedule": {"ds": {"schedule": SCHEDULE}},
    "asked after up": {"ds": {"verifyAfterUp": True}},
}


@functools.cache
def objects(stack: str, *, key: bool) -> list[dict[str, Any]]:
    """What the program registers for one of the stacks above."""
    config = parse(
        {
            "cloud": {"kind": "local", "gpu": "H20-96"},
            "cluster": {"context": "here"},
            "weights": {"source": "pvc", "claim": "weights"},
            "services": {name: SERVICE | changes for name, changes in STACKS[stack].items()},
        }
    )
    recorder = Recorder(preview=False)
    secrets = {"modelserve:apiKey": "k"} if key else {}

    def program() -> None:
        pulumi.runtime.set_all_config(secrets, list(secrets))
        build(config, plan_services(config))

    recorder.run(program)
    return recorder.objects()


@pytest.mark.parametrize("key", [True, False], ids=["with a key", "without a key"])
@pytest.mark.parametrize("stack", STACKS)
def test_every_object_passes_strict_validation_against_its_real_schema(stack, key):
    made = objects(stack, key=key)
    kinds = {"LeaderWorkerSet", "ConfigMap", "Service", "NetworkPolicy", *(["Secret"] if key else [])}
    counts = Counter(dict.fromkeys(kinds, len(STACKS[stack])))
    if stack == "on a schedule":
        # Its program, and off and on at both edges, because both are told on each day.
        counts += Counter(ServiceAccount=1, Role=1, RoleBinding=1, ConfigMap=1, CronJob=3)
    if stack == "asked after up":
        counts += Counter(ConfigMap=1, Job=1)
    assert Counter(found["kind"] for found in made) == counts
    assert {found["metadata"]["name"]: problems(found) for found in made if problems(found)} == {}


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        (
            "LeaderWorkerSet",
            "spec/replcas",
            1,
            "$.spec: Additional properties are not allowed ('replcas' was unexpected)",
        ),
        ("LeaderWorkerSet", "spec/replicas", "1", "$.spec.replicas: '1' is not of type 'integer'"),
        ("LeaderWorkerSet", "spec/startupPolicy", "Now", "$.spec.startupPolicy: 'Now' is not one of"),
        ("LeaderWorkerSet", "metadata/anotations", {}, "$.metadata: Additional properties"),
        (
            "LeaderWorkerSet",
            "spec/leaderWorkerTemplate/leaderTemplate/metadata/lables",
            {},
            "('lables' was unexpected)",
        ),
        (
            "LeaderWorkerSet",
            "spec/leaderWorkerTemplate/workerTemplate/spec/enableServiceLink",
            False,
            "('enableServiceLink' was unexpected)",
        ),
        (
            "LeaderWorkerSet",
            "spec/leaderWorkerTemplate/workerTemplate/spec/containers/0/imagePullPolcy",
            "Always",
            "('imagePullPolcy' was unexpected)",
        ),
        (
            "LeaderWorkerSet",
            "spec/leaderWorkerTemplate/leaderTemplate/spec/containers/0/startupProbe/httpGet/prt",
            1,
            "('prt' was unexpected)",
        ),
        (
            "LeaderWorkerSet",
            "spec/leaderWorkerTemplate/leaderTemplate/spec/containers/0/resources/limits/memory",
            "lots",
            "'lots' does not match",
        ),
        (
            "LeaderWorkerSet",
            "spec/leaderWorkerTemplate/leaderTemplate/spec/volumes/0/configMap/nam",
            "x",
            "('nam' was unexpected)",
        ),
        ("Service", "spec/ports/0/targetPrt", 1, "('targetPrt' was unexpected)"),
        ("Service", "spec/ports/0/port", "http", "'http' is not of type 'integer'"),
        ("NetworkPolicy", "spec/podSelector/matchLabel", {}, "('matchLabel' was unexpected)"),
        ("NetworkPolicy", "spec/ingress/0/form", [], "('form' was unexpected)"),
        ("Secret", "dat", {}, "('dat' was unexpected)"),
        ("ConfigMap", "data/launch.sh", 1, "1 is not of type 'string'"),
    ],
)
def test_the_validation_refuses_a_misspelt_field_and_a_wrong_type_at_any_depth(kind, path, value, said):
    (good,) = (found for found in objects("two nodes", key=True) if found["kind"] == kind)
    bad = copy.deepcopy(good)
    *way, last = path.split("/")
    place: Any = bad
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    (found,) = problems(bad)
    assert re.search(re.escape(said), found)
    assert problems(good) == []
