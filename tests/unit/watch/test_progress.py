"""Which progress checks an object's hooks start."""

from __future__ import annotations

import pulumi
import pytest

from tests.support.recorder import Recorder
from watch.progress import Progress
from watch.rollout import RolloutStatus, lost


@pytest.mark.preview_too
def test_each_kind_has_hooks_of_its_own_which_two_objects_share_and_a_preview_has_none(engine: Recorder):
    def program() -> None:
        progress = Progress("c", "n", None)
        kinds = (progress.group_hooks, progress.sync_hooks, progress.runtime_hooks, progress.load_hooks)
        for index, hooks in enumerate(kinds * 2):
            pulumi.CustomResource("cloud:index:Thing", f"t{index}", {}, pulumi.ResourceOptions(hooks=hooks()))

    engine.run(program)
    bound = [engine.one("Thing", f"t{index}").hooks for index in range(8)]
    starts = [tuple(hooks.before_create) for hooks in bound]
    assert starts[:4] == starts[4:]
    assert len(set(starts)) == (1 if engine.preview else 4) and len(engine.hooks) == len(set(engine.hooks))
    assert all(bool(hooks.on_error) is not engine.preview for hooks in bound)


def test_a_lost_wait_names_what_is_wrong_now_else_where_it_stands_and_what_went_wrong_before():
    assert lost(RolloutStatus("pods: 1 of 2", ("a", "b")), "old") == "a; b"
    assert lost(RolloutStatus("pods: 1 of 2"), "old") == "pods: 1 of 2; before that: old"
    assert lost(RolloutStatus("pods: 1 of 2"), None) == "pods: 1 of 2"
