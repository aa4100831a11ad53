"""The dashboard for Grafana, one for a whole stack: starts, engines, cache, GPUs, gateway, cost.

Pure functions. It asks for vLLM's series by the names of the releases that run. Series of other exporters are in the
catalog (`exporters`); where one is not there, its panels are empty. grafana-foundation-sdk would build the same JSON,
but needs Python 3.11: a test holds ours against that library's types instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from components.cluster.kubernetes import Manifest, labels
from components.monitoring.args import MonitoringArgs, Scraped, selected
from planning.catalog import fact

_COLUMNS, _WIDTH, _HEIGHT = 24, 12, 8  # of Grafana's grid
_QUANTILES = (0.5, 0.95, 0.99)
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


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


# The choices name vLLM's metrics without a selector; the dashboard adds it.
_ENGINE = (
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


def _text(parts: Iterable[str]) -> str:
    return "|".join(sorted(set(parts)))


def _plan(service: str, what: str, value: float) -> _Query:
    """A level line with a number of the plan, to hold the others against."""
    return _Query(f"{service}: {what}", (f"vector({value:g})",))


def _start(args: MonitoringArgs) -> Iterator[_Panel]:
    services = args.services.items()
    pods = f'namespace=~"{_text(each.namespace for _, each in services)}", '
    pods += f'pod=~"{_text(each.pods for _, each in services)}"'
    yield _Panel(
        "Pods that do not run yet, and what they wait for",
        "short",
        (
            _Query(
                "{{pod}} {{reason}}",
                (
                    f"max by (pod, reason) (kube_pod_container_status_waiting_reason{{{pods}}} == 1 "
                    f"or kube_pod_init_container_status_waiting_reason{{{pods}}} == 1)",
                ),
            ),
            _Query(
                "{{pod}} has no node", (f'max by (pod) (kube_pod_status_scheduled{{{pods}, condition="false"}} == 1)',)
            ),
            _Query(
                "{{pod}} runs {{container}}",
                (f"max by (pod, container) (kube_pod_init_container_status_running{{{pods}}} == 1)",),
            ),
        ),
    )
    waiting = f'max by (pod) (kube_pod_status_ready{{{pods}, condition="true"}}) == 0'
    yield _Panel(
        "Age of pods that do not answer yet, against the plan",
        "s",
        (
            _Query("{{pod}}", (f"time() - max by (pod) (kube_pod_created{{{pods}}}) and on (pod) {waiting}",)),
            *(_plan(name, "plan", each.startup_seconds) for name, each in services),
        ),
    )
    yield _Panel(
        "Bytes that pods have received, against their weights",
        "bytes",
        (
            _Query("{{pod}}", (f"sum by (pod) (container_network_receive_bytes_total{{{pods}}})",)),
            *(_plan(name, "weights of a pod", each.weights_bytes) for name, each in services),
        ),
    )


def _cache(args: MonitoringArgs) -> Iterator[_Panel]:
    cached = {name: each for name, each in args.services.items() if each.load and each.cache}
    if not cached:
        return
    spaces = f'namespace=~"{_text(each.namespace for each in cached.values())}"'
    jobs = f'{spaces}, job_name=~"{_text(str(each.load) for each in cached.values())}"'
    workers = f'{spaces}, pod=~"{_text(str(each.cache) for each in cached.values())}", container!=""'
    yield _Panel(
        "Time of the load into the cache, against its limit",
        "s",
        (
            _Query(
                "{{job_name}}",
                (
                    f"time() - max by (job_name) (kube_job_status_start_time{{{jobs}}}) "
                    f"and on (job_name) max by (job_name) (kube_job_status_active{{{jobs}}}) > 0",
                ),
            ),
            *(_plan(name, "limit", each.limits.load_seconds or 0) for name, each in cached.items()),
        ),
    )
    # JindoCache keeps the files in memory, which counts as its workers'. It has no metric of hits that we know of.
    yield _Panel(
        "Memory of the cache's workers, against the weights",
        "bytes",
        (
            _Query("all workers", (f"sum(container_memory_working_set_bytes{{{workers}}})",)),
            _Query("{{pod}}", (f"sum by (pod) (container_memory_working_set_bytes{{{workers}}})",)),
            *(_plan(name, "weights", each.file_bytes) for name, each in cached.items()),
        ),
    )


def _gpus(args: MonitoringArgs) -> Iterator[_Panel]:
    spaces = _text(each.namespace for each in args.services.values())
    pods = _text(each.pods for each in args.services.values())

    def of_pods(metric: str) -> str:
        """By pod and GPU. Where Prometheus does not honour the exporter's labels, it renames them."""
        theirs = f'{metric}{{exported_namespace=~"{spaces}", exported_pod=~"{pods}"}}'
        return (
            f'max by (pod, gpu) ({metric}{{namespace=~"{spaces}", pod=~"{pods}"}} '
            f'or label_replace({theirs}, "pod", "$1", "exported_pod", "(.+)"))'
        )

    yield _Panel("GPU utilization", "percent", (_Query("{{pod}} {{gpu}}", (of_pods("DCGM_FI_DEV_GPU_UTIL"),)),))
    yield _Panel("GPU memory in use", "mbytes", (_Query("{{pod}} {{gpu}}", (of_pods("DCGM_FI_DEV_FB_USED"),)),))
    if args.rdma:
        yield _Panel(
            "RDMA traffic of the cluster's nodes",
            "Bps",
            tuple(
                _Query(
                    f"{{{{instance}}}} {way}",
                    (f"sum by (instance) (rate(node_infiniband_port_data_{way}_bytes_total[$__rate_interval]))",),
                )
                for way in ("received", "transmitted")
            ),
        )


def _gateway(args: MonitoringArgs) -> Iterator[_Panel]:
    routes = _text(each.route for each in args.services.values() if each.route)
    if not routes:
        return
    here = f'envoy_cluster_name=~"{routes}"'
    yield _Panel(
        "Answers at the gateway, by class",
        "reqps",
        (
            _Query(
                "{{envoy_cluster_name}} {{envoy_response_code_class}}xx",
                (
                    "sum by (envoy_cluster_name, envoy_response_code_class) "
                    f"(rate(envoy_cluster_upstream_rq_xx{{{here}}}[$__rate_interval]))",
                ),
            ),
        ),
    )
    yield _Panel(
        "Time of whole answers at the gateway",
        "ms",
        tuple(
            _Query(
                f"{{{{envoy_cluster_name}}}} p{quantile * 100:g}",
                (
                    f"histogram_quantile({quantile}, sum by (envoy_cluster_name, le) "
                    f"(rate(envoy_cluster_upstream_rq_time_bucket{{{here}}}[$__rate_interval])))",
                ),
            )
            for quantile in _QUANTILES
        ),
    )


def _cost(args: MonitoringArgs) -> Iterator[_Panel]:
    hours: list[_Query] = []
    millions: list[_Query] = []
    for name, each in args.services.items():
        if each.replica_hour is None:
            continue
        matchers = f'{args.stack_matcher}, model="{name}"'
        # A GPU bills from when its pod has a node. Without kube-state-metrics we see only the replicas that answer.
        replicas = f'(count(kube_pod_info{{{each.pod_matchers}, node!=""}}) / {each.nodes} or sum(up{{{matchers}}}))'
        hour = f"{replicas} * {each.replica_hour:.6g}"
        hours.append(_Query(name, (hour,)))
        for kind in ("prompt", "generation"):
            tokens = selected(f"sum(rate(vllm:{kind}_tokens_total[$__rate_interval]))", matchers)
            millions.append(_Query(f"{name} {kind}", (f"{hour} / 3600 / ({tokens} > 0) * 1e6",)))
    if hours:
        yield _Panel(f"Cost an hour ({args.currency})", "short", tuple(hours))
        yield _Panel(f"Cost of a million tokens, all of it on one kind ({args.currency})", "short", tuple(millions))


_ROWS: tuple[tuple[str, Callable[[MonitoringArgs], Iterable[_Panel]]], ...] = (
    ("Engine", lambda args: _ENGINE),
    ("Start", _start),
    ("Cache", _cache),
    ("GPUs and network", _gpus),
    ("Gateway", _gateway),
    ("Cost", _cost),
)


def dashboard(name: str, args: MonitoringArgs) -> Manifest:
    """The stack's dashboard for Grafana, with only series of vLLM that its engines export.

    Where the stack's releases use different names, `or` joins them: engines do not export the other names, so each
    model shows under its own.
    """
    return {
        # A fixed uid, so that links work after a Grafana without a disk restarts. Grafana allows 40 characters.
        "uid": hashlib.blake2s(args.object_name("engines", name).encode(), digest_size=10).hexdigest(),
        "title": f"vLLM engines: {args.stack} {name}",
        "tags": ["modelserve", "vllm"],
        "schemaVersion": fact("monitoring", "grafana", "schemaVersion"),
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "annotations": {"list": []},
        "templating": {"list": _variables(args)},
        "panels": list(_panels(args)),
    }


def _panels(args: MonitoringArgs) -> Iterator[Manifest]:
    number, y = 0, 0
    for title, row in _ROWS:
        chosen = ((panel, _targets(panel, args)) for panel in row(args))
        shown = [(panel, targets) for panel, targets in chosen if targets]
        if not shown:
            continue
        place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        number, y = number + 1, y + 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        for index, (panel, targets) in enumerate(shown):
            down, x = divmod(index * _WIDTH, _COLUMNS)
            number += 1
            yield _panel(number, {"x": x, "y": y + down * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}, panel, targets)
        y += -(-len(shown) * _WIDTH // _COLUMNS) * _HEIGHT


def dashboard_config(name: str, args: MonitoringArgs) -> Manifest:
    """The ConfigMap with the dashboard, for Grafana's sidecar. A sidecar writes all dashboards of a cluster into one
    folder, named by their keys, so the key has to be as unique as the object's name."""
    object_name = args.object_name("engines", name)
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


def _targets(panel: _Panel, args: MonitoringArgs) -> list[Manifest]:
    matchers = f'{args.stack_matcher}, model=~"$model", pod=~"$pod"'
    targets: list[Manifest] = []
    for query in panel.queries:
        used = {_chosen(query, scraped) for scraped in args.services.values()}
        choices = [choice for choice in query.choices if choice in used]  # a fixed order, whatever the stack file's
        if choices:
            number = len(targets)
            targets.append(
                {
                    "refId": f"{chr(ord('A') + number % 26)}{number // 26 or ''}",
                    "datasource": _DATASOURCE,
                    "expr": " or ".join(selected(choice, matchers) for choice in choices),
                    "legendFormat": query.legend,
                    # Grafana derives its rate interval from this; else from the data source's, which may differ.
                    "interval": f"{args.interval_seconds}s",
                }
            )
    return targets


def _chosen(query: _Query, scraped: Scraped) -> str | None:
    return next((choice for choice in query.choices if scraped.exports(choice)), None)


def _variables(args: MonitoringArgs) -> list[Manifest]:
    # Every release exports this gauge from its first scrape on.
    series = "vllm:num_requests_running"
    models = f"label_values({series}{{{args.stack_matcher}}}, model)"
    pods = f'label_values({series}{{{args.stack_matcher}, model=~"$model"}}, pod)'
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


def _panel(number: int, place: Manifest, panel: _Panel, targets: list[Manifest]) -> Manifest:
    bounds = {"min": 0, "max": 1} if panel.unit == "percentunit" else {"min": 0}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, **bounds}, "overrides": []},
        "options": {
            "tooltip": {"mode": "multi", "sort": "desc"},
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        },
        "targets": targets,
    }
