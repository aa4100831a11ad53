"""What Prometheus and Grafana need to watch engines: one ServiceMonitor per service, and the engines' dashboard.

Works for any Service whose labels and port are known. Not here: Prometheus, its operator and Grafana, which the cluster
or the cloud runs; alerts; and which release exports which metric (`planning.metrics`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.cluster.credentials import SecretKey
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from planning.catalog import fact
from planning.metrics import exported
from planning.problems import Problem, Refused

_COLUMNS, _WIDTH, _HEIGHT = 24, 12, 8  # of Grafana's grid
_QUANTILES = (0.5, 0.95, 0.99)
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, kw_only=True)
class Scraped:
    """A service to watch. `selector` has labels that only its Kubernetes Service in `namespace` carries, `port` is the
    name of that Service's port, `key` the API key if the metrics need it. `engine_version` None means the newest known
    release."""

    engine_version: str | None
    selector: Mapping[str, str]
    namespace: str
    port: str = "http"
    key: SecretKey | None = None


@dataclass(frozen=True, kw_only=True)
class MonitoringArgs:
    """`services` by their name in the stack. The cluster's Prometheus finds its monitors by `labels` and `annotations`,
    its Grafana finds dashboards by `dashboard_labels`.

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

    def __post_init__(self) -> None:
        if not self.services:
            raise Refused(Problem("services", "", "nothing would be scraped without one", "leave monitoring out"))
        if self.interval_seconds < 1:
            raise Refused(Problem("interval_seconds", str(self.interval_seconds), "is no interval", "give 1 or more"))
        for name, scraped in self.services.items():
            if not scraped.selector:
                why = "an empty selector selects every Service of the namespace"
                raise Refused(Problem("services", name, why, "give its labels"))


def service_monitor(name: str, service: str, args: MonitoringArgs) -> Manifest:
    """The ServiceMonitor of one service's engines.

    It selects the Service in front of the leaders, by labels that only that Service has. Selecting Ray heads would take
    those of all models in the namespace, through KubeRay's own Services; their names become the `job` label and change
    with each rollout. `model` and `stack` are set on the target, not on the samples, so that `up` has them too.
    """
    scraped = args.services[service]
    key = scraped.key
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {
            "name": _object(service, name, args),
            "namespace": args.namespace,
            "labels": {**args.labels, **labels(args.stack, service)},
            # Leave out an empty map: the API server drops it, and Pulumi would show that as a change.
            **({"annotations": dict(args.annotations)} if args.annotations else {}),
        },
        "spec": {
            "namespaceSelector": {"matchNames": [scraped.namespace]},
            "selector": {"matchLabels": dict(scraped.selector)},
            "endpoints": [
                {
                    "port": scraped.port,
                    "path": fact("monitoring", "scrape", "path"),
                    "interval": f"{args.interval_seconds}s",
                    **({"authorization": {"credentials": {"name": key.secret, "key": key.field}}} if key else {}),
                    "relabelings": [
                        {"action": "replace", "targetLabel": "model", "replacement": service},
                        {"action": "replace", "targetLabel": "stack", "replacement": args.stack},
                    ],
                }
            ],
        },
    }


@dataclass(frozen=True)
class _Query:
    """One line of a panel. A release uses the first of `choices` whose metrics it exports."""

    legend: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class _Panel:
    title: str
    unit: str
    queries: tuple[_Query, ...]


def _gauge(legend: str, metric: str) -> _Query:
    """One line per pod: an average would hide an engine that is full."""
    return _Query(f"{{{{pod}}}} {legend}", (f"sum by (model, pod) ({metric})",))


def _rate(metric: str, by: str = "model") -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def _quantiles(*histograms: str) -> tuple[_Query, ...]:
    return tuple(
        _Query(
            f"{{{{model}}}} p{quantile * 100:g}",
            tuple(f"histogram_quantile({quantile}, {_rate(f'{name}_bucket', 'model, le')})" for name in histograms),
        )
        for quantile in _QUANTILES
    )


# The choices name metrics without a selector; the dashboard adds it.
_PANELS = (
    _Panel(
        "Requests running and waiting",
        "short",
        (_gauge("running", "vllm:num_requests_running"), _gauge("waiting", "vllm:num_requests_waiting")),
    ),
    _Panel(
        "KV cache in use",
        "percentunit",
        (
            _Query(
                "{{pod}}",
                # The fullest of the data-parallel engines in one pod.
                tuple(
                    f"max by (model, pod) ({name})"
                    for name in ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
                ),
            ),
        ),
    ),
    _Panel("Time to first token", "s", _quantiles("vllm:time_to_first_token_seconds")),
    _Panel(
        "Time per output token",
        "s",
        _quantiles("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    ),
    _Panel("End-to-end latency", "s", _quantiles("vllm:e2e_request_latency_seconds")),
    _Panel("Time in the queue", "s", _quantiles("vllm:request_queue_time_seconds")),
    _Panel(
        "Tokens a second",
        "short",
        (
            _Query("{{model}} prompt", (_rate("vllm:prompt_tokens_total"),)),
            _Query("{{model}} generation", (_rate("vllm:generation_tokens_total"),)),
        ),
    ),
    _Panel(
        "Prefix cache hit rate",
        "percentunit",
        (
            _Query(
                "{{model}}",
                (
                    f"{_rate('vllm:prefix_cache_hits_total')} / {_rate('vllm:prefix_cache_queries_total')}",
                    f"{_rate('vllm:gpu_prefix_cache_hits_total')} / {_rate('vllm:gpu_prefix_cache_queries_total')}",
                    # -1 means that the prefix cache is off.
                    "avg by (model) (vllm:gpu_prefix_cache_hit_rate >= 0)",
                ),
            ),
        ),
    ),
    _Panel(
        "Finished requests by reason",
        "reqps",
        (_Query("{{model}} {{finished_reason}}", (_rate("vllm:request_success_total", "model, finished_reason"),)),),
    ),
    _Panel("Preemptions a second", "short", (_Query("{{model}}", (_rate("vllm:num_preemptions_total"),)),)),
    _Panel("Prompt length (tokens)", "short", _quantiles("vllm:request_prompt_tokens")),
    _Panel("Generation length (tokens)", "short", _quantiles("vllm:request_generation_tokens")),
)


def dashboard(name: str, args: MonitoringArgs) -> Manifest:
    """The engines' dashboard for Grafana, one for the whole stack, with only series that its engines export.

    Where the stack's releases use different names, `or` joins them: engines do not export the other names, so each
    model shows under its own.
    """
    releases = [exported(scraped.engine_version) for scraped in args.services.values()]
    chosen = ((panel, _targets(panel, releases, args)) for panel in _PANELS)
    shown = [(panel, targets) for panel, targets in chosen if targets]
    return {
        # A fixed uid, so that links work after a Grafana without a disk restarts. Grafana allows 40 characters.
        "uid": hashlib.blake2s(_object("engines", name, args).encode(), digest_size=10).hexdigest(),
        "title": f"vLLM engines: {args.stack} {name}",
        "tags": ["modelserve", "vllm"],
        "schemaVersion": fact("monitoring", "grafana", "schemaVersion"),
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": _variables(args)},
        "panels": [_panel(number, panel, targets) for number, (panel, targets) in enumerate(shown)],
    }


def dashboard_config(name: str, args: MonitoringArgs) -> Manifest:
    """The ConfigMap with the dashboard, for Grafana's sidecar. A sidecar writes all dashboards of a cluster into one
    folder, named by their keys, so the key has to be as unique as the object's name."""
    object_name = _object("engines", name, args)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": object_name,
            "namespace": args.dashboard_namespace or args.namespace,
            "labels": {**args.dashboard_labels, **labels(args.stack, name)},
        },
        "data": {f"{object_name}.json": json.dumps(dashboard(name, args), indent=1)},
    }


def _object(what: str, name: str, args: MonitoringArgs) -> str:
    """Name of an object that may share a namespace with other stacks'. Its parts contain hyphens, so dots separate
    them."""
    stack = re.sub(r"[^a-z0-9]+", "-", args.stack.lower()).strip("-")
    return f"{stack}.{name}.{what}"


def _targets(panel: _Panel, releases: Sequence[Mapping[str, str]], args: MonitoringArgs) -> list[Manifest]:
    targets: list[Manifest] = []
    for query in panel.queries:
        used = {next((choice for choice in query.choices if _exports(release, choice)), None) for release in releases}
        choices = [choice for choice in query.choices if choice in used]  # a fixed order, whatever the stack file's
        if choices:
            targets.append(
                {
                    "refId": chr(ord("A") + len(targets)),
                    "datasource": _DATASOURCE,
                    "expr": " or ".join(_selected(choice, args) for choice in choices),
                    "legendFormat": query.legend,
                    # Grafana derives its rate interval from this; else from the data source's, which may differ.
                    "interval": f"{args.interval_seconds}s",
                }
            )
    return targets


def _exports(release: Mapping[str, str], expression: str) -> bool:
    """Whether a release exports every series that an expression names."""
    for series in re.findall(r"vllm:\w+", expression):
        base = series.removesuffix("_bucket")
        if release.get(base) is None or (base != series) != (release[base] == "histogram"):
            return False
    return True


def _stack_matcher(args: MonitoringArgs) -> str:
    return f"stack={json.dumps(args.stack)}"


def _selected(expression: str, args: MonitoringArgs) -> str:
    selector = f'{{{_stack_matcher(args)}, model=~"$model", pod=~"$pod"}}'
    return re.sub(r"vllm:\w+", lambda found: found[0] + selector, expression)


def _variables(args: MonitoringArgs) -> list[Manifest]:
    # Every release exports this gauge from its first scrape on.
    series = "vllm:num_requests_running"
    models = f"label_values({series}{{{_stack_matcher(args)}}}, model)"
    pods = f'label_values({series}{{{_stack_matcher(args)}, model=~"$model"}}, pod)'
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return [source, *(_variable(label, query) for label, query in (("model", models), ("pod", pods)))]


def _variable(label: str, query: str) -> Manifest:
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": label},
        "refresh": 2,  # whenever the time range changes, because a rollout brings new pods
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: _Panel, targets: list[Manifest]) -> Manifest:
    row, column = divmod(number * _WIDTH, _COLUMNS)
    bounds = {"min": 0, "max": 1} if panel.unit == "percentunit" else {"min": 0}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": {"x": column, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, **bounds}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}},
        "targets": targets,
    }


class Monitoring(pulumi.ComponentResource):
    """Monitors and dashboard of the stack's engines."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:monitoring:Monitoring", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        for service in args.services:
            kubernetes_object(f"{name}-{service}", service_monitor(name, service, args), child)
        if args.dashboard:
            kubernetes_object(f"{name}-dashboard", dashboard_config(name, args), child)
        self.register_outputs({})
