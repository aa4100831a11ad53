"""A document of deviations with any mistake does not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.parity import ABSENT, Difference, Row, complaints

MOVED = {"spec.gone": ABSENT, "spec.elsewhere": "8"}
FOUND = [
    Difference("Service/a", "spec.type", "ClusterIP", "LoadBalancer", {}),
    Difference("Service/b", "spec.type", "ClusterIP", None, {}),
    Difference("Pod/a", "spec.gpus", "8", None, MOVED),
]
TYPES = Row(("Service/*",), ("spec.type",), ("ClusterIP",), ("LoadBalancer", ABSENT), "a reason")
GPUS = Row(("Pod/a",), ("spec.g*",), ("8",), ("spec.elsewhere: 8",), "a reason")
ROWS = [TYPES, GPUS]


def test_a_document_that_has_every_difference_in_one_row_passes():
    assert complaints(FOUND, ROWS) == []


@pytest.mark.parametrize(
    ("found", "rows", "said"),
    [
        ([*FOUND, Difference("Job/a", "spec.x", "1", "2", {})], ROWS, "Job/a spec.x: `1`, here `2`: 0 rows instead"),
        (FOUND, [*ROWS, TYPES], "2 rows instead of one"),
        (FOUND, [GPUS], "0 rows instead of one"),
        (FOUND, [*ROWS, replace(GPUS, objects=("Job/*",))], "differs in nothing"),
        ([replace(FOUND[0], here="NodePort"), *FOUND[1:]], ROWS, "here it is"),
        ([replace(FOUND[0], here=None), *FOUND[1:]], ROWS, "here it is"),
        ([*FOUND[:2], replace(FOUND[2], ours={"spec.elsewhere": "4"})], ROWS, "here it is"),
        (FOUND, [replace(TYPES, theirs=("other",)), GPUS], "the original has"),
        (FOUND, [replace(TYPES, here=("LoadBalancer",)), GPUS], "here it is"),
        (FOUND, [replace(TYPES, here=("LoadBalancer", ABSENT, "other")), GPUS], "here it is"),
        (FOUND, [TYPES, replace(GPUS, why="")], "no reason"),
    ],
)
def test_a_missing_a_stale_and_a_wrong_row_are_told(found, rows, said):
    assert said in "\n".join(complaints(found, rows))
