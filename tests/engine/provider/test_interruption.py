"""What Ctrl-C and a killed engine leave behind."""

from __future__ import annotations

import signal

import pytest

from tests.engine.provider.conftest import WIDGET_VERSION, Cluster, Engine, widget


def path(namespace: str) -> str:
    return f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets/w"


WAITING = {"pulumi.com/waitFor": "condition=Ready", "pulumi.com/timeoutSeconds": "30"}


def test_ctrl_c_during_a_wait_keeps_the_object_in_the_state_and_the_next_up_waits_again(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    stopped = engine.up_interrupted(
        lambda: widget(namespace, WAITING, size=1), lambda: cluster.get(path(namespace)), signal.SIGINT
    )
    words = (
        f'resource "{engine.urn(f"{WIDGET_VERSION}:Widget", "w")}" was successfully created, but the Kubernetes API '
        "server reported that it failed to fully initialize or become live: context canceled"
    )
    assert stopped.error == f"1 error occurred:\n\t* {words}\n\n"
    assert engine.resource("w")["initErrors"] == [words]
    assert not engine.state().get("pending_operations") and not list(engine.backend.rglob("locks/**/*.json"))

    changed = engine.up_interrupted(
        lambda: widget(namespace, WAITING, size=2),
        lambda: cluster.get(path(namespace))["spec"]["size"] == 2,
        signal.SIGINT,
    )
    assert changed.steps == [("update", "w")]
    assert changed.error == (
        f'update of resource "{engine.urn(f"{WIDGET_VERSION}:Widget", "w")}" failed: context canceled\n'
        "unable to get cluster state: client rate limiter Wait returned an error: context canceled"
    )


@pytest.mark.filterwarnings("ignore:Error in event stream")
def test_a_kill_during_a_create_leaves_lock_pending_create_and_an_orphan_object(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    killed = engine.up_interrupted(
        lambda: widget(namespace, WAITING, size=1), lambda: cluster.get(path(namespace)), signal.SIGKILL
    )
    assert not killed.ok and cluster.exists(path(namespace))
    assert engine.names() == []
    pending = engine.state()["pending_operations"]
    assert [(item["type"], item["resource"]["urn"].rpartition("::")[2]) for item in pending] == [("creating", "w")]
    locks = list(engine.backend.rglob("locks/**/*.json"))
    assert len(locks) == 1
    assert engine.preview().ok
    assert "the stack is currently locked by 1 lock(s)" in engine.up().output

    engine.stack.cancel()
    again = engine.up(lambda: widget(namespace, size=1))
    assert any("1 pending operations from previous deployment" in warning for warning in again.warnings)
    assert 'widgets.provider.example.com "w" already exists\n\nThe resource already exists' in again.error
