"""Releases of charts, by the real helm on the real control plane."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pytest

from components.cluster_addons import Addon, ClusterAddons, ClusterAddonsArgs
from local import charts
from tests.engine.provider.conftest import Cluster, Engine, Outcome

SECRET = "a-very-secret-value"
CHART = "oci://registry.k8s.io/lws/charts/lws"


def named(namespace: str) -> str:
    """A release's name of the test's own: objects of the chart that have no namespace are named after it."""
    return namespace.replace("provider", "lws")


def release(namespace: str, chart: str = CHART, **more: Any) -> Callable[[], None]:
    """A program with the resource `lws`, a release; without a wait, so that no test takes helm's two seconds for it."""

    def program() -> None:
        options = {"version": "0.10.0", "skip_await": True} | more
        k8s.helm.v3.Release("lws", name=named(namespace), namespace=namespace, chart=chart, **options)

    return program


def operator(namespace: str) -> str:
    """The path of the chart's Deployment."""
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{named(namespace)}-controller-manager"


def test_a_release_is_installed_and_waited_for_upgraded_and_removed(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    program = release(namespace, skip_await=False, timeout=60)
    assert engine.preview(program).steps == [("create", "lws")]
    made = engine.up(program)
    assert made.ok, made.output
    assert any(f"{CHART} is not asked: chart 0.10.0 comes from Go module sigs.k8s.io/lws" in n for n in made.notes)
    assert cluster.get(operator(namespace))["status"]["readyReplicas"] == 1
    state = engine.resource("lws")
    assert state["id"] == f"{namespace}/{named(namespace)}"
    place = {"name": named(namespace), "namespace": namespace, "chart": "lws"}
    versions = {"version": "0.10.0", "appVersion": "v0.10.0"}
    assert state["outputs"]["status"] == place | versions | {"revision": 1, "status": "deployed"}
    assert state["outputs"]["resourceNames"]["Deployment.apps/apps/v1"] == [
        f"{namespace}/{named(namespace)}-controller-manager"
    ]
    assert (state["inputs"]["atomic"], state["inputs"]["timeout"], state["inputs"]["postrender"]) == (False, 60, "")
    assert "compat" not in state["inputs"]
    assert engine.up().steps == [("same", "lws")]

    changed = engine.up(release(namespace, skip_await=False, timeout=60, values={"replicaCount": 2}))
    assert changed.detail["lws"] == {"values.replicaCount": "add"}
    assert engine.resource("lws")["outputs"]["status"]["revision"] == 2
    assert cluster.get(operator(namespace))["spec"]["replicas"] == 2
    cluster.delete(operator(namespace))
    assert engine.refresh().ok
    assert engine.preview().steps == [("same", "lws")]
    assert engine.destroy().ok
    assert engine.names() == []


def test_the_clouds_fluid_gets_ready_on_virtual_nodes_and_its_hook_runs_at_an_upgrade(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    # Its objects without a namespace have fixed names; the operator that these stand for is played by stages.
    def fluid(**values: Any) -> Callable[[], None]:
        chart = "https://a.example/ack-fluid-1.0.13.tgz"
        more = {"version": "1.0.13", "values": {"namespace": namespace, **values}, "skip_await": False, "timeout": 60}
        return release(namespace, chart, **more)

    assert engine.up(fluid()).ok
    controllers = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    assert cluster.get(f"{controllers}/dataset-controller")["status"]["readyReplicas"] == 1
    assert engine.up(fluid(workdir="/var")).ok
    (job,) = cluster.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    assert job["metadata"]["name"].startswith("fluid-crds-upgrade") and job["status"]["succeeded"] == 1
    hooks = cluster.get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations")["items"]
    assert not [hook for hook in hooks if "fluid" in hook["metadata"]["name"]]
    assert engine.destroy().ok
    assert cluster.exists("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/datasets.data.fluid.io")


def test_a_secret_value_stays_one_and_reaches_the_chart(engine: Engine, cluster: Cluster, namespace: str) -> None:
    def program() -> None:
        values = {"podAnnotations": {"token": pulumi.Output.secret(SECRET)}}
        release(namespace, values=values)()

    made = engine.up(program)
    assert made.ok, made.output
    told = made.output + "".join(path.read_text() for path in engine.backend.rglob("*.json*"))
    assert SECRET not in told
    assert engine.up().steps == [("same", "lws")]
    assert engine.refresh().ok
    assert SECRET not in "".join(path.read_text() for path in engine.backend.rglob("*.json*"))
    template = cluster.get(operator(namespace))["spec"]["template"]
    assert template["metadata"]["annotations"]["token"] == SECRET
    assert engine.destroy().ok


def test_a_chart_that_is_not_there_fails_the_preview(engine: Engine, namespace: str) -> None:
    problem = "kubernetes:helm.sh/v3:Release resource 'lws': property chart value {%s} has a problem: %s; "
    advice = "check the chart name and repository configuration."
    wrong = engine.preview(release(namespace, chart="./nope"))
    assert wrong.error == problem % ("./nope", 'path "./nope" not found') + advice
    other = "oci://a.example/other"
    missing = f"the rehearsal pulls no charts and has none for {other}: it has lws, fluid, ack-fluid, gateway-helm"
    assert engine.preview(release(namespace, chart=other)).error == problem % (other, missing) + advice


def test_what_the_server_refuses_stays_in_the_state_until_the_next_up_repairs_it(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    bad = release(namespace, values={"service": {"port": "many"}})
    assert engine.preview(bad).ok
    first = engine.up(bad)
    name = f"{namespace}/{named(namespace)}"
    late = f"failed to become available within allocated timeout. Error: Helm Release {name}: "
    assert f'Helm release "{name}" was created, but failed to initialize completely. ' in first.error
    assert f"Use Helm CLI to investigate: {late}" in first.error
    assert any(
        f'Helm release "{named(namespace)}" was created but has a failed status.' in warning
        for warning in first.warnings
    )
    assert engine.resource("lws")["outputs"]["status"]["status"] == "failed"
    second = engine.up()
    assert second.steps == [("update", "lws")]
    assert f'Helm release "{name}" failed to initialize completely. Use Helm CLI to investigate: {late}' in second.error
    assert engine.up(release(namespace, reset_values=True)).ok
    assert "initErrors" not in engine.resource("lws")
    assert cluster.get(operator(namespace))
    assert engine.destroy().ok


@pytest.fixture
def others(cluster: Cluster, namespace: str) -> str:
    """A release that somebody else has installed, and its namespace."""
    folder = cluster.kubeconfig.with_name(charts.FOLDER)
    archive, _, _ = charts.find(folder, "lws", "0.10.0")
    place = ["--namespace", namespace, "--kubeconfig", str(cluster.kubeconfig)]
    subprocess.run([charts.helm(folder), "install", named(namespace), archive, *place], check=True, capture_output=True)
    return namespace


@pytest.fixture
def addon(others: str) -> Addon:
    return Addon(name="lws", chart=CHART, version="0.10.0", namespace=others, release=named(others), adopt=True)


def adopting(addon: Addon) -> Callable[[], Any]:
    return lambda: ClusterAddons("addons", ClusterAddonsArgs(stack="test", addons=[addon]))


def read(outcome: Outcome) -> list[str]:
    return [step for step, name in outcome.steps if name == "addons-lws"]


def test_a_name_that_is_taken_fails_only_at_up(engine: Engine, others: str) -> None:
    program = release(others)
    assert engine.preview(program).ok
    assert "cannot re-use a name that is still in use" in engine.up(program).error
    assert engine.names() == []


def test_an_adopted_release_is_looked_at_and_left_where_it_is(engine: Engine, cluster: Cluster, addon: Addon) -> None:
    assert read(engine.preview(adopting(addon))) == ["read"]
    made = engine.up(adopting(addon))
    assert made.ok, made.output
    assert engine.resource("addons-lws")["external"] is True
    assert engine.destroy().ok
    assert cluster.exists(operator(addon.namespace))


def test_a_release_of_ours_that_becomes_adopted_stays(engine: Engine, cluster: Cluster, namespace: str) -> None:
    ours = Addon(name="lws", chart=CHART, version="0.10.0", namespace=namespace, release=named(namespace), seconds=60)
    assert engine.up(adopting(ours)).ok
    assert read(engine.up(adopting(replace(ours, adopt=True)))) == ["read"]
    assert engine.destroy().ok
    assert cluster.exists(operator(namespace))


def test_an_adopted_release_that_is_not_there_or_another_fails_the_preview(engine: Engine, addon: Addon) -> None:
    absent = replace(addon, release="none")
    assert f"resource '{addon.namespace}/none' does not exist" in engine.preview(adopting(absent)).output
    older = replace(addon, version="0.8.0")
    assert "holds v0.10.0, the stack says 0.8.0; write the version" in engine.preview(adopting(older)).output


def test_an_interrupted_install_is_marked_as_failed_and_the_next_up_heals_it(
    engine: Engine, cluster: Cluster, namespace: str
) -> None:
    # Its pod never gets ready: no node has so much.
    unready = release(namespace, skip_await=False, timeout=60, values={"resources": {"requests": {"cpu": "9999"}}})
    outcome = engine.up_interrupted(unready, lambda: cluster.exists(operator(namespace)), signal.SIGINT)
    assert "was created, but failed to initialize completely" in "".join(outcome.errors)
    assert engine.resource("lws")["outputs"]["status"]["status"] == "failed"
    assert engine.up(release(namespace, reset_values=True)).ok
    assert engine.destroy().ok
