"""What a run changes in each service, in the terms of a stack file: layout, image, arguments, replicas, access.

Read from the objects' own inputs, before and after. Not here: what that means for users (`judgement`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planning import flags
from planning.catalog import fact
from planning.names import COLOUR
from planning.scaling import KINDS
from report.differences import ABSENT
from report.redaction import UNKNOWN
from report.run_file import Change, Run

SERVING = "modelserve:serving:"
_WORKLOADS = ("LeaderWorkerSet", "RayClusterFleet")
_TEMPLATES = ("leaderWorkerTemplate", "template")
_LAYOUT = "modelserve.dev/layout"
_DRAIN = "MODELSERVE_DRAIN_SECONDS"
# Flags that are reported in other words, as layout and context.
_SAID_FLAGS = {
    "--data-parallel-size",
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    "--max-model-len",
    "--distributed-executor-backend",
}
# With more variables than this, their number says more than their names.
_MOST_VARIABLES = 4
# What the program tells its own launch script and guard: layout and limits again, which are reported elsewhere.
_OWN_VARIABLES = "MODELSERVE_"
_REACH = "reached from"
_INTERNET = "the internet"


@dataclass(frozen=True)
class Row:
    """One thing that changes; `before` or `after` is None if it did not exist then."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class ServiceChange:
    """A service in which anything changes.

    `fate` is added, removed, replaced (all replicas end, then new ones start), restarted (one replica after the other),
    switched (new replicas take over from the old ones), scaled, or kept.
    `replicas` are those before and after; `drain_seconds` is how long an ending pod waits for answers;
    None if nothing says so. `opens` is whether the internet can reach it from now on.
    """

    name: str
    fate: str
    rows: tuple[Row, ...]
    replicas: tuple[int | None, int | None] = (None, None)
    drain_seconds: int | None = None
    surge: bool = False
    opens: bool = False
    claims: tuple[str, ...] = ()


def of(run: Run) -> list[ServiceChange]:
    """Every service in which the run changes anything, by name."""
    changes_of: dict[str, list[Change]] = {}
    for change in run.changes:
        if change.action != "none" and change.is_real and (name := service_of(change)):
            changes_of.setdefault(name, []).append(change)
    cloud = _cloud(run)
    return [_service(name, changes_of[name], cloud) for name in sorted(changes_of)]


def service_of(change: Change) -> str | None:
    """The service that an object belongs to, None if it belongs to none."""
    parent = next((side.parent for side in (change.new, change.old) if side and side.parent), "")
    kind, _, name = parent.rpartition("::")
    return name if f"{kind.split('::')[-1].rpartition('$')[2]}".startswith(SERVING) else None


def _cloud(run: Run) -> str:
    try:
        section = json.loads(run.config.get("modelserve:cloud", "{}"))
    except ValueError:
        return ""
    return str(section.get("kind", "")) if isinstance(section, dict) else ""


def _service(name: str, changes: Sequence[Change], cloud: str) -> ServiceChange:
    rows: list[Row] = []
    workloads = [each for each in changes if each.kind in _WORKLOADS]
    old = next((_inputs(each.old) for each in workloads if each.old), {})
    new = next((_inputs(each.new) for each in workloads if each.new), {})
    fate = _fate(workloads, old, new)
    if workloads and fate != "removed":
        rows += _workload_rows(old, new, cloud)
    rows += [row for each in changes for row in _access_rows(each, cloud)]
    head = _leader(old)
    strategy = _map(old, "spec", "strategy", "rollingUpdate")
    return ServiceChange(
        name,
        fate,
        tuple(row for row in rows if row.before != row.after and (row.before or row.after != UNKNOWN)),
        (_number(_map(old, "spec").get("replicas")), _number(_map(new, "spec").get("replicas"))),
        _number(_variables(head).get(_DRAIN)),
        bool(strategy.get("maxSurge")),
        any(
            row.what == _REACH and _INTERNET in (row.after or "") and _INTERNET not in (row.before or "")
            for row in rows
        ),
        tuple(dict.fromkeys([*_claims(old), *_claims(new)])),
    )


def _fate(workloads: Sequence[Change], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    actions = {each.action for each in workloads}
    if old and "create" in actions and _map(new, "metadata", "annotations").get(COLOUR):
        return "switched"
    if "replace" in actions or {"create", "delete"} <= actions:
        return "replaced"
    if actions & {"create", "delete"}:
        return "added" if "create" in actions else "removed"
    before, after = ({key: _map(side, "spec").get(key) for key in _TEMPLATES} for side in (old, new))
    if before != after:
        recreated = _map(old, "spec", "strategy").get("type") == "Recreate"
        return "replaced" if recreated else "restarted"
    return "scaled" if _map(old, "spec").get("replicas") != _map(new, "spec").get("replicas") else "kept"


def _workload_rows(old: Mapping[str, Any], new: Mapping[str, Any], cloud: str) -> Iterator[Row]:
    for what, read in _FACTS.items():
        yield Row(what, read(old), read(new))
    yield Row("RDMA", _rdma(old, cloud), _rdma(new, cloud))
    before, after = (_flags(_leader(side)) for side in (old, new))
    if old:  # the arguments of a new service are in the stack file, which is reviewed anyway
        yield from (Row(f"`{flag}`", _text(was), _text(now)) for (flag,), was, now in _pairs(before, after))
        variables = [
            (str(path[0]), was, now)
            for path, was, now in _pairs(_variables(_leader(old)), _variables(_leader(new)))
            if not str(path[0]).startswith(_OWN_VARIABLES)
        ]
        if len(variables) > _MOST_VARIABLES:
            yield Row(f"{len(variables)} variables", "see below", ", ".join(name for name, _, _ in variables))
        else:
            yield from (Row(f"`{name}`", _text(was), _text(now)) for name, was, now in variables)


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """What differs, key by key."""
    yield from (
        ((key,), old.get(key, ABSENT), new.get(key, ABSENT))
        for key in {**old, **new}
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    )


def _text(value: Any) -> str | None:
    return None if value is ABSENT else str(value) or "set"


def _access_rows(change: Change, cloud: str) -> Iterator[Row]:
    old, new = _inputs(change.old), _inputs(change.new)
    if change.kind == "Service":
        yield Row(_REACH, _reach(old, cloud), _reach(new, cloud))
        if old and new:
            yield Row("port", _port(old), _port(new))
    elif change.kind == "NetworkPolicy":
        yield Row("clients", _clients(old), _clients(new))
    elif change.kind == "Secret" and change.name.endswith("-api-key"):
        if change.action in ("create", "delete"):
            yield Row("API key", None if not old else "asked for", None if not new else "asked for")
        else:
            yield Row("API key", "the old one", "another one")
    elif change.kind in KINDS:
        yield Row("autoscaling", _bounds(old), _bounds(new))


def _inputs(state: Any) -> Mapping[str, Any]:
    return state.inputs if state else {}


def _map(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        below = value.get(key)
        value = below if isinstance(below, Mapping) else {}
    return value


def _first(value: Any) -> Mapping[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], Mapping) else {}


def _pod(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The template of the pods that answer requests."""
    spec = _map(workload, "spec")
    return _map(spec, "leaderWorkerTemplate", "leaderTemplate") or _map(
        spec, "template", "spec", "headGroupSpec", "template"
    )


def _leader(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container that answers requests."""
    return _first(_map(_pod(workload), "spec").get("containers"))


def _layout(workload: Mapping[str, Any]) -> str | None:
    said = _map(workload, "metadata", "annotations").get(_LAYOUT)
    if not isinstance(said, str):
        return None
    parts = dict(part.partition("=")[::2] for part in said.split(","))
    data = f" DP{parts['data']}" if "data" in parts else ""
    split = f"TP{parts.get('tensor')} PP{parts.get('pipeline')}{data}"
    return f"{parts.get('nodes')} × {parts.get('gpusPerNode')} GPUs, {split}"


def _flags(container: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's arguments by name, except those that are reported in other words."""
    arguments = container.get("args")
    words = [str(word) for word in arguments] if isinstance(arguments, list) else []
    found: dict[str, Any] = {}
    for given in flags.parse(words):
        if given.spelling not in _SAID_FLAGS:
            found[given.word.partition("=")[0].replace("_", "-")] = " ".join(given.values)
    return found


def _flag(workload: Mapping[str, Any], flag: str) -> str | None:
    arguments = _leader(workload).get("args")
    words = [str(word) for word in arguments] if isinstance(arguments, list) else []
    return next((" ".join(given.values) for given in flags.parse(words) if given.spelling == flag), None)


def _variables(container: Mapping[str, Any]) -> dict[str, Any]:
    env = container.get("env")
    listed = [each for each in env if isinstance(each, Mapping)] if isinstance(env, list) else []
    return {str(each.get("name")): each.get("value", "from elsewhere") for each in listed}


def _amount(workload: Mapping[str, Any], name: str) -> str | None:
    amount = _map(_leader(workload), "resources", "requests").get(name)
    return None if amount is None else str(amount)


def _shm(workload: Mapping[str, Any]) -> str | None:
    volumes = _map(_pod(workload), "spec").get("volumes")
    listed = [each for each in volumes if isinstance(each, Mapping)] if isinstance(volumes, list) else []
    return next((str(_map(each, "emptyDir").get("sizeLimit")) for each in listed if each.get("name") == "shm"), None)


def _claims(workload: Mapping[str, Any]) -> list[str]:
    volumes = _map(_pod(workload), "spec").get("volumes")
    listed = [each for each in volumes if isinstance(each, Mapping)] if isinstance(volumes, list) else []
    return [str(claim["claimName"]) for each in listed if "claimName" in (claim := _map(each, "persistentVolumeClaim"))]


def _rdma(workload: Mapping[str, Any], cloud: str) -> str | None:
    """Whether its pods have the cloud's RDMA; None if nothing says so."""
    known = fact("clouds", cloud, "rdma") if workload and cloud else {}
    label, resource = known.get("label"), known.get("resource")
    if not (label or resource):
        return None
    has = label in _map(_pod(workload), "metadata", "labels") or bool(resource and _amount(workload, resource))
    return "on" if has else "off"


def _reach(service: Mapping[str, Any], cloud: str) -> str | None:
    if not service:
        return None
    if _map(service, "spec").get("type") != "LoadBalancer":
        return "the cluster"
    known = fact("clouds", cloud, "loadBalancer") if cloud else {}
    annotations = _map(service, "metadata", "annotations")
    words = {"public": _INTERNET, "private": "the cloud's network"}
    where = next((words[to] for to in words if to in known and known[to].items() <= annotations.items()), "outside")
    allowed = annotations.get(known.get("allowListId", ""))
    return f"{where}, by a load balancer" + (f", for the addresses of {allowed}" if allowed else "")


def _port(service: Mapping[str, Any]) -> str | None:
    port = _first(_map(service, "spec").get("ports")).get("port")
    return None if port is None else f"{port:g}" if isinstance(port, float) else str(port)


def _clients(policy: Mapping[str, Any]) -> str | None:
    """Who may reach the port: the rule that names it."""
    rules = _map(policy, "spec").get("ingress")
    if not isinstance(rules, list):
        return None
    http = next((rule for rule in rules if isinstance(rule, Mapping) and rule.get("ports")), None)
    if http is None:
        return "nobody"
    peers = http.get("from")
    return "; ".join(dict.fromkeys(map(_peer, peers))) if isinstance(peers, list) and peers else "everybody"


def _peer(peer: Any) -> str:
    if not isinstance(peer, Mapping):
        return "somebody"
    if "ipBlock" in peer:
        cidr = str(_map(peer, "ipBlock").get("cidr"))
        return "every address" if cidr == "0.0.0.0/0" else cidr
    labels = {**_map(peer, "podSelector", "matchLabels")}
    namespace = _map(peer, "namespaceSelector", "matchLabels").get("kubernetes.io/metadata.name")
    pods = "pods" + (f" with {', '.join(f'{key}={value}' for key, value in labels.items())}" if labels else "")
    return f"{pods} of {namespace}" if namespace else f"{pods} of its namespace"


def _bounds(scaler: Mapping[str, Any]) -> str | None:
    spec = _map(scaler, "spec")
    least, most = (spec.get(f"{word}Replicas", spec.get(f"{word}ReplicaCount")) for word in ("min", "max"))
    return f"{least} to {most} replicas" if spec else None


def _replicas(workload: Mapping[str, Any]) -> str | None:
    number = _number(_map(workload, "spec").get("replicas"))
    return None if number is None else str(number)


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


_FACTS = {
    "layout": _layout,
    "image": lambda workload: _leader(workload).get("image"),
    "context": lambda workload: _flag(workload, "--max-model-len"),
    "replicas": _replicas,
    "CPU": lambda workload: _amount(workload, "cpu"),
    "memory": lambda workload: _amount(workload, "memory"),
    "temporary disk": lambda workload: _amount(workload, "ephemeral-storage"),
    "shared memory": _shm,
    "weights from claim": lambda workload: ", ".join(_claims(workload)) or None,
}
