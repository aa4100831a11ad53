"""Each rule lets one resource pass and is against another."""

from __future__ import annotations

import copy
import datetime
from dataclasses import replace
from typing import Any

import pytest

from planning.names import COLOUR
from policy import pack_config
from policy.rule_types import STACK, UNKNOWN, Finding, Resource, Stack
from policy.rules import RULES, judge
from tests.support.program import merged

TODAY = datetime.date(2026, 11, 29)
PUBLIC = {"service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type": "internet"}
LISTED = {
    "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-acl-status": "on",
    "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-acl-type": "white",
    "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-acl-id": "acl-1",
}
PLAN = {
    "engine": "0.24.0",
    "podStartSeconds": 600,
    "longestAnswerSeconds": 300,
    "costPerHour": 160.0,
    "currency": "CNY",
}
KEY = {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "ds-api-key", "key": "apiKey"}}}
GUARD = ["--middleware", "modelserve_guard.Guard"]


def made(kind: str, spec: Any = None, annotations: Any = None, *, kept: bool = False, **more: Any) -> Resource:
    metadata = {
        "name": "ds",
        "labels": {"app.kubernetes.io/instance": "ds"},
        "annotations": annotations or {},
    }
    manifest = {"kind": kind, "metadata": metadata, "spec": spec or {}, **more}
    return Resource(f"kubernetes:x/v1:{kind}", "ds", manifest, kept)


def group(*, pod: Any = None, spec: Any = None, kind: str = "LeaderWorkerSet", **engine: Any) -> Resource:
    """Two pods of eight GPUs, right in everything but what is told."""
    gpus = {"nvidia.com/gpu": "8", "memory": "512Gi"}
    container = {
        "name": "vllm",
        "image": "registry.example.com/llm/vllm@sha256:" + "0" * 64,
        "args": [*GUARD],
        "env": [KEY, {"name": "MODELSERVE_LAUNCHER", "value": "native"}],
        "resources": {"limits": gpus, "requests": gpus},
        "startupProbe": {"periodSeconds": 10, "failureThreshold": 60},
        **engine,
    }
    inner = {"containers": [container], "terminationGracePeriodSeconds": 335, **(pod or {})}
    leader = {"metadata": {"labels": {"app.kubernetes.io/component": "leader"}}, "spec": inner}
    worker = {"spec": copy.deepcopy(inner)}
    workload = {"size": 2, "leaderTemplate": leader, "workerTemplate": worker}
    return made(kind, {"replicas": 1, "leaderWorkerTemplate": workload, **(spec or {})})


def stack(plan: Any = None, **outputs: Any) -> Resource:
    return Resource(STACK, "modelserve-test", {"plan": {"ds": {**PLAN, **(plan or {})}}, **outputs})


def policy(ingress: Any) -> Resource:
    return made("NetworkPolicy", {"policyTypes": ["Ingress"], "ingress": ingress})


def balancer(annotations: Any = None) -> Resource:
    return made("Service", {"type": "LoadBalancer", "ports": [{"port": 8000}]}, annotations)


def surging(most: Any) -> Resource:
    return group(kind="RayClusterFleet", spec={"strategy": {"rollingUpdate": {"maxSurge": most}}})


def beside() -> Resource:
    """A group beside which its next version may stand."""
    return replace(group(), properties=merged(group().properties, {"metadata": {"annotations": {COLOUR: "blue"}}}))


def scaled(annotations: Any) -> Resource:
    return made("PodAutoscaler", {"maxReplicas": 3, "scaleTargetRef": {"name": "ds"}}, annotations)


def windowed(seconds: int) -> Resource:
    return made("HorizontalPodAutoscaler", {"behavior": {"scaleDown": {"stabilizationWindowSeconds": seconds}}})


RAY = {"env": [KEY, {"name": "MODELSERVE_LAUNCHER", "value": "ray"}]}
OWN = {"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}
HTTP = {"ports": [{"port": 8000}]}
BUCKET = "alicloud:oss/bucket:Bucket"
DELAY = "kpa.autoscaling.aibrix.ai/scale-down-delay"
CLAIM = "PersistentVolumeClaim"
TAGGED = "registry.example.com/llm/vllm:v0.8.5"
# Rule, settings, what passes, what fails, and of the reason the part that says what is wrong.
CASES: list[tuple[str, dict[str, Any], list[Resource], list[Resource], str]] = [
    ("exposure-guarded", {}, [balancer(), group()], [balancer(), group(args=["--port", "8000"])], "without the guard"),
    ("exposure-guarded", {}, [made("Service", {"type": "ClusterIP"})], [balancer(), group(env=[])], "asks for no key"),
    ("exposure-guarded", {}, [balancer(), group()], [balancer()], "no pod of this stack"),
    ("exposure-allow-list", {}, [balancer(PUBLIC | LISTED)], [balancer(PUBLIC)], "has no allow-list"),
    (
        "exposure-allow-list",
        {},
        [made("EnvoyProxy")],
        [made("EnvoyProxy", {"provider": {"envoyService": {"annotations": PUBLIC}}})],
        "has no allow-list",
    ),
    ("ray-closed", {}, [group(**RAY), policy([OWN, HTTP])], [group(**RAY)], "no NetworkPolicy"),
    (
        "ray-closed",
        {},
        [group(**RAY), policy([OWN])],
        [group(**RAY), made("NetworkPolicy", {"policyTypes": ["Egress"]})],
        "no NetworkPolicy",
    ),
    ("ray-closed", {}, [group()], [group(kind="RayClusterFleet")], "no NetworkPolicy"),
    ("ray-closed", {}, [policy([OWN, HTTP])], [policy([{"from": [{"podSelector": {}}]}])], "others than chosen pods"),
    ("ray-closed", {}, [policy([OWN])], [policy([{"ports": [{"port": 8265}]}])], "others than chosen pods"),
    ("ray-closed", {}, [policy([OWN])], [policy([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])], "chosen pods"),
    ("ray-closed", {}, [balancer()], [made("Service", {"ports": [{"port": 80, "targetPort": 10001}]})], "port 10001"),
    ("no-plain-keys", {}, [group()], [group(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}])], "AWS_SECRET"),
    ("no-plain-keys", {}, [group()], [group(args=["--token", "hf_" + "a" * 34])], "an argument of container vllm"),
    (
        "no-plain-keys",
        {},
        [made("ConfigMap", data={"a": "b"})],
        [made("ConfigMap", data={"a": "hf_" + "a" * 34})],
        "entry a",
    ),
    ("image-fixed", {}, [group()], [group(image="vllm/vllm-openai:latest")], "neither a tag of its own nor a digest"),
    ("image-digest", {}, [group()], [group(image=TAGGED)], "pinned by a tag"),
    (
        "image-digest",
        {"tagged": {"registry.example.com/llm/vllm": "tags there never move"}},
        [group(image=TAGGED)],
        [group(image="vllm/vllm-openai:v0.8.5")],
        "pinned by a tag",
    ),
    ("image-registry", {"allowed": ["registry.example.com/llm"]}, [group()], [group(image="a/b:v1")], "from docker.io"),
    (
        "image-registry",
        {"allowed": ["registry.example.com/llm"]},
        [group()],
        [group(image="registry.example.com/llm-of-others/vllm:v1")],
        "not allowed",
    ),
    (
        "gpu-requests-are-limits",
        {},
        [group(), group(resources={"limits": {"nvidia.com/gpu": "8"}})],
        [group(resources={"limits": {"nvidia.com/gpu": "8", "memory": "2Gi"}, "requests": {"memory": "1Gi"}})],
        "another memory than its limit",
    ),
    ("surge-within-pool", {"gpus": 32}, [surging(1)], [surging(2)], "needs 48 GPUs, and there are 32"),
    ("surge-within-pool", {"gpus": 32}, [surging(1)], [surging("150%")], "needs 48 GPUs"),
    ("surge-within-pool", {"gpus": 64}, [surging(1), scaled({})], [surging(2), scaled({})], "needs 80 GPUs"),
    ("surge-within-pool", {"gpus": 16}, [group()], [beside()], "needs 32 GPUs, and there are 16"),
    ("surge-within-pool", {}, [surging(0)], [surging(1)], "nobody says how many there are"),
    (
        "weights-kept",
        {},
        [Resource(BUCKET, "weights", {}, True)],
        [Resource(BUCKET, "weights", {})],
        "may hold weights",
    ),
    ("weights-kept", {}, [made(CLAIM, kept=True)], [made(CLAIM)], "may hold weights"),
    ("cooldown-covers-start", {}, [stack(), windowed(3600)], [stack(), windowed(60)], "after 60 s"),
    ("cooldown-covers-start", {}, [stack(), scaled({DELAY: "600s"})], [stack(), scaled({DELAY: "60s"})], "after 60 s"),
    (
        "waits-cover-start",
        {},
        [stack(), group()],
        [stack(), group(startupProbe={"periodSeconds": 10, "failureThreshold": 59})],
        "killed after 590 s, and its start takes 600 s",
    ),
    (
        "drain-covers-answers",
        {},
        [stack(), group()],
        [stack(), group(pod={"terminationGracePeriodSeconds": 30})],
        "one may take 300 s",
    ),
    (
        "drain-covers-answers",
        {"seconds": 60},
        [group()],
        [group(pod={"terminationGracePeriodSeconds": 90})],
        "take 60 s",
    ),
    ("price-at-most", {"most": 160}, [stack()], [stack({"costPerHour": 160.5})], "160.50 CNY an hour"),
    ("price-at-most", {"most": 160}, [stack()], [stack({"costPerHour": None})], "is unknown"),
    ("price-at-most", {"most": 160, "currency": "CNY"}, [stack()], [stack({"currency": "USD"})], "prices are in USD"),
    ("tagged", {}, [stack(owner="team")], [stack()], "says no owner"),
    ("tagged", {"keys": ["expires"]}, [stack(expires="2027-01-01")], [stack(owner="team")], "says no expires"),
    ("not-expired", {}, [stack(expires="2026-11-29")], [stack(expires="2026-11-28")], "gone after 2026-11-28"),
    ("expires-soon", {}, [stack(expires="2026-12-03")], [stack(expires="2026-12-02")], "ends with 2026-12-02"),
    ("expires-soon", {"days": 0}, [stack(expires="2026-11-30")], [stack(expires="2026-11-29")], "ends with 2026-11-29"),
    ("engine-holes", {}, [stack()], [stack({"engine": "0.23.0"})], "0.24.0 has none of them"),
    ("engine-holes", {}, [stack()], [stack({"engine": "nightly"})], "is unknown"),
    (
        "engine-holes",
        {"accepted": {"CVE-2026-55574": "no patterns", "GHSA-33cg-gxv8-3p8g": "no M-RoPE"}},
        [stack({"engine": "0.24.1"})],
        [stack({"engine": "0.23.0"})],
        "1 known holes (GHSA-8wr5-jm2h-8r4f",
    ),
]


def found(rule: str, given: dict[str, Any], resources: list[Resource]) -> list[Finding]:
    told = pack_config.parse({rule: given})
    return [each for each in judge(Stack(resources, TODAY), told.values, told.levels) if each.id == rule]


@pytest.mark.parametrize(
    ("rule", "given", "passes", "fails", "why"), CASES, ids=[f"{case[0]}: {case[4]}" for case in CASES]
)
def test_each_rule_lets_the_good_pass_and_says_what_is_wrong_with_the_bad(rule, given, passes, fails, why):
    assert found(rule, given, passes) == []
    against = found(rule, given, fails)
    assert [each for each in against if why in each.reason], against
    assert {(each.severity, each.remedy) for each in against} == {(RULES[rule].severity, RULES[rule].remedy)}


def test_every_rule_is_in_the_table():
    assert {case[0] for case in CASES} == RULES.keys()


def test_a_right_stack_meets_no_rule():
    told = pack_config.parse({"price-at-most": {"most": 200}, "surge-within-pool": {"gpus": 16}})
    resources = [stack(owner="team"), group(), policy([OWN, HTTP]), balancer(PUBLIC | LISTED), made(CLAIM, kept=True)]
    assert judge(Stack(resources, TODAY), told.values, told.levels) == []


def test_a_rule_that_needs_its_resource_alone_says_the_same_of_it_among_others():
    """The engine asks such a rule for each resource, before it is made."""
    for rule, given, _, fails, _ in CASES:
        if not RULES[rule].alone:
            continue
        told = pack_config.parse({rule: given})
        apart = [
            each for one in fails for each in judge(Stack([one], TODAY), told.values, told.levels) if each.id == rule
        ]
        assert apart == found(rule, given, fails), rule


def test_what_is_not_known_yet_is_judged_by_no_rule():
    unknown = group(
        image=UNKNOWN, env=[KEY, {"name": "HF_TOKEN", "value": UNKNOWN}], pod={"terminationGracePeriodSeconds": UNKNOWN}
    )
    outputs = Resource(STACK, "s", {"owner": "team", "plan": UNKNOWN, "expires": UNKNOWN})
    told = pack_config.parse({"image-registry": {"allowed": ["registry.example.com"]}, "price-at-most": {"most": 1}})
    assert judge(Stack([unknown, outputs], TODAY), told.values, told.levels) == []


def test_levels_are_those_of_the_config_and_the_mandatory_come_first():
    told = pack_config.parse({"all": "disabled", "tagged": "mandatory", "image-digest": "advisory"})
    findings = judge(Stack([group(image=TAGGED), stack({"engine": "0.7.2"})], TODAY), told.values, told.levels)
    assert [(each.id, each.severity) for each in findings] == [("tagged", "mandatory"), ("image-digest", "advisory")]
