"""No mistake hides another, each mistake gives one line, and the remedy that a line names is right."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from config.judge import judge
from tests.support import volcengine
from tests.support.remedies import followed
from tests.support.stack_files import StackFile, problems, with_values
from tests.support.ways import WAYS
from tests.unit.config.test_mutations import FIELDS, NUMBERS, OTHERS, TEXTS, mutated

LOCAL, ACS, VOLCENGINE = StackFile("local"), StackFile("acs"), volcengine.FILE
DS = "services__ds__"


def keys(raw: dict[str, Any]) -> list[str]:
    return [problem.key for problem in problems(raw)]


# Independent mistakes: each by its path, with the key under which it is reported if that differs.
APART: list[tuple[str, object, str]] = [
    ("cloud/region", "nowhere at all", ""),
    ("cluster/namespace", "Prod", ""),
    ("weights/bucket/name", "X", ""),
    ("weights/prefix", "/models", ""),
    ("weights/sync/from", "ftp", ""),
    ("cache/quota", "128G", ""),
    ("cache/workers", 0, ""),
    ("addons/lws/install", "yes", ""),
    ("addons/fluid/version", "1", ""),
    ("prices/perGpuHour", -1, ""),
    ("services/ds/engine/image", "vllm:latest", ""),
    ("services/ds/engine/env", {"A": 8}, "services.ds.engine.env.A"),
    ("services/ds/engine/gpuMemoryUtilization", 2.0, ""),
    ("services/ds/engine/extraArgs", ["--swop-space", "4"], "services.ds.engine.extraArgs[0]"),
    ("services/ds/layout/pipeline", 0, ""),
    ("services/ds/resources/cpu", 63, ""),
    ("services/ds/resources/memory", "500Gi", ""),
    ("services/ds/maxModelLen", 200_000, ""),
    ("services/ds/port", 111, ""),
    ("services/ds/expose", {"to": "nobody"}, "services.ds.expose.to"),
    ("services/ds/podLabels", {"x": True}, "services.ds.podLabels.x"),
    ("monitoring/intervalSeconds", 0, ""),
]


def test_no_mistake_hides_another():
    """Every pair, since the second mistake may be anywhere: in the same part, above it, below it, or in a plan."""
    # Arguments may extend the model's context: while they are refused, its length is unknown.
    entangled = {"services/ds/engine/extraArgs", "services/ds/maxModelLen"}
    for one, two in itertools.combinations(APART, 2):
        if {one[0], two[0]} == entangled:
            continue
        found = keys(with_values(ACS.whole, {path: value for path, value, _ in (one, two)}))
        for path, _, key in (one, two):
            assert (key or path.replace("/", ".")) in found, (one, two)


@pytest.mark.parametrize(
    ("file", "values", "wanted"),
    [
        (LOCAL, {f"{DS}resources__memory": "512G", f"{DS}maxModelLen": 200_000}, ["maxModelLen", "resources.memory"]),
        (LOCAL, {f"{DS}model": "Nope", "prices": {"perGpuHour": -1}}, ["prices.perGpuHour", "ds.model"]),
        (LOCAL, {"cloud__gpu": "Nope", f"{DS}maxModelLen": 200_000}, ["cloud.gpu", "ds.maxModelLen"]),
        (ACS, {f"{DS}resources__cpu": 63, f"{DS}resources__memory": "500Gi"}, ["resources.cpu", "resources.memory"]),
        (LOCAL, {f"{DS}resources__memory": "512G", "cloud__gpu": "L20-48"}, ["ds.layout", "ds.resources.memory"]),
        (ACS, {f"{DS}autoscaling": {"minimum": "x", "maximum": 2}, f"{DS}replicas": 2}, ["ds.autoscaling.minimum"]),
        (LOCAL, {"services": {"ds": 5, "two": {"model": 1}}}, ["services.ds", "services.two.model"]),
        (LOCAL, {"cloud__kind": "aws", f"{DS}resources__memory": "512G"}, ["cloud.kind", "resources.memory"]),
    ],
)
def test_a_plans_rules_run_beside_those_of_the_file(file, values, wanted):
    found = keys(file.changed(**values))
    assert all(any(key.endswith(each) for key in found) for each in wanted), found


def test_what_is_refused_already_is_no_reason_for_another_line():
    """The launcher decides about the workload, and the workload about the gateway."""
    path = volcengine.SERVICE.replace("/", "__")
    more = {f"{path}__engine__launcher": "rai", f"{path}__routing": {"strategy": "least-request"}}
    more |= {f"{path}__autoscaling": {"maximum": 2}, "cloud__kind": ...}
    named = {f"{path}__workload": "fleeet", f"{path}__gateway": ..., f"{path}__routing": {"strategy": "least-request"}}
    assert keys(VOLCENGINE.changed(**named)) == [f"services.{volcengine.MODEL}.workload"]
    assert keys(VOLCENGINE.changed(**more)) == ["cloud.kind", f"services.{volcengine.MODEL}.engine.launcher"]
    # Monitoring that is off has no alerts either.
    assert keys(LOCAL.changed(monitoring={"alerts": "on"})) == ["monitoring.alerts"]
    assert keys(LOCAL.changed(monitoring={"alerts": "no map"}, cache={"pod": 5})) == ["cache.pod", "monitoring.alerts"]


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("services/ds/max_model_len", "write maxModelLen"),
        ("services/ds/max-model-len", "write maxModelLen"),
        ("services/ds/MaxModelLen", "write maxModelLen"),
        ("services/ds/served_model_name", "write servedModelName"),
        ("services/ds/tensor_parallel_size", "write the service's layout.tensor"),
        ("services/ds/gpuMemoryUtilization", "write the service's engine.gpuMemoryUtilization"),
        ("services/ds/engine/gpu_memory_utilization", "write gpuMemoryUtilization"),
        ("services/ds/engine/max_model_len", "write the service's maxModelLen"),
        ("services/ds/engine/max_num_seqs", "write --max-num-seqs into engine.extraArgs"),
        ("services/ds/engine/maxNumSeqs", "write --max-num-seqs into engine.extraArgs"),
        ("services/ds/layout/pipeline_parallel_size", "write pipeline"),
        ("services/ds/replcas", "did you mean replicas?"),
        ("cloud/gpu_series", "write gpuSeries"),
    ],
)
def test_a_key_of_vllms_or_another_spelling_is_answered_with_ours(path, remedy):
    (problem,) = problems(with_values(ACS.changed(cloud__gpuSeries=...) if "gpu_s" in path else ACS.whole, {path: 8}))
    assert (problem.why, problem.instead) == ("unknown key", remedy)


def test_a_rule_that_one_of_two_keys_is_there_says_nothing_of_a_misspelt_one():
    (problem,) = problems(with_values(ACS.whole, {"cache/compile": {"calim": "kernels"}}))
    assert problem.key == "cache.compile.calim"


@pytest.mark.parametrize(
    ("right", "wrong"), [("layout/tensor", "layout/tenser"), ("model", "modle"), ("engine/image", "engine/Image")]
)
def test_a_misspelt_key_is_the_one_line_of_what_is_missing_for_it(right, wrong):
    base = LOCAL.whole["services"]["ds"]
    for part in right.split("/"):
        base = base[part]
    raw = with_values(LOCAL.whole, {f"services/ds/{right}": ..., f"services/ds/{wrong}": base})
    assert keys(raw) == [f"services.ds.{wrong}".replace("/", ".")]
    assert problems(followed(raw, problems(raw)[0]) or {}) == []


@pytest.mark.parametrize(
    ("file", "values", "remedy"),
    [
        (ACS, {"cache__quota": "128G"}, "write at most 120Gi, or more memory"),
        (ACS, {"cache__memory": "0.5Ti"}, "write 512Gi"),
        (ACS, {f"{DS}resources__memory": "500G"}, "write 512Gi"),
        (LOCAL, {f"{DS}resources__memory": "0.5Ti"}, "write 512Gi"),
        (LOCAL, {f"{DS}resources__memory": "1.5T"}, "write 1536Gi"),
        (LOCAL, {f"{DS}resources__memory": "549755813888"}, "write 512Gi"),
        (LOCAL, {f"{DS}engine__env": {"A": 8}}, 'put it in quotes: "8"'),
        (LOCAL, {f"{DS}podLabels": {"a": True}}, 'put it in quotes: "true"'),
        (LOCAL, {f"{DS}engine__extraArgs": ["--max-num-seqs", 8]}, 'put it in quotes: "8"'),
        (ACS, {"addons__lws__install": "yes"}, "write true or false or adopt"),
        (LOCAL, {"addons__lws__install": 8265}, "write false"),
        (LOCAL, {f"{DS}rollout__strategy": 16}, "write blueGreen"),
        (ACS, {"weights__bucket__store": "s4"}, "write oss"),
        (LOCAL, {"cache__engine": "redis"}, "write none"),
        (LOCAL, {"cloud__gpu": "A10"}, "write A10-24:GIB with what the driver reports"),
    ],
)
def test_a_remedy_is_itself_right(file, values, remedy):
    raw = file.changed(**values)
    (problem,) = problems(raw)
    assert problem.instead.startswith(remedy)
    better = followed(raw, problem)
    assert better is None or problems(better) == []


def test_whatever_a_remedy_names_is_right_where_it_says():
    chance, tried = random.Random(7), 0
    while tried < 120:
        path, named = chance.choice(FIELDS)
        value = chance.choice(chance.choice([named or TEXTS, TEXTS, NUMBERS, OTHERS]))
        raw = mutated(chance.choice(list(WAYS.values())), [(path, value)])
        for problem in problems(raw):
            if (better := followed(raw, problem)) is not None:
                tried += 1
                # Plans, which know models and releases, are made only of what is right in a file.
                again = [each for each in judge(better)[1] if each.key == problem.key]
                assert not again, f"{problem}: followed, that is refused too: {again[0]}"
