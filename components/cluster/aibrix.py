"""AIBrix in the cluster: the objects of its released manifests, rewritten, in an order that up and destroy survive.

Not here: where the manifests are from (`stacks.manifests`), what installing a release takes
(`planning.aibrix_install`), models and their routes. Envoy Gateway is an add-on (`gateway_addon`) that must be there
before, and go after.
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
from planning.aibrix_install import Images, image_name, release
from planning.catalog import fact
from planning.problems import Problem, Refused

INSTANCE = "aibrix"
_SECONDS = 600
_GATEWAY_ADDON, _KINDS_ADDON = "envoy-gateway", "aibrix-kinds"
_CRD, _SECRET, _CLIENT_POLICY = "CustomResourceDefinition", "Secret", "ClientTrafficPolicy"
_RAY_GROUP = "ray.io"
_CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "GatewayClass"}
_WEBHOOKS = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
# A patch may name routes, a route names the gateway, a gateway its class, a class its proxy; all else is before them.
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
# What AIBrix's certificate rotator fills in (pkg/cert).
_FILLED = {_SECRET: ["data"], **{kind: ["webhooks[*].clientConfig.caBundle"] for kind in _WEBHOOKS}}


@dataclass(frozen=True, kw_only=True)
class AibrixArgs:
    """One installation. `version` is AIBrix's, `documents` maps `core`, and where the release has them `crds` and
    `dependency`, to the objects of its manifests; of the dependencies only Ray's kinds are taken.

    `registry` and `images` say where images are pulled from (`planning.aibrix_install.Images`).
    `service_annotations` are those of the gateway's load balancer. `request_seconds` is how long a request may take,
    its streamed answer included. With `kuberay` none, somebody else runs the operator and owns Ray's kinds.
    `seconds` is how long each Deployment may take to get ready, and the gateway to get its address.
    Raises Refused for a release or an image that is not known, and for what is no number of seconds.
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
            raise Refused(Problem("request_seconds", str(self.request_seconds), "is no time", "write at least 1"))
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
    """Envoy Gateway as this release of AIBrix needs it. Its version is no choice: AIBrix patches what it generates by
    the names and positions of that version, and a patch that does not fit leaves requests without a route.

    Raises PlanError for a release that is not known.
    """
    source = addons.source(_GATEWAY_ADDON, "upstream", "")
    pinned = release(version).envoy_gateway
    values = dict(source.values)
    if sources and (sources.registry or sources.overrides):
        # Not its rate limiter's, which runs only where somebody asks for limits of Envoy's own.
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
    """AIBrix's and Ray's kinds as one release of the local `chart`, which has them in its `crds/`: Helm makes those
    that are not there, leaves others' alone, and never deletes one, so that no destroy takes anybody's fleets along.

    Not one resource each: their schemas have a hundred thousand values, which the engine would compare and log at
    every preview, for minutes.
    """
    source = addons.source(_KINDS_ADDON, "upstream", "")
    return Addon(
        name=_KINDS_ADDON,
        # Another release of AIBrix brings kinds that the one before had not, and Helm makes kinds only at an install.
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
    """The kinds. They carry nothing of this stack: others use them too, and they stay when it goes."""
    return [_bare(document) for document in _chosen(args) if document["kind"] == _CRD]


def objects(args: AibrixArgs) -> list[Manifest]:
    """Everything but the kinds, as it goes into the cluster."""
    given = [document for document in _chosen(args) if document["kind"] != _CRD]
    return [_rewritten(document, args) for document in (*given, *_missing_policies(given))]


def images(args: AibrixArgs) -> set[str]:
    """Every image that an installation runs, Envoy Gateway's among them, as the manifests have it."""
    known = release(args.version)
    found = {known.envoy_image, _gateway_image(known.envoy_gateway)}
    for document in _chosen(args):
        if document["kind"] != _CRD:
            found |= {holder["image"] for holder in _with_image(document)}
    return found


def other_kuberay(deployments: Sequence[Mapping[str, Any]], namespace: str = "aibrix-system") -> str | None:
    """Namespace and name of a Deployment that runs a KubeRay operator and is not AIBrix's own; None without.

    `deployments` are whole objects; AIBrix's is the one in `namespace`.
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
                continue  # Envoy Gateway is an add-on of its own
            if args.kuberay == "aibrix" or not _is_kuberay(document):
                yield document


def _is_ray_kind(document: Manifest) -> bool:
    return document["kind"] == _CRD and document["spec"]["group"] == _RAY_GROUP


def _is_kuberay(document: Manifest) -> bool:
    """Whether it is of the operator: by its name, or as a role for nothing but Ray's kinds."""
    groups = {group for rule in document.get("rules") or [] for group in rule.get("apiGroups") or []}
    return _is_ray_kind(document) or groups == {_RAY_GROUP} or _is_operator(document)


def _is_operator(document: Manifest) -> bool:
    return "kuberay-operator" in document["metadata"]["name"]


def _bare(document: Manifest) -> Manifest:
    """Without what only the API server may write, and generators leave behind."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "creationTimestamp"}
    return {**{key: value for key, value in document.items() if key != "status"}, "metadata": metadata}


def _rewritten(document: Manifest, args: AibrixArgs) -> Manifest:
    document = copy.deepcopy(_bare(document))
    metadata, kind = document["metadata"], document["kind"]
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels(args.stack, INSTANCE)}
    if kind in _CLUSTER_WIDE | _WEBHOOKS:
        metadata.pop("namespace", None)  # one that the server drops would be put there again at every run
    if kind in _READY:
        _annotate(metadata, "pulumi.com/waitFor", _READY[kind])
    if kind == "Service":
        # The plugin would watch each for ten seconds; the Deployments behind them are waited for.
        _annotate(metadata, "pulumi.com/skipAwait", "true")
    if kind in _REWRITES:
        _REWRITES[kind](document, args)
    for holder in _with_image(document):
        holder["image"] = args.sources.of(holder["image"])
    return document


def _annotate(metadata: dict[str, Any], key: str, value: str) -> None:
    metadata["annotations"] = {**(metadata.get("annotations") or {}), key: value}


def _missing_policies(documents: Sequence[Manifest]) -> Iterator[Manifest]:
    """A ClientTrafficPolicy for each Gateway that has none: Envoy Gateway takes one for a target, the oldest."""
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
    """Every part of an object that names an image: containers, also those of Envoy that a proxy's patch describes."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str):
            yield value
        for below in value.values():
            yield from _with_image(below)
    elif isinstance(value, list):
        for below in value:
            yield from _with_image(below)


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
    """Envoy cuts off a whole answer after `timeout`, and one without a byte for `idle_timeout` (five minutes)."""
    for patch in document["spec"]["jsonPatches"]:
        value = patch["operation"].get("value")
        if isinstance(value, dict) and "route" in value:
            value["route"] |= {"timeout": f"{args.request_seconds}s", "idle_timeout": f"{args.request_seconds}s"}


def _rewrite_client_policy(document: Manifest, args: AibrixArgs) -> None:
    """Envoy sends what asks for a strategy wherever `target-pod` says. The plugin sets it, and nobody else may."""
    headers = document["spec"].setdefault("headers", {}).setdefault("earlyRequestHeaders", {})
    headers["remove"] = sorted({*(headers.get("remove") or []), *fact("aibrix_install", "gateway", "innerHeaders")})


def _rewrite_extension(document: Manifest, args: AibrixArgs) -> None:
    enough = fact("aibrix_install", "gateway", "messageSeconds")
    for processor in document["spec"].get("extProc") or []:
        given = re.fullmatch(r"(\d+)s", processor.get("messageTimeout", ""))
        if given and int(given[1]) < enough:
            processor["messageTimeout"] = f"{enough}s"


def _rewrite_proxy(document: Manifest, args: AibrixArgs) -> None:
    platform = document["spec"].setdefault("provider", {"type": "Kubernetes"}).setdefault("kubernetes", {})
    if args.service_annotations:
        service = platform.setdefault("envoyService", {})
        service["annotations"] = {**(service.get("annotations") or {}), **args.service_annotations}
    if not any(_with_image(document)):
        container = platform.setdefault("envoyDeployment", {}).setdefault("container", {})
        container["image"] = release(args.version).envoy_image


def _without_data(document: Manifest, args: AibrixArgs) -> None:
    # A place-holder would be put back over the certificate, and a Secret's data even replaces the Secret.
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
    """The installation, without its kinds: those are an add-on (`kinds_addon`) that must be there before.

    What AIBrix's controllers work on depends on `controllers`, what needs its gateway on `parts`: then they outlive it.
    """

    controllers: list[pulumi.Resource]
    parts: list[pulumi.Resource]
    gateway: KubernetesObject
    """The Gateway, with its address in its status."""

    def __init__(self, name: str, args: AibrixArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:cluster:Aibrix", name, {}, opts)
        self._name, self._args = name, args
        left = objects(args)
        namespaces = self._layer(left, {"Namespace"}, [])
        basis = self._layer(left, {each["kind"] for each in left} - set().union(*_LAYERS) - _WEBHOOKS, namespaces)
        deployments = self._layer(left, {"Deployment"}, basis)
        # Before its controller answers, a webhook only makes requests slow.
        webhooks = self._layer(left, _WEBHOOKS, deployments)
        self.controllers = [*deployments, *webhooks]
        last = deployments
        for kinds in _GATEWAY_LAYERS:
            last = self._layer(left, kinds, last) or last
        self.parts = [*last, *webhooks]
        self.register_outputs({})

    def _layer(self, manifests: list[Manifest], kinds: set[str], after: list[pulumi.Resource]) -> list[pulumi.Resource]:
        """Those of these kinds, made after what is in `after` and gone before it."""
        made: list[pulumi.Resource] = []
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
            made.append(resource)
            if manifest["kind"] == "Gateway":
                self.gateway = resource
        return made


def _logical(name: str, manifest: Manifest) -> str:
    return f"{name}-{manifest['kind'].lower()}-{manifest['metadata']['name']}"
