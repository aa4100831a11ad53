"""The endpoint: who can reach the model, and that its API key is only in its Secret."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.serving import inference_service
from components.serving.inference_service import InferenceService, InferenceServiceArgs, api_key_revision
from components.serving.ray_lws_group import RayLwsGroup, group_selector, leader_selector
from planning.problems import Refused
from tests.support.pods import having
from tests.support.recorder import Recorder, inputs, is_secret, unmarked
from tests.unit.components.serving.test_ray_lws_group import ARGS as GROUP

ARGS = InferenceServiceArgs(
    stack="test",
    namespace="default",
    service_name="ds-leader",
    leaders=leader_selector("ds"),
    members=group_selector("ds"),
    port=8000,
    api_key=None,
    load_balancer=None,
    clients=None,
    annotations={},
)
KEY = "sk-canary-0123456789"
ENCODED = base64.b64encode(KEY.encode()).decode()


def labels_of(name: str, group_index: int, worker_index: int) -> dict[str, str]:
    """The labels that LeaderWorkerSet's pod webhook sets on a pod."""
    prefix = "leaderworkerset.sigs.k8s.io"
    return {
        f"{prefix}/name": name,
        f"{prefix}/group-index": str(group_index),
        f"{prefix}/worker-index": str(worker_index),
    }


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def program(key: str | None = None, opts: pulumi.ResourceOptions | None = None) -> None:
    """A group behind its endpoint, as a stack wires them."""
    secret = pulumi.Output.secret(key) if key else None
    front = InferenceService("ds", replace(ARGS, api_key=secret), opts)
    RayLwsGroup(
        "ds",
        having(
            GROUP,
            api_key_secret=front.secret_name,
            api_key_revision=pulumi.Output.unsecret(secret.apply(api_key_revision)) if secret else None,
        ),
        pulumi.ResourceOptions(depends_on=[front]),
    )


# --- the way in


def test_the_service_finds_every_leader_of_its_model_and_no_other_pod():
    selector = inference_service.service("ds", ARGS)["spec"]["selector"]
    assert selects(selector, labels_of("ds", 0, 0)) and selects(selector, labels_of("ds", 1, 0))
    for pod in (labels_of("ds", 0, 1), labels_of("other", 0, 0), {}):
        assert not selects(selector, pod)


def test_the_service_is_not_the_headless_one_that_the_workload_makes_under_its_own_name():
    made = inference_service.service("ds", ARGS)
    assert made["metadata"]["name"] == "ds-leader" != "ds"
    assert made["spec"]["type"] == "ClusterIP" and "clusterIP" not in made["spec"]


def test_the_service_leads_to_the_port_that_the_engine_serves():
    (port,) = inference_service.service("ds", replace(ARGS, port=9000))["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["protocol"]) == (9000, 9000, "TCP")


@pytest.mark.parametrize("engine", ["preview"], indirect=True)
def test_a_load_balancer_is_the_clouds_by_annotation_and_its_address_is_waited_for(engine: Recorder):
    def outside() -> None:
        outside = {"cloud/address-type": "intranet"}
        InferenceService("ds", replace(ARGS, api_key=pulumi.Output.secret(KEY), load_balancer=outside))

    engine.run(outside)
    made = unmarked(inputs(engine.one("Service")))
    assert made["spec"]["type"] == "LoadBalancer"
    assert made["metadata"]["annotations"] == {"cloud/address-type": "intranet"}


def test_a_load_balancer_without_a_key_is_refused():
    with pytest.raises(Refused, match="load_balancer ds-leader: there is no API key"):
        replace(ARGS, load_balancer={})


def test_the_service_costs_no_wait_of_its_own():
    assert inference_service.service("ds", ARGS)["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"


def admitted(policy: dict[str, Any], source: dict[str, str], port: int) -> bool:
    """Whether the policy lets a pod of the namespace with these labels reach this TCP port of a selected pod."""
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    for rule in policy["spec"]["ingress"]:
        peers, ports = rule.get("from"), rule.get("ports")
        from_peer = peers is None or any(selects(peer["podSelector"]["matchLabels"], source) for peer in peers)
        to_port = ports is None or any(entry["port"] == port and entry["protocol"] == "TCP" for entry in ports)
        if from_peer and to_port:
            return True
    return False


@pytest.mark.parametrize("port", [8000, 9000])
def test_only_http_is_open_to_the_rest_of_the_cluster(port):
    policy = inference_service.network_policy("ds", replace(ARGS, port=port))
    for source in ({}, {"app": "client"}, labels_of("other", 0, 0)):
        assert admitted(policy, source, port)
        for closed in (6379, 8265, 10001, 10002, 22, 17000 - port):
            assert not admitted(policy, source, closed)


def test_clients_that_are_named_are_the_only_ones_and_reach_http_alone():
    client = {"podSelector": {"matchLabels": {"app": "gateway"}}}
    policy = inference_service.network_policy("ds", replace(ARGS, clients=[client]))
    assert admitted(policy, {"app": "gateway"}, 8000) and not admitted(policy, {"app": "gateway"}, 6379)
    assert not admitted(policy, {"app": "other"}, 8000)
    assert admitted(policy, labels_of("ds", 0, 1), 6379)


def test_no_clients_at_all_is_refused_because_kubernetes_reads_it_as_everybody():
    with pytest.raises(Refused, match="clients ds-leader: none would let everybody in"):
        replace(ARGS, clients=[])


def test_the_pods_of_a_group_reach_each_other_on_every_port():
    policy = inference_service.network_policy("ds", ARGS)
    for source in (labels_of("ds", 0, 0), labels_of("ds", 0, 1)):
        assert all(admitted(policy, source, port) for port in (6379, 10002, 29500, 49152))


def test_the_policy_covers_leaders_and_workers_alike_and_nobody_else():
    covered = inference_service.network_policy("ds", ARGS)["spec"]["podSelector"]["matchLabels"]
    assert selects(covered, labels_of("ds", 0, 0)) and selects(covered, labels_of("ds", 1, 1))
    assert not selects(covered, labels_of("other", 0, 0)) and not selects(covered, {})


# --- the API key


@pytest.mark.preview_too
def test_the_api_key_travels_as_a_secret_from_its_leaf_and_stays_one_in_the_state(engine: Recorder):
    engine.run(lambda: program(KEY))
    request = engine.one("Secret")
    data = inputs(request)["data"]
    assert is_secret(data["apiKey"])
    assert unmarked(data) == {"apiKey": ENCODED}
    assert {"data", "stringData"} <= set(request.additionalSecretOutputs)


def test_the_api_key_is_in_no_other_resource_and_no_output(engine: Recorder):
    engine.run(lambda: program(KEY))
    where = [text for text in engine.wire() if KEY in text or ENCODED in text]
    assert len(where) == 1, [text[:80] for text in where]
    assert '"kubernetes:core/v1:Secret"' in where[0]


def test_the_leader_reads_the_key_from_the_secret_that_holds_it(engine: Recorder):
    engine.run(lambda: program(KEY))
    (leader,) = inputs(engine.one("LeaderWorkerSet"))["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"][
        "containers"
    ]
    (reference,) = [entry["valueFrom"]["secretKeyRef"] for entry in leader["env"] if entry["name"] == "VLLM_API_KEY"]
    secret = inputs(engine.one("Secret"))
    assert reference["name"] == secret["metadata"]["name"]
    assert reference["key"] in unmarked(secret["data"])


def revision(engine: Recorder, key: str) -> Any:
    engine.run(lambda: program(key))
    template = inputs(engine.one("LeaderWorkerSet"))["spec"]["leaderWorkerTemplate"]
    values = {
        template[which]["metadata"]["annotations"]["modelserve.dev/api-key-revision"]
        for which in ("leaderTemplate", "workerTemplate")
    }
    assert len(values) == 1
    return values.pop()


@pytest.mark.parametrize("preview", [False, True], ids=["up", "preview"])
def test_another_key_rolls_the_group_by_a_plain_annotation_that_does_not_tell_it(preview):
    first, again, second = (revision(Recorder(preview=preview), key) for key in (KEY, KEY, f"{KEY}x"))
    assert first == again != second
    assert isinstance(first, str) and len(first) == 4
    assert first not in KEY and KEY not in first


def test_without_a_key_there_is_no_secret_no_variable_and_no_annotation(engine: Recorder):
    engine.run(program)
    assert not [token for token, _ in engine.seen if token.endswith(":Secret")]
    assert not [text for text in engine.wire() if "api-key" in text]
    read = [each for each in engine.objects() if "VLLM_API_KEY" in str(each)]
    assert [each["kind"] for each in read] == ["ConfigMap"], "the guard alone speaks of it"


def test_a_secret_without_a_key_cannot_be_built():
    with pytest.raises(Refused, match="api_key ds: a Secret without a key"):
        inference_service.api_key_secret("ds", ARGS)


# --- registration


def test_the_workload_comes_after_everything_of_its_endpoint_and_goes_before_it(engine: Recorder):
    engine.run(lambda: program(KEY))
    group = engine.one("RayLwsGroup")
    assert {engine.urn(engine.one(kind)) for kind in ("Secret", "NetworkPolicy", "Service")} <= set(group.dependencies)
    assert engine.one("LeaderWorkerSet").parent == engine.urn(group)


@pytest.mark.preview_too
def test_every_object_belongs_to_the_component_which_says_where_the_model_answers(engine: Recorder):
    engine.run(lambda: program(KEY))
    component = engine.urn(engine.one("InferenceService"))
    assert {engine.one(kind).parent for kind in ("Secret", "NetworkPolicy", "Service")} == {component}
    said = engine.finished[component].outputs["endpoint"]
    unknown_yet = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
    assert said == (unknown_yet if engine.preview else "http://ds-leader.default.svc.cluster.local:8000/v1")


def test_no_option_of_the_component_leaks_into_its_objects(engine: Recorder):
    def leaking() -> None:
        other = pulumi.CustomResource("cloud:index:Bucket", "other", {})
        program(
            KEY,
            pulumi.ResourceOptions(
                depends_on=[other],
                ignore_changes=["spec"],
                replace_on_changes=["*"],
                retain_on_delete=True,
                additional_secret_outputs=["spec"],
            ),
        )

    engine.run(leaking)
    for kind in ("Secret", "NetworkPolicy", "Service"):
        request = engine.one(kind)
        assert not request.dependencies and not request.ignoreChanges and not request.replaceOnChanges
        assert not request.retainOnDelete and "spec" not in request.additionalSecretOutputs


def test_the_public_revision_of_an_api_key_is_too_short_to_confirm_a_guess():
    assert len(api_key_revision("a key")) == 4


@pytest.mark.parametrize(
    "status", [{}, {"loadBalancer": {}}, {"loadBalancer": None}, {"loadBalancer": {"ingress": []}}]
)
def test_a_service_that_gets_its_load_balancer_is_previewed_before_it_has_an_address(status, monkeypatch):
    """A preview shows the Service's current status; an `up` that ends without an address has failed."""
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: True)
    assert inference_service._address(status)
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: False)
    with pytest.raises(pulumi.RunError, match="no address"):
        inference_service._address(status)
