"""The PrometheusRule of one service: who is to be woken, for what, and where docs/runbook.md says what to do.

Pure functions. Every threshold comes from the plan (`planning.alert_limits`), every metric of vLLM by the names of the
service's release. What happens around the engine is read from kube-state-metrics and the kubelet's cAdvisor
(`exporters` in the catalog); a cluster without them has the rules, and those never fire.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from components.cluster.kubernetes import Manifest, labels
from components.monitoring.args import AlertArgs, MonitoringArgs, Scraped, selected
from planning.alert_limits import LOOP_STARTS, RATE_SCRAPES, SCRAPES
from planning.catalog import fact
from planning.names import WEIGHTS_CONTAINER
from planning.scaling import kv_gauge

PREFIX = "Modelserve"
"""Of every alert's name: names are shared with all other rules of a cluster."""


@dataclass(frozen=True)
class Alert:
    """One alert: `name` without the prefix; it fires when `expr` has had a result for `seconds`."""

    name: str
    severity: Literal["critical", "warning", "info"]
    seconds: int
    summary: str
    expr: str

    @property
    def entry(self) -> str:
        """The entry of docs/runbook.md, as the anchor of its heading."""
        return re.sub(r"(?<=.)(?=[A-Z])", "-", self.name).lower()


def prometheus_rule(name: str, service: str, args: MonitoringArgs) -> Manifest:
    """The PrometheusRule with the alerts of one service; Prometheus finds it as it finds the ServiceMonitor."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": args.object_name(service, name),
            "namespace": args.namespace,
            "labels": {**args.labels, **labels(args.stack, service)},
            **({"annotations": dict(args.annotations)} if args.annotations else {}),
        },
        "spec": {"groups": [group(name, service, args)]},
    }


def group(name: str, service: str, args: MonitoringArgs) -> Manifest:
    """The group of rules of one service, as a rule file has it."""
    given = args.alerts or AlertArgs()
    return {
        "name": args.object_name(service, name),
        "rules": [
            {
                "alert": f"{PREFIX}{alert.name}",
                "expr": alert.expr,
                "for": f"{alert.seconds}s",
                "labels": {**given.labels, "severity": alert.severity, "stack": args.stack, "model": service},
                "annotations": {
                    "summary": f"{service}: {alert.summary}",
                    "runbook_url": f"{given.runbook}#{alert.entry}",
                },
            }
            for alert in alerts(service, args)
        ],
    }


def alerts(service: str, args: MonitoringArgs) -> list[Alert]:
    """The alerts of one service that its plan and its release have numbers and metrics for."""
    window = SCRAPES * max(args.interval_seconds, fact("monitoring", "scrape", "intervalSeconds"))
    scraped = args.services[service]
    every = [*_of_the_start(scraped, window)]
    if scraped.replicas:
        given, matchers = args.alerts or AlertArgs(), f'{args.stack_matcher}, model="{service}"'
        recent = RATE_SCRAPES * args.interval_seconds
        serving = _of_serving(scraped, given, (window, recent), f"up{{{matchers}}}", args.currency)
        every += [replace(each, expr=selected(each.expr, matchers)) for each in serving if scraped.exports(each.expr)]
    return every


def _of_serving(
    scraped: Scraped, given: AlertArgs, windows: tuple[int, int], up: str, currency: str | None
) -> Iterator[Alert]:
    """Names vLLM's series without matchers. `windows`: the seconds that a state must last, and those of a rate."""
    limits, (window, recent) = scraped.limits, windows
    made = f"time() - max(kube_pod_created{{{scraped.pod_matchers}}})"
    wanted = f" and on () count(kube_pod_info{{{scraped.pod_matchers}}}) > 0" if scraped.pauses else ""
    tokens = "vllm:generation_tokens_total"
    silent = given.no_answer_seconds or limits.no_answer_seconds
    yield Alert(
        "NoAnswer",
        "critical",
        silent,
        f"nobody has answered for {_time(silent)}, and no start explains it",
        f"((sum({up}) == 0 or absent({up})) unless on () ({made} < {limits.start_seconds}){wanted}) "
        f"or (sum(vllm:num_requests_running) > 0 and sum(rate({tokens}[{recent}s])) == 0)",
    )
    if limits.kv_used is not None:
        used = kv_gauge(scraped.engine_version)
        yield Alert(
            "KvCacheFull",
            "warning",
            window,
            f"requests wait because the KV cache of a replica is fuller than {limits.kv_used:.0%}, "
            "which leaves no room for one more",
            f"max({used}) > {limits.kv_used:.6g} and sum(vllm:num_requests_waiting) > 0",
        )
    yield Alert(
        "QueueGrowing",
        "warning",
        window,
        f"more requests wait than the replicas can work on at once ({limits.at_once:.4g} each), and they become more",
        f"sum(vllm:num_requests_waiting) > {limits.at_once:.6g} * sum({up}) "
        f"and sum(deriv(vllm:num_requests_waiting[{window}s])) > 0",
    )
    idle = given.idle_seconds or limits.idle_seconds
    price = "" if scraped.replica_hour is None else f"; a replica costs {scraped.replica_hour:.2f} {currency} an hour"
    yield Alert(
        "NoTraffic",
        "info",
        idle,
        f"it runs, and nobody has asked it anything for {_time(idle)}{price}",
        # Old releases have no counter of tokens before the first request.
        f"sum({up}) > 0 unless (sum(rate({tokens}[{recent}s])) > 0 or sum(vllm:num_requests_running) > 0)",
    )


def _of_the_start(scraped: Scraped, window: int) -> Iterator[Alert]:
    limits, pods = scraped.limits, scraped.pod_matchers
    age = f"(time() - max by (pod) (kube_pod_created{{{pods}}}))"
    yield Alert(
        "StartOverdue",
        "warning",
        window,
        f"a pod is older than the {_time(limits.start_seconds)} that a start may take, and is not ready",
        f"max({age} > {limits.start_seconds} and on (pod) "
        f'max by (pod) (kube_pod_status_ready{{{pods}, condition="true"}}) == 0)',
    )
    if scraped.nodes > 1:
        yield Alert(
            "GroupNotFormed",
            "warning",
            limits.form_seconds,
            f"some of the {scraped.nodes} pods of a replica do not run after {_time(limits.form_seconds)}; "
            "the others hold their GPUs and wait",
            f'sum(kube_pod_status_phase{{{pods}, phase=~"Pending|Unknown|Failed"}}) > 0 '
            f"or count(kube_pod_info{{{pods}}}) % {scraped.nodes} > 0",
        )
    made = f"count_over_time(kube_pod_created{{{pods}}}[{limits.loop_seconds}s])"
    # A pod's uid is a label, so each time that it is made is a series of its own.
    starts = f"max(count by (pod) ({made}))" if scraped.keeps_names else (
        f"count({made}) / {max(scraped.nodes * scraped.replicas, 1)}"
    )  # fmt: skip
    restarts = f"max(increase(kube_pod_container_status_restarts_total{{{pods}}}[{limits.loop_seconds}s]))"
    yield Alert(
        "ReplacementLoop",
        "critical",
        0,
        f"its pods have started {LOOP_STARTS} times within {_time(limits.loop_seconds)}",
        f"{starts} >= {LOOP_STARTS} or {restarts} >= {LOOP_STARTS - 1}",
    )
    if stalled := [*_stalled(scraped, window)]:
        yield Alert(
            "DownloadStalled",
            "warning",
            window,
            "the weights arrive more slowly than the time limit of their copy allows",
            " or ".join(stalled),
        )
    if scraped.load and limits.load_seconds is not None:
        job = f'namespace="{scraped.namespace}", job_name="{scraped.load}"'
        yield Alert(
            "CacheNotFilling",
            "warning",
            0,
            f"the load of the weights into the cache has failed, or has taken longer than {_time(limits.load_seconds)}",
            f"(time() - max(kube_job_status_start_time{{{job}}}) > {limits.load_seconds} "
            f"and max(kube_job_status_active{{{job}}}) > 0) or max(kube_job_status_failed{{{job}}}) > 0",
        )


def _stalled(scraped: Scraped, window: int) -> Iterator[str]:
    limits, place = scraped.limits, f'namespace="{scraped.namespace}"'
    if scraped.sync and limits.fill_rate is not None:
        arriving = f'container_network_receive_bytes_total{{{place}, pod=~"{scraped.sync}-.+"}}'
        active = f'kube_job_status_active{{{place}, job_name="{scraped.sync}"}}'
        yield f"(sum(rate({arriving}[{window}s])) < {limits.fill_rate:.6g} and max({active}) > 0)"
    if limits.copy_rate is not None:
        arriving = f"sum by (pod) (rate(container_network_receive_bytes_total{{{scraped.pod_matchers}}}[{window}s]))"
        copying = f'kube_pod_init_container_status_running{{{scraped.pod_matchers}, container="{WEIGHTS_CONTAINER}"}}'
        yield f"(min({arriving} < {limits.copy_rate:.6g} and on (pod) max by (pod) ({copying}) == 1))"


def _time(seconds: int) -> str:
    return f"{round(seconds / 60)} min" if seconds >= 120 else f"{seconds} s"
