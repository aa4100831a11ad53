"""The alerts: each fires on what it names and on nothing less, as Prometheus' own promtool evaluates them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from components.monitoring.alerts import PREFIX, alerts, group, prometheus_rule
from components.monitoring.args import AlertArgs, MonitoringArgs
from components.monitoring.cloud_alerts import Ruler, arms_rule, vmp_rule
from local.toolchain import ensure
from planning.catalog import entries
from planning.metrics import exported
from tests.support.documents import ROOT, anchors
from tests.support.monitoring import LIMITS, RELEASES, arguments, everything, scraped
from tests.support.schemas import problems

RUNBOOK = ROOT / "docs" / "runbook.md"
NAMES = [alert.name for alert in alerts("r1", everything("0.33.0"))]
OF_THE_START = {"StartOverdue", "GroupNotFormed", "ReplacementLoop", "DownloadStalled", "CacheNotFilling"}

VLLM, ONE = 'stack="vke", model="r1"', 'namespace="models", pod="r1-0"'
UP, RUNNING, WAITING = (
    f"{name}{{{VLLM}}}" for name in ("up", "vllm:num_requests_running", "vllm:num_requests_waiting")
)
TOKENS, USED = f"vllm:generation_tokens_total{{{VLLM}}}", f"vllm:kv_cache_usage_perc{{{VLLM}}}"
CREATED, READY = f'kube_pod_created{{{ONE}, uid="a"}}', f'kube_pod_status_ready{{{ONE}, uid="a", condition="true"}}'
PENDING, INFO = f'kube_pod_status_phase{{{ONE}, uid="a", phase="Pending"}}', f'kube_pod_info{{{ONE}, uid="a"}}'
OTHER = INFO.replace("r1-0", "r1-0-1")
AGAIN, THIRD = CREATED.replace('"a"', '"b"'), CREATED.replace('"a"', '"c"')
RESTARTS = f'kube_pod_container_status_restarts_total{{{ONE}, uid="a", container="vllm"}}'
COPYING = f'kube_pod_init_container_status_running{{{ONE}, uid="a", container="weights"}}'
RECEIVED = f'container_network_receive_bytes_total{{{ONE}, interface="eth0"}}'
SYNCED = RECEIVED.replace("r1-0", "deepseek-r1-sync-x7z")
SYNC, LOAD = (f'namespace="models", job_name="deepseek-r1-{name}"' for name in ("sync", "loader-job"))
SYNCING, LOADING, LOADED = (
    f"kube_job_status_active{{{SYNC}}}", f"kube_job_status_active{{{LOAD}}}", f"kube_job_status_failed{{{LOAD}}}"
)  # fmt: skip
BEGUN = f"kube_job_status_start_time{{{LOAD}}}"

# By alert: series of half an hour, a sample every 30 seconds from second 0 on, and whether it fires at the end.
CASES: list[tuple[str, str, dict[str, str], bool]] = [
    ("NoAnswer", "no target answers, and the pods are old", {UP: "0x60", CREATED: "0x60"}, True),
    ("NoAnswer", "there is no target", {CREATED: "0x60"}, True),
    ("NoAnswer", "there is no kube-state-metrics", {UP: "0x60"}, True),
    ("NoAnswer", "the pods are still starting", {UP: "0x60", CREATED: "1500x60"}, False),
    ("NoAnswer", "it answers, and computes nothing", {UP: "1x60", RUNNING: "3x60", TOKENS: "500x60"}, True),
    ("NoAnswer", "it answers, and computes", {UP: "1x60", RUNNING: "3x60", TOKENS: "0+50x60"}, False),
    ("NoAnswer", "it answers, and nobody asks", {UP: "1x60", RUNNING: "0x60", TOKENS: "500x60"}, False),
    ("StartOverdue", "an old pod is not ready", {CREATED: "0x60", READY: "0x60"}, True),
    ("StartOverdue", "a young pod is not ready", {CREATED: "900x60", READY: "0x60"}, False),
    ("StartOverdue", "an old pod is ready", {CREATED: "0x60", READY: "1x60"}, False),
    ("GroupNotFormed", "a pod waits for a node", {INFO: "1x60", OTHER: "1x60", PENDING: "1x60"}, True),
    ("GroupNotFormed", "a worker was never made", {INFO: "1x60", PENDING: "0x60"}, True),
    ("GroupNotFormed", "all pods run", {INFO: "1x60", OTHER: "1x60", PENDING: "0x60"}, False),
    ("GroupNotFormed", "a pod has waited for a while", {INFO: "1x60", OTHER: "1x60", PENDING: "1x25 0x35"}, False),
    (
        "ReplacementLoop",
        "a pod is made for the third time",
        {CREATED: "0x19 _x41", AGAIN: "_x20 600x19 _x21", THIRD: "_x40 1200x20"},
        True,
    ),
    ("ReplacementLoop", "a pod was replaced once", {CREATED: "0x19 _x41", AGAIN: "_x20 600x40"}, False),
    ("ReplacementLoop", "a container has restarted twice", {RESTARTS: "0x20 1x20 2x20"}, True),
    ("ReplacementLoop", "a container has restarted once", {RESTARTS: "0x20 1x40"}, False),
    ("DownloadStalled", "the sync receives next to nothing", {SYNCED: "0+100x60", SYNCING: "1x60"}, True),
    ("DownloadStalled", "the sync is as fast as planned", {SYNCED: "0+9000000000x60", SYNCING: "1x60"}, False),
    ("DownloadStalled", "the sync is over", {SYNCED: "0+100x60", SYNCING: "0x60"}, False),
    ("DownloadStalled", "a pod's copy receives next to nothing", {RECEIVED: "0+100x60", COPYING: "1x60"}, True),
    ("DownloadStalled", "a pod's copy is as fast as planned", {RECEIVED: "0+9000000000x60", COPYING: "1x60"}, False),
    ("DownloadStalled", "a pod has its weights", {RECEIVED: "0+100x60", COPYING: "0x60"}, False),
    ("CacheNotFilling", "the load takes longer than its limit", {BEGUN: "0x60", LOADING: "1x60"}, True),
    ("CacheNotFilling", "the load has failed", {BEGUN: "0x60", LOADING: "0x60", LOADED: "1x60"}, True),
    ("CacheNotFilling", "the load goes on in time", {BEGUN: "900x60", LOADING: "1x60"}, False),
    ("CacheNotFilling", "the load ended long ago", {BEGUN: "0x60", LOADING: "0x60", LOADED: "0x60"}, False),
    ("KvCacheFull", "it is full and requests wait", {USED: "0.95x60", WAITING: "2x60"}, True),
    ("KvCacheFull", "it is full and nobody waits", {USED: "0.95x60", WAITING: "0x60"}, False),
    ("KvCacheFull", "requests wait for something else", {USED: "0.5x60", WAITING: "2x60"}, False),
    ("QueueGrowing", "more and more wait", {UP: "1x60", WAITING: "0+1x60"}, True),
    ("QueueGrowing", "many wait, and it stays so", {UP: "1x60", WAITING: "60x60"}, False),
    ("QueueGrowing", "few wait, and they become more", {UP: "1x60", WAITING: "0+0.1x60"}, False),
    ("NoTraffic", "it runs and nobody asks", {UP: "1x60", RUNNING: "0x60", TOKENS: "500x60"}, True),
    ("NoTraffic", "nobody has asked since an old release began", {UP: "1x60", RUNNING: "0x60"}, True),
    ("NoTraffic", "it was asked a moment ago", {UP: "1x60", RUNNING: "0x60", TOKENS: "0+9x58 522x2"}, False),
    ("NoTraffic", "one long answer is computed", {UP: "1x60", RUNNING: "1x60", TOKENS: "500x60"}, False),
    ("NoTraffic", "it does not run", {UP: "0x60"}, False),
]  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> Path:
    return ensure("promtool")["promtool"]


def _told(
    promtool: Path,
    folder: Path,
    args: MonitoringArgs,
    cases: list[tuple[str, str, dict[str, str], bool]],
    form: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> str:
    """What promtool says of cases that do not come out as they should; "" if all do. `form` changes each rule."""
    rules = group("monitoring", "r1", args)
    rules["rules"] = [form(rule) for rule in rules["rules"]]
    folder.joinpath("rules.yaml").write_text(yaml.safe_dump({"groups": [rules]}))
    by_name = {rule["alert"]: rule for rule in rules["rules"]}
    tests = []
    for name, words, series, fires in cases:
        rule = by_name[f"{PREFIX}{name}"]
        expected = [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}] if fires else []
        asked = {"eval_time": "30m", "alertname": rule["alert"], "exp_alerts": expected}
        given = [{"series": each, "values": values} for each, values in series.items()]
        tests.append({"name": words, "interval": "30s", "input_series": given, "alert_rule_test": [asked]})
    file = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": tests}
    folder.joinpath("tests.yaml").write_text(yaml.safe_dump(file))
    ran = subprocess.run([promtool, "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def as_vmp(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule as Prometheus would have it, with VMP's expression, comparison and time."""
    made = vmp_rule("a", rule, Ruler(kind="vmp", instance="w", group_policy="g"))
    (level,) = made["levels"]
    compared = f"({made['query']['promQl']}) {level['comparator']} {level['threshold']}"
    return rule | {"expr": compared, "for": level["for"]}


def as_arms(rule: dict[str, Any]) -> dict[str, Any]:
    made = arms_rule("a", rule, Ruler(kind="arms", instance="c"))
    return rule | {"expr": made["expression"], "for": f"{made['duration']}m"}


@pytest.mark.rehearsal
@pytest.mark.parametrize("form", [dict, *(pytest.param(each, marks=pytest.mark.soak) for each in (as_arms, as_vmp))])
def test_every_alert_fires_on_what_it_names_and_on_nothing_less(promtool: Path, tmp_path: Path, form):
    assert _told(promtool, tmp_path, everything("0.33.0"), CASES, form) == ""
    # As many names as alerts, each with a case of either kind.
    assert {(name, fires) for name, _, _, fires in CASES} == {
        (name, fires) for name in NAMES for fires in (True, False)
    }


@pytest.mark.parametrize(
    ("seconds", "minutes", "lasting", "window"),
    [(0, "1", "0s", ""), (45, "1", "1m", ""), (300, "5", "5m", ""), (601, "11", "0s", "[601s:60s]")],
)
def test_a_rule_of_a_cloud_waits_at_least_as_long_as_it_is_to(seconds: int, minutes: str, lasting: str, window: str):
    rule = {"expr": "x > 1", "for": f"{seconds}s", "labels": {"severity": "info"}, "annotations": {"summary": "s"}}
    assert arms_rule("a", rule, Ruler(kind="arms", instance="c"))["duration"] == minutes
    made = vmp_rule("a", rule, Ruler(kind="vmp", instance="w", group_policy="g"))
    assert made["levels"][0]["for"] == lasting
    assert (window in made["query"]["promQl"]) if window else made["query"]["promQl"] == "count(x > 1)"


@pytest.mark.rehearsal
def test_an_old_releases_alerts_ask_by_its_own_names(promtool: Path, tmp_path: Path):
    series = {USED.replace("kv_cache", "gpu_cache"): "0.95x60", WAITING: "2x60"}
    assert _told(promtool, tmp_path, everything("0.7.3"), [("KvCacheFull", "full", series, True)]) == ""


@pytest.mark.rehearsal
def test_a_service_that_its_schedule_has_stopped_is_not_missed(promtool: Path, tmp_path: Path):
    cases: list[tuple[str, str, dict[str, str], bool]] = [
        ("NoAnswer", "there are no pods", {READY.replace("r1", "r2"): "1x60"}, False),
        ("NoAnswer", "its pods do not answer", {UP: "0x60", CREATED: "0x60", INFO: "1x60"}, True),
    ]
    assert _told(promtool, tmp_path, arguments(services={"r1": scraped(pauses=True)}), cases) == ""


@pytest.mark.parametrize("version", [*RELEASES, None])
def test_every_release_has_every_alert_and_asks_for_series_and_labels_that_are_there(version: str | None):
    there = {
        name: set(names)
        for kind in entries("monitoring")["exporters"].values()
        for name, names in kind["value"].items()
    }
    there |= {name: {"stack", "model", "pod"} for name in (*exported(version), "up")}
    found = alerts("r1", everything(version))
    assert [alert.name for alert in found] == NAMES

    def look(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert {each.name for each in node.matchers.matchers} <= there[str(node.name)], node.name

    for alert in found:
        promql_parser.walk(promql_parser.parse(alert.expr), look)


def test_the_rules_pass_strict_validation_and_carry_what_prometheus_picks_them_by_and_who_is_told():
    args = everything("0.33.0")
    made = prometheus_rule("monitoring", "r1", args)
    assert problems(made) == []
    assert args.labels.items() <= made["metadata"]["labels"].items()
    for rule in made["spec"]["groups"][0]["rules"]:
        assert {"team": "a", "stack": "vke", "model": "r1"}.items() <= rule["labels"].items()
    assert len(made["spec"]["groups"][0]["rules"]) == len(NAMES)


def test_every_alert_leads_to_an_entry_of_the_runbook():
    there = anchors(RUNBOOK)
    given = AlertArgs(runbook="https://git.example/docs/runbook.md")
    for args in (everything("0.33.0"), arguments(services={"r1": scraped()}, alerts=given)):
        for rule in group("monitoring", "r1", args)["rules"]:
            page, _, entry = rule["annotations"]["runbook_url"].partition("#")
            assert page == (args.alerts or given).runbook and entry in there, rule["alert"]


def test_the_thresholds_are_the_plans_unless_the_stack_file_has_them():
    exprs = {alert.name: alert for alert in alerts("r1", everything("0.33.0"))}
    assert (exprs["NoAnswer"].seconds, exprs["NoTraffic"].seconds) == (300, 900)
    assert "160.00 CNY an hour" in exprs["NoTraffic"].summary
    args = arguments(services={"r1": scraped()}, alerts=AlertArgs(no_answer_seconds=60, idle_seconds=7200))
    told = {alert.name: alert.seconds for alert in alerts("r1", args)}
    assert (told["NoAnswer"], told["NoTraffic"]) == (60, 7200)


def test_what_a_service_does_not_have_is_not_watched():
    bare = replace(LIMITS, copy_rate=None, kv_used=None)
    least = {alert.name for alert in alerts("r1", arguments(services={"r1": scraped(limits=bare)}))}
    assert set(NAMES) - least == {"GroupNotFormed", "DownloadStalled", "CacheNotFilling", "KvCacheFull"}
    paused = alerts("r1", arguments(services={"r1": scraped(replicas=0, nodes=2, limits=bare)}))
    assert {alert.name for alert in paused} == OF_THE_START - {"DownloadStalled", "CacheNotFilling"}


def test_no_secret_is_in_a_rule():
    text = json.dumps(prometheus_rule("monitoring", "r1", everything("0.33.0")))
    assert not re.search(r"apiKey|Bearer|password|secret", text, re.IGNORECASE)
