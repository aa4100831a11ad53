"""What of a stack a cluster still has: everything with the stack's label, of every kind, and what others made for it.

Controllers label what they make with their own labels, if at all. So Helm's releases and namespaces, the pods of
LeaderWorkerSet, KubeRay and Fluid, and volumes are found by what ties them to the stack's names. Only reads. Not here:
the clouds (`cloud_lists`), and what is expected (`ops.audit`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from components.cluster.kubernetes import MANAGER, STACK_LABEL, release_description, stack_of
from planning.catalog import fact
from watch import client, helm_releases
from watch.api_server import METADATA, ApiServer, Question, UnansweredError
from watch.helm_releases import moment

_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_JSON = "application/json"
# Copies of other objects, which go with them, and what no stack has.
_NOT_ASKED = {"events", "endpoints", "endpointslices", "componentstatuses", "controllerrevisions", "leases"}
# Of these kinds the whole object is asked: their fields tell what bills, or whose they are.
_WHOLE = {"pods", "services", "persistentvolumes", "persistentvolumeclaims"}
_GPU = "nvidia.com/gpu"
# Labels by which other controllers' pods name their owner: LeaderWorkerSet, KubeRay, Fluid's charts.
_OWNERS = ("leaderworkerset.sigs.k8s.io/name", "app.kubernetes.io/instance", "release")

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Names:
    """The names by which a stack's things are known: of `objects` in `namespace`, and of `namespaces` of add-ons."""

    stack: str
    namespace: str
    objects: frozenset[str]
    namespaces: frozenset[str] = frozenset()


@dataclass(frozen=True, order=True)
class Left:
    """Something that exists. `gpus`, `balancer` and `cache` are what it bills for; `finalizers` are waited for while it
    is being deleted, since or until `going` (RFC 3339: for a pod its last moment, else that of the request). `node` is
    where a pod runs; `holder` of a finalizer is a pod that is there and takes it off. `owned`: a controller made it for
    another object, with which it goes."""

    kind: str
    name: str
    namespace: str = ""
    why: str = ""
    gpus: int = 0
    balancer: bool = False
    cache: bool = False
    going: str = ""
    owned: bool = False
    finalizers: tuple[str, ...] = field(default=(), compare=False)
    node: str = field(default="", compare=False)
    holder: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def look(context: str, kubeconfig: str | None, names: Names) -> tuple[list[Left], list[str]]:
    """What there is, and what could not be looked up, a line each. Raises UnansweredError if the cluster is silent."""
    server = ApiServer(context, kubeconfig)
    kinds = _kinds(server)
    label = quote(f"{STACK_LABEL}={names.stack},app.kubernetes.io/managed-by={MANAGER}")
    questions: dict[tuple[str, str], Question] = {}
    for path, (plural, kind) in kinds.items():
        whole = plural in _WHOLE
        # Pods and volumes of other controllers lack our label, so all of them are read.
        everything = whole and path.startswith("/api/v1/")
        questions[path, kind] = (path if everything else f"{path}?labelSelector={label}", _JSON if whole else METADATA)
    helm = f"/api/v1/secrets?labelSelector={quote('owner=helm')}"
    questions[helm, "Release"] = (helm, _JSON)
    questions["/api/v1/namespaces#", "Namespace"] = ("/api/v1/namespaces", METADATA)
    found: set[Left] = set()
    unread: list[str] = []
    running: list[tuple[str, str]] = []
    for (_, kind), answer in zip(questions, server.answers([*questions.values()]), strict=True):
        if isinstance(answer, UnansweredError):
            if answer.status not in (404, 405):
                unread.append(f"{kind} ({answer})")
            continue
        for item in answer.get("items") or []:
            if kind == "Pod" and (item.get("status") or {}).get("phase") == "Running":
                running.append((item["metadata"]["namespace"], item["metadata"]["name"]))
            if left := _left(kind, item, names):
                found.add(left)
    return sorted(replace(each, holder=_is_held(each, running)) for each in found), sorted(set(unread))


def _is_held(left: Left, running: Sequence[tuple[str, str]]) -> bool:
    """Whether everybody who takes the finalizers off, as far as that is known, has a running pod."""
    owners = [_owner(each) for each in left.finalizers]
    return all(
        any(namespace == owner["namespace"] and name.startswith(f"{owner['runs']}-") for namespace, name in running)
        for owner in owners
        if "runs" in owner
    )


def _owner(finalizer: str) -> Mapping[str, str]:
    """Who takes a finalizer off; empty if that is unknown."""
    return fact("finalizers", "known", "owners").get(finalizer, {})


def _kinds(server: ApiServer) -> dict[str, tuple[str, str]]:
    """The path of each kind that can be listed, with its plural and its name."""
    found = {}
    asked = [(prefix, _DISCOVERY) for prefix in ("/api", "/apis")]
    for (prefix, _), answer in zip(asked, server.answers(asked), strict=True):
        if isinstance(answer, UnansweredError):
            raise answer
        if "items" not in answer:
            raise UnansweredError("it does not tell its kinds in one list, as Kubernetes 1.27 and later do")
        for group in answer["items"]:
            name = group["metadata"].get("name", "")
            # The first version is the preferred one; the others show the same objects.
            for version in group["versions"][:1]:
                place = f"{prefix}/{name}/{version['version']}" if name else f"{prefix}/{version['version']}"
                for each in version.get("resources") or []:
                    if "list" in each["verbs"] and each["resource"] not in _NOT_ASKED:
                        found[f"{place}/{each['resource']}"] = each["resource"], each["responseKind"]["kind"]
    return found


def _left(kind: str, item: Object, names: Names) -> Left | None:
    metadata = item["metadata"]
    ours = stack_of(metadata.get("labels")) == names.stack
    if kind == "Release":
        return _release(item, names)
    why = "" if ours else _tie(kind, item, names)
    if not ours and not why:
        return None
    spec = item.get("spec") or {}
    gone = (item.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return Left(
        kind,
        metadata["name"],
        metadata.get("namespace", ""),
        why,
        gpus=0 if kind != "Pod" or gone else _gpus(spec),
        balancer=kind == "Service" and spec.get("type") == "LoadBalancer",
        cache=kind == "Pod" and not gone and _is_cache_worker(metadata.get("labels") or {}),
        going=metadata.get("deletionTimestamp") or "",
        owned=bool(metadata.get("ownerReferences")),
        finalizers=tuple(metadata.get("finalizers") or ()),
        node=spec.get("nodeName", "") if kind == "Pod" else "",
    )


def _is_cache_worker(labels: Mapping[str, str]) -> bool:
    return "fluid.io/dataset" in labels and labels.get("role", "").endswith("worker")


def _tie(kind: str, item: Object, names: Names) -> str:
    """What ties an object without our label to the stack; empty if nothing does."""
    metadata = item["metadata"]
    labels = metadata.get("labels") or {}
    if kind == "Namespace":
        return "of an add-on of the stack" if metadata["name"] in names.namespaces else ""
    if kind == "PersistentVolume":
        claim = (item.get("spec") or {}).get("claimRef") or {}
        tied = claim.get("namespace") == names.namespace and claim.get("name") in names.objects
        return f"bound to claim {claim['name']}" if tied else ""
    if kind == "Service" and labels.get("gateway.envoyproxy.io/owning-gateway-namespace") in names.namespaces:
        return "the gateway's load balancer"
    if metadata.get("namespace") != names.namespace:
        return ""
    if kind == "PersistentVolumeClaim" and metadata["name"] in names.objects:
        return "has the name of one of the stack's"
    if kind == "Pod":
        return next((f"{key}={labels[key]}" for key in _OWNERS if labels.get(key) in names.objects), "")
    return ""


def _release(secret: Object, names: Names) -> Left | None:
    with contextlib.suppress(ValueError, LookupError, OSError, EOFError):
        record = helm_releases.read(secret)
        if record["info"].get("description") == release_description(names.stack):
            return Left("Release", record["name"], secret["metadata"]["namespace"])
    return None


def _gpus(spec: Object) -> int:
    return sum(int(((each.get("resources") or {}).get("limits") or {}).get(_GPU, 0)) for each in spec["containers"])


def waiting(left: Sequence[Left], now: datetime, *, overdue: bool = False) -> Iterator[str]:
    """What keeps a deletion from ending, and the command that is safe; if asked so, of what is `overdue` only. Nothing
    here takes a finalizer off."""
    for each in left:
        late = _is_late(each, now)
        if not each.going or (overdue and not late):
            continue
        if each.finalizers:
            awaited = "; ".join(_awaited(finalizer, each.holder) for finalizer in each.finalizers)
            yield f"{each}: waits for {awaited}. {_KEEP}"
        elif each.kind == "Pod":
            yield f"{each}: {_hung(each) if late else f'is ending, and gives its answers first, until {each.going}'}"


def barred(context: str, kubeconfig: str | None, left: Sequence[Left], now: datetime) -> Iterator[str]:
    """Which overdue objects the API server lets nobody change, so that nobody takes a finalizer off: it calls a webhook
    whose operator is gone. Asks by an empty change that is not carried out."""
    late = [each for each in left if each.finalizers and _is_late(each, now)]
    if not late:
        return
    failures = client.errors()
    try:
        api = client.dynamic_client(context, kubeconfig)
    except failures:
        return
    for each in late:
        for kind in (one for one in api.resources.search(kind=each.kind) if "patch" in one.verbs):
            why = ""
            try:
                change = {"namespace": each.namespace or None, "content_type": "application/merge-patch+json"}
                kind.patch(name=each.name, body={}, dry_run="All", **change)
            except failures as error:
                if getattr(error, "status", None) == HTTPStatus.INTERNAL_SERVER_ERROR:
                    why = " ".join(json.loads(error.body)["message"].split())  # type: ignore[attr-defined]
            if why:
                yield f"{each}: the API server takes no change of it: {why}. {_WEBHOOK}"


def _is_late(left: Left, now: datetime) -> bool:
    return bool(left.going) and now > moment(left.going) + _PATIENCE


_PATIENCE = timedelta(seconds=60)
_WEBHOOK = (
    "If that is a webhook whose operator is gone, install the operator again, and the deletion goes on; if it is gone "
    "for good, kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations shows which of them to delete"
)
_KEEP = "Do not take a finalizer off: what it guards would stay, and bill"


def _awaited(finalizer: str, holder: bool) -> str:
    """Who takes a finalizer off, and how it comes to that."""
    owner = _owner(finalizer)
    if not owner:
        return f"{finalizer}, and its owner has to run: bring that operator back, and the deletion goes on"
    if "runs" not in owner:
        return f"{finalizer}: {owner['who']}"
    where = f"-n {owner['namespace']} deploy/{owner['runs']}"
    if holder:
        return f"{finalizer} of {owner['who']}, which runs: kubectl logs {where} says why"
    return (
        f"{finalizer} of {owner['who']}, which is gone: install it again (chart {owner['addon']} in namespace "
        f"{owner['namespace']}, or pulumi up), and the deletion goes on; kubectl rollout status {where}"
    )


def _hung(pod: Left) -> str:
    if not pod.node:
        return "was to have ended, and is on no node: kubectl describe pod says why"
    return (
        f"was to have ended at {pod.going}, and node {pod.node} does not say that it has: kubectl describe node "
        f"{pod.node}; if that is a machine, and gone for good, kubectl delete node {pod.node} lets the cluster forget "
        "its pods. A virtual node is not to be deleted: it has others' pods too"
    )


def billing(left: Collection[Left]) -> tuple[int, int, int]:
    """GPUs, cache workers and load balancers that bill."""
    return sum(each.gpus for each in left), sum(each.cache for each in left), sum(each.balancer for each in left)
