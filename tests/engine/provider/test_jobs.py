"""Jobs that fail, and what `pulumi.com/replaceUnready` makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pulumi_kubernetes as k8s

from tests.engine.provider.conftest import Engine, widget

KEY = '.metadata.annotations["pulumi.com/replaceUnready"]'
AGAIN = {"pulumi.com/replaceUnready": "true"}


def job(namespace: str, *, fails: bool, annotations: dict[str, str] | None = None) -> Callable[[], None]:
    """A program with a Job of one pod and no second try."""
    pod = {"annotations": {"rehearsal.modelserve.dev/fail": "crash"}} if fails else {}
    containers = [{"name": "main", "image": "main"}]

    def program() -> None:
        k8s.batch.v1.Job(
            "job",
            metadata={"name": "job", "namespace": namespace, "annotations": annotations or {}},
            spec={
                "backoff_limit": 0,
                "template": {"metadata": pod, "spec": {"restart_policy": "Never", "containers": containers}},
            },
        )

    return program


def test_a_job_that_fails_ends_the_wait_at_once_with_what_its_pods_said(engine: Engine, namespace: str) -> None:
    failed = engine.up(job(namespace, fails=True))
    assert "failed to fully initialize or become live: Resource 'job' was created but failed to initialize" in (
        failed.error
    )
    assert f"[Pod {namespace}/job-" in failed.error
    assert 'container "main" completed with exit code 1' in failed.error
    assert "[BackoffLimitExceeded] Job has reached the specified backoff limit" in failed.error


def test_a_failed_job_is_made_anew_only_when_it_says_so(engine: Engine, namespace: str) -> None:
    assert not engine.up(job(namespace, fails=True)).ok
    assert engine.preview().steps == [("update", "job")]
    replaced = engine.up(job(namespace, fails=True, annotations=AGAIN))
    assert replaced.steps == [("delete-replaced", "job"), ("replace", "job"), ("create-replacement", "job")]
    assert replaced.replaced_by["job"] == [KEY]
    assert engine.preview().replaced_by["job"] == [KEY]
    assert engine.up(job(namespace, fails=False, annotations=AGAIN)).ok
    assert engine.up().steps == [("same", "job")]


def test_another_kind_that_asks_for_it_is_warned_of(engine: Engine, namespace: str) -> None:
    assert engine.up(lambda: widget(namespace, AGAIN, size=1)).ok
    again = engine.preview(lambda: widget(namespace, AGAIN, size=2))
    assert again.steps == [("update", "w")]
    assert again.warnings == ["replaceUnready annotation is not supported for this resource"]
