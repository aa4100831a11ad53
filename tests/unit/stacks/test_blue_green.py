"""Blue-green: which group is made beside the one that has the requests, and in which order they change."""

from __future__ import annotations

from typing import Any

import pytest

from components.weights.tos_bucket import ACCESS_KEY
from planning.names import Live
from tests.support import volcengine
from tests.support.program import MADE, before, merged, run_program
from tests.support.recorder import Recorder, inputs
from tests.support.stack_files import StackFile

WHOLE = StackFile("local").whole
BESIDE = {"services": {"ds": {"rollout": {"strategy": "blueGreen"}}}}
VERSION = "modelserve.dev/version"
MODEL = volcengine.MODEL
KINDS = [
    ("fleet", "RayClusterFleet", MODEL + "-{colour}"),
    ("lws", "LeaderWorkerSet", MODEL + "-group-{colour}"),
]


def run(live: Live | None = None, key: str = "canary-apiKey", **service: Any) -> Recorder:
    engine = Recorder(preview=False)
    raw = merged(merged(WHOLE, BESIDE), {"services": {"ds": service}})
    run_program(engine, raw, secrets=["apiKey"], made={}, live={"ds": live} if live else {}, key=key)
    return engine


def group(engine: Recorder) -> dict[str, Any]:
    (found,) = [each for each in engine.objects() if each["kind"] == "LeaderWorkerSet"]
    return found


def version(engine: Recorder) -> str:
    return inputs(engine.one("Service"))["metadata"]["annotations"][VERSION]


OWN = version(run())


@pytest.mark.parametrize(
    ("live", "colour"),
    [
        (None, "blue"),
        (Live(None, ""), "blue"),
        (Live("blue", OWN), "blue"),
        (Live("green", OWN), "green"),
        (Live("blue", "other"), "green"),
        (Live("green", "other"), "blue"),
        (Live("green", ""), "blue"),
    ],
)
def test_the_group_that_has_the_requests_is_kept_and_another_version_takes_the_other_colour(live, colour):
    engine = run(live)
    made, name = group(engine), f"ds-{colour}"
    assert made["metadata"]["name"] == name and version(engine) == OWN
    assert inputs(engine.one("Service"))["spec"]["selector"]["leaderworkerset.sigs.k8s.io/name"] == name
    pod = made["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    (script,) = [each["configMap"]["name"] for each in pod["spec"]["volumes"] if each["name"] == "launch"]
    assert inputs(engine.one("ConfigMap", f"{name}-launch"))["metadata"]["name"] == script
    policy = inputs(engine.one("NetworkPolicy"))["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert colour not in str(policy), "the other group would stand open while both are there"


def test_requests_go_to_a_group_only_after_it_stands_and_has_been_asked_unless_it_is_paused():
    engine = run()
    assert {"LeaderWorkerSet ds-blue"} <= before(engine, "Service ds-service")
    assert {"Secret ds-api-key", "NetworkPolicy ds-network"} <= before(engine, "LeaderWorkerSet ds-blue")
    hooks = engine.one("Service").hooks
    assert list(hooks.before_create) == list(hooks.before_update) != []
    assert not run(replicas=0).one("Service").hooks.before_update


def test_what_restarts_pods_makes_another_version_and_what_does_not_makes_none():
    assert OWN not in {version(run(podAnnotations={"a": "b"})), version(run(key="another"))}
    layout = {"nodes": 2, "gpusPerNode": 8, "tensor": 16, "pipeline": 1}
    assert version(run(layout=layout)) != OWN
    for same in ({"replicas": 2}, {"serviceAnnotations": {"a": "b"}}, {"clients": [{"namespace": "a"}]}):
        assert version(run(**same)) == OWN


def test_a_group_without_a_colour_replaces_one_with_a_colour_and_no_other_way_round():
    engine = Recorder(preview=False)
    run_program(engine, WHOLE, secrets=["apiKey"], made={})
    plain = engine.one("LeaderWorkerSet", "ds")
    assert [each.spec.name for each in plain.aliases] == ["ds-blue", "ds-green"] and plain.deleteBeforeReplace
    assert not run().one("LeaderWorkerSet", "ds-blue").aliases


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ds", "ds-green"], "services.ds-green: ds-green: is the name of a group of another service, which is"),
        (["d" * 46], "has 46 characters; the labels of its worker pods, built from it, would pass 63; write at most 4"),
    ],
)
def test_a_name_that_the_groups_names_do_not_go_with_is_refused(names, said):
    service = merged(WHOLE, BESIDE)["services"]["ds"]
    services = {name: service if name != "ds-green" else WHOLE["services"]["ds"] for name in names}
    (line,) = StackFile("local").lines({**WHOLE, "services": services}, secrets=["apiKey"])
    assert said in line


# --- behind AIBrix's gateway


def routed(workload: str, live: Live | None = None, **rollout: Any) -> Recorder:
    """A run of the stack for Volcengine."""
    engine = Recorder(preview=False)
    service = {"workload": workload, "gateway": "aibrix", "rollout": {"strategy": "blueGreen", **rollout}}
    raw = volcengine.stack_file(**{f"{volcengine.SERVICE}/{key}": value for key, value in service.items()})
    made = {ACCESS_KEY: {"secretAccessKey": MADE}, volcengine.GATEWAY_TYPE: volcengine.GATEWAY}
    with volcengine.apart():
        run_program(engine, raw, secrets=["apiKey"], made=made, live={MODEL: live} if live else {})
    return engine


def backends(engine: Recorder) -> list[str]:
    (rule,) = inputs(engine.one("HTTPRoute", f"{MODEL}-route"))["spec"]["rules"]
    return [each["name"] for each in rule["backendRefs"]]


@pytest.mark.parametrize(("workload", "kind", "group_name"), KINDS)
def test_behind_the_gateway_each_colour_has_its_workload_and_service_and_the_route_is_last(workload, kind, group_name):
    engine = routed(workload)
    route = inputs(engine.one("HTTPRoute", f"{MODEL}-route"))
    own = route["metadata"]["annotations"][VERSION]
    for live, colour in ((Live("green", own), "green"), (Live("green", "other"), "blue"), (Live(None, ""), "blue")):
        engine = routed(workload, live)
        name = f"{MODEL}-{colour}"
        made = inputs(engine.one(kind, name))
        assert made["metadata"]["name"] == group_name.format(colour=colour) and backends(engine) == [name]
        front = inputs(engine.one("Service", f"{name}-service"))
        assert front["metadata"]["name"] == name != made["metadata"]["name"] or kind == "RayClusterFleet"
        wanted = front["spec"]["selector"].items()
        other = "green" if colour == "blue" else "blue"
        assert colour in str(wanted) and other not in str(wanted)
        assert {f"{kind} {name}", f"Service {name}-service"} <= before(engine, f"HTTPRoute {MODEL}-route")
        assert {f"Secret {MODEL}-api-key", f"NetworkPolicy {MODEL}-network"} <= before(engine, f"{kind} {name}")
        assert engine.one("HTTPRoute", f"{MODEL}-route").hooks.before_update
        assert not [
            each for each in engine.objects() if each["kind"] == "Service" and each["metadata"]["name"] == MODEL
        ]


@pytest.mark.parametrize("workload", ["fleet", "lws"])
def test_shares_make_no_other_version_of_what_serves(workload):
    engines = [routed(workload), routed(workload, canary=[10, 50], stepSeconds=5)]
    routes = [inputs(engine.one("HTTPRoute", f"{MODEL}-route")) for engine in engines]
    assert routes[0]["metadata"]["annotations"][VERSION] == routes[1]["metadata"]["annotations"][VERSION]
