"""What the bench makes of what it measured."""

from __future__ import annotations

import pulumi_kubernetes
import pytest

from bench import plain
from bench.measure import Cost, exponent, parts, spread


def test_cpu_is_shared_out_by_process_and_the_engine_has_the_rest():
    found = parts(
        2.0,
        [
            ("/bin/python /somewhere/local/language/host.py 127.0.0.1:1", 0.25),
            ("/bin/python -u /somewhere/local/language/executor.py {} 5 /project", 0.5),
            ("/home/plugins/resource-kubernetes-v4/pulumi-resource-kubernetes 127.0.0.1:1", 0.375),
            ("/bin/sh -c true", 0.125),
        ],
    )
    assert found == {"engine": 0.875, "plugin": 0.375, "program": 0.5, "language host": 0.25}


def test_a_spread_is_of_the_ratios_not_of_the_times():
    pairs = [(Cost(wall, 1, 0), Cost(other, 1, 0)) for wall, other in ((1, 2), (9, 3), (4, 4))]
    assert spread(pairs, "wall") == (0.5, 1, 3)


@pytest.mark.parametrize(("costs", "found"), [((2, 20, 200), 1), ((1, 100, 10_000), 2), ((5, 5, 5), 0)])
def test_exponent_is_one_for_what_grows_with_the_size(costs, found):
    assert exponent((1, 10, 100), costs) == pytest.approx(found)


def test_the_plain_program_says_every_object_with_the_typed_sdk(monkeypatch):
    said = []
    for kind in ("core.v1.Secret", "networking.v1.NetworkPolicy", "apiextensions.CustomResource", "Provider"):
        module, _, name = f"pulumi_kubernetes.{kind}".rpartition(".")
        monkeypatch.setattr(f"{module}.{name}", lambda name, _kind=kind, **given: said.append((_kind, name, given)))
    objects = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"k": "v"}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "b"}, "spec": {"x": 1}},
        {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "c"}, "spec": {}},
    ]
    monkeypatch.setattr("pulumi.ResourceOptions", lambda **given: "on")
    exec(plain.source(objects), {"k8s": pulumi_kubernetes})
    assert said[1:] == [
        ("core.v1.Secret", "secret-a", {"metadata": {"name": "a"}, "string_data": {"k": "v"}, "opts": "on"}),
        ("networking.v1.NetworkPolicy", "networkpolicy-b", {"metadata": {"name": "b"}, "spec": {"x": 1}, "opts": "on"}),
        (
            "apiextensions.CustomResource",
            "leaderworkerset-c",
            {
                "api_version": "leaderworkerset.x-k8s.io/v1",
                "kind": "LeaderWorkerSet",
                "metadata": {"name": "c"},
                "spec": {},
                "opts": "on",
            },
        ),
    ]
