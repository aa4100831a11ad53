"""AIBrix in the cluster: the objects of its released manifests, rewritten, and ordered so that up and destroy work.

Not here: where the manifests come from (`stacks.manifests`), what a release needs to be installed
(`planning.aibrix_install`), models and their routes. Envoy Gateway is an add-on (`gateway_addon`) that is created
before AIBrix and deleted after it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pulumi

from components.cluster.cluster_addons import Addon
from components.cluster.credentials import key_secret
from components.cluster.kubernetes import KubernetesObject, Manifest, kubernetes_object, labels
from planning import addons, aibrix_features, timeouts
from planning.aibrix_install import release
from planning.catalog import fact
from planning.images import Images, image_name
from planning.names import API_KEY
from planning.problems import Problem, Refused

INSTANCE = "aibrix"
_SECONDS = 600
_GATEWAY_ADDON, _KINDS_ADDON = "envoy-gateway", "aibrix-kinds"
_CRD, _SECRET, _CLIENT_POLICY = "CustomResourceDefinition", "Secret", "ClientTrafficPolicy"
_KEY_SECRET, _KEY_FOLDER = "modelserve-gateway-key", "/etc/modelserve"
_KEY_CHECK = Path(__file__).with_name("gateway_key.lua")
_TOOLS = "modelserve-tools"
_RAY_GROUP = "ray.io"
_CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "GatewayClass"}
_WEBHOOKS = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
# A patch may refer to routes, a route to the gateway, a gateway to its class, a class to its proxy. Other kinds that
# are in no layer come after the namespace and before the Deployments.
_LAYERS = (
    {"Namespace"},
    {"Deployment"},
    {"EnvoyProxy"},
    {"GatewayClass"},
    {"Gateway"},
    {"HTTPRoute"},
    {_CLIENT_POLICY, "EnvoyExtensionPolicy"},
    {"EnvoyPatchPolicy"},
)
_GATEWAY_LAYERS = _LAYERS[2:]
_READY = {
    "Gateway": "condition=Programmed",
    "EnvoyPatchPolicy": 'jsonpath={.status.ancestors[*].conditions[?(@.type=="Programmed")].status}=True',
}
# Fields that AIBrix's certificate rotator fills in (pkg/cert).
_FILLED = {_SECRET: ["data"], **{kind: ["webhooks[*].clientConfig.caBundle"] for kind in _WEBHOOKS}}


@dataclass(frozen=True, kw_only=True)
class AibrixArgs:
    """One installation of AIBrix `version`.

    `documents` maps `core`, and `crds` and `dependency` if the release has them, to the objects of its manifests. Of
    the dependencies only Ray's CRDs are used. `registry` and `images` say where images are pulled from
    (`planning.images.Images`). `service_annotations` go on the gateway's load balancer. `request_seconds` limits a
    request with its streamed answer; a proxy that is to end waits `drain_seconds` for running ones. With `api_key`, a
    secret Output, the gateway asks every request for it. There are `replicas` proxies, and as many plugins. With
    `kuberay` none, somebody else runs the operator and owns Ray's CRDs.
    `seconds` limits how long each Deployment takes to become ready, and the gateway to get its address.
    Raises Refused for an unknown release or image, and for `request_seconds`, `drain_seconds` or `replicas` below 1.
    """

    stack: str
    version: str
    documents: Mapping[str, Sequence[Manifest]]
    request_seconds: int
    drain_seconds: int
    replicas: int = 2
    api_key: pulumi.Output[str] | None = None
    registry: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    service_annotations: Mapping[str, str] = field(default_factory=dict)
    kuberay: Literal["aibrix", "none"] = "aibrix"
    seconds: int = _SECONDS

    def __post_init__(self) -> None:
        for name in ("request_seconds", "drain_seconds", "replicas"):
            if getattr(self, name) < 1:
                raise Refused(Problem(name, str(getattr(self, name)), "is too little", "write at least 1"))
        missing = sorted(release(self.version).manifests.keys() - self.documents.keys())
        if missing:
            why = f"the manifest {missing[0]} is missing"
            raise Refused(Problem("AIBrix", self.version, why, "give its path or URL"))
        self.sources.require_known(images(self))

    @property
    def sources(self) -> Images:
        """Where images are pulled from."""
        return Images(registry=self.registry, overrides=self.images)


def gateway_addon(version: str, sources: Images | None = None) -> Addon:
    """Envoy Gateway as this release of AIBrix needs it.

    The version is fixed: AIBrix patches the generated configuration by names and positions of that version, and a patch
    that does not match leaves requests without a route. Raises PlanError for an unknown release.
    """
    source = addons.source(_GATEWAY_ADDON, "upstream", "")
    pinned = release(version).envoy_gateway
    values = dict(source.values)
    if sources and (sources.registry or sources.overrides):
        # The rate limiter's image is left out: it runs only where somebody configures Envoy's own limits.
        values["global"] = {"images": {"envoyGateway": {"image": sources.of(_gateway_image(pinned))}}}
    return Addon(
        name=_GATEWAY_ADDON,
        release=source.release,
        chart=source.chart,
        version=pinned,
        app_version=pinned,
        namespace=source.namespace,
        values=values,
    )


def kinds_addon(args: AibrixArgs, chart: str) -> Addon:
    """AIBrix's and Ray's CRDs as one Helm release of the local `chart`, which has them in its `crds/`.

    Helm creates the missing ones, leaves existing ones alone, and never deletes one, so a destroy deletes nobody's
    fleets. They are not one Pulumi resource each: their schemas have a hundred thousand values, which Pulumi would
    compare and log for minutes at every preview.
    """
    source = addons.source(_KINDS_ADDON, "upstream", "")
    return Addon(
        name=_KINDS_ADDON,
        # A new release of AIBrix may bring new CRDs, and Helm creates CRDs only at an install.
        release=f"{source.release}-{args.version.replace('.', '-')}",
        chart=chart,
        version=args.version,
        namespace=source.namespace,
    )


def kinds_chart(args: AibrixArgs) -> dict[str, str]:
    """The files of that chart, by path."""
    about = {"apiVersion": "v2", "name": _KINDS_ADDON, "version": args.version, "description": "AIBrix's kinds"}
    files = {f"crds/{kind['metadata']['name']}.yaml": json.dumps(kind) for kind in crds(args)}
    return {"Chart.yaml": json.dumps(about), **files}


def _gateway_image(version: str) -> str:
    return f"docker.io/envoyproxy/gateway:{version}"


def crds(args: AibrixArgs) -> list[Manifest]:
    """The CRDs, without labels of this stack: others use them too, and they stay when the stack is destroyed."""
    return [_bare(document) for document in _chosen(args) if document["kind"] == _CRD]


def objects(args: AibrixArgs) -> list[Manifest]:
    """Everything but the CRDs, as it goes into the cluster."""
    documents = [document for document in _chosen(args) if document["kind"] != _CRD]
    key = _key_checks(documents) if args.api_key is not None else ()
    return [_rewritten(document, args) for document in (*documents, *_missing_policies(documents), *key)]


def gateway_key(args: AibrixArgs) -> Manifest:
    """The Secret with the key that the gateway asks for, beside its proxies. Needs `args.api_key`."""
    assert args.api_key is not None
    return key_secret(_KEY_SECRET, args.stack, _proxies_namespace(), INSTANCE, {API_KEY: args.api_key})


def _proxies_namespace() -> str:
    return addons.source(_GATEWAY_ADDON, "upstream", "").namespace


def images(args: AibrixArgs) -> set[str]:
    """Every image that an installation runs, with Envoy Gateway's, as the manifests name it."""
    aibrix = release(args.version)
    names = {aibrix.envoy_image, _gateway_image(aibrix.envoy_gateway)}
    for document in _chosen(args):
        if document["kind"] != _CRD:
            names |= {holder["image"] for holder in _with_image(document)}
    return names


def other_kuberay(deployments: Sequence[Mapping[str, Any]], namespace: str = "aibrix-system") -> str | None:
    """`namespace/name` of a Deployment that runs another KubeRay operator than AIBrix's; None if there is none.

    `deployments` are whole objects; AIBrix's operator is the one in `namespace`.
    """
    for deployment in deployments:
        metadata, spec = deployment["metadata"], deployment.get("spec") or {}
        containers = spec.get("template", {}).get("spec", {}).get("containers") or []
        names = [image_name(container.get("image") or "") for container in containers]
        is_operator = any(name.endswith(("kuberay/operator", "kuberay-operator")) for name in names)
        if is_operator and metadata["namespace"] != namespace and spec.get("replicas") != 0:
            return f"{metadata['namespace']}/{metadata['name']}"
    return None


def inner_headers(gateway: Mapping[str, Any], policies: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """Headers with which clients of a Gateway may say where their requests go, and the ClientTrafficPolicy that ought
    to take them away, None where there is none. Both as the cluster has them.

    Of a listener's own policies, else of the Gateway's, Envoy Gateway takes the oldest (v1.2.8
    internal/gatewayapi/clienttrafficpolicy.go), and none of one that it does not accept.
    """
    owners: dict[str, str | None] = {}
    for listener in gateway["spec"]["listeners"]:
        policy = _policy_of(gateway, listener["name"], policies)
        early = ((policy or {"spec": {}})["spec"].get("headers") or {}).get("earlyRequestHeaders") or {}
        taken = {header.lower() for header in early.get("remove") or []}
        if policy is not None and not _is_accepted(policy):
            taken = set()
        for header in fact("aibrix_install", "gateway", "innerHeaders"):
            if header not in taken:
                owners[header] = policy["metadata"]["name"] if policy else None
    return owners


def _policy_of(
    gateway: Mapping[str, Any], listener: str, policies: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    own: list[Mapping[str, Any]] = []
    general: list[Mapping[str, Any]] = []
    for policy in sorted(policies, key=lambda each: each["metadata"].get("creationTimestamp") or ""):
        for target in _targets(policy):
            if target["name"] == gateway["metadata"]["name"] and target.get("sectionName") in (None, listener):
                (own if target.get("sectionName") else general).append(policy)
        for selector in policy["spec"].get("targetSelectors") or []:
            wanted, given = selector.get("matchLabels") or {}, gateway["metadata"].get("labels") or {}
            if selector["kind"] == "Gateway" and wanted.items() <= given.items():
                general.append(policy)
    return next(iter([*own, *general]), None)


def _is_accepted(policy: Mapping[str, Any]) -> bool:
    """Unless its controller has said that it is not."""
    ancestors = (policy.get("status") or {}).get("ancestors") or []
    told = [condition for ancestor in ancestors for condition in ancestor.get("conditions") or []]
    return not any(condition["type"] == "Accepted" and condition["status"] == "False" for condition in told)


def _chosen(args: AibrixArgs) -> Iterator[Manifest]:
    for name, documents in args.documents.items():
        for document in documents:
            if name == "dependency" and not _is_ray_kind(document):
                continue  # Envoy Gateway is a separate add-on
            if args.kuberay == "aibrix" or not _is_kuberay(document):
                yield document


def _is_ray_kind(document: Manifest) -> bool:
    return document["kind"] == _CRD and document["spec"]["group"] == _RAY_GROUP


def _is_kuberay(document: Manifest) -> bool:
    """Whether it belongs to the KubeRay operator: by its name, or as a role for Ray's kinds only."""
    groups = {group for rule in document.get("rules") or [] for group in rule.get("apiGroups") or []}
    return _is_ray_kind(document) or groups == {_RAY_GROUP} or _is_operator(document)


def _is_operator(document: Manifest) -> bool:
    return "kuberay-operator" in document["metadata"]["name"]


def _bare(document: Manifest) -> Manifest:
    """The document without fields that only the API server writes and that generators leave behind."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "creationTimestamp"}
    return {**{key: value for key, value in document.items() if key != "status"}, "metadata": metadata}


def _rewritten(document: Manifest, args: AibrixArgs) -> Manifest:
    document = copy.deepcopy(_bare(document))
    metadata, kind = document["metadata"], document["kind"]
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels(args.stack, INSTANCE)}
    if kind in _CLUSTER_WIDE | _WEBHOOKS:
        metadata.pop("namespace", None)  # the server drops it, so Pulumi would add it again at every run
    if kind in _READY:
        _annotate(metadata, "pulumi.com/waitFor", _READY[kind])
    if kind == "Service":
        # Pulumi would watch each Service for ten seconds; it waits for the Deployments behind them anyway.
        _annotate(metadata, "pulumi.com/skipAwait", "true")
    if kind in _REWRITES:
        _REWRITES[kind](document, args)
    for holder in _with_image(document):
        holder["image"] = args.sources.of(holder["image"])
    return document


def _annotate(metadata: dict[str, Any], key: str, value: str) -> None:
    metadata["annotations"] = {**(metadata.get("annotations") or {}), key: value}


def _missing_policies(documents: Sequence[Manifest]) -> Iterator[Manifest]:
    """A ClientTrafficPolicy for each Gateway without one: Envoy Gateway uses only the oldest policy of a target."""
    covered = {
        (document["metadata"].get("namespace"), target["name"])
        for document in documents
        if document["kind"] == _CLIENT_POLICY
        for target in _targets(document)
    }
    for document in documents:
        metadata = document["metadata"]
        if document["kind"] == "Gateway" and (metadata.get("namespace"), metadata["name"]) not in covered:
            yield {
                "apiVersion": "gateway.envoyproxy.io/v1alpha1",
                "kind": _CLIENT_POLICY,
                "metadata": {"name": f"{metadata['name']}-clients", "namespace": metadata.get("namespace")},
                "spec": {"targetRefs": [_target(document)]},
            }


def _key_checks(documents: Sequence[Manifest]) -> Iterator[Manifest]:
    """A policy for each Gateway that puts the check of the key before all that its proxies do. Not a SecurityPolicy:
    it reaches no route that is patched in, and of Envoy Gateway 1.2 none takes a key (it came by 1.3)."""
    code = _KEY_CHECK.read_text().replace("FILE", f"{_KEY_FOLDER}/{API_KEY}")
    known = fact("aibrix_install", "gateway", "firstFilter")
    value = {"name": known["name"], "typed_config": {"@type": known["type"], "default_source_code": {}}}
    value["typed_config"]["default_source_code"]["inline_string"] = code
    for document in documents:
        if document["kind"] == "Gateway":
            metadata = document["metadata"]
            yield {
                "apiVersion": "gateway.envoyproxy.io/v1alpha1",
                "kind": "EnvoyPatchPolicy",
                "metadata": {"name": f"{metadata['name']}-key", "namespace": metadata["namespace"]},
                "spec": {
                    "type": "JSONPatch",
                    "targetRef": _target(document),
                    "jsonPatches": [
                        {
                            "type": known["in"],
                            "name": f"{metadata['namespace']}/{metadata['name']}/{listener['name']}",
                            "operation": {"op": "add", "path": known["path"], "value": value},
                        }
                        for listener in document["spec"]["listeners"]
                    ],
                },
            }


def _target(gateway: Manifest) -> dict[str, Any]:
    return {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway["metadata"]["name"]}


def _targets(policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    spec = policy["spec"]
    return [*(spec.get("targetRefs") or []), *([spec["targetRef"]] if "targetRef" in spec else [])]


def _with_image(value: Any) -> Iterator[dict[str, Any]]:
    """Every part of an object that names an image: containers, and Envoy's containers in a proxy's patch."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str):
            yield value
        for child in value.values():
            yield from _with_image(child)
    elif isinstance(value, list):
        for child in value:
            yield from _with_image(child)


def _rewrite_deployment(document: Manifest, args: AibrixArgs) -> None:
    containers = document["spec"]["template"]["spec"]["containers"]
    variable = release(args.version).gateway_timeout_variable
    for container in containers:
        if variable and image_name(container["image"]) == "aibrix/controller-manager":
            _set_environment(container, {variable: str(args.request_seconds)})
        if image_name(container["image"]) == "aibrix/gateway-plugins":
            _keep_answers(document["spec"], container, args)
        if _is_operator(document):
            _set_environment(container, fact("aibrix_install", "kuberay", "environment"))
            container["args"] = _with_gates(container.get("args") or [])


def _keep_answers(spec: dict[str, Any], container: dict[str, Any], args: AibrixArgs) -> None:
    """Lets the plugin end without cutting answers, all of which go through it: at SIGTERM it aborts every stream.

    Envoy opens none to a pod that is no endpoint any more, and lets go of its connections when the last answer is
    given: until then a preStop hook waits. The plugin's image has no shell, so an init container brings one.
    """
    spec["replicas"] = args.replicas
    pod, known = spec["template"]["spec"], fact("aibrix_install", "gateway", "plugin")
    named = {variable["name"] for variable in container.get("env") or []}
    if args.replicas > 1 and known["stateSync"] in named:
        _set_environment(container, {known["stateSync"]: "true"})
    shells = [each["image"] for each in pod.get("initContainers") or [] if image_name(each["image"]) == "busybox"]
    if not shells:
        return
    mount = {"name": _TOOLS, "mountPath": f"/{_TOOLS}"}
    shell = f"/{_TOOLS}/busybox"
    pod["initContainers"].append(
        {
            "name": _TOOLS,
            "image": shells[0],
            "command": ["cp", "/bin/busybox", shell],
            "volumeMounts": [mount],
        }
    )
    pod.setdefault("volumes", []).append({"name": _TOOLS, "emptyDir": {}})
    container.setdefault("volumeMounts", []).append(mount)
    hook = [shell, "sh", "-c", _until_let_go(shell, known["port"], args.drain_seconds)]
    container["lifecycle"] = {"preStop": {"exec": {"command": hook}}}
    pod["terminationGracePeriodSeconds"] = timeouts.grace_seconds(args.drain_seconds)


def _until_let_go(shell: str, port: int, seconds: int) -> str:
    """Waits while anybody is connected to the port (state 01 of /proc/net/tcp), so many seconds at most."""
    connected = f"{shell} grep -q ':{port:04X} [0-9A-F]*:[0-9A-F]* 01 ' /proc/net/tcp /proc/net/tcp6"
    return (
        f"{shell} sleep {timeouts.SETTLE_SECONDS}; left={seconds}; "
        f'while [ "$left" -gt 0 ] && {connected}; do {shell} sleep 1; left=$((left - 1)); done'
    )


def _rewrite_budget(document: Manifest, args: AibrixArgs) -> None:
    # A budget that must keep the only pod would block every drain of that pod's node.
    document["spec"].pop("minAvailable", None)
    document["spec"]["maxUnavailable"] = 1


def _rewrite_route(document: Manifest, args: AibrixArgs) -> None:
    """The plugin reads the model's name only out of what this route takes, and the release's own leaves paths out."""
    if document["metadata"]["name"] != fact("aibrix_install", "gateway", "reservedRoute"):
        return
    matches = document["spec"]["rules"][0].setdefault("matches", [])
    prefixes = [match["path"]["value"].rstrip("/") for match in matches if "path" in match]
    for path in aibrix_features.route_paths(args.version):
        if matches and not any(f"{path}/".startswith(f"{prefix}/") for prefix in prefixes):
            matches.append({"path": {"type": "PathPrefix", "value": path}})


def _set_environment(container: dict[str, Any], values: Mapping[str, str]) -> None:
    others = [variable for variable in container.get("env") or [] if variable["name"] not in values]
    container["env"] = others + [{"name": name, "value": value} for name, value in values.items()]


def _with_gates(arguments: Sequence[str]) -> list[str]:
    flag = "--feature-gates="
    gates: dict[str, Any] = {}
    for argument in arguments:
        if argument.startswith(flag):
            gates |= dict(gate.split("=", 1) for gate in argument.removeprefix(flag).split(",") if gate)
    gates |= fact("aibrix_install", "kuberay", "featureGates")
    others = [argument for argument in arguments if not argument.startswith(flag)]
    return [flag + ",".join(f"{gate}={value}" for gate, value in gates.items()), *others]


def _rewrite_patches(document: Manifest, args: AibrixArgs) -> None:
    """Sets both timeouts: Envoy cuts off an answer after `timeout`, and one that sends no byte for `idle_timeout` (by
    default five minutes)."""
    for patch in document["spec"]["jsonPatches"]:
        value = patch["operation"].get("value")
        if isinstance(value, dict) and "route" in value:
            value["route"] |= {"timeout": f"{args.request_seconds}s", "idle_timeout": f"{args.request_seconds}s"}


def _rewrite_client_policy(document: Manifest, args: AibrixArgs) -> None:
    """Removes inner headers from clients' requests. Envoy routes a request with a routing strategy to the pod that the
    header `target-pod` names; only AIBrix's gateway plugin may set it."""
    headers = document["spec"].setdefault("headers", {}).setdefault("earlyRequestHeaders", {})
    headers["remove"] = sorted({*(headers.get("remove") or []), *fact("aibrix_install", "gateway", "innerHeaders")})


def _rewrite_extension(document: Manifest, args: AibrixArgs) -> None:
    seconds = fact("aibrix_install", "gateway", "messageSeconds")
    for processor in document["spec"].get("extProc") or []:
        timeout = re.fullmatch(r"(\d+)s", processor.get("messageTimeout", ""))
        if timeout and int(timeout[1]) < seconds:
            processor["messageTimeout"] = f"{seconds}s"


def _rewrite_proxy(document: Manifest, args: AibrixArgs) -> None:
    platform = document["spec"].setdefault("provider", {"type": "Kubernetes"}).setdefault("kubernetes", {})
    deployment = platform.setdefault("envoyDeployment", {})
    deployment["replicas"] = args.replicas
    if args.replicas == 1:
        platform.pop("envoyPDB", None)
    document["spec"]["shutdown"] = {"drainTimeout": f"{args.drain_seconds}s"}
    if args.api_key is not None:
        volume = {"name": _KEY_SECRET, "secret": {"secretName": _KEY_SECRET}}
        deployment.setdefault("pod", {}).setdefault("volumes", []).append(volume)
        mount = {"name": _KEY_SECRET, "mountPath": _KEY_FOLDER, "readOnly": True}
        deployment.setdefault("container", {}).setdefault("volumeMounts", []).append(mount)
    if args.service_annotations:
        service = platform.setdefault("envoyService", {})
        service["annotations"] = {**(service.get("annotations") or {}), **args.service_annotations}
    if not any(_with_image(document)):
        deployment.setdefault("container", {})["image"] = release(args.version).envoy_image


def _without_data(document: Manifest, args: AibrixArgs) -> None:
    # Pulumi would write the placeholder back over the certificate; changed data even makes it replace the Secret.
    document.pop("data", None)


def _without_authority(document: Manifest, args: AibrixArgs) -> None:
    for webhook in document["webhooks"]:
        webhook["clientConfig"].pop("caBundle", None)


_REWRITES = {
    "Deployment": _rewrite_deployment,
    "EnvoyPatchPolicy": _rewrite_patches,
    _CLIENT_POLICY: _rewrite_client_policy,
    "EnvoyExtensionPolicy": _rewrite_extension,
    "EnvoyProxy": _rewrite_proxy,
    "HTTPRoute": _rewrite_route,
    "PodDisruptionBudget": _rewrite_budget,
    _SECRET: _without_data,
    **dict.fromkeys(_WEBHOOKS, _without_authority),
}


class Aibrix(pulumi.ComponentResource):
    """The installation without its CRDs, which are an add-on (`kinds_addon`) that must be there before.

    Objects that AIBrix's controllers manage must depend on `controllers`, and users of its gateway on `parts`, so that
    a destroy deletes AIBrix after them.
    """

    controllers: list[pulumi.Resource]
    parts: list[pulumi.Resource]
    gateway: KubernetesObject
    """The Gateway; its status has the address."""

    def __init__(self, name: str, args: AibrixArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:cluster:Aibrix", name, {}, opts)
        self._name, self._args = name, args
        manifests = objects(args)
        namespaces = self._layer(manifests, {"Namespace"}, [])
        other_kinds = {manifest["kind"] for manifest in manifests} - set().union(*_LAYERS) - _WEBHOOKS
        basis = self._layer(manifests, other_kinds, namespaces)
        if args.api_key is not None:
            key = pulumi.ResourceOptions(parent=self, depends_on=namespaces)
            basis = [*basis, kubernetes_object(f"{name}-gateway-key", gateway_key(args), key)]
        deployments = self._layer(manifests, {"Deployment"}, basis)
        # Webhooks come after their controller: before it answers, they only slow requests down.
        webhooks = self._layer(manifests, _WEBHOOKS, deployments)
        self.controllers = [*deployments, *webhooks]
        last = deployments
        for kinds in _GATEWAY_LAYERS:
            last = self._layer(manifests, kinds, last) or last
        self.parts = [*last, *webhooks]
        self.register_outputs({})

    def _layer(self, manifests: list[Manifest], kinds: set[str], after: list[pulumi.Resource]) -> list[pulumi.Resource]:
        """Creates the manifests of these kinds after the resources `after`; a destroy deletes them before those."""
        resources: list[pulumi.Resource] = []
        for manifest in manifests:
            if manifest["kind"] not in kinds:
                continue
            timeout = f"{self._args.seconds}s"
            opts = pulumi.ResourceOptions(
                parent=self,
                depends_on=after,
                ignore_changes=_FILLED.get(manifest["kind"]),
                custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout),
            )
            resource = kubernetes_object(_logical(self._name, manifest), manifest, opts)
            resources.append(resource)
            if manifest["kind"] == "Gateway":
                self.gateway = resource
        return resources


def _logical(name: str, manifest: Manifest) -> str:
    return f"{name}-{manifest['kind'].lower()}-{manifest['metadata']['name']}"
