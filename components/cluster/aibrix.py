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
from typing import Any, Literal

import pulumi

from components.cluster.cluster_addons import Addon
from components.cluster.kubernetes import KubernetesObject, Manifest, kubernetes_object, labels
from planning import addons
from planning.aibrix_install import release
from planning.catalog import fact
from planning.images import Images, image_name
from planning.problems import Problem, Refused

INSTANCE = "aibrix"
_SECONDS = 600
_GATEWAY_ADDON, _KINDS_ADDON = "envoy-gateway", "aibrix-kinds"
_CRD, _SECRET, _CLIENT_POLICY = "CustomResourceDefinition", "Secret", "ClientTrafficPolicy"
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
    request with its streamed answer. With `kuberay` none, somebody else runs the operator and owns Ray's CRDs.
    `seconds` limits how long each Deployment takes to become ready, and the gateway to get its address.
    Raises Refused for an unknown release or image, and for `request_seconds` below 1.
    """

    stack: str
    version: str
    documents: Mapping[str, Sequence[Manifest]]
    request_seconds: int
    registry: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    service_annotations: Mapping[str, str] = field(default_factory=dict)
    kuberay: Literal["aibrix", "none"] = "aibrix"
    seconds: int = _SECONDS

    def __post_init__(self) -> None:
        if self.request_seconds < 1:
            why = "is not a positive time"
            raise Refused(Problem("request_seconds", str(self.request_seconds), why, "write at least 1"))
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
    return [_rewritten(document, args) for document in (*documents, *_missing_policies(documents))]


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
            target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": metadata["name"]}
            yield {
                "apiVersion": "gateway.envoyproxy.io/v1alpha1",
                "kind": _CLIENT_POLICY,
                "metadata": {"name": f"{metadata['name']}-clients", "namespace": metadata.get("namespace")},
                "spec": {"targetRefs": [target]},
            }


def _targets(policy: Manifest) -> list[dict[str, Any]]:
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
        if _is_operator(document):
            _set_environment(container, fact("aibrix_install", "kuberay", "environment"))
            container["args"] = _with_gates(container.get("args") or [])


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
    if args.service_annotations:
        service = platform.setdefault("envoyService", {})
        service["annotations"] = {**(service.get("annotations") or {}), **args.service_annotations}
    if not any(_with_image(document)):
        container = platform.setdefault("envoyDeployment", {}).setdefault("container", {})
        container["image"] = release(args.version).envoy_image


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
