"""The claim that a stack makes for models: what it asks for, what it refuses, and what a destroy leaves."""

from __future__ import annotations

from typing import Any

import pytest

from components.weights.model_claim import ModelClaim, ModelClaimArgs, claim
from planning.problems import Refused
from tests.support.recorder import Recorder
from tests.support.schemas import problems


def arguments(**changes: Any) -> ModelClaimArgs:
    given: dict[str, Any] = {"stack": "test", "namespace": "models", "size_gib": 700, "storage_class": "nas"}
    return ModelClaimArgs(**given | {"readers": 2} | changes)


def test_the_claim_passes_strict_validation_and_asks_for_a_volume_of_many_nodes(engine: Recorder):
    engine.run(lambda: ModelClaim("r1", arguments()))
    (made,) = engine.objects()
    assert problems(made) == []
    assert made["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "nas",
        "resources": {"requests": {"storage": "700Gi"}},
    }
    assert made["metadata"]["labels"]["modelserve.dev/stack"] == "test"


def test_without_a_class_the_clusters_default_one_is_left_to_the_cluster():
    assert "storageClassName" not in claim("r1", arguments(storage_class=None))["spec"]


@pytest.mark.parametrize("keep", [True, False])
def test_a_kept_claim_is_protected_and_another_one_is_not(engine: Recorder, keep):
    engine.run(lambda: ModelClaim("r1", arguments(keep=keep)))
    made = engine.one("PersistentVolumeClaim")
    assert made.protect is keep and made.deleteBeforeReplace


def test_the_plugins_own_wait_knows_classes_that_wait_for_a_pod_and_only_slow_classes_are_not_awaited():
    assert "annotations" not in claim("r1", arguments())["metadata"]
    assert claim("r1", arguments(awaited=False))["metadata"]["annotations"] == {"pulumi.com/skipAwait": "true"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"access": "ReadWriteOnce"}, "^access mode ReadWriteOnce: one node mounts such a volume and 2 nodes read"),
        ({"access": "ReadOnlyMany"}, "^access mode ReadOnlyMany: nothing could fill the new volume"),
        ({"size_gib": 0}, "^size_gib 0: .* holds no model"),
    ],
)
def test_a_claim_that_could_never_be_read_or_filled_is_refused(changes, said):
    with pytest.raises(Refused, match=said):
        arguments(**changes)


def test_one_node_may_read_a_volume_of_one_node_and_a_class_may_bring_its_own_files():
    assert claim("r1", arguments(access="ReadWriteOnce", readers=1))["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert claim("r1", arguments(access="ReadOnlyMany", filled=False))["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_the_claims_name_is_known_when_it_is_there_and_two_fit_in_one_stack(engine: Recorder):
    names: list[str] = []

    def program() -> None:
        for name in ("one", "other"):
            ModelClaim(name, arguments()).claim.apply(names.append)

    engine.run(program)
    assert len({made["metadata"]["name"] for made in engine.objects()}) == 2 == len(set(names))
