"""The stack file's sections on cloud, cluster, add-ons and monitoring. Weights are in `config.weights`."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from config.abilities import CLOUDS
from config.errors import refuse, rule
from config.strict import Judging, Strict
from config.types import (
    AddonRelease,
    ChartRepository,
    Id,
    Image,
    InSchema,
    Labels,
    Namespace,
    Positive,
    Region,
    Registry,
    Seconds,
    StackNamespace,
    Url,
    pattern,
)
from planning import addons, aibrix_features
from planning.catalog import fact
from planning.names import API_KEY

_PROVIDER = r"acs:ram::[0-9]+:oidc-provider/[A-Za-z0-9_.-]+"
_EXAMPLE_PROVIDER = "acs:ram::1234567890123456:oidc-provider/ack-rrsa-CLUSTER"


@dataclass(frozen=True)
class ValidationContext(Judging):
    """What rules of one section need from other sections. It is read leniently from the raw file, so that rules run
    whatever else is wrong.

    `cloud` is None if the file names no known one. `pods` are the shapes of the GPU series, or what a node of the
    instance type has (`planning/catalog/clouds.json`); None if unknown. `notice` is how many seconds an evicted pod
    has; None if the cloud does not evict pods. `more_pods` and `more_regions` are names that the stack file adds.
    `oidc`: the file has cluster.oidc.
    """

    cloud: str | None = None
    series: str | None = None
    pods: Mapping[str, Any] | None = None
    secrets: frozenset[str] = frozenset()
    lws: str | None = None
    more_pods: frozenset[str] = frozenset()
    more_regions: tuple[str, ...] = ()
    aibrix: str | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    notice: int | None = None
    oidc: bool = False


def context_of(info: ValidationInfo) -> ValidationContext:
    """The validation context: what a validator may read of other sections."""
    assert isinstance(info.context, ValidationContext)
    return info.context


def _known_region(value: str, info: ValidationInfo) -> str:
    """A rule of the clouds' regions: a misspelt region has no bucket, and the pods would look for one there."""
    cloud = info.data.get("kind", "")
    known = [*fact(CLOUDS[cloud].stores[0], "regions", "known"), *context_of(info).more_regions]
    if value not in known:
        near = difflib.get_close_matches(value, known, n=3, cutoff=0.6) or known
        instead = f"write one such as {', '.join(near[:3])}, or add it to modelserve:catalog.regions if it is new"
        raise rule(value, f"is a region of {cloud} that the catalog does not know", instead)
    return value


# Rules ask every cloud for these. Where a cloud has no such key, its class says None: so the type checker finds a cloud
# that does not answer.


class LocalCloud(Strict):
    """The rehearsal on this machine."""

    region: ClassVar[None] = None
    gpu_series: ClassVar[None] = None
    node: ClassVar[None] = None
    nodes: ClassVar[None] = None
    rdma: ClassVar[bool] = False
    rdma_devices: ClassVar[None] = None
    eviction_notice: ClassVar[None] = None

    kind: Literal["local"] = Field(description="the cloud: local is the rehearsal on this machine")
    gpu: str = Field(
        min_length=1,
        description="the GPU by its catalog name, such as H20-96, or NAME:GIB with the "
        "usable memory that the driver reports",
    )

    @property
    def gpu_name(self) -> str:
        """The GPU as the planner looks it up."""
        return self.gpu


class AcsCloud(Strict):
    """Alibaba Cloud Container Compute Service."""

    node: ClassVar[None] = None
    nodes: ClassVar[None] = None
    rdma_devices: ClassVar[None] = None

    kind: Literal["acs"] = Field(description="the cloud: acs is Alibaba Cloud Container Compute Service")
    region: Region = Field(description="the region of cluster and bucket, such as cn-hangzhou")
    compute_class: Literal["gpu", "gpu-hpn"] = Field(
        "gpu", description="the compute class of GPU pods; gpu-hpn runs on reserved nodes"
    )
    compute_qos: Literal["default", "best-effort"] = Field(
        "default", validate_default=True, description="the quality of service; best-effort pods may be evicted"
    )
    gpu_series: str = Field(min_length=1, description="the GPU series as ACS calls it, such as GU8TF")
    gpu: str | None = Field(
        None,
        min_length=1,
        description="the GPU by its catalog name or NAME:GIB, where the catalog does not know the series",
    )
    rdma: bool = Field(False, description="true for the RDMA network between the pods of a replica")

    @property
    def gpu_name(self) -> str:
        """The GPU as the planner looks it up: the catalog lists a series as an alias."""
        return self.gpu or self.gpu_series

    @property
    def eviction_notice(self) -> int | None:
        """Seconds that an evicted pod has; None if the cloud does not evict pods of this quality of service."""
        return fact("clouds", "acs", "evictionNoticeSeconds") if self.compute_qos == "best-effort" else None

    _region = field_validator("region")(_known_region)

    @field_validator("compute_qos")
    @classmethod
    def _reserved_nodes_are_not_evicted(cls, value: str, info: ValidationInfo) -> str:
        if value == "best-effort" and info.data.get("compute_class") == "gpu-hpn":
            raise rule(value, "gpu-hpn pods run on reserved nodes, which have only default", "write default")
        return value

    @field_validator("gpu_series")
    @classmethod
    def _series_is_known(cls, value: str, info: ValidationInfo) -> str:
        known = [*fact("clouds", "acs", "gpuPods"), *sorted(context_of(info).more_pods)]
        if value not in known:
            raise rule(
                value,
                "is a series that the catalog does not know",
                f"write one of {', '.join(known)}, or describe it in modelserve:catalog.gpuPods.{value}",
            )
        return value

    @field_validator("rdma")
    @classmethod
    def _series_has_rdma(cls, value: bool, info: ValidationInfo) -> bool:
        pods = context_of(info).pods
        if value and pods and pods.get("rdma") is False:
            raise rule(value, f"series {info.data.get('gpu_series')} has no RDMA network", "write false")
        return value


def require_key(value: str, info: ValidationInfo) -> None:
    """Refuse access from outside the cluster unless clients need a key."""
    if API_KEY not in context_of(info).secrets:
        why = "there is no API key, so whoever reaches the address could use the GPUs"
        raise rule(value, why, f"run: pulumi config set --secret modelserve:{API_KEY}")


def gpu_node(instance_type: str) -> Mapping[str, Any] | None:
    """What the catalog knows about Volcengine's GPU nodes of that type; None if nothing."""
    return fact("clouds", "volcengine", "gpuNodes").get(instance_type)


class VolcengineCloud(Strict):
    """Volcengine Kubernetes Engine."""

    gpu_series: ClassVar[None] = None
    eviction_notice: ClassVar[None] = None

    kind: Literal["volcengine"] = Field(description="the cloud: volcengine is Volcengine Kubernetes Engine")
    region: Region = Field(description="the region of cluster and bucket, such as cn-beijing")
    instance_type: str = Field(min_length=1, description="the GPU nodes' type, such as ecs.ebmhpcpni3l.48xlarge")
    gpu: str | None = Field(
        None,
        min_length=1,
        validate_default=True,
        description="the GPU by its catalog name or NAME:GIB, where the catalog does not know the instance type",
    )
    nodes: Positive | None = Field(None, description="the number of GPU nodes in the cluster; not checked if absent")
    rdma: bool = Field(False, description="true for the RDMA network between the pods of a replica")
    rdma_devices: Positive | None = Field(
        None, description="the number of RDMA devices of each pod; one for each GPU if absent"
    )

    @property
    def gpu_name(self) -> str:
        """The GPU as the planner looks it up."""
        return self.gpu or (self.node["gpu"] if self.node else self.instance_type)

    @property
    def node(self) -> Mapping[str, Any] | None:
        """What the catalog knows about the GPU nodes; None if nothing."""
        return gpu_node(self.instance_type)

    _region = field_validator("region")(_known_region)

    @field_validator("gpu")
    @classmethod
    def _gpu_is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        instance_type = info.data.get("instance_type")
        if value is None and instance_type is not None and gpu_node(instance_type) is None:
            known = ", ".join(fact("clouds", "volcengine", "gpuNodes"))
            why = f"is missing: the catalog does not say which GPUs {instance_type} has"
            raise rule("", why, f"write the GPU's name, such as H20-96, or instanceType: one of {known}")
        return value

    @field_validator("rdma")
    @classmethod
    def _type_has_rdma(cls, value: bool, info: ValidationInfo) -> bool:
        known = gpu_node(info.data.get("instance_type", ""))
        if value and known and not known["rdmaGbitPerSecond"]:
            raise rule(value, f"{info.data['instance_type']} has no RDMA network", "write false")
        return value

    @field_validator("rdma_devices")
    @classmethod
    def _only_with_rdma(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("rdma") is False:
            raise rule(value, "rdma is false", "write rdma: true, or leave rdmaDevices out")
        return value


Cloud = Annotated[LocalCloud | AcsCloud | VolcengineCloud, Field(discriminator="kind")]


def _provider(value: str) -> str:
    if re.fullmatch(_PROVIDER, value):
        return value
    raise rule(value, "is no OIDC provider of Alibaba Cloud", f"write one such as {_EXAMPLE_PROVIDER}")


class Oidc(Strict):
    """Who vouches for the cluster's pods, as the cluster's console page shows it where RRSA is enabled."""

    provider: Annotated[str, AfterValidator(_provider), pattern(_PROVIDER)] = Field(
        description=f"the provider's ARN, such as {_EXAMPLE_PROVIDER}"
    )
    issuer: Url = Field(description="the https URL of the issuer of the cluster's tokens")


class Cluster(Strict):
    """The Kubernetes cluster, which exists before the stack and stays after it."""

    context: str = Field(min_length=1, description="the kubeconfig's context, by name")
    namespace: StackNamespace = Field(
        "default", description="an existing namespace that takes every object of the stack"
    )
    oidc: Oidc | None = Field(
        None, description="a map with provider and issuer: pods then take roles of the cloud in place of access keys"
    )

    @field_validator("oidc")
    @classmethod
    def _the_cloud_has_roles(cls, value: Oidc | None, info: ValidationInfo) -> Oidc | None:
        cloud = context_of(info).cloud
        if value is not None and cloud in CLOUDS and "rrsa" not in CLOUDS[cloud].auths:
            raise rule("", f"pods take no roles on {cloud}", "leave it out")
        return value


class AddonChoice(Strict):
    """One add-on of the cluster."""

    install: bool | Literal["adopt"] = Field(
        True,
        description="true installs its chart, false expects it to be installed, adopt takes over an installed release",
    )
    version: AddonRelease | None = Field(
        None, description="the add-on's release, in quotes: the one to install, or the installed one"
    )
    chart_version: AddonRelease | None = Field(
        None, description="the chart's version, in quotes, where it is not the release's"
    )
    chart: str | None = Field(None, min_length=1, description="the chart: an oci:// or https:// URL, or a name in repo")
    repo: ChartRepository | None = Field(None, validate_default=True, description="the URL of the chart's repository")
    namespace: Namespace | None = Field(None, description="the namespace of the release")
    values: dict[str, Any] = Field({}, description="a map of further values of the chart")

    @field_validator("chart_version", "chart", "repo", "namespace", "values")
    @classmethod
    def _something_is_installed(cls, value: Any, info: ValidationInfo) -> Any:
        install = info.data.get("install")
        # An adopted release is found by its namespace; chartVersion is the version that it must have.
        says = info.field_name in ("namespace", "chart_version") if install == "adopt" else install is not False
        if value is not None and not says:
            shown = "" if isinstance(value, dict) else value
            raise rule(shown, "the stack does not change an installed add-on", "leave it out, or write install: true")
        return value

    @field_validator("repo")
    @classmethod
    def _helm_finds_the_chart(cls, value: str | None, info: ValidationInfo) -> str | None:
        chart = info.data.get("chart")
        if info.data.get("install") is not True or (chart is None and value is None):
            return value
        if chart is None:
            raise rule(value, "the catalog's chart has its own repository", "write chart too, or leave repo out")
        if wrong := addons.chart_problem(chart, value):
            raise rule(value or "", f"{chart} {wrong[0]}", wrong[1])
        return value


class Manifests(Strict):
    """Where AIBrix's own manifests are read from: https URLs or file paths."""

    core: str | None = Field(None, min_length=1, description="the URL or path of the core manifest")
    crds: str | None = Field(None, min_length=1, description="the URL or path of the CRDs, if they are separate")
    dependency: str | None = Field(None, min_length=1, description="the URL or path of the dependency manifest")


class AibrixChoice(Strict):
    """AIBrix, which runs fleets and routes to them."""

    install: bool = Field(True, description="true installs it, false expects it to be installed")
    version: AddonRelease | None = Field(
        None,
        validate_default=True,
        description="AIBrix's release, in quotes: the one to install, or the installed one",
    )
    registry: Registry | None = Field(None, description="the registry of its images, if it is not the stack's")
    images: dict[str, Image] = Field({}, description="a map of image name, such as redis, to your own full image")
    manifests: Manifests = Field(Manifests.model_construct(), description="a map with core, crds and dependency")
    kuberay: Literal["aibrix", "none"] = Field(
        "aibrix", description="aibrix installs its patched KubeRay; none if another KubeRay runs"
    )
    address: Literal["private", "public"] = Field(
        "private", description="where the gateway's load balancer is reached from: private is the cloud's network"
    )
    gateway_replicas: int = Field(
        2,
        ge=1,
        le=100,
        description="how many proxies the gateway has, and how many of AIBrix's plugin, each of 2 CPU and 8 GiB",
    )
    gateway_chart: Annotated[str, InSchema({"pattern": "://"})] | None = Field(
        None, description="Envoy Gateway's chart, such as your mirror of it: an oci:// URL"
    )

    @field_validator("version")
    @classmethod
    def _release_works(cls, value: str | None, info: ValidationInfo) -> str:
        version = value or fact("aibrix", "releases", "installed")
        if problem := aibrix_features.version_problem(version):
            raise rule(version, *problem)
        return version

    @field_validator("images", "manifests", "kuberay", "address", "gateway_replicas", "gateway_chart")
    @classmethod
    def _it_is_installed(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("install") is False:
            shown = str(value) if isinstance(value, (str, int)) else ""
            raise rule(shown, "the stack does not change an installed AIBrix", "leave it out, or write install: true")
        return value

    @field_validator("gateway_chart")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value:
            raise rule(value, "is not a full URL", "write an oci:// or https:// URL")
        return value

    @field_validator("address")
    @classmethod
    def _public_asks_for_a_key(cls, value: str, info: ValidationInfo) -> str:
        if value == "public":
            require_key(value, info)
        return value


class Addons(Strict):
    """What the cluster needs besides Kubernetes."""

    charts: Annotated[str, pattern(r"(oci|https)://[^\s/@?#][^\s@?#]*|(?!~)[^\s:]+")] | None = Field(
        None,
        description="where the add-ons' charts are, if not at their makers': a folder of NAME-VERSION.tgz files, "
        "an oci:// URL or an https:// repository",
    )
    lws: AddonChoice | None = Field(None, description="a map for LeaderWorkerSet")
    fluid: AddonChoice | None = Field(None, description="a map for Fluid (ack-fluid on ACS)")
    aibrix: AibrixChoice | None = Field(None, description="a map for AIBrix")

    @field_validator("lws", "fluid", "aibrix")
    @classmethod
    def _the_cloud_has_it(cls, choice: Any, info: ValidationInfo) -> Any:
        cloud, name = context_of(info).cloud, str(info.field_name)
        can = CLOUDS.get(cloud or "")
        if choice is None or can is None or name in can.installs:
            return choice
        if name != "lws":
            raise rule("", f"nothing on {cloud} uses it", "leave it out")
        # LeaderWorkerSet is installed, and its release decides what a group can do.
        told = {"install": choice.install} | {
            key: getattr(choice, key) for key in choice.model_fields_set - {"version"}
        }
        settings = {key: value for key, value in told.items() if value and key in choice.model_fields_set}
        refuse(
            *[
                (f".{to_camel(key)}", value, f"a stack on {cloud} installs nothing", "leave it out, or install: false")
                for key, value in sorted(settings.items())
            ]
        )
        return choice

    @field_validator("charts")
    @classmethod
    def _is_a_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        instead = "write a folder, an oci:// URL or an https:// repository"
        if value is None:
            return value
        cloud = context_of(info).cloud
        if cloud in CLOUDS and not CLOUDS[cloud].installs:
            raise rule(value, f"a stack on {cloud} installs nothing", "leave it out")
        if not value.strip() or value != value.strip() or any(sign.isspace() for sign in value):
            raise rule(value, "is empty or contains spaces", instead)
        if value.startswith("~"):
            raise rule(value, "is a home folder, which differs from machine to machine", instead)
        scheme, separator, address = value.partition("://")
        if not separator:
            if ":" in value:
                raise rule(value, "is neither a folder nor a URL", instead)
        elif scheme not in ("oci", "https"):
            raise rule(value, f"uses {scheme}, and charts cannot be fetched by it", instead)
        elif not address.strip("/") or address.startswith("/"):
            raise rule(value, "is a URL without a host", instead)
        elif "@" in address or "?" in address or "#" in address:
            raise rule(value, "contains credentials or a query, which would be stored in plain text", instead)
        return value


class Alerts(Strict):
    """Who is to be told when something is wrong, and when. All other thresholds follow from the plan."""

    enabled: bool = Field(True, description="true makes rules for each service: a PrometheusRule, or the cloud's own")
    labels: Labels = Field({}, description="a map of labels of every alert, by which your Alertmanager routes it")
    runbook: Url | None = Field(None, description="where your copy of docs/runbook.md is read, as an https URL")
    instance: Id | None = Field(
        None, description="the id of the ARMS instance or the VMP workspace that watches the alerts"
    )
    policy: Id | None = Field(
        None, description="the id of the notification policy of ARMS or VMP, which says who is told"
    )
    group_policy: Id | None = Field(None, description="the id of the grouping policy of VMP")
    no_answer_seconds: Seconds | None = Field(
        None, description="seconds without an answer after which somebody is called; as long as the kubelet waits"
    )
    idle_seconds: Seconds | None = Field(
        None, description="seconds without a request after which running is a waste; as long as an exchange of pods"
    )

    @field_validator("*")
    @classmethod
    def _is_enabled(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name != "enabled" and info.data.get("enabled") is False:
            raise rule(
                "" if isinstance(value, dict) else value, "there are no alerts", "write enabled: true, or leave it out"
            )
        return value


class Monitoring(Strict):
    """The objects through which Prometheus and Grafana see the engines."""

    enabled: bool = Field(False, description="true makes a ServiceMonitor for each service")
    prometheus: Literal["operator", "arms", "vmp"] | None = Field(
        None,
        description="operator is a Prometheus Operator in the cluster, arms and vmp are the clouds' own; "
        "the cloud's own if absent",
    )
    labels: Labels = Field({}, description="a map of labels by which your Prometheus finds ServiceMonitors and rules")
    prometheus_namespace: Namespace | None = Field(
        None, description="the namespace that your Prometheus runs in, so that it may reach engines behind a gateway"
    )
    interval_seconds: Seconds = Field(30, description="seconds between two scrapes")
    dashboard: bool = Field(True, description="true makes a ConfigMap with a dashboard for Grafana")
    dashboard_namespace: Namespace | None = Field(
        None, description="the namespace in which Grafana looks for dashboards; the stack's if absent"
    )
    dashboard_labels: Labels = Field(
        {"grafana_dashboard": "1"}, description="a map of labels by which Grafana finds dashboards"
    )
    alerts: Alerts = Field(Alerts.model_construct(), description="a map with labels and runbook")

    @field_validator("*")
    @classmethod
    def _is_enabled(cls, value: Any, info: ValidationInfo) -> Any:
        shown, name = ("" if isinstance(value, dict) else value), str(info.field_name)
        if name != "enabled" and info.data.get("enabled") is False:
            raise rule(shown, "monitoring is not enabled", "write enabled: true, or leave it out")
        if name.startswith("dashboard_") and info.data.get("dashboard") is False:
            raise rule(shown, "there is no dashboard", "write dashboard: true, or leave it out")
        return value

    @field_validator("prometheus")
    @classmethod
    def _the_cloud_has_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        cloud = context_of(info).cloud
        if value is not None and cloud in CLOUDS and value not in CLOUDS[cloud].prometheus:
            raise rule(value, f"is not to be had on {cloud}", f"write {' or '.join(CLOUDS[cloud].prometheus)}")
        if value is not None and cloud in CLOUDS and len(CLOUDS[cloud].prometheus) == 1:
            raise rule(value, f"is the only one on {cloud}", "leave it out")
        return value

    @field_validator("alerts")
    @classmethod
    def _reads_rules(cls, value: Alerts, info: ValidationInfo) -> Alerts:
        cloud, written = context_of(info).cloud, info.data.get("prometheus")
        reads = written or (CLOUDS[cloud].prometheus[0] if cloud in CLOUDS else "operator")
        if not value.enabled:
            return value
        needed = {"operator": (), "arms": ("instance",), "vmp": ("instance", "group_policy")}[reads]
        known = {"operator": (), "arms": ("instance", "policy"), "vmp": ("instance", "policy", "group_policy")}[reads]
        why = f"is missing: {reads} reads no PrometheusRules, and has rules of its own"
        refuse(
            *[
                (f".{to_camel(key)}", "", why, "write its id, or leave alerts out")
                for key in needed
                if getattr(value, key) is None
            ],
            *[
                (f".{to_camel(key)}", given, f"{reads} has no such thing", "leave it out")
                for key in ("instance", "policy", "group_policy")
                if (given := getattr(value, key)) is not None and key not in known
            ],
        )
        return value
