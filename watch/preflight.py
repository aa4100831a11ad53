"""Refuses, before anything is registered, objects that the stack would create and somebody else already has.

A preview by Pulumi's plugin accepts such a name, and `up` then fails half-way. So this file looks for the names that
the program is about to register, with one list per kind and namespace. It refuses those that exist without this
stack's labels, and says who owns them and what to do. An add-on's Helm release has no labels; Helm's record tells whose
it is, and whether an adopted one is the version that the stack expects. Another KubeRay operator is refused too: two
would fight over every RayCluster. So are a CSI driver that is too old to mount by a role, an autoscaler that is not
there, and somebody else's gateway that lets its clients say where requests go.

`findings` asks the cluster; `problems` judges and is pure. Not here: how the program's names are collected
(`stacks.registrations`), and names that only the run knows, such as a volume's, which contains its stack's name.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from components.cluster.kubernetes import release_description, stack_of
from config.stack import StackConfig, aibrix_choice, installs_aibrix, role_takers
from config.weights import PvcWeights
from planning.catalog import fact
from planning.engine import release_key
from planning.names import model_object
from planning.problems import Problem
from watch.api_server import IDENTITY, METADATA, ApiServer, Question, UnansweredError

if TYPE_CHECKING:
    from components.cluster.cluster_addons import Addon

# Modules that only some stacks or only a refusal need are imported where they are used, to keep previews quick.

_JSON = "application/json"
# Where the driver may run, and its image (kubernetes-sigs/alibaba-cloud-csi-driver, deploy/charts). ACS, which has no
# nodes of one's own, may show neither.
_DRIVERS = ("deployments", "daemonsets")
_DRIVER_IMAGE = re.compile(r"/csi-plugin:(v?[0-9]+\.[0-9]+\.[0-9]+)")
_SHOWN = 3  # objects of one owner that a message names; it counts the others
_STATE_SECONDS = 60
_STACK = "stack "

_NO_SCALER = {
    "keda": ("the cluster has no ScaledObject, a kind of KEDA's", "install KEDA in it"),
    "hpa": ("nothing in the cluster hands it Prometheus' metrics", "install a Prometheus adapter in it, or write keda"),
}

Object = Mapping[str, Any]
Answer = Object | UnansweredError


@dataclass(frozen=True)
class Wanted:
    """An object that the stack is about to create; `part` is the part of the stack that its label names."""

    api_version: str
    kind: str
    namespace: str | None
    name: str
    part: str = ""

    @property
    def place(self) -> str:
        """The path that lists its kind in its namespace."""
        root = "/apis" if "/" in self.api_version else "/api"
        inside = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{root}/{self.api_version}{inside}/{plural(self.kind)}"

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass
class Findings:
    """What the cluster has: metadata of wanted objects, deployed releases' records by add-on id, a foreign KubeRay, the
    oldest release of the OSS driver if the cluster shows it.

    `no_scalers` are the services' autoscalers that the cluster lacks. `inner_headers` are headers by which clients of
    somebody else's gateway can say where their requests go, each with the policy that should remove it. `unread` says
    in one line what could not be looked up. `id` tells which cluster it is, if it says so.
    """

    objects: dict[Wanted, Object] = field(default_factory=dict)
    records: dict[str, Object | None] = field(default_factory=dict)
    kuberay: str | None = None
    driver: str | None = None
    no_scalers: Collection[str] = ()
    inner_headers: Mapping[str, str | None] = field(default_factory=dict)
    unread: str = ""
    id: str | None = None


def plural(kind: str) -> str:
    """The name of a kind in paths, by the rule of Kubernetes' code generators."""
    name = kind.lower()
    if name.endswith("y"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


def check(
    config: StackConfig, stack: str, kubeconfig: str | None, wanted: Sequence[Wanted], addons: Sequence[Addon]
) -> tuple[list[Problem], str, str | None]:
    """What prevents creating these, in the order of the stack file's keys; in one line what could not be looked up; and
    which cluster it is, if it tells.

    Reads the stack's state only if a name is taken.
    """
    cluster = findings(config, kubeconfig, wanted, addons)
    refused = problems(config, stack, cluster, addons)
    if refused:
        # Objects in the state are this stack's, even if they lost their labels or were imported without.
        refused = problems(config, stack, cluster, addons, in_state(stack))
    return sorted(refused), cluster.unread, cluster.id


def elsewhere(config: StackConfig, stack: str, recorded: str | None, seen: str | None) -> Problem | None:
    """Why nothing may be done in a cluster that is not the `recorded` one: the stack's objects would be taken for gone,
    and stay where they are. Nothing where one of the two is unknown."""
    if not recorded or not seen or recorded == seen:
        return None
    why = f"is the cluster {seen}, and stack {stack} is in {recorded}"
    instead = "take the kubeconfig of that one; if it is gone for good, write a stack of another name"
    return Problem("cluster.context", config.cluster.context, why, instead)


def findings(
    config: StackConfig, kubeconfig: str | None, wanted: Sequence[Wanted], addons: Sequence[Addon]
) -> Findings:
    """What the cluster has of them. A question without an answer is no reason to refuse."""
    seen = Findings()
    places: dict[str, dict[str, Wanted]] = {}
    for one in wanted:
        places.setdefault(one.place, {})[one.name] = one
    questions: dict[str, Question] = {place: _list(place, names) for place, names in places.items()}
    questions |= {addon.id: _release(addon) for addon in addons}
    if _brings_kuberay(config):
        questions["kuberay"] = "/apis/apps/v1/deployments", _JSON
    if "reader" in role_takers(config):
        questions |= {kind: (f"/apis/apps/v1/namespaces/kube-system/{kind}", _JSON) for kind in _DRIVERS}
    gateway = _trusted_gateway(config)
    scalers = _scalers(config)
    questions |= {path: (path, _JSON) for path in (*gateway, *scalers)}
    questions["id"] = IDENTITY
    try:
        in_order = ApiServer(config.cluster.context, kubeconfig).answers([*questions.values()])
        answers: dict[str, Answer] = dict(zip(questions, in_order, strict=True))
    except UnansweredError as error:
        answers = dict.fromkeys(questions, error)
    identity = answers.pop("id")
    seen.id = None if isinstance(identity, UnansweredError) else (identity.get("metadata") or {}).get("uid")
    seen.unread = _unread(config.cluster.context, {*places, *gateway, *scalers}, gateway, answers)
    gone = {key for key, answer in answers.items() if isinstance(answer, UnansweredError) and answer.status == 404}
    seen.no_scalers = {engine for path, engine in scalers.items() if path in gone}
    lists = {
        key: answer.get("items") or [] for key, answer in answers.items() if not isinstance(answer, UnansweredError)
    }
    for place, names in places.items():
        for item in lists.get(place, ()):
            if item["metadata"]["name"] in names:
                seen.objects[names[item["metadata"]["name"]]] = item["metadata"]
    for addon in addons:
        # Releases that are stored in another way than Helm's default are not judged.
        with contextlib.suppress(ValueError, LookupError, OSError, EOFError):
            seen.records[addon.id] = _newest(lists[addon.id])
    if "kuberay" in lists:
        from components.cluster.aibrix import other_kuberay

        seen.kuberay = other_kuberay(lists["kuberay"])
    seen.driver = _driver([item for kind in _DRIVERS for item in lists.get(kind, ())])
    if gateway:
        seen.inner_headers = _inner_headers(*(answers[path] for path in gateway))
    return seen


def _driver(workloads: Sequence[Object]) -> str | None:
    """The oldest release among the images of the OSS volumes' driver; None where none is to be seen."""
    templates = [workload["spec"]["template"]["spec"] for workload in workloads]
    images = [str(container.get("image")) for template in templates for container in template["containers"]]
    tags = [each[1] for image in images if (each := _DRIVER_IMAGE.search(image))]
    return min(tags, key=release_key, default=None)


def _inner_headers(gateway: Answer, policies: Answer) -> Mapping[str, str | None]:
    from components.cluster.aibrix import inner_headers

    if isinstance(policies, UnansweredError):
        if policies.status != 404:
            return {}
        policies = {}  # a cluster without the kind has none
    return {} if isinstance(gateway, UnansweredError) else inner_headers(gateway, policies.get("items") or [])


def _newest(secrets: Sequence[Object]) -> Object | None:
    from watch import helm_releases

    newest = max(secrets, key=lambda secret: int(secret["metadata"]["labels"]["version"]), default=None)
    return helm_releases.read(newest) if newest else None


def problems(
    config: StackConfig, stack: str, found: Findings, addons: Sequence[Addon], known: Collection[str] = ()
) -> list[Problem]:
    """What is in the way: one problem for all objects that one part of the stack would take from one owner. `known` has
    the objects in the stack's state."""
    taken: dict[tuple[str, str], list[Wanted]] = {}
    for wanted, metadata in found.objects.items():
        if stack_of(metadata.get("labels")) != stack and str(wanted) not in known:
            taken.setdefault((wanted.part, owner(metadata)), []).append(wanted)
    listed = [_of_objects(config, part, whose, there) for (part, whose), there in taken.items()]
    listed += [
        problem
        for addon in addons
        if addon.id in found.records
        and (addon.adopt or f"Release {addon.id}" not in known)
        and (problem := _of_release(stack, addon, found.records[addon.id]))
    ]
    if found.kuberay:
        why = f"another KubeRay operator runs in this cluster, {found.kuberay}, and two fight over every RayCluster"
        listed.append(Problem("addons.aibrix.kuberay", "aibrix", why, "write kuberay: none, or remove that one"))
    least = fact("fluid", "csi", "rrsa")[fact("fluid", "csi", "fuse")]
    if found.driver and release_key(found.driver) < release_key(least):
        why = f"the cluster's CSI driver for OSS is {found.driver}, and its mounts take roles from {least} on"
        listed.append(
            Problem("weights.bucket.auth", "rrsa", why, "upgrade csi-plugin and csi-provisioner, or write key")
        )
    listed += [
        Problem(
            f"services.{name}.autoscaling.engine", service.autoscaling.engine, *_NO_SCALER[service.autoscaling.engine]
        )
        for name, service in config.services.items()
        if service.autoscaling and service.autoscaling.engine in found.no_scalers
    ]
    listed += [_of_header(header, policy) for header, policy in found.inner_headers.items()]
    return listed


def _of_header(header: str, policy: str | None) -> Problem:
    known = fact("aibrix", "gateway", "object")
    place = known["namespace"]
    why = f"the gateway {place}/{known['name']} sends a request wherever its client says by the header {header}"
    spec = f"headers: {{earlyRequestHeaders: {{remove: [{header}]}}}}"
    instead = f"write in the cluster a ClientTrafficPolicy for it in {place}, with {spec}"
    if policy:
        instead = f"add in the cluster to the spec of its ClientTrafficPolicy {place}/{policy}: {spec}"
    return Problem("addons.aibrix.install", "false", why, f"{instead}, or take gateway out of the services")


def owner(metadata: Object) -> str:
    """Who owns an object, by the clearest sign of it."""
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if stack := stack_of(labels):
        return f"{_STACK}{stack}"
    if release := annotations.get("meta.helm.sh/release-name"):
        return f"Helm release {annotations.get('meta.helm.sh/release-namespace', 'default')}/{release}"
    if holder := next((each for each in metadata.get("ownerReferences") or [] if each.get("controller")), None):
        return f"{holder['kind']} {holder['name']}"
    if manager := labels.get("app.kubernetes.io/managed-by"):
        return f"{manager}, by its label"
    managers = sorted({each["manager"] for each in metadata.get("managedFields") or [] if each.get("manager")})
    return f"field manager {' and '.join(managers)}" if managers else "an unknown owner"


def in_state(stack: str) -> set[str]:
    """`Kind namespace/name` of every cluster object in the stack's state; empty if the state cannot be read."""
    from watch.outcomes import is_in_cluster, resources_of

    command = ["pulumi", "stack", "export", "-s", stack, "--non-interactive"]
    try:
        export = subprocess.run(command, capture_output=True, text=True, timeout=_STATE_SECONDS)
        resources = resources_of(json.loads(export.stdout))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return set()
    return {_told(resource) for resource in resources if is_in_cluster(resource)}


def _told(resource: dict[str, Any]) -> str:
    from watch.outcomes import about

    named = about(resource)
    kind, name = resource["type"].rpartition(":")[2], named.get("name")
    return f"{kind} {named['namespace']}/{name}" if named.get("namespace") else f"{kind} {name}"


def _list(place: str, names: Mapping[str, Wanted]) -> Question:
    (one, *others) = names
    return place if others else f"{place}?fieldSelector={quote(f'metadata.name={one}')}", METADATA


def _release(addon: Addon) -> Question:
    """The question for its deployed revision. A release that was never deployed has an error as its description."""
    selector = quote(f"owner=helm,name={addon.release or addon.name},status=deployed")
    return f"/api/v1/namespaces/{addon.namespace}/secrets?labelSelector={selector}", _JSON


def _brings_kuberay(config: StackConfig) -> bool:
    return installs_aibrix(config) and aibrix_choice(config).kuberay == "aibrix"


def _trusted_gateway(config: StackConfig) -> tuple[str, ...]:
    """The paths of AIBrix's gateway and of its policies for clients, if a model is behind somebody else's gateway."""
    if installs_aibrix(config) or not any(service.gateway == "aibrix" for service in config.services.values()):
        return ()
    known = fact("aibrix", "gateway", "object")
    return (
        f"/apis/gateway.networking.k8s.io/v1/namespaces/{known['namespace']}/gateways/{known['name']}",
        f"/apis/gateway.envoyproxy.io/v1alpha1/namespaces/{known['namespace']}/clienttrafficpolicies",
    )


def _scalers(config: StackConfig) -> dict[str, str]:
    """The path of the API that each autoscaler needs and the stack does not bring, and the autoscaler."""
    used = {service.autoscaling.engine for service in config.services.values() if service.autoscaling}
    return {path: engine for engine, path in fact("kubernetes", "autoscaling", "apis").items() if engine in used}


def _unread(context: str, may_miss: Collection[str], gateway: Collection[str], answers: Mapping[str, Answer]) -> str:
    """What could not be looked up, in one line. A kind that the cluster does not know counts as answered: it has no
    objects."""
    silent = {
        key: error
        for key, error in answers.items()
        if isinstance(error, UnansweredError) and not (error.status == 404 and key in may_miss) and key not in _DRIVERS
    }
    if not silent:
        return ""
    unknown = ["whether names of this stack are taken there"] * (not silent.keys() <= {*gateway})
    unknown += ["whether clients of its gateway can send requests anywhere"] * (not silent.keys().isdisjoint(gateway))
    then = f"{' and '.join(unknown)} is unknown"
    if gone := next((error for error in silent.values() if error.status is None), None):
        return f"the cluster of context {context} does not answer ({gone}): {then}"
    told = ", ".join(f"{_what(key)} ({error})" for key, error in silent.items())
    return f"the cluster of context {context} does not tell {told}: {then}"


def _what(key: str) -> str:
    """A place or an object in words: `secrets in default`."""
    namespace, _, kind = key.partition("/namespaces/")[2].partition("/")
    return f"{kind} in {namespace}" if kind else key.rpartition("/")[2]


def _of_objects(config: StackConfig, part: str, whose: str, there: Sequence[Wanted]) -> Problem:
    key, another = _key(config, part)
    names = sorted(map(str, there))
    value = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    exist, them = ("exists", "it") if len(names) == 1 else ("exist", "them")
    ways = "or take it out there"
    if not whose.startswith(_STACK):
        ways = f"remove {them}, or take {them} over with `pulumi import`"
    return Problem(key, value, f"{exist} already, held by {whose}", f"{another}, {ways}")


def _key(config: StackConfig, part: str) -> tuple[str, str]:
    """The stack file's key that names a part of the stack, and how to give the part another name."""
    from components.cluster.aibrix import INSTANCE

    if part in config.services:
        return f"services.{part}", "give the service another name"
    if part == INSTANCE:
        return "addons.aibrix", "write install: false to use what is there"
    if isinstance(config.weights, PvcWeights) and part == config.weights.claim:
        return "weights.claim", "write another name"
    for name, service in config.services.items():
        # Parts of a model have its name, or its name, a hyphen and a word.
        if f"{part}-".startswith(f"{model_object(service.model)}-"):
            return f"services.{name}.model", "write another cluster.namespace"
    return "cluster.namespace", "write another one"


def _of_release(stack: str, addon: Addon, record: Object | None) -> Problem | None:
    if addon.adopt:
        if record is None:
            why = f"the cluster has no release {addon.id} that is deployed"
            return Problem(f"addons.{addon.name}.install", "adopt", why, "write true, or where it is")
        from components.cluster.cluster_addons import mismatch

        about_chart = record["chart"]["metadata"]
        return mismatch(addon, {key: about_chart.get(key) for key in ("version", "appVersion")})
    if record is None or record["info"].get("description") == release_description(stack):
        return None
    description = record["info"].get("description") or ""
    mark = release_description("")
    whose = f"{_STACK}{description.removeprefix(mark)}" if description.startswith(mark) else "somebody else"
    adoptable = addon.name in ("lws", "fluid")
    key = f"addons.{addon.name}" if adoptable else "addons.aibrix"
    instead = f"write install: {'adopt or false' if adoptable else 'false'} to use it, or remove it there"
    return Problem(key, f"Release {addon.id}", f"exists already, held by {whose}", instead)


def wanted_of(manifest: Mapping[str, Any]) -> Wanted | None:
    """The object that a manifest describes; None if a part of its name is not known yet."""
    metadata = manifest["metadata"]
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        return None
    part = (metadata.get("labels") or {}).get("app.kubernetes.io/instance")
    return Wanted(manifest["apiVersion"], manifest["kind"], namespace, name, part if isinstance(part, str) else "")
