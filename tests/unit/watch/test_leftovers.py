"""Which of a cluster's objects belong to a stack, what of them bills, and what is said of a deletion that hangs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any
from unittest.mock import Mock

import pytest
from kubernetes.client import ApiException

from components.cluster.kubernetes import labels
from watch import leftovers
from watch.api_server import Question, UnansweredError
from watch.leftovers import Left, Names, billing, look, waiting

NAMES = Names("trial", "default", frozenset({"ds", "ds-leader", "deepseek-r1"}), frozenset({"lws-system"}))
KINDS = {
    "pods": "Pod",
    "services": "Service",
    "namespaces": "Namespace",
    "persistentvolumes": "PersistentVolume",
    "configmaps": "ConfigMap",
}
FLUID = "fluid-dataset-controller-finalizer"
NOW = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)
LONG_AGO, LATER = "2026-11-30T11:00:00Z", "2026-11-30T12:30:00Z"
GROUP = "leaderworkerset.sigs.k8s.io/name"
GPU_POD = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}, {"resources": {}}]}


class Server:
    """An API server with these objects, by plural; every other kind is refused with `refusal`."""

    def __init__(self, objects: dict[str, list[dict[str, Any]]], refusal: UnansweredError | None = None) -> None:
        self._objects, self._refusal = objects, refusal

    def __call__(self, context: str, kubeconfig: str | None) -> Server:
        return self

    def answers(self, questions: Sequence[Question]) -> list[Any]:
        return [self._answer(path.partition("?")[0]) for path, _ in questions]

    def _answer(self, path: str) -> Any:
        if path == "/apis":
            return {"items": []}
        if path == "/api":
            named = KINDS.items()
            kinds = [{"resource": one, "responseKind": {"kind": kind}, "verbs": ["list"]} for one, kind in named]
            return {"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": kinds}]}]}
        found = self._objects.get(path.rpartition("/")[2].rstrip("#"))
        return {"items": found} if found is not None or self._refusal is None else self._refusal


def thing(name: str, namespace: str = "default", spec: Any = None, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, **metadata}, "spec": spec or {"containers": []}}


def seen(monkeypatch: pytest.MonkeyPatch, **objects: list[dict[str, Any]]) -> list[Left]:
    monkeypatch.setattr(leftovers, "ApiServer", Server({key: [] for key in KINDS} | objects))
    return look("c", None, NAMES)[0]


@pytest.mark.parametrize(
    ("plural", "object_", "why"),
    [
        ("configmaps", thing("a", labels=labels("trial", "ds")), ""),
        ("pods", thing("ds-0", labels={GROUP: "ds"}), f"{GROUP}=ds"),
        ("pods", thing("worker", labels={"release": "deepseek-r1"}), "release=deepseek-r1"),
        (
            "persistentvolumes",
            thing("v", spec={"claimRef": {"namespace": "default", "name": "deepseek-r1"}}),
            "bound to claim deepseek-r1",
        ),
        ("namespaces", thing("lws-system", ""), "of an add-on of the stack"),
    ],
)
def test_what_is_the_stacks_is_found_by_its_label_or_by_what_ties_it_to_the_stacks_names(
    monkeypatch, plural, object_, why
):
    (found,) = seen(monkeypatch, **{plural: [object_]})
    assert (found.name, found.why) == (object_["metadata"]["name"], why)


@pytest.mark.parametrize(
    ("plural", "object_"),
    [
        ("configmaps", thing("a", labels=labels("other", "ds"))),
        ("pods", thing("ds-0", "elsewhere", labels={GROUP: "ds"})),
        ("pods", thing("a", labels={GROUP: "other"})),
        ("persistentvolumes", thing("v", spec={"claimRef": {"namespace": "else", "name": "deepseek-r1"}})),
        ("namespaces", thing("kube-system", "")),
    ],
)
def test_what_is_another_stacks_or_anybodys_is_not_found(monkeypatch, plural, object_):
    assert seen(monkeypatch, **{plural: [object_]}) == []


def test_gpus_cache_workers_and_load_balancers_bill_and_pods_that_have_ended_do_not(monkeypatch):
    ours = labels("trial", "ds")
    worker = {"release": "deepseek-r1", "fluid.io/dataset": "default-deepseek-r1", "role": "jindofs-worker"}
    found = seen(
        monkeypatch,
        pods=[
            thing("a", spec=GPU_POD, labels=ours),
            thing("b", spec=GPU_POD, labels=ours) | {"status": {"phase": "Succeeded"}},
            thing("c", labels=worker),
            thing("d", labels=worker | {"role": "jindofs-master"}),
        ],
        services=[thing("s", spec={"type": "LoadBalancer"}, labels=ours), thing("t", spec={}, labels=ours)],
    )
    assert billing(found) == (8, 1, 1)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (Left("Pod", "ds-0", "default", going=LATER), "is ending, and gives its answers first, until 2026-"),
        (Left("Pod", "ds-0", "default", going=LONG_AGO, node="n1"), "kubectl delete node n1 lets the cluster forget"),
        (Left("Pod", "ds-0", "default", going=LONG_AGO), "is on no node"),
        (
            Left("Dataset", "r1", "default", going=LONG_AGO, finalizers=(FLUID,)),
            f"waits for {FLUID} of Fluid, which is gone: install it again (chart fluid in namespace fluid-system",
        ),
        (
            Left("Dataset", "r1", "default", going=LONG_AGO, finalizers=(FLUID,), holder=True),
            "which runs: kubectl logs -n fluid-system deploy/dataset-controller says why",
        ),
        (
            Left("Service", "s", "default", going=LONG_AGO, finalizers=("service.k8s.alibaba/resources",)),
            "the cloud's own controller, which takes the load balancer away",
        ),
        (
            Left("Pod", "p", "default", going=LONG_AGO, node="n1", finalizers=("example.com/a", "example.com/b")),
            "example.com/a, and its owner has to run: bring that operator back",
        ),
    ],
)
def test_of_a_deletion_that_does_not_end_is_said_what_it_waits_for_and_never_to_take_a_finalizer_off(left, said):
    (line,) = waiting([left, Left("Pod", "other", "default")], NOW)
    assert said in line and ("Do not take a finalizer off" in line) == bool(left.finalizers)
    assert "patch" not in line and "--force" not in line and "finalizers=" not in line
    assert list(waiting([left], NOW, overdue=True)) == ([] if left.going == LATER else [line])


@pytest.mark.parametrize(
    ("pod", "phase", "there"),
    [
        ("dataset-controller-abc-de", "Running", True),
        ("dataset-controller-abc-de", "Pending", False),
        ("other-abc-de", "Running", False),
    ],
)
def test_an_operator_that_is_gone_while_its_kinds_wait_for_it_is_told_from_one_that_runs(
    monkeypatch, pod, phase, there
):
    held = thing("r1", labels=labels("trial", "r1"), deletionTimestamp=LONG_AGO, finalizers=[FLUID])
    operator = thing(pod, "fluid-system") | {"status": {"phase": phase}}
    (found,) = seen(monkeypatch, configmaps=[held], pods=[operator])
    (line,) = waiting([found], NOW)
    assert ("which runs" in line, "which is gone" in line) == (there, not there)


def test_a_kind_that_may_not_be_listed_is_unknown_and_a_cluster_that_tells_no_kinds_too(monkeypatch):
    monkeypatch.setattr(leftovers, "ApiServer", Server({"pods": []}, UnansweredError("HTTP 403", 403)))
    assert "Service (HTTP 403)" in look("c", None, NAMES)[1]
    silent = Server({})
    monkeypatch.setattr(silent, "_answer", lambda path: {"kind": "APIGroupList", "groups": []})
    monkeypatch.setattr(leftovers, "ApiServer", silent)
    with pytest.raises(UnansweredError, match="does not tell its kinds"):
        look("c", None, NAMES)


@pytest.mark.parametrize(
    ("status", "going", "told"),
    [
        (500, LONG_AGO, 'failed calling webhook "m.kb.io": connection refused. If that is'),
        (500, LATER, ""),
        (403, LONG_AGO, ""),
    ],
)
def test_an_object_that_nobody_may_change_is_told_in_the_api_servers_words_once_it_is_overdue(
    monkeypatch, status, going, told
):
    refusal = ApiException(status, "x")
    refusal.body = json.dumps({"message": 'failed calling webhook "m.kb.io":\nconnection refused'})
    kind, asked = Mock(verbs=["get", "patch"]), Mock()
    kind.patch.side_effect = refusal
    asked.resources.search.return_value = [kind, Mock(verbs=["list"])]
    monkeypatch.setattr(leftovers.client, "dynamic_client", lambda *_: asked)
    left = Left("LeaderWorkerSet", "ds", "default", going=going, finalizers=("foregroundDeletion",))
    lines = list(leftovers.barred("c", None, [left, Left("Pod", "p", "default", going=LONG_AGO)], NOW))
    assert len(lines) == bool(told) and all(told in line for line in lines)
    # Nothing is carried out.
    assert all(call.kwargs["dry_run"] == "All" and call.kwargs["body"] == {} for call in kind.patch.mock_calls)
