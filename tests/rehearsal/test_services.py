"""Services of type LoadBalancer on the rehearsal: an address soon, or never."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from local.api import Api, wait_until
from local.control_plane import ControlPlane
from tests.support.patience import PATIENCE_SECONDS


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = f"t-{secrets.token_hex(4)}"
    control_plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    control_plane.api.delete(f"/api/v1/namespaces/{name}")


def make(api: Api, namespace: str, name: str, **annotations: str) -> str:
    body = {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 8000}]},
    }
    api.request("POST", f"/api/v1/namespaces/{namespace}/services", body)
    return f"/api/v1/namespaces/{namespace}/services/{name}"


def addresses(api: Api, path: str) -> list[dict[str, Any]]:
    return (api.get(path).get("status") or {}).get("loadBalancer", {}).get("ingress", [])


def test_a_load_balancer_gets_an_address_unless_it_is_told_not_to(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api
    without = make(api, namespace, "without", **{"rehearsal.modelserve.dev/fail": "no-address"})
    first, last = (make(api, namespace, name) for name in ("first", "last"))
    wait_until(lambda: bool(addresses(api, first) and addresses(api, last)), PATIENCE_SECONDS, lambda: "no address")
    assert ipaddress.ip_address(addresses(api, first)[0]["ip"]) in ipaddress.ip_network("203.0.113.0/24")
    assert addresses(api, first) != addresses(api, last)
    assert addresses(api, without) == []
