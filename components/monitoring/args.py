"""What monitoring is told of a stack: the services that it watches, and how Prometheus and Grafana find its objects."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from components.cluster.credentials import SecretKey
from planning.alert_limits import Limits
from planning.catalog import fact
from planning.metrics import exported
from planning.problems import Problem, Refused


@dataclass(frozen=True, kw_only=True)
class Scraped:
    """A service to watch. `selector` has labels that only its Kubernetes Service in `namespace` carries, `port` is the
    name of that Service's port, `key` the API key if the metrics need it. `engine_version` None means the newest known
    release.

    `pods` is a regular expression for the names of its pods, of which each of `replicas` has `nodes`; `keeps_names`: a
    pod that replaces another has its name; `pauses`: at times there are none on purpose. `sync` is the Job that
    fills the bucket or volume, `load` the one that fills the cache from it, `cache` a regular expression for the
    cache's workers, all in the service's namespace.
    `startup_seconds` is a cold start, `weights_bytes` what a pod reads for it, of the `file_bytes` of the whole model.
    `route` is a regular expression for the gateway's clusters of this model. `replica_hour` is what one replica costs
    in an hour, None if unknown.
    """

    engine_version: str | None
    selector: Mapping[str, str]
    namespace: str
    pods: str
    limits: Limits
    port: str = "http"
    key: SecretKey | None = None
    nodes: int = 1
    replicas: int = 1
    keeps_names: bool = True
    pauses: bool = False
    startup_seconds: int = 0
    weights_bytes: int = 0
    sync: str | None = None
    load: str | None = None
    cache: str | None = None
    file_bytes: int = 0
    route: str | None = None
    replica_hour: float | None = None

    @property
    def pod_matchers(self) -> str:
        """The matchers that select its pods' series of kube-state-metrics, cAdvisor and such."""
        return f'namespace="{self.namespace}", pod=~"{self.pods}"'

    def exports(self, expression: str) -> bool:
        """Whether its release exports every series of vLLM that an expression names."""
        release = exported(self.engine_version)
        for series in re.findall(r"vllm:\w+", expression):
            base = series.removesuffix("_bucket")
            if release.get(base) is None or (base != series) != (release[base] == "histogram"):
                return False
        return True


@dataclass(frozen=True, kw_only=True)
class AlertArgs:
    """`labels` go on every alert. `runbook` is the address of docs/runbook.md. The two times, in seconds, take the
    place of the plan's."""

    labels: Mapping[str, str] = field(default_factory=dict)
    runbook: str = field(default_factory=lambda: fact("monitoring", "alerts", "runbook"))
    no_answer_seconds: int | None = None
    idle_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class MonitoringArgs:
    """`services` by their name in the stack. The cluster's Prometheus finds its monitors and rules by `labels` and
    `annotations`, its Grafana finds dashboards by `dashboard_labels`. Without `alerts` there are no rules. `currency`
    is that of the services' prices. `rdma`: the nodes send each other tensors over RDMA.

    Raises Refused for arguments that would watch nothing, or everything.
    """

    stack: str
    namespace: str
    services: Mapping[str, Scraped]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    interval_seconds: int = field(default_factory=lambda: fact("monitoring", "scrape", "intervalSeconds"))
    dashboard: bool = True
    dashboard_namespace: str | None = None
    dashboard_labels: Mapping[str, str] = field(default_factory=lambda: fact("monitoring", "grafana", "labels"))
    alerts: AlertArgs | None = None
    currency: str | None = None
    rdma: bool = False

    def __post_init__(self) -> None:
        if not self.services:
            raise Refused(Problem("services", "", "nothing would be scraped without one", "leave monitoring out"))
        if self.interval_seconds < 1:
            raise Refused(Problem("interval_seconds", str(self.interval_seconds), "is no interval", "give 1 or more"))
        for name, scraped in self.services.items():
            if not scraped.selector:
                why = "an empty selector selects every Service of the namespace"
                raise Refused(Problem("services", name, why, "give its labels"))

    @property
    def stack_matcher(self) -> str:
        """The matcher that selects the stack's own series of vLLM."""
        return f"stack={json.dumps(self.stack)}"

    def object_name(self, what: str, name: str) -> str:
        """Name of an object that may share a namespace with other stacks'. Its parts contain hyphens, so dots separate
        them."""
        stack = re.sub(r"[^a-z0-9]+", "-", self.stack.lower()).strip("-")
        return f"{stack}.{name}.{what}"


def selected(expression: str, matchers: str) -> str:
    """The expression with `matchers` on every series of vLLM, that has none yet."""
    return re.sub(r"vllm:\w+(?![\w{])", lambda found: f"{found[0]}{{{matchers}}}", expression)
