"""The rules: what each is against, why, what to do instead, how severe it is and what the pack's config may set.

Pure: a rule looks only at resources and settings. No rule judges a value that is still unknown.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from planning import advisories, images, leaks, timeouts
from planning.catalog import entries, fact
from planning.names import COLOUR
from planning.scaling import KINDS
from policy.pods_within import Pod, gpus, pods, variables
from policy.rule_types import (
    STACK,
    UNKNOWN,
    Finding,
    Judge,
    Resource,
    Rule,
    Setting,
    Severity,
    Stack,
    at,
    listed,
    number,
)

RULES: dict[str, Rule] = {}
"""Every rule by its id, in the order of the documents."""

_GUARDS = ("modelserve_guard.Guard", "modelserve_servers.Guard")
_KEY = "VLLM_API_KEY"
_BUCKETS = {facts["bucketType"]["value"] for facts in entries("clouds").values() if "bucketType" in facts}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_REASONS = {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}}


def judge(
    stack: Stack,
    settings: Mapping[str, Mapping[str, Any]],
    severities: Mapping[str, str],
    *,
    only: Callable[[Rule], bool] = lambda rule: True,
) -> list[Finding]:
    """What the rules find in a stack, mandatory rules first.

    `settings` and `severities` are those of `policy.pack_config.read`; a rule that is `disabled` there finds nothing.
    """
    findings: list[Finding] = []
    for rule in RULES.values():
        level = severities[rule.id]
        if level == "disabled" or not only(rule):
            continue
        severity: Severity = "mandatory" if level == "mandatory" else "advisory"
        for resource in stack.resources:
            for reason in rule.judge(resource, stack, settings[rule.id]):
                findings.append(Finding(rule.id, severity, resource.label, reason, rule.remedy))
    return sorted(dict.fromkeys(findings), key=lambda each: each.severity != "mandatory")


def _rule(
    name: str,
    severity: Severity,
    *,
    reason: str,
    remedy: str,
    alone: bool = False,
    early: bool = False,
    settings: Mapping[str, Setting] | None = None,
) -> Callable[[Judge], Judge]:
    def add(judge: Judge) -> Judge:
        RULES[name] = Rule(name, severity, reason, remedy, judge, alone, early, settings or {})
        return judge

    return add


@_rule(
    "exposure-guarded",
    "mandatory",
    reason="Whoever finds an address that asks for no key uses the GPUs, and vLLM has routes that are not for clients",
    remedy="set the secret apiKey, and leave the guard in front of the engine",
)
def _guarded(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    if resource.kind != "Service" or at(resource.properties, "spec", "type") not in ("LoadBalancer", "NodePort"):
        return
    behind = [
        pod
        for each in stack.resources
        if each.service == resource.service and resource.service
        for pod in pods(each)
        if pod.leads
    ]
    if not behind:
        yield "it is reached from outside, and no pod of this stack is known to be behind it"
    for pod in behind:
        engine = [each for each in pod.containers if gpus(each)] or pod.containers
        words = [word for each in engine for word in listed(each.get("args"))]
        if not {("--middleware", guard) for guard in _GUARDS} & {*pairwise(words)}:
            yield "it is reached from outside, and its engine runs without the guard"
        if not any(at(variables(each), _KEY, "valueFrom", "secretKeyRef") for each in engine):
            yield "it is reached from outside, and its engine asks for no key"


@_rule(
    "exposure-allow-list",
    "mandatory",
    reason="A public address is for the whole internet, unless an access control list says for whom",
    remedy="write expose.allowList, or make the address private",
    alone=True,
)
def _allow_list(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    for noted in _annotations(resource.properties) if resource.kind else ():
        for cloud in entries("clouds").values():
            known = cloud.get("loadBalancer", {}).get("value")
            if not known or not known["public"].items() <= noted.items():
                continue
            if not (noted.get(known["allowListId"]) and known["allowList"].items() <= noted.items()):
                yield "its load balancer is public and has no allow-list"


@_rule(
    "ray-closed",
    "mandatory",
    reason="Ray runs the code of whoever reaches its ports, and asks for no password",
    remedy="keep the NetworkPolicy that the program writes, and put none of Ray's ports into a Service",
)
def _ray_closed(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    ports = {int(port) for port in fact("engines", "ray", "ports")}
    if resource.kind == "Service" and at(resource.properties, "spec", "clusterIP") != "None":
        for port in listed(at(resource.properties, "spec", "ports")):
            if open_ := ports & {number(at(port, "port")), number(at(port, "targetPort"))}:
                yield f"it leads to port {', '.join(str(int(each)) for each in open_ if each)} of Ray"
    if resource.kind == "NetworkPolicy":
        for rule in listed(at(resource.properties, "spec", "ingress")):
            named = [number(at(each, "port")) for each in listed(at(rule, "ports"))]
            if (not named or None in named or ports & set(named)) and not _some_pods(listed(at(rule, "from"))):
                yield "it lets others than chosen pods in to the ports of Ray"
    if resource.kind.startswith("Ray") or any(_runs_ray(pod) for pod in pods(resource)):
        policies = [each for each in stack.of_kind("NetworkPolicy") if each.service == resource.service]
        if not any("Ingress" in listed(at(each.properties, "spec", "policyTypes")) for each in policies):
            yield "its pods run Ray, and no NetworkPolicy of this stack closes their ports"


@_rule(
    "no-plain-keys",
    "mandatory",
    reason="What stands in a manifest is read by everybody who may list pods, and stays in state, previews and logs",
    remedy="keep it in a Secret, refer to it by name, and change the key: it has been seen",
    alone=True,
)
def _plain_keys(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    for pod in pods(resource):
        for container in pod.containers:
            for name, entry in variables(container).items():
                value = entry.get("value")
                if not isinstance(value, str) or value in ("", UNKNOWN):
                    continue
                if what := leaks.by_shape(value) or leaks.by_name(name):
                    yield f"the variable {name} holds {what} in plain text"
            for word in (*listed(container.get("command")), *listed(container.get("args"))):
                if isinstance(word, str) and (what := leaks.by_shape(word)):
                    yield f"an argument of container {container.get('name')} holds {what} in plain text"
    if resource.kind == "ConfigMap":
        for name, text in (resource.properties.get("data") or {}).items():
            if isinstance(text, str) and (what := leaks.by_shape(text)):
                yield f"its entry {name} holds {what} in plain text"


@_rule(
    "image-fixed",
    "mandatory",
    reason="A tag that its maker moves runs another program tomorrow, on some nodes earlier than on others",
    remedy="write a version as its tag, or a digest",
    alone=True,
    early=True,
)
def _image_fixed(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    for image in _images(resource):
        if not images.fixed(image):
            yield f"image {image} has neither a tag of its own nor a digest"


@_rule(
    "image-digest",
    "advisory",
    reason="Whoever may push to a registry may change what a tag means; a digest means the same for ever",
    remedy="write the image with its digest, or say in tagged why its tag is good enough",
    alone=True,
    early=True,
    settings={"tagged": Setting(_REASONS, {}, "image without tag → why a tag is good enough for it")},
)
def _image_digest(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    for image in _images(resource):
        if "@" not in image and images.fixed(image) and _bare(image) not in settings["tagged"]:
            yield f"image {image} is pinned by a tag, and nobody says why"


@_rule(
    "image-registry",
    "mandatory",
    reason="A team knows who may push to its own registries, and what is scanned there",
    remedy="pull it from one of the registries in allowed, or add its registry there",
    alone=True,
    early=True,
    settings={"allowed": Setting(_TEXTS, [], "registries, as host or host/folder; any where it is empty")},
)
def _image_registry(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    allowed = settings["allowed"]
    for image in _images(resource) if allowed else ():
        host = images.registry_of(image) or "docker.io"
        whole = image if images.registry_of(image) else f"{host}/{image}"
        if not any(whole.startswith(f"{each.rstrip('/')}/") for each in allowed):
            yield f"image {image} is from {host}, which is not allowed"


@_rule(
    "gpu-requests-are-limits",
    "mandatory",
    reason="A pod that asks for less than it may use is the first to be evicted, and takes its group's GPUs along",
    remedy="write requests and limits alike",
    alone=True,
)
def _requests_are_limits(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    for pod in pods(resource):
        for container in pod.containers:
            limits = at(container, "resources", "limits") or {}
            requests = at(container, "resources", "requests") or {}
            # A limit without a request sets the request too: https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
            differ = [name for name in {*limits, *requests} if requests.get(name, limits.get(name)) != limits.get(name)]
            if gpus(container) and differ:
                yield f"container {container.get('name')} requests another {', '.join(sorted(differ))} than its limit"


@_rule(
    "surge-within-pool",
    "mandatory",
    reason="An update that needs GPUs which are not there waits for ever, with the old version half gone",
    remedy="write maxSurge 0, fewer replicas, or the pool's true size in gpus",
    early=True,
    settings={
        "gpus": Setting({"type": ["integer", "null"], "minimum": 1}, None, "GPUs that there are; unknown if absent")
    },
)
def _surge(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    _, surge = _gpus_of(resource, stack)
    if not surge:
        return
    pool = settings["gpus"]
    if pool is None:
        yield f"an update needs {surge:g} GPUs more, and nobody says how many there are"
        return
    steady = sum(_gpus_of(each, stack)[0] for each in stack.resources)
    if steady + surge > pool:
        yield f"an update needs {steady + surge:g} GPUs, and there are {pool:g}"


@_rule(
    "weights-kept",
    "mandatory",
    reason="Weights take hours to fetch again, and a hub may no longer have them",
    remedy="write keep: true",
    alone=True,
    early=True,
)
def _weights_kept(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    if (resource.type in _BUCKETS or resource.kind == "PersistentVolumeClaim") and not resource.kept:
        yield "it may hold weights, and a destroy takes it along"


@_rule(
    "cooldown-covers-start",
    "mandatory",
    reason="A replica that goes before the next could start costs a whole cold start at the next request",
    remedy="leave autoscaling.cooldownSeconds out, or write more than a cold start takes",
    early=True,
)
def _cooldown(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    if resource.kind not in KINDS:
        return
    start = number(at(stack.plans, resource.service, "podStartSeconds"))
    given = [
        number(str(value).removesuffix("s"))
        for key, value in (at(resource.properties, "metadata", "annotations") or {}).items()
        if key in _cooldowns()
    ]
    for above in (("spec",), ("spec", "advanced", "horizontalPodAutoscalerConfig")):
        window = number(at(resource.properties, *above, "behavior", "scaleDown", "stabilizationWindowSeconds"))
        # Kubernetes takes no longer one.
        given.append(None if window == fact("kubernetes", "autoscaling", "longestWindowSeconds") else window)
    for waits in given:
        if start is not None and waits is not None and waits < start:
            yield f"it scales down after {waits:g} s, and a cold start takes {start:g} s"


@_rule(
    "waits-cover-start",
    "mandatory",
    reason="An engine that is killed while it still loads starts from the beginning, and never answers",
    remedy="leave the probes as the program derives them, or correct startupSeconds",
)
def _waits(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    start = number(at(stack.plans, resource.service, "podStartSeconds"))
    for pod in pods(resource):
        for container in pod.containers:
            probe = container.get("startupProbe")
            if start is None or not pod.leads or not isinstance(probe, Mapping):
                continue
            period, failures = number(probe.get("periodSeconds")) or 10, number(probe.get("failureThreshold")) or 3
            waits = (number(probe.get("initialDelaySeconds")) or 0) + period * failures
            if waits < start:
                yield f"container {container.get('name')} is killed after {waits:g} s, and its start takes {start:g} s"


@_rule(
    "drain-covers-answers",
    "advisory",
    reason="A pod that ends before its answers do breaks them off, at every update and every scale-down",
    remedy="write a longer drainSeconds, or a smaller bound on answers",
    early=True,
    settings={
        "seconds": Setting(
            {"type": ["number", "null"], "exclusiveMinimum": 0}, None, "the longest answer; the plan's if absent"
        )
    },
)
def _drain(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    longest = settings["seconds"] or number(at(stack.plans, resource.service, "longestAnswerSeconds"))
    for pod in pods(resource):
        grace = number(pod.spec.get("terminationGracePeriodSeconds"))
        if longest and pod.leads and grace is not None and timeouts.longest_drain(int(grace)) < longest:
            waits = max(0, timeouts.longest_drain(int(grace)))
            yield f"its pods wait {waits} s for their answers, and one may take {longest:g} s"


@_rule(
    "price-at-most",
    "mandatory",
    reason="GPUs bill from the moment they are asked for, and nobody looks at the bill in the first week",
    remedy="ask for less, or raise most; where the price is unknown, write prices.perGpuHour",
    early=True,
    settings={
        "most": Setting({"type": ["number", "null"], "minimum": 0}, None, "the most per hour; any if absent"),
        "currency": Setting({"type": ["string", "null"]}, None, "the currency of most; that of the stack if absent"),
    },
)
def _price(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    most = settings["most"]
    if resource.type != STACK or most is None or not stack.plans:
        return
    known = [number(at(plan, "costPerHour")) for plan in stack.plans.values()]
    currency = next((each for plan in stack.plans.values() if (each := at(plan, "currency"))), "")
    total = math.fsum(each for each in known if each is not None)
    if settings["currency"] and currency and settings["currency"] != currency:
        yield f"its prices are in {currency}, the bound is in {settings['currency']}"
    elif total > most:
        yield f"it costs {total:.2f} {currency} an hour, the bound is {most:g}"
    elif None in known:
        yield f"what it costs an hour is unknown, the bound is {most:g}"


@_rule(
    "tagged",
    "advisory",
    reason="A stack that nobody owns and that never ends is found on the bill",
    remedy="write it into the stack file",
    early=True,
    settings={"keys": Setting({**_TEXTS, "items": {"enum": ["owner", "expires"]}}, ["owner"], "what it has to say")},
)
def _tagged(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    for key in settings["keys"] if resource.type == STACK else ():
        if not resource.properties.get(key):
            yield f"it says no {key}"


@_rule(
    "not-expired",
    "mandatory",
    reason="A stack that was to be gone still bills",
    remedy="run pulumi destroy, or write a later day as expires",
    early=True,
)
def _expired(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    day = _expires(resource)
    if day and day < stack.today:
        yield f"it was to be gone after {day}"


@_rule(
    "expires-soon",
    "advisory",
    reason="Whoever still needs a stack that ends soon had better say so",
    remedy="write a later day as expires, or let it go",
    early=True,
    settings={"days": Setting({"type": "integer", "minimum": 0}, 3, "how many days ahead it is said")},
)
def _soon(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    day = _expires(resource)
    if day and stack.today <= day <= stack.today + datetime.timedelta(days=settings["days"]):
        yield f"it ends with {day}"


@_rule(
    "engine-holes",
    "advisory",
    reason="Whoever sends requests, or makes the model, may do to a release with known holes what they say",
    remedy="take a release without them, or say in accepted why one does not matter here",
    early=True,
    settings={"accepted": Setting(_REASONS, {}, "advisory → why it does not matter")},
)
def _holes(resource: Resource, stack: Stack, settings: Mapping[str, Any]) -> Iterator[str]:
    for name, plan in stack.plans.items() if resource.type == STACK else ():
        version = at(plan, "engine")
        try:
            found = advisories.told(str(version), settings["accepted"])
        except ValueError:
            found = "which release of vLLM it runs is unknown, and so are its holes"
        if found:
            yield f"services.{name}: {found}"


def _annotations(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every map of annotations in a manifest: the one that creates a load balancer may be nested in another object."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key == "annotations" and isinstance(below, Mapping):
                yield below
            yield from _annotations(below)
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from _annotations(below)


def _some_pods(peers: Iterable[Any]) -> bool:
    """Whether the peers are only selected pods or namespaces, and at least one."""
    peers = list(peers)
    chosen = [
        not at(peer, "ipBlock")
        and any(_chooses(at(peer, selector)) for selector in ("podSelector", "namespaceSelector"))
        for peer in peers
    ]
    return bool(peers) and all(chosen)


def _chooses(selector: Any) -> bool:
    return bool(at(selector, "matchLabels") or at(selector, "matchExpressions"))


def _runs_ray(pod: Pod) -> bool:
    return any(at(variables(each), "MODELSERVE_LAUNCHER", "value") == "ray" for each in pod.containers)


def _images(resource: Resource) -> list[str]:
    found = (each.get("image") for pod in pods(resource) for each in pod.containers)
    return list(dict.fromkeys(each for each in found if isinstance(each, str) and each != UNKNOWN))


def _bare(image: str) -> str:
    """An image without its tag."""
    name = image.partition("@")[0]
    return name[: name.rfind(":")] if name.rfind(":") > name.rfind("/") else name


def _gpus_of(resource: Resource, stack: Stack) -> tuple[float, float]:
    """GPUs that a workload may hold, and the extra ones during an update."""
    of_replica = sum(pod.gpus * pod.copies for pod in pods(resource))
    spec = resource.properties.get("spec")
    if not of_replica or not isinstance(spec, Mapping):
        return 0, 0
    replicas = number(spec.get("replicas"))
    scaled = [
        number(at(each.properties, "spec", key)) or 0
        for kind in KINDS
        for each in stack.of_kind(kind)
        for key in ("maxReplicas", "maxReplicaCount")
        if at(each.properties, "spec", "scaleTargetRef", "name") == at(resource.properties, "metadata", "name")
    ]
    most = max([1 if replicas is None else replicas, *scaled])
    surges = [
        at(spec, "strategy", "rollingUpdate", "maxSurge"),
        at(spec, "rolloutStrategy", "rollingUpdateConfiguration", "maxSurge"),
    ]
    if at(resource.properties, "metadata", "annotations", COLOUR):
        surges.append(most)  # all replicas of its next version
    return most * of_replica, max(_surging(each, most) for each in surges) * of_replica


def _surging(given: Any, replicas: float) -> float:
    """Replicas of a `maxSurge`; a percentage rounds up."""
    if isinstance(given, str) and given.endswith("%"):
        return math.ceil(replicas * (number(given[:-1]) or 0) / 100)
    return number(given) or 0


def _cooldowns() -> set[str]:
    """The annotations, over all AIBrix releases, that set how long it waits before it scales down."""

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, below in value.items():
                if key == "cooldown" and isinstance(below, str):
                    yield below
                yield from inside(below)
        elif isinstance(value, list):
            for below in value:
                yield from inside(below)

    return set(inside(fact("aibrix", "autoscaling", "annotations")))


def _expires(resource: Resource) -> datetime.date | None:
    """The last day of a stack."""
    given = resource.properties.get("expires") if resource.type == STACK else None
    try:
        return datetime.date.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        return None
