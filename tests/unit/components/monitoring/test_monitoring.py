"""Monitoring of the engines: which Service is scraped, and that the dashboard queries what the engines export."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from components.cluster.kubernetes import labels
from components.monitoring.args import AlertArgs
from components.monitoring.dashboards import dashboard, dashboard_config
from components.monitoring.monitoring import Monitoring, service_monitor
from components.serving import inference_service
from components.serving.inference_service import InferenceServiceArgs
from planning.catalog import entries
from planning.problems import Refused
from standins.vllm import Metrics
from tests.support.monitoring import RELEASES, arguments, everything, scraped
from tests.support.recorder import Recorder
from tests.support.schemas import problems

CONFIG_MAP_BYTES = 1 << 20


def panels(made: dict[str, Any], row: str | None = None) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, or those of one row; without the rows' titles."""
    title = ""
    for panel in made["panels"]:
        if panel["type"] == "row":
            title = panel["title"]
        elif row in (None, title):
            yield panel


def targets(*versions: str | None, **changes: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Panel title and query, for every query about the engines."""
    for panel in panels(dashboard("monitoring", arguments(*versions, **changes)), "Engine"):
        for target in panel["targets"]:
            yield panel["title"], target


def tree(expression: str) -> promql_parser.Expr:
    """The expression as Prometheus parses it, after Grafana has filled in the one variable that is outside a string."""
    return promql_parser.parse(expression.replace("$__rate_interval", "2m"))


def nodes(expression: str, kind: type) -> list[Any]:
    found: list[Any] = []

    def look(node: promql_parser.Expr) -> None:
        if isinstance(node, kind):
            found.append(node)

    promql_parser.walk(tree(expression), look)
    return found


def names(title: str, *versions: str | None) -> set[str]:
    """The series that the panel `title` queries."""
    asked = (target["expr"] for found, target in targets(*versions) if found == title)
    return {node.name for expression in asked for node in nodes(expression, promql_parser.VectorSelector)}


def exposed(version: str) -> dict[str, set[str]]:
    """Series → label names, as an engine of that release answers `/metrics`."""
    lines = (line for line in Metrics(version, "m").text().splitlines() if not line.startswith("#"))
    return {line.partition("{")[0]: set(re.findall(r"(\w+)=", line)) for line in lines}


def test_every_object_passes_strict_validation_against_its_real_schema(engine: Recorder):
    args = arguments("0.7.3", "0.33.0", annotations={"a.example/b": "true"}, alerts=AlertArgs())
    engine.run(lambda: Monitoring("monitoring", args))
    assert [(made["kind"], problems(made)) for made in engine.objects()] == [
        ("ServiceMonitor", []),
        ("PrometheusRule", []),
        ("ServiceMonitor", []),
        ("PrometheusRule", []),
        ("ConfigMap", []),
    ]


def test_a_monitor_selects_its_own_service_by_a_port_it_has_and_no_other():
    def front(stack: str, name: str) -> dict[str, Any]:
        args = InferenceServiceArgs(
            stack=stack,
            namespace="models",
            service_name=f"{name}-x",
            leaders={},
            members={},
            port=8000,
            api_key=None,
            load_balancer=None,
            clients=None,
            annotations={},
        )
        return inference_service.service(name, args)

    fronts = [front(stack, name) for stack, name in itertools.product(("vke", "vke-2"), ("r1", "r2"))]
    head = {"metadata": {"labels": {"ray.io/node-type": "head", "app.kubernetes.io/name": "kuberay"}}}
    spec = service_monitor("monitoring", "r1", arguments())["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    assert [each for each in (*fronts, head) if wanted <= each["metadata"]["labels"].items()] == fronts[:1]
    assert spec["namespaceSelector"] == {"matchNames": ["models"]}
    (endpoint,) = spec["endpoints"]
    assert endpoint["port"] in [port["name"] for port in fronts[0]["spec"]["ports"]]


def test_what_is_scraped_carries_model_and_stack_even_while_the_engine_is_down():
    (endpoint,) = service_monitor("monitoring", "r1", arguments(interval_seconds=15))["spec"]["endpoints"]
    # Labels from relabeling the target also apply to `up`; those from relabeling samples (metricRelabelings) do not.
    rules = {rule.pop("targetLabel"): rule for rule in endpoint.pop("relabelings")}
    assert rules == {
        "model": {"action": "replace", "replacement": "r1"},
        "stack": {"action": "replace", "replacement": "vke"},
    }
    # No token: /metrics is open, with or without an API key.
    assert endpoint == {"port": "http", "path": "/metrics", "interval": "15s"}


def test_monitors_and_dashboards_carry_what_the_cluster_picks_them_by_and_whose_they_are():
    args = arguments(
        labels={"release": "prometheus", "app.kubernetes.io/managed-by": "somebody"},
        annotations={"arms.prometheus.io/discovery": "true"},
        dashboard_namespace="grafana",
        dashboard_labels={"dashboards": "yes"},
    )
    monitor, config = service_monitor("monitoring", "r1", args)["metadata"], dashboard_config("monitoring", args)
    assert monitor["labels"] == {"release": "prometheus", **labels("vke", "r1")}
    assert monitor["annotations"] == {"arms.prometheus.io/discovery": "true"}
    assert "annotations" not in service_monitor("monitoring", "r1", arguments())["metadata"]
    assert config["metadata"]["labels"] == {"dashboards": "yes", **labels("vke", "monitoring")}
    assert config["metadata"]["namespace"] == "grafana"
    usual = dashboard_config("monitoring", arguments())["metadata"]
    assert usual["namespace"] == "models" and usual["labels"]["grafana_dashboard"] == "1"


@pytest.mark.parametrize("version", RELEASES)
def test_every_query_parses_and_asks_for_series_and_labels_that_the_release_exports(version):
    there = exposed(version)
    for title, target in targets(version):
        selectors = nodes(target["expr"], promql_parser.VectorSelector)
        assert selectors, title
        for selector in selectors:
            assert selector.name in there, f"{title}: {selector.name}"
        for group in nodes(target["expr"], promql_parser.AggregateExpr):
            of_scrape = {"model", "pod"}
            assert set(group.modifier.labels) <= of_scrape.union(*(there[each.name] for each in selectors)), title


@pytest.mark.parametrize("version", [*RELEASES, None])
def test_every_release_has_every_panel(version):
    assert list(dict.fromkeys(title for title, _ in targets(version))) == [
        "Requests running and waiting",
        "KV cache in use",
        "Time to first token",
        "Time per output token",
        "End-to-end latency",
        "Time in the queue",
        "Tokens a second",
        "Prefix cache hit rate",
        "Finished requests by reason",
        "Preemptions a second",
        "Prompt length (tokens)",
        "Generation length (tokens)",
    ]


@pytest.mark.parametrize(
    ("versions", "cache", "hits", "token"),
    [
        (("0.7.3",), {"gpu_cache_usage_perc"}, {"gpu_prefix_cache_hit_rate"}, {"time_per_output_token_seconds_bucket"}),
        (
            ("0.8.5",),
            {"gpu_cache_usage_perc"},
            {"gpu_prefix_cache_hits_total", "gpu_prefix_cache_queries_total"},
            {"time_per_output_token_seconds_bucket"},
        ),
        (
            ("0.10.2",),
            {"kv_cache_usage_perc"},
            {"prefix_cache_hits_total", "prefix_cache_queries_total"},
            {"inter_token_latency_seconds_bucket"},
        ),
        (
            ("0.33.0", "0.7.3", "0.33.0"),
            {"kv_cache_usage_perc", "gpu_cache_usage_perc"},
            {"prefix_cache_hits_total", "prefix_cache_queries_total", "gpu_prefix_cache_hit_rate"},
            {"inter_token_latency_seconds_bucket", "time_per_output_token_seconds_bucket"},
        ),
    ],
)
def test_a_panel_asks_by_the_names_of_the_releases_that_run_and_by_no_others(versions, cache, hits, token):
    assert names("KV cache in use", *versions) == {f"vllm:{name}" for name in cache}
    assert names("Prefix cache hit rate", *versions) == {f"vllm:{name}" for name in hits}
    assert names("Time per output token", *versions) == {f"vllm:{name}" for name in token}


def test_two_releases_share_one_query_in_which_each_models_own_name_answers():
    (target,) = [target for title, target in targets("0.7.3", "0.33.0") if title == "KV cache in use"]
    either = tree(target["expr"])
    assert isinstance(either, promql_parser.BinaryExpr) and str(either.op) == "or"
    sides = [nodes(side.prettify(), promql_parser.VectorSelector) for side in (either.lhs, either.rhs)]
    assert [[node.name for node in side] for side in sides] == [
        ["vllm:kv_cache_usage_perc"],
        ["vllm:gpu_cache_usage_perc"],
    ]
    assert dashboard("m", arguments("0.33.0", "0.7.3")) == dashboard("m", arguments("0.7.3", "0.33.0"))


def test_every_query_tells_models_apart_so_that_no_side_silences_another():
    for title, target in targets("0.7.3", "0.33.0"):
        for group in nodes(target["expr"], promql_parser.AggregateExpr):
            assert "model" in group.modifier.labels, title


def test_a_prefix_cache_that_is_off_has_no_hit_rate():
    (target,) = [target for title, target in targets("0.7.3") if title == "Prefix cache hit rate"]
    # In this case the engine reports -1.
    assert [(str(node.op), node.rhs.val) for node in nodes(target["expr"], promql_parser.BinaryExpr)] == [(">=", 0)]


def test_a_query_selects_the_stack_the_chosen_models_and_pods_and_is_named_by_labels_it_keeps():
    for title, target in targets("0.7.3", "0.33.0"):
        for selector in nodes(target["expr"], promql_parser.VectorSelector):
            matchers = {each.name: each.value for each in selector.matchers.matchers}
            assert matchers == {"stack": "vke", "model": "$model", "pod": "$pod"}, title
        kept = set.intersection(
            *(set(group.modifier.labels) for group in nodes(target["expr"], promql_parser.AggregateExpr))
        )
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept - {"le"}, title


def test_latencies_are_shown_at_three_quantiles():
    for title in ("Time to first token", "Time per output token", "End-to-end latency"):
        asked = [target for found, target in targets() if found == title]
        calls = [call for target in asked for call in nodes(target["expr"], promql_parser.Call)]
        assert [call.args[0].val for call in calls if call.func.name == "histogram_quantile"] == [0.5, 0.95, 0.99]


def test_a_rate_looks_back_by_the_interval_of_the_scrape_and_never_by_a_fixed_time():
    for title, target in targets(interval_seconds=45):
        assert target["interval"] == "45s", title
        assert set(re.findall(r"\[(.*?)\]", target["expr"])) <= {"$__rate_interval"}, title


def test_the_data_source_is_chosen_in_grafana_and_the_variables_come_from_the_stacks_own_series():
    made = dashboard("monitoring", arguments())
    source, model, pod = made["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    for variable, selection in ((model, {"stack"}), (pod, {"stack", "model"})):
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        assert variable["name"] == label
        (selector,) = nodes(series, promql_parser.VectorSelector)
        assert {each.name for each in selector.matchers.matchers} == selection
        assert all(selector.name in exposed(release) for release in RELEASES)
    sources = [each["datasource"] for each in (model, pod, *panels(made))]
    sources += [target["datasource"] for panel in panels(made) for target in panel["targets"]]
    assert {each["uid"] for each in sources} == {"${datasource}"}


def test_panels_have_ids_places_and_queries_of_their_own():
    made = dashboard("monitoring", everything("0.33.0"))
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    cells = [
        (place["x"] + column, place["y"] + row)
        for place in (panel["gridPos"] for panel in made["panels"])
        for column, row in itertools.product(range(place["w"]), range(place["h"]))
    ]
    assert len(set(cells)) == len(cells) and max(column for column, _ in cells) < 24
    for panel in panels(made):
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_a_dashboard_of_every_release_at_once_fits_into_a_config_map_under_a_key_of_its_own():
    configs = [
        dashboard_config(name, arguments(*RELEASES, stack=stack))
        for stack, name in (("a-b", "c"), ("a", "b-c"), ("a", "c"))
    ]
    keys = [key for config in configs for key in config["data"]]
    assert len(set(keys)) == len({config["metadata"]["name"] for config in configs}) == len(configs)
    assert all(key.endswith(".json") for key in keys)
    contents = [text for config in configs for text in config["data"].values()]
    assert max(len(text.encode()) for text in contents) < CONFIG_MAP_BYTES
    uids = {json.loads(text)["uid"] for text in contents}
    assert len(uids) == len(configs) and max(map(len, uids)) <= 40


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"services": {}}, "nothing would be scraped"),
        ({"interval_seconds": 0}, "interval_seconds 0: is no interval"),
        ({"services": {"r1": scraped(selector={})}}, "services r1: an empty selector selects every Service"),
    ],
)
def test_monitoring_of_nothing_or_of_everything_is_refused(change, why):
    with pytest.raises(Refused, match=why):
        arguments(**change)


def test_a_stack_may_go_without_the_dashboard_and_hold_two_instances(engine: Recorder):
    engine.run(lambda: [Monitoring("m", arguments()), Monitoring("n", arguments())])
    found = engine.names()
    assert len(set(found)) == len(found) == 4
    engine.seen.clear()
    engine.run(lambda: Monitoring("m", arguments(dashboard=False)))
    assert [made["kind"] for made in engine.objects()] == ["ServiceMonitor"]


@pytest.mark.parametrize("version", [*RELEASES, None])
def test_what_is_around_the_engines_is_asked_for_by_series_and_labels_of_the_exporters(version):
    there = {
        name: set(names)
        for kind in entries("monitoring")["exporters"].values()
        for name, names in kind["value"].items()
    }
    there |= {name: {"stack", "model"} for name in ("up", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")}
    made = dashboard("monitoring", everything(version))
    around = [each for row in ("Start", "Cache", "GPUs and network", "Gateway", "Cost") for each in panels(made, row)]
    assert len(around) == 3 + 2 + 3 + 2 + 2
    for panel in around:
        for target in panel["targets"]:
            for selector in nodes(target["expr"], promql_parser.VectorSelector):
                assert {each.name for each in selector.matchers.matchers} <= there[selector.name], panel["title"]


def test_a_row_is_left_out_where_the_stack_has_no_such_thing():
    rows = [panel["title"] for panel in dashboard("m", arguments())["panels"] if panel["type"] == "row"]
    assert rows == ["Engine", "Start", "GPUs and network"]
