"""What each AIBrix release can do, and how unsupported requests are refused."""

from __future__ import annotations

import itertools
import json

import pytest

from planning import aibrix_features
from planning.problems import PlanError
from planning.scaling import Scaling

FIRST = {"random", "least-request", "throughput", "prefix-cache", "least-kv-cache", "least-busy-time", "least-latency"}
FEATURES = {"modelPort", "unifiedScaler", "lwsRouting", "configProfiles", "schedules"}


def problems(version: str = "0.7.0", engine: str = "0.7.3", **changes):
    given = {"minimum": 1, "maximum": 2, "target": 0.5, "cold_start_seconds": 1900} | changes
    return aibrix_features.scaler_problems(version, engine, Scaling(**given))


@pytest.mark.parametrize("version", ["0.2.1", "0.4.1", "0.5.0", "0.7.0", "0.7.1", "0.10.0", "1.0.0"])
def test_a_release_that_works_is_not_refused(version):
    assert aibrix_features.version_problem(version) is None


@pytest.mark.parametrize(
    ("version", "why", "instead"),
    [
        ("0.2.0", "AIBrix before 0.2.1 cannot route to a RayClusterFleet", "write 0.2.1 or 0.7.0"),
        ("0.1.1", "AIBrix before 0.2.1", "write 0.2.1 or 0.7.0"),
        ("0.6.0", "this release of AIBrix is broken: its manifests pin the images of 0.5.0", "write 0.7.0"),
        ("latest", "is not a release", "write three numbers, such as 0.7.0"),
        ("0.7", "is not a release", "write three numbers"),
        ("v0.7.0", "is not a release", "write three numbers"),
        ("", "is not a release", "write three numbers"),
    ],
)
def test_a_release_that_cannot_work_is_refused_with_one_that_can(version, why, instead):
    said = aibrix_features.version_problem(version)
    assert said and why in said[0] and instead in said[1]


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        ("0.2.1", FEATURES),
        ("0.4.1", {"unifiedScaler", "lwsRouting", "configProfiles", "schedules"}),
        ("0.5.0", {"lwsRouting", "configProfiles", "schedules"}),
        ("0.7.0", {"schedules"}),
        ("9.9.9", {"schedules"}),
    ],
)
def test_a_feature_is_there_from_its_release_on_and_one_without_a_release_nowhere(version, missing):
    assert {feature for feature in FEATURES if not aibrix_features.has(version, feature)} == missing


def test_an_unknown_feature_is_an_error_of_the_program():
    with pytest.raises(KeyError):
        aibrix_features.has("0.7.0", "teleport")


# --- names, ports, workloads


@pytest.mark.parametrize("name", ["deepseek-r1", "a", "r1-671b", "m" * 63])
def test_a_name_that_can_be_a_service_is_taken(name):
    assert aibrix_features.model_name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["DeepSeek-R1", "deepseek_r1", "qwen2.5", "1b", "-r1", "r1-", "deepseek-ai/r1", "", "m" * 64, "r1\n"]
)
def test_a_name_that_cannot_be_a_service_is_refused(name):
    assert aibrix_features.model_name_problem(name)


def test_a_leader_worker_set_needs_a_release_that_routes_to_it():
    assert aibrix_features.lws_problem("0.7.0") is None
    why, instead = aibrix_features.lws_problem("0.5.0")
    assert why == "AIBrix 0.5.0 cannot route to a LeaderWorkerSet" and "0.7.0" in instead


def test_another_port_needs_a_release_that_asks_for_it():
    assert aibrix_features.port_problem("0.2.1", 8000) is None and aibrix_features.port_problem("0.7.0", 9000) is None
    assert aibrix_features.port_problem("0.2.1", 9000)


def test_serving_pods_say_the_models_name_and_port():
    assert aibrix_features.model_labels("r1", 9000) == {"model.aibrix.ai/name": "r1", "model.aibrix.ai/port": "9000"}


# --- routing


def test_the_first_release_knows_its_seven_strategies_and_later_ones_more():
    assert set(aibrix_features.strategies("0.2.1")) == FIRST
    assert set(aibrix_features.strategies("0.3.0")) == FIRST | {"prefix-cache-preble", "vtc-basic"}
    assert "session-affinity" not in aibrix_features.strategies("0.5.0")
    newest = set(aibrix_features.strategies("0.7.0"))
    assert FIRST | {"power-of-two", "session-affinity", "least-gpu-cache", "least-utilization"} <= newest
    assert aibrix_features.strategies("0.7.0") == tuple(sorted(newest)) == aibrix_features.strategies("0.9.0")


@pytest.mark.parametrize(
    ("version", "strategy", "why"),
    [
        ("0.2.1", "power-of-two", "AIBrix 0.2.1 does not know it yet: it came with 0.7.0"),
        ("0.7.0", "fastest", "AIBrix 0.7.0 has no such strategy"),
        ("0.7.0", "pd", "it needs prefill and decode pods of their own"),
        ("0.7.0", "not-set", "AIBrix 0.7.0 has no such strategy"),
    ],
)
def test_a_strategy_that_would_fail_every_request_is_refused_with_those_that_work(version, strategy, why):
    said = aibrix_features.strategy_problem(version, strategy)
    assert said and said[0].startswith(why)
    assert said[1] == f"write one of {', '.join(aibrix_features.strategies(version))}"


@pytest.mark.parametrize("version", ["0.2.1", "0.7.0"])
def test_every_strategy_of_the_list_is_taken(version):
    assert [
        name for name in aibrix_features.strategies(version) if aibrix_features.strategy_problem(version, name)
    ] == []


def test_a_models_default_strategy_is_on_its_pods_where_the_release_reads_it_there():
    (config,) = aibrix_features.strategy_annotations("0.7.0", "least-request").values()
    profiles = json.loads(config)
    assert profiles["profiles"][profiles["defaultProfile"]] == {"routingStrategy": "least-request"}
    assert aibrix_features.strategy_annotations("0.5.0", "least-request") == {}
    assert aibrix_features.strategy_annotations("0.7.0", None) == {}


def test_the_paths_of_a_release_are_those_before_it_and_more():
    known = [set(aibrix_features.route_paths(version)) for version in ("0.2.1", "0.5.0", "0.6.0", "0.7.0")]
    assert all(older < newer for older, newer in itertools.pairwise(known))
    assert known[0] == {"/v1/completions", "/v1/chat/completions"}


# --- autoscaling


@pytest.mark.parametrize(
    ("version", "engine", "name"),
    [
        ("0.2.1", "0.7.3", "gpu_cache_usage_perc"),
        ("0.2.1", "0.11.0", "kv_cache_usage_perc"),
        ("0.5.0", "0.10.2", "gpu_cache_usage_perc"),
        ("0.7.0", "0.7.3.post1", "gpu_cache_usage_perc"),
        ("0.7.0", "0.10.2", "kv_cache_usage_perc"),
        ("0.7.0", "0.33.0", "kv_cache_usage_perc"),
        ("0.7.0", "1.0.0", "kv_cache_usage_perc"),
    ],
)
def test_the_metric_is_exported_by_the_engine_and_read_by_the_gateway(version, engine, name):
    assert aibrix_features.metric(version, engine) == name
    assert aibrix_features.metric_problem(version, engine) is None


@pytest.mark.parametrize(("version", "engine"), [("0.5.0", "0.11.0"), ("0.7.0", "0.6.0")])
def test_a_metric_that_would_count_as_zero_is_refused(version, engine):
    with pytest.raises(PlanError) as refusal:
        aibrix_features.metric(version, engine)
    (line,) = refusal.value.lines
    assert f"vLLM {engine} exports" in line and "write" not in line and "; take AIBrix 0.7.0" in line


def test_a_good_autoscaler_has_no_problem_with_or_without_a_cooldown():
    assert problems() == problems(cooldown_seconds=1900) == problems("0.2.1", cooldown_seconds=1900) == []


def test_everything_wrong_is_said_at_once():
    found = problems(
        engine="0.6.0",
        strategy="HPA",
        target=50,
        minimum=0,
        maximum=-1,
        cooldown_seconds=60,
        schedules=[{}],
    )
    assert [field for field, _, _ in found] == [
        "strategy",
        "target",
        "minimum",
        "maximum",
        "cooldown_seconds",
        "schedules",
        "aibrix_version",
    ]
    assert all("\n" not in why + instead for _, why, instead in found)


def test_without_a_known_cold_start_no_cooldown_is_too_short():
    assert problems(cold_start_seconds=None, cooldown_seconds=1) == []


def test_a_fleet_can_be_scaled_and_nothing_else():
    assert aibrix_features.target_problem("0.7.0", "RayClusterFleet") is None
    assert aibrix_features.target_problem("0.7.0", "LeaderWorkerSet") and aibrix_features.target_problem(
        "0.7.0", "StormService"
    )


@pytest.mark.parametrize(("version", "first"), [("0.2.1", "KPA"), ("0.4.1", "KPA"), ("0.5.0", "APA"), ("0.7.0", "APA")])
def test_the_first_strategy_of_a_release_acts_on_a_fraction_and_has_a_cooldown(version, first):
    assert aibrix_features.scalers(version)[0] == first
    assert aibrix_features.cooldown_annotation(version, first)


def test_a_person_is_told_where_the_cooldown_does_not_hold_and_a_burst_is_dear():
    assert aibrix_features.scaler_cautions("0.4.1", minimum=1, maximum=4) == ()
    (first,) = aibrix_features.scaler_cautions("0.4.1", minimum=1, maximum=4, engines=2)
    assert "the first of each replica's 2 engines" in first
    assert aibrix_features.scaler_cautions("0.7.0", minimum=2, maximum=2) == ()
    assert len(aibrix_features.scaler_cautions("0.7.0", minimum=1, maximum=2)) == 1
    down, up = aibrix_features.scaler_cautions("0.7.0", minimum=1, maximum=4)
    assert "within 180 s without load, whatever the cooldown" in down and "all 4 at once" in up
