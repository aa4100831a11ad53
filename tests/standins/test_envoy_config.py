"""What the rehearsal tells Envoy of a route with several backends."""

from __future__ import annotations

from typing import Any

from standins.envoy_config import Objects, translate

GATEWAY = {
    "metadata": {"namespace": "aibrix-system", "name": "aibrix-eg"},
    "spec": {"listeners": [{"name": "http", "port": 80}]},
}
ONE, TWO = [("127.0.0.1", 1)], [("127.0.0.1", 2)]
NAME = "httproute/aibrix-system/ds-router/rule/0"


def told(addresses: dict[str, Any], **weights: int) -> tuple[list[tuple[int, int]], dict[str, Any]]:
    """Weight and number of endpoints of each locality of the rule's cluster; what the rule does."""
    rule = {"backendRefs": [{"name": name, "port": 8000, "weight": weight} for name, weight in weights.items()]}
    route = {"metadata": {"namespace": "aibrix-system", "name": "ds-router"}, "spec": {"rules": [rule]}}
    found = translate(
        Objects(gateway=GATEWAY, routes=[route]),
        lambda _, to: addresses[to["name"]],
        {"http": ("127.0.0.1", 80)},
    )
    localities = found.clusters[NAME]["load_assignment"]["endpoints"] if NAME in found.clusters else []
    (host,) = found.routes["aibrix-system/aibrix-eg/http"]["virtual_hosts"]
    return [(each["load_balancing_weight"], len(each["lb_endpoints"])) for each in localities], host["routes"][0]


def test_each_backend_of_a_rule_is_a_locality_of_its_weight_in_one_cluster_and_one_of_no_weight_is_none():
    localities, action = told({"blue": ONE, "green": TWO}, blue=90, green=10)
    assert localities == [(90, 1), (10, 1)] and action["route"]["cluster"] == NAME
    assert told({"blue": ONE, "green": TWO}, blue=100, green=0)[0] == [(100, 1)]


def test_a_backend_without_a_ready_pod_keeps_its_share_and_nobody_answers_it():
    for nothing in ([], None):
        localities, action = told({"blue": ONE, "green": nothing}, blue=90, green=10)
        parts = action["route"]["weighted_clusters"]["clusters"]
        assert localities == [(90, 1)]
        assert parts == [{"name": "invalid-backend-cluster", "weight": 10}, {"name": NAME, "weight": 90}]
        assert action["route"]["cluster_not_found_response_code"] == "INTERNAL_SERVER_ERROR"
    assert told({"blue": None, "green": None}, blue=90, green=10)[1]["direct_response"] == {"status": 500}
