"""What `up` waits for, how long, and what it says when the time is over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import CustomTimeouts, ResourceOptions

from tests.engine.provider.conftest import WIDGET_VERSION, Cluster, Engine, Outcome, until, widget

BRIEFLY = ResourceOptions(custom_timeouts=CustomTimeouts(create="500ms", update="500ms", delete="500ms"))
LONGER = ResourceOptions(custom_timeouts=CustomTimeouts(create="30s", update="30s"))


def waiting(value: str) -> dict[str, str]:
    return {"pulumi.com/waitFor": value}


def not_live(engine: Engine, reason: str, kind: str = f"{WIDGET_VERSION}:Widget", name: str = "w") -> str:
    return (
        f'resource "{engine.urn(kind, name)}" was successfully created, but the Kubernetes API server reported that '
        f"it failed to fully initialize or become live: {reason}"
    )


class Controller:
    """Writes the status of the widget, one step after the other, each once the engine has said the line before it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.path = f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets/w"
        self.cluster = cluster

    def write(self, status: dict[str, Any]) -> None:
        self.cluster.merge(f"{self.path}/status", {"status": status})

    def follow(self, outcome: Outcome, steps: list[tuple[str, dict[str, Any]]]) -> threading.Thread:
        def run() -> None:
            for line, status in steps:
                until(lambda line=line: line in outcome.status)
                self.write(status)

        thread = threading.Thread(target=run)
        thread.start()
        return thread


def up_with(engine: Engine, controller: Controller, program: Callable[[], Any], steps: list[Any]) -> Outcome:
    """`up` while the controller follows what the engine says."""
    outcome = Outcome()
    thread = controller.follow(outcome, steps)
    engine.up(program, into=outcome)
    thread.join()
    return outcome


def test_a_condition_must_be_true_and_the_words_follow_it(engine: Engine, cluster: Cluster, namespace: str) -> None:
    controller = Controller(cluster, namespace)
    unmet = engine.up(lambda: widget(namespace, waiting("condition=Ready"), BRIEFLY, size=1))
    words = not_live(engine, "timed out waiting for the condition")
    assert unmet.error == f"1 error occurred:\n\t* {words}\n\n"
    assert unmet.status == ["Has no .status.conditions"]
    assert engine.resource("w")["initErrors"] == [words] and engine.resource("w")["id"] == f"{namespace}/w"

    no, yes = ([{"type": "Ready", "status": status}] for status in ("False", "True"))
    healed = up_with(
        engine,
        controller,
        lambda: widget(namespace, waiting("condition=Ready"), LONGER, size=1),
        [
            ("Has no .status.conditions", {"conditions": no}),
            ("Resource has condition Ready=False (want True)", {"conditions": yes}),
        ],
    )
    assert healed.ok and healed.steps == [("update", "w")] and "initErrors" not in engine.resource("w")
    assert healed.status == ["Has no .status.conditions", "Resource has condition Ready=False (want True)"]

    # True from before: counts at once, unless a controller says which generation it has seen.
    assert engine.up(lambda: widget(namespace, waiting("condition=Ready"), BRIEFLY, size=2)).ok
    controller.write({"observedGeneration": 2})
    stale = engine.up(lambda: widget(namespace, waiting("condition=Ready"), BRIEFLY, size=3))
    assert stale.status == ["Generation 2 is less than expected 3"]
    assert stale.error.endswith("timed out waiting for the condition\n\n")
    cured = engine.refresh()
    assert cured.ok and "initErrors" not in engine.resource("w")


def test_paths_and_lists_are_waited_for_in_order(engine: Engine, cluster: Cluster, namespace: str) -> None:
    wanted = (
        """["jsonpath={.status.phase}=Running", "jsonpath={.status.conditions[?(@.type==\\"Ready\\")].status}=True"]"""
    )
    pending, ready = ({"conditions": [{"type": "Ready", "status": status}]} for status in ("False", "True"))
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    created = up_with(
        engine,
        Controller(cluster, namespace),
        lambda: widget(namespace, waiting(wanted), LONGER, size=1),
        [
            ("{.status.phase} selected nothing", {"phase": "Pending", **pending}),
            ('Waiting for {.status.phase}=Running (found "Pending")', {"phase": "Running"}),
            (f'Waiting for {path}=True (found "False")', ready),
        ],
    )
    assert created.ok and created.status == [
        "{.status.phase} selected nothing",
        'Waiting for {.status.phase}=Running (found "Pending")',
        "Found {.status.phase}=Running",
        f'Waiting for {path}=True (found "False")',
        f"Found {path}=True",
    ]


def test_skip_await_beats_wait_for_and_the_annotation_sets_the_time(engine: Engine, namespace: str) -> None:
    annotations = waiting("condition=Ready") | {"pulumi.com/timeoutSeconds": "1"}
    assert "timed out waiting" in engine.up(lambda: widget(namespace, annotations, size=1)).error
    skipped = engine.up(lambda: widget(namespace, annotations | {"pulumi.com/skipAwait": "true"}, size=1))
    assert skipped.ok and skipped.status == ["Skipping await logic"]


def test_a_wait_for_that_cannot_be_read_passes_preview_and_leaves_an_orphan(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    assert engine.preview(lambda: widget(namespace, waiting("Ready"), size=1)).ok
    assert engine.up().error == (
        f'resource "{engine.urn(f"{WIDGET_VERSION}:Widget", "w")}" was not successfully created by the Kubernetes API '
        'server: expected a "jsonpath=" or "condition=" prefix, got "Ready"'
    )
    assert engine.names() == [] and cluster.exists(f"/apis/{WIDGET_VERSION}/namespaces/{namespace}/widgets/w")


def test_built_in_kinds_are_waited_for_side_by_side(engine: Engine, cluster: Cluster, namespace: str) -> None:
    labels = {"app": "a"}
    metadata = {"namespace": namespace}
    pod = {"containers": [{"name": "c", "image": "busybox"}]}

    def program() -> None:
        def named(name: str) -> dict[str, str]:
            return metadata | {"name": name}

        template = {"metadata": {"labels": labels}, "spec": pod}
        stuck = {**template, "spec": {**pod, "node_selector": {"nowhere": "yes"}}}
        once = {"spec": {**pod, "restart_policy": "Never"}}
        k8s.core.v1.Service(
            "svc", metadata=named("svc"), spec={"selector": labels, "ports": [{"port": 80}]}, opts=BRIEFLY
        )
        k8s.core.v1.Service("headless", metadata=named("headless"), spec={"cluster_ip": "None", "selector": labels})
        k8s.apps.v1.Deployment(
            "dep", metadata=named("dep"), spec={"selector": {"match_labels": labels}, "template": template}
        )
        k8s.batch.v1.Job("job", metadata=named("job"), spec={"template": once})
        k8s.apps.v1.StatefulSet(
            "sts",
            metadata=named("sts"),
            spec={"service_name": "headless", "selector": {"match_labels": labels}, "template": stuck},
            opts=BRIEFLY,
        )
        k8s.core.v1.Service(
            "lb",
            metadata=named("lb") | {"annotations": {"rehearsal.modelserve.dev/fail": "no-address"}},
            spec={"type": "LoadBalancer", "selector": {"app": "none"}, "ports": [{"port": 80}]},
            opts=BRIEFLY,
        )
        k8s.core.v1.PersistentVolume(
            "volume",
            metadata={"name": namespace},
            spec={
                "access_modes": ["ReadOnlyMany"],
                "capacity": {"storage": "1Gi"},
                "host_path": {"path": "/models"},
                "storage_class_name": "none",
            },
        )
        later = k8s.storage.v1.StorageClass(
            "later",
            metadata={"name": namespace},
            provisioner="example.com/none",
            volume_binding_mode="WaitForFirstConsumer",
        )
        k8s.core.v1.PersistentVolumeClaim(
            "claim",
            metadata=named("claim"),
            spec={
                "storage_class_name": later.metadata["name"],
                "access_modes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        )

        k8s.core.v1.Service(
            "short", metadata=named("short"), spec={"selector": {"app": "none"}, "ports": [{"port": 80}]}, opts=BRIEFLY
        )

    outcome = engine.up(program)
    late = {name: engine.resource(name).get("initErrors") for name in engine.names()}
    assert sorted(late) == ["claim", "dep", "headless", "job", "later", "lb", "short", "sts", "svc", "volume"]
    assert late["lb"] == [
        not_live(engine, "'lb' timed out waiting to be Ready", "core/v1:Service", "lb"),
        "Service was not allocated an IP address; does your cloud provider support this?",
    ]
    assert late["sts"][:2] == [
        not_live(engine, "'sts' timed out waiting to be Ready", "apps/v1:StatefulSet", "sts"),
        "0 out of 1 replicas succeeded readiness checks",
    ]
    assert {name for name, errors in late.items() if errors} == {"sts", "lb"}
    for line in (
        "Waiting for app ReplicaSet to be available (0/1 Pods available)",
        "Deployment initialization complete",
        f'Waiting for Job "{namespace}/job" to start',
        "[1/2] Waiting for StatefulSet to create Pods (0/1 Pods ready)",
        "[1/3] Finding Pods to direct traffic to",
        "✅ PV marked available",
    ):
        assert line in outcome.status
