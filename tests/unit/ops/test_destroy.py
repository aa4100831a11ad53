"""What `ops destroy` says while Pulumi waits for a deletion that does not end, and what it does before Pulumi does."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiException, CustomObjectsApi

from ops import destroy

GROUP = {
    "apiVersion": "leaderworkerset.x-k8s.io/v1",
    "metadata": {"name": "ds-blue", "namespace": "models", "annotations": {"modelserve.dev/colour": "blue"}},
    "spec": {"leaderWorkerTemplate": {"leaderTemplate": {"spec": {"terminationGracePeriodSeconds": 0}}}},
}
KIND = "kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet"


def test_what_is_waited_for_is_said_once_while_the_destroy_goes_on_and_its_exit_code_is_kept(
    monkeypatch, capfd, tmp_path: Path
):
    monkeypatch.setattr(destroy, "_LOOK_SECONDS", 0.01)
    end = tmp_path / "end"
    program = f"import os, time\nwhile not os.path.exists({str(end)!r}): time.sleep(0.01)\nraise SystemExit(3)"
    looks = iter([[], ["a"], ["a", "b"], ["b"]])

    def late() -> list[str]:
        found = next(looks, None)
        if found is None:
            end.touch()
        return found or []

    assert destroy._run([sys.executable, "-c", program], destroy._teller("trial", late)) == 3
    assert capfd.readouterr().err.splitlines() == ["trial: waiting: a", "trial: waiting: b"]


@pytest.mark.parametrize(
    ("refusal", "counts", "told"),
    [
        (None, [2, 1, None], ""),
        (None, [], "ds-blue has not ended in its time"),
        (ApiException(404, "Not Found"), [], ""),
        (ApiException(403, "Forbidden"), [], "ds-blue was not scaled to zero: Forbidden"),
    ],
)
def test_a_group_is_scaled_to_zero_and_waited_for_until_its_leaders_are_gone(monkeypatch, refusal, counts, told):
    asked: list[Any] = []
    left = itertools.chain(counts, itertools.repeat(1))

    def scale(_: Any, *place: Any) -> None:
        asked.append(place)
        if refusal:
            raise refusal

    monkeypatch.setattr(destroy, "_DRAIN_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(destroy.timeouts, "DELETE_SLACK_SECONDS", 0.1)
    monkeypatch.setattr(destroy.client, "api_client", lambda *_: None)
    monkeypatch.setattr(CustomObjectsApi, "patch_namespaced_custom_object_scale", scale)
    status = "get_namespaced_custom_object"
    monkeypatch.setattr(CustomObjectsApi, status, lambda *_: {"status": {"replicas": next(left)}})
    assert list(destroy._drained([GROUP], "c", None, lambda: None)) == ([told] if told else [])
    place = ("leaderworkerset.x-k8s.io", "v1", "models", "leaderworkersets", "ds-blue")
    assert asked == [(*place, {"spec": {"replicas": 0}})]


@pytest.mark.parametrize(("preview", "answer", "agreed"), [(0, "yes", True), (0, "no", False), (1, "yes", False)])
def test_nothing_is_scaled_before_a_person_has_seen_the_preview_and_said_yes(monkeypatch, preview, answer, agreed):
    monkeypatch.setattr(destroy.subprocess, "run", lambda argv: subprocess.CompletedProcess(argv, preview))
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert destroy._agreed("trial") is agreed


def test_only_groups_of_a_colour_are_scaled_to_zero_first():
    plain = {"type": KIND, "inputs": {"metadata": {"name": "ds"}}}
    fleet = {"type": "kubernetes:orchestration.aibrix.ai/v1alpha1:RayClusterFleet", "inputs": GROUP}
    assert destroy.coloured_groups([plain, fleet, {"type": KIND, "inputs": GROUP}, {"type": "a:b:C"}]) == [GROUP]
