"""How long a fleet's name may be, so that no name derived from it is truncated."""

from __future__ import annotations

import pytest

from planning import fleet
from planning.catalog import fact
from planning.fleet import name_limit


def test_the_longest_name_fills_what_kuberay_leaves_whole():
    assert name_limit() == 24
    kuberay = {name: fact("fleet", "kuberay", name) for name in ("nameClippedAt", "longestSuffix", "randomLength")}
    ray_cluster = "-".join(("n" * 24, "h" * fact("fleet", "aibrix", "hashLength"), "r" * kuberay["randomLength"]))
    assert len(ray_cluster + kuberay["longestSuffix"]) == kuberay["nameClippedAt"] == 50


@pytest.mark.parametrize(
    ("changed", "value", "limit"),
    [
        (("kuberay", "nameClippedAt"), 63, 37),
        (("kuberay", "longestSuffix"), "-svc", 29),
        (("kuberay", "randomLength"), 8, 21),
        (("aibrix", "hashLength"), 6, 28),
    ],
    ids=lambda part: part[1] if isinstance(part, tuple) else "",
)
def test_a_fact_that_changes_moves_the_limit(
    monkeypatch: pytest.MonkeyPatch, changed: tuple[str, str], value: object, limit: int
):
    def other(file: str, *place: str) -> object:
        return value if place == changed else fact(file, *place)

    monkeypatch.setattr(fleet, "fact", other)
    assert name_limit() == limit
