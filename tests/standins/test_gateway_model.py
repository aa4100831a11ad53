"""The rehearsal's simulation of Envoy Gateway: names, statuses and the precedence of routes."""

from __future__ import annotations

from typing import Any

import pytest

from standins import gateway_model
from standins.gateway_model import Known

_NOW = "2026-11-22T00:00:00Z"
GATEWAY = {
    "metadata": {"namespace": "aibrix-system", "name": "aibrix-eg", "generation": 1},
    "spec": {"listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
}


def route(name: str, *matches: dict[str, Any], age: str = "1", namespace: str = "aibrix-system") -> dict[str, Any]:
    backend = {"kind": "Service", "namespace": "models", "name": "ds", "port": 8000}
    return {
        "metadata": {"namespace": namespace, "name": name, "generation": 1, "creationTimestamp": age},
        "spec": {
            "parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}],
            "rules": [{"matches": list(matches), "backendRefs": [backend]}],
        },
    }


def path(value: str, kind: str = "PathPrefix", **model: str) -> dict[str, Any]:
    headers = [{"name": name, "value": value} for name, value in model.items()]
    return {"path": {"type": kind, "value": value}, **({"headers": headers} if headers else {})}


def grant(namespace: str, **to: str) -> dict[str, Any]:
    froms = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": namespace}]
    return {"spec": {"from": froms, "to": [{"group": "", "kind": "Service", **to}]}}


def known(port: int | None = 8000, *grants: dict[str, Any]) -> Known:
    service = {"spec": {"ports": [{"port": port}]}}
    return Known(
        service=lambda namespace, name: service if port and (namespace, name) == ("models", "ds") else None,
        gateway=lambda namespace, name: GATEWAY if (namespace, name) == ("aibrix-system", "aibrix-eg") else None,
        grants=lambda namespace: grants if namespace == "models" else (),
    )


def test_a_proxy_is_called_as_envoy_gateway_calls_it() -> None:
    assert gateway_model.proxy_name(GATEWAY) == "envoy-aibrix-system-aibrix-eg-903790dc"
    long = {"metadata": {"namespace": "n", "name": "g" * 60}}
    assert (
        gateway_model.proxy_name(long).startswith(f"envoy-n-{'g' * 46}-") and len(gateway_model.proxy_name(long)) == 63
    )


def test_a_proxys_service_is_shaped_by_the_envoy_proxy() -> None:
    plain = gateway_model.proxy_service(GATEWAY, {})
    assert plain["spec"]["type"] == "LoadBalancer"
    assert plain["spec"]["ports"] == [{"name": "http-80", "port": 80, "protocol": "TCP", "targetPort": 10080}]
    patch = {"type": "StrategicMerge", "value": {"spec": {"ipFamilyPolicy": "SingleStack"}}}
    settings = {"envoyService": {"type": "ClusterIP", "annotations": {"a": "b"}, "patch": patch}}
    shaped = gateway_model.proxy_service(GATEWAY, settings)
    assert shaped["metadata"]["annotations"] == {"a": "b"} and shaped["spec"]["ports"] == plain["spec"]["ports"]
    assert (shaped["spec"]["type"], shaped["spec"]["ipFamilyPolicy"]) == ("ClusterIP", "SingleStack")


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (known(8000, grant("aibrix-system")), "ResolvedRefs"),
        (known(8000, grant("aibrix-system", name="ds")), "ResolvedRefs"),
        (known(8000, grant("aibrix-system", name="other")), "RefNotPermitted"),
        (known(8000, grant("elsewhere")), "RefNotPermitted"),
        (known(8000), "RefNotPermitted"),
        (known(None, grant("aibrix-system")), "BackendNotFound"),
        (known(9000, grant("aibrix-system")), "PortNotFound"),
    ],
)
def test_a_route_is_resolved_when_its_service_is_there_and_may_be_referred_to(known: Known, reason: str) -> None:
    (parent,) = gateway_model.route_status(route("r"), known, _NOW)["parents"]
    told = {each["type"]: (each["status"], each["reason"]) for each in parent["conditions"]}
    assert told == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": (str(reason == "ResolvedRefs"), reason),
    }


def test_a_route_of_another_namespace_is_not_taken_and_one_of_another_gateway_not_judged() -> None:
    (parent,) = gateway_model.route_status(route("r", namespace="models"), known(), _NOW)["parents"]
    assert parent["conditions"][0]["reason"] == "NotAllowedByListeners"
    stranger = route("r")
    stranger["spec"]["parentRefs"] = [{"name": "another"}]
    assert gateway_model.route_status(stranger, known(), _NOW) == {"parents": []}


def test_a_gateway_is_programmed_when_its_service_has_an_address_and_a_proxy_runs() -> None:
    service = {"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}}
    deployment = {"status": {"replicas": 1, "availableReplicas": 1}}

    def reason(*proxy: dict[str, Any] | None) -> str:
        return gateway_model.gateway_status(GATEWAY, *proxy, 0, _NOW)["conditions"][1]["reason"]

    assert reason(None, None) == "AddressNotAssigned"
    assert reason(service, None) == "NoResources"
    assert reason(service, deployment) == "Programmed"
    status = gateway_model.gateway_status(GATEWAY, service, deployment, 0, _NOW)
    assert status["addresses"] == [{"type": "IPAddress", "value": "203.0.113.7"}]


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    (first,) = gateway_model.conditions([], [("A", True, "R", "m")], 1, "then")
    (same,) = gateway_model.conditions([first], [("A", True, "R", "m2")], 2, "now")
    (turned,) = gateway_model.conditions([same], [("A", False, "R", "m")], 2, "now")
    assert [each["lastTransitionTime"] for each in (first, same, turned)] == ["then", "then", "now"]


def test_patches_take_effect_only_where_the_configuration_lets_them() -> None:
    policy = {
        "metadata": {"namespace": "aibrix-system", "generation": 1},
        "spec": {"targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "aibrix-eg"}},
    }
    for enabled, reasons in ((True, ["Accepted", "Programmed"]), (False, ["Disabled"])):
        (ancestor,) = gateway_model.patch_status(policy, enabled=enabled, now=_NOW)["ancestors"]
        assert [each["reason"] for each in ancestor["conditions"]] == reasons


@pytest.mark.parametrize(
    ("duration", "expected"), [("3600s", 3600.0), ("1h30m", 5400.0), ("500ms", 0.5), ("0s", None), (None, None)]
)
def test_a_duration_is_read_in_seconds(duration: str | None, expected: float | None) -> None:
    assert gateway_model.seconds(duration) == expected


def policy(age: str, *removed: str, gateway: str = "aibrix-eg") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "aibrix-system", "name": age, "creationTimestamp": age},
        "spec": {"targetRefs": [{"name": gateway}], "headers": {"earlyRequestHeaders": {"remove": list(removed)}}},
    }


def test_of_the_policies_for_a_gateways_clients_the_oldest_is_taken() -> None:
    other, young, old = policy("1", "a", gateway="other"), policy("3", "b"), policy("2", "Target-Pod")
    assert gateway_model.client_policy(GATEWAY, [other, young, old]) is old
    assert gateway_model.client_policy(GATEWAY, [other]) is None
