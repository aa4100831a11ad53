"""The runbook's entries happen: each is played by the test that is named beside it."""

from __future__ import annotations

import ast

import pytest

from tests.support.documents import ROOT, anchors

_ACS, _STACK, _START = (
    "rehearsal/test_acs_failures.py",
    "rehearsal/test_stack.py",
    "unit/components/serving/test_launch.py",
)
_ENGINES = "rehearsal/test_engines.py"
_ALERTS = "unit/components/monitoring/test_alerts.py::test_every_alert_fires_on_what_it_names_and_on_nothing_less"
PLAYED = {
    "no-answer": f"{_ENGINES}::test_engine_that_dies_later_says_why_and_closes_its_port",
    "start-overdue": f"{_STACK}::test_a_start_that_cannot_be_is_told_in_time_with_its_cause_and_the_next_up_heals_it",
    "group-not-formed": (
        "rehearsal/test_volcengine_ways.py::test_a_fleet_that_fails_is_told_with_its_cause_and_the_next_up_heals_it"
    ),
    "stuck-at-ray": f"{_START}::test_a_group_that_never_forms_ends_the_pod_with_the_count_and_never_starts_vllm",
    "out-of-memory-at-load": (
        f"{_STACK}::test_a_start_that_fails_is_told_with_the_cause_and_not_with_what_the_engines_parent_says"
    ),
    "out-of-memory-at-capture": (
        f"{_STACK}::test_a_start_that_fails_is_told_with_the_cause_and_not_with_what_the_engines_parent_says"
    ),
    "download-stalled": f"{_ACS}::test_a_hub_that_is_down_for_a_while_is_told_while_up_goes_on_and_comes_up",
    "cache-not-filling": (
        f"{_ACS}::test_a_load_that_fails_ends_up_in_fluids_words_without_a_group_and_the_next_up_loads_anew"
    ),
    "replacement-loop": f"{_ENGINES}::test_crashing_pod_ends_its_log_with_the_reason_and_keeps_the_previous_one",
    "kv-cache-full": _ALERTS,
    "queue-growing": _ALERTS,
    "replicas-not-following-the-load": (
        "rehearsal/test_autoscaling.py::test_an_update_leaves_a_group_the_replicas_that_an_autoscaler_gave_it"
    ),
    "no-traffic": _ALERTS,
    "imagepullbackoff": (
        f"{_STACK}::test_a_start_that_cannot_be_is_told_in_time_with_its_cause_and_the_next_up_heals_it"
    ),
    "hung-destroy": (
        "rehearsal/test_audit.py::test_a_destroy_that_hangs_says_meanwhile_what_it_waits_for_and_ends_with_it"
    ),
    "nccl-on-the-wrong-interface": (
        f"{_STACK}::test_a_start_that_fails_is_told_with_the_cause_and_not_with_what_the_engines_parent_says"
    ),
    "out-of-memory-in-the-sampler": (
        f"{_STACK}::test_a_start_that_fails_is_told_with_the_cause_and_not_with_what_the_engines_parent_says"
    ),
    "second-raycluster-after-a-lost-pod": (
        "rehearsal/test_volcengine_ways.py"
        "::test_a_head_that_is_not_ready_any_more_gets_a_second_raycluster_which_answers_once_the_broken_one_is_deleted"
    ),
    "gateway-504": (
        "rehearsal/test_gateway_plane.py"
        "::test_an_answer_that_takes_longer_than_the_route_allows_is_a_504_and_a_shorter_one_is_not"
    ),
}


def test_every_entry_of_the_runbook_is_played():
    assert sorted(anchors(ROOT / "docs" / "runbook.md")[1:]) == sorted(PLAYED)


@pytest.mark.parametrize("entry", PLAYED)
def test_the_test_that_plays_an_entry_is_there(entry: str):
    file, _, name = PLAYED[entry].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
