"""The route through AIBrix's gateway: which requests reach the engine, their time limits, and what two models share."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from components.serving import inference_service, model_route
from components.serving.model_route import ModelRoute, ModelRouteArgs
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs
from tests.support.schemas import problems

VERSIONS = pytest.mark.parametrize("version", ["0.2.1", "0.4.1", "0.5.0", "0.7.0"])
MEMBERS = {"ray.io/cluster-of": "ds"}


def arguments(**changes: Any) -> ModelRouteArgs:
    given: dict[str, Any] = {
        "stack": "test",
        "namespace": "models",
        "aibrix_version": "0.7.0",
        "model_name": "deepseek",
        "head_selector": {**MEMBERS, "ray.io/node-type": "head"},
        "member_selector": MEMBERS,
        "gateway_address": "10.0.0.7",
        "request_seconds": 3600,
    }
    return ModelRouteArgs(**given | changes)


def route(**changes: Any) -> dict[str, Any]:
    return model_route.http_route("ds", arguments(**changes))


def rule(**changes: Any) -> dict[str, Any]:
    (only,) = route(**changes)["spec"]["rules"]
    return only


# --- the route


def test_every_object_passes_strict_validation_against_its_real_schema(engine: Recorder):
    engine.run(lambda: ModelRoute("ds", arguments(api_key=pulumi.Output.secret("k"), monitoring_namespace="metrics")))
    found = {made["kind"]: problems(made) for made in engine.objects()}
    assert found == {"Secret": [], "NetworkPolicy": [], "Service": [], "ReferenceGrant": [], "HTTPRoute": []}


@VERSIONS
def test_a_request_goes_to_the_service_that_is_named_as_its_model(version):
    made = rule(aibrix_version=version)
    for match in made["matches"]:
        assert match["headers"] == [{"type": "Exact", "name": "model", "value": "deepseek"}]
    (backend,) = made["backendRefs"]
    service = inference_service.service("ds", arguments().front)
    assert (backend["name"], backend["namespace"]) == ("deepseek", "models")
    assert (service["metadata"]["name"], service["metadata"]["namespace"]) == ("deepseek", "models")
    assert backend["port"] == service["spec"]["ports"][0]["port"] == 8000


def test_the_route_hangs_on_aibrixs_gateway_under_the_name_that_its_plugins_ask_for():
    made = route()["metadata"]
    assert route()["spec"]["parentRefs"] == [{"name": "aibrix-eg", "namespace": "aibrix-system"}]
    assert (made["namespace"], made["name"]) == ("aibrix-system", "deepseek-router")
    # A switch writes shares into it.
    assert made["annotations"]["pulumi.com/patchForce"] == "true"


@pytest.mark.parametrize("seconds", [1, 3600, 99999])
def test_a_request_lasts_as_long_as_the_stack_says(seconds):
    assert rule(request_seconds=seconds)["timeouts"] == {"request": f"{seconds}s"}
    assert problems(route(request_seconds=seconds)) == []


# --- who reaches what


def admitted(policy: dict[str, Any], namespace: str, labels: dict[str, str], port: int) -> bool:
    """Whether the policy of the namespace `models` lets such a pod reach a selected pod's TCP port."""
    for each in policy["spec"]["ingress"]:
        if all(entry["port"] != port for entry in each.get("ports", [{"port": port}])):
            continue
        for peer in each.get("from", [{}]):
            wanted = peer.get("namespaceSelector", {}).get("matchLabels", {"kubernetes.io/metadata.name": "models"})
            pods = peer.get("podSelector", {}).get("matchLabels", {})
            if wanted == {"kubernetes.io/metadata.name": namespace} and pods.items() <= labels.items():
                return True
    return False


def envoy(gateway: str = "aibrix-eg", namespace: str = "aibrix-system") -> dict[str, str]:
    prefix = "gateway.envoyproxy.io/owning-gateway"
    return {
        "app.kubernetes.io/name": "envoy",
        "app.kubernetes.io/component": "proxy",
        f"{prefix}-name": gateway,
        f"{prefix}-namespace": namespace,
    }


def policy(**changes: Any) -> dict[str, Any]:
    return inference_service.network_policy("ds", arguments(**changes).front)


@pytest.mark.parametrize(
    ("namespace", "labels"),
    [
        ("envoy-gateway-system", envoy()),
        ("aibrix-system", {"app": "gateway-plugins"}),
        ("aibrix-system", {"control-plane": "controller-manager"}),
    ],
)
def test_the_gateway_and_what_reads_metrics_for_it_reach_the_engines_port_and_no_other(namespace, labels):
    assert admitted(policy(), namespace, labels, 8000)
    assert not any(admitted(policy(), namespace, labels, port) for port in (6379, 8265, 10001))
    assert admitted(policy(port=9000), namespace, labels, 9000)


@pytest.mark.parametrize(
    ("namespace", "labels"),
    [
        ("models", {}),
        ("models", {"app": "gateway-plugins"}),
        ("default", envoy()),
        ("envoy-gateway-system", envoy("other")),
        ("envoy-gateway-system", {"control-plane": "envoy-gateway"}),
        ("aibrix-system", {"app": "aibrix-redis-master"}),
        ("metrics", {}),
    ],
)
def test_nobody_else_reaches_the_engines_port(namespace, labels):
    assert not admitted(policy(), namespace, labels, 8000)


def test_monitoring_reads_metrics_where_the_stack_names_it():
    assert admitted(policy(monitoring_namespace="metrics"), "metrics", {"any": "pod"}, 8000)
    assert not admitted(policy(monitoring_namespace="metrics"), "metrics", {}, 8265)


def test_the_pods_of_the_model_reach_each_other_on_every_port():
    assert all(admitted(policy(), "models", MEMBERS, port) for port in (6379, 10002, 29500, 8000))


# --- two models


def test_two_models_of_one_namespace_share_no_object_so_that_the_end_of_one_leaves_the_other_its_way(engine: Recorder):
    def program() -> None:
        for name in ("ds", "ds-2"):
            ModelRoute(name, arguments(model_name=f"model-{name}", api_key=pulumi.Output.secret("k")))

    engine.run(program)
    ids = [(made["kind"], made["metadata"]["namespace"], made["metadata"]["name"]) for made in engine.objects()]
    assert len(ids) == len(set(ids)) == 10
    assert "aibrix-system-reserved-referencegrant-in-models" not in {name for _, _, name in ids}


def test_any_of_several_grants_is_enough_for_each_model_because_envoy_gateway_looks_at_one_alone():
    made = model_route.reference_grant("ds", arguments())
    assert made["metadata"]["namespace"] == "models"
    assert made["spec"] == {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "aibrix-system"}],
        "to": [{"group": "", "kind": "Service"}],
    }


# --- what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_name": "DeepSeek-R1"}, "model_name DeepSeek-R1: AIBrix finds a model by the Service of the same name"),
        ({"model_name": "1b"}, "begins with a letter"),
        ({"model_name": "m" * 64}, "has 64 characters"),
        ({"request_seconds": 0}, "request_seconds 0: is no time of a route; give 1 to 99999"),
        ({"request_seconds": 100_000}, "request_seconds 100000"),
        ({"port": 9000, "aibrix_version": "0.2.1"}, "port 9000: AIBrix 0.2.1 always sends requests"),
    ],
)
def test_what_the_gateway_cannot_route_is_refused_in_one_line(change, said):
    with pytest.raises(Refused) as refusal:
        arguments(**change)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


# --- registration


@pytest.mark.preview_too
def test_the_route_comes_after_what_it_refers_to_and_the_endpoint_after_the_route(engine: Recorder):
    engine.run(lambda: ModelRoute("ds", arguments(api_key=pulumi.Output.secret("k"))))
    needed = {engine.urn(engine.one(kind)) for kind in ("Service", "ReferenceGrant")}
    assert needed <= set(engine.one("HTTPRoute").dependencies)
    component = engine.one("ModelRoute")
    said = engine.finished[engine.urn(component)].outputs["endpoint"]
    assert said == ("04da6b54-80e4-46f7-96ec-b56ff0331ba9" if engine.preview else "http://10.0.0.7/v1")
    assert engine.one("InferenceService").parent == engine.urn(component)
    assert {engine.one(kind).parent for kind in ("HTTPRoute", "ReferenceGrant")} == {engine.urn(component)}


def test_the_api_key_is_in_its_secret_and_nowhere_else(engine: Recorder):
    engine.run(lambda: ModelRoute("ds", arguments(api_key=pulumi.Output.secret("sk-canary-0123456789"))))
    where = [text for text in engine.wire() if any(key in text for key in ("sk-canary", "c2stY2FuYXJ5"))]
    assert len(where) == 1 and '"kubernetes:core/v1:Secret"' in where[0]
    assert inputs(engine.one("Secret"))["metadata"]["name"] == "ds-api-key"


def test_no_option_of_the_component_leaks_into_its_objects(engine: Recorder):
    def leaking() -> None:
        other = pulumi.CustomResource("cloud:index:Bucket", "other", {})
        leaky = pulumi.ResourceOptions(depends_on=[other], ignore_changes=["spec"], retain_on_delete=True)
        ModelRoute("ds", arguments(), leaky)

    engine.run(leaking)
    bucket = engine.urn(engine.one("Bucket"))
    for kind in ("NetworkPolicy", "Service", "ReferenceGrant", "HTTPRoute"):
        request = engine.one(kind)
        assert bucket not in request.dependencies and not request.ignoreChanges and not request.retainOnDelete
