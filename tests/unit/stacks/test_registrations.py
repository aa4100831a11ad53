"""Deferred registrations: nothing reaches the engine before the checks are done, and nothing at all if they refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pulumi
import pytest

from components.cluster.kubernetes import kubernetes_object, kubernetes_provider
from stacks.registrations import Registration, held
from tests.support.recorder import Recorder

NAMES = ["cluster", "a", "b"]


def program(judge: Callable[[Sequence[Registration]], None], during: Callable[[], Any] = lambda: None) -> Any:
    async def judged(made: list[Registration]) -> None:
        judge(made)

    def run() -> pulumi.Output[Any]:
        with held(judged):
            made: list[Any] = [kubernetes_provider("cluster", "c", None)]
            for name in ("a", "b"):
                manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
                opts = pulumi.ResourceOptions(provider=made[0], depends_on=made[1:])
                made.append(kubernetes_object(name, manifest, opts))
            during()
        return made[-1].id

    return run


def test_the_judge_is_given_everything_while_nothing_is_registered_and_leaves_no_trace_in_it(engine: Recorder):
    seen = []

    def judge(made: Sequence[Registration]) -> None:
        seen.append(([each.name for each in made], dict(engine.seen)))

    engine.run(program(judge))
    assert seen == [(NAMES, {})]
    assert [name for _, name in engine.seen] == NAMES
    assert list(engine.one("ConfigMap", "a").dependencies) == []
    assert list(engine.one("ConfigMap", "b").dependencies) == [engine.urn(engine.one("ConfigMap", "a"))]


def refuse(*_: object) -> None:
    raise pulumi.RunError("no")


@pytest.mark.parametrize(("judge", "during"), [(refuse, lambda: None), (lambda made: None, refuse)])
def test_a_refusal_of_the_judge_or_of_the_program_itself_registers_nothing(
    engine: Recorder, judge: Callable[..., None], during: Callable[[], None]
):
    with pytest.raises(pulumi.RunError, match="no"):
        engine.run(program(judge, during))
    assert engine.seen == {}


def test_what_is_made_when_the_others_had_been_judged_is_a_fault(engine: Recorder):
    def run() -> pulumi.Output[Any]:
        def late(_: str) -> pulumi.Output[str]:
            return kubernetes_provider("late", "c", None).id

        return program(lambda made: None)().apply(late)

    with pytest.raises(RuntimeError, match="pulumi:providers:kubernetes late"):
        engine.run(run)
