"""Drift on a real API server: changes made by hand are found; what other controllers write is not reported."""

from __future__ import annotations

import copy
import subprocess
from typing import Any

import pulumi
import pytest

from components.cluster.kubernetes import kubernetes_object, kubernetes_provider
from local import pulumi_home
from local.api import ApiError
from local.control_plane import ControlPlane
from report import drift_report, run_file
from tests.rehearsal.small_program import Engine
from tests.support.patience import PATIENCE_SECONDS

_CORE, _APPS = "/api/v1/namespaces/default", "/apis/apps/v1/namespaces/default"
_RUNTIME = "/apis/data.fluid.io/v1alpha1/namespaces/default/jindoruntimes/drift"
_HOOK = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/drift.modelserve.dev"
_POLICY = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/drift"
_SKIP = {"pulumi.com/skipAwait": "true"}


def _object(version: str, kind: str, name: str = "drift", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "annotations": _SKIP, **({} if "Webhook" in kind else {"namespace": "default"})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def _deployment(name: str) -> dict[str, Any]:
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "a", "image": "image:1"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod}
    return _object("apps/v1", "Deployment", name, spec=spec)


def _program() -> None:
    cluster = kubernetes_provider("cluster", "rehearsal", None)

    def make(manifest: dict[str, Any], ignored: list[str] | None = None, seconds: str = "60s") -> None:
        options = pulumi.ResourceOptions(
            provider=cluster, ignore_changes=ignored, custom_timeouts=pulumi.CustomTimeouts(create=seconds)
        )
        kubernetes_object(f"{manifest['kind']}-{manifest['metadata']['name']}", manifest, options)

    amounts = {"requests": {"cpu": "1", "memory": "1Gi"}}
    hook = {
        "name": "drift.modelserve.dev",
        "clientConfig": {"service": {"name": "nobody", "namespace": "default"}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Ignore",
    }
    make(_deployment("drift-image"))
    make(_deployment("drift-scaled"), ["spec.replicas"])
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "drift-scaled"}
    bounds = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5}
    make(_object("autoscaling/v2", "HorizontalPodAutoscaler", spec=bounds))
    make(_object("v1", "ConfigMap", "drift-gone", data={"a": "b"}))
    make(_object("v1", "Secret", "drift", stringData={"a": "canary-1"}))
    make(_object("v1", "ConfigMap", "drift-written-beside", data={"a": "b"}))
    policy = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 8000}]}]}
    make(_object("networking.k8s.io/v1", "NetworkPolicy", spec=policy))
    make(_object("data.fluid.io/v1alpha1", "JindoRuntime", spec={"replicas": 1, "worker": {"resources": amounts}}))
    make(
        _object("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", hook["name"], webhooks=[hook]),
        ["webhooks[*].clientConfig.caBundle"],
    )
    unfinished = _object("v1", "ConfigMap", "drift-unfinished", data={"a": "b"})
    unfinished["metadata"]["annotations"] = {"pulumi.com/waitFor": "jsonpath={.data.never}=yes"}
    make(unfinished, seconds="1s")


@pytest.fixture
def engine(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("drift")
    made = Engine(pulumi_home.environment(control_plane, folder / "state"), folder)
    with made.fresh() as fresh:
        yield fresh
        fresh.destroy()


def _plant(plane: ControlPlane) -> None:
    """Changes our objects in five ways, and writes in four ways what belongs to other controllers."""
    api = plane.api
    container = api.get(f"{_APPS}/deployments/drift-image")["spec"]["template"]["spec"]["containers"][0]
    other = {"spec": {"containers": [container | {"image": "image:2"}]}}
    api.merge(f"{_APPS}/deployments/drift-image", {"spec": {"template": other}})
    api.delete(f"{_CORE}/configmaps/drift-gone")
    api.merge(f"{_CORE}/secrets/drift", {"stringData": {"a": "canary-2"}})
    rules = copy.deepcopy(api.get(_POLICY)["spec"]["ingress"])
    api.merge(_POLICY, {"spec": {"ingress": [*rules, {}]}})

    api.merge(f"{_APPS}/deployments/drift-scaled", {"spec": {"replicas": 3}})
    api.merge(f"{_CORE}/configmaps/drift-written-beside", {"metadata": {"annotations": {"who": "a controller"}}})
    api.merge(_RUNTIME, {"spec": {"worker": {"resources": {"requests": {"memory": "2Gi"}}}}})
    hooks = api.get(_HOOK)["webhooks"]
    hooks[0]["clientConfig"]["caBundle"] = "QQ=="
    try:
        api.merge(_HOOK, {"webhooks": hooks})
    except ApiError as error:
        pytest.fail(f"the bundle is refused: {error}")


def test_five_drifts_are_found_and_four_of_others_are_not(engine: Engine, control_plane: ControlPlane):
    outcome = engine.up(_program)
    assert not outcome.ok and "drift-unfinished" in "".join(outcome.errors)
    _plant(control_plane)
    workspace = engine.stack.workspace
    done = subprocess.run(
        ["pulumi", "refresh", "--preview-only", "--json", "-s", engine.name, "--non-interactive"],
        cwd=workspace.work_dir,
        env={**workspace.env_vars, "PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"},
        text=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    seen = drift_report.look(run_file.read(done.stdout, "refresh"))
    assert seen.verdict == "drift", (drift_report.text(seen), done.stderr)
    assert sorted(each.change.name for each in seen.drifted) == [
        "ConfigMap-drift-gone",
        "Deployment-drift-image",
        "NetworkPolicy-drift",
        "Secret-drift",
    ]
    assert [each.name for each in seen.cut_off] == ["ConfigMap-drift-unfinished"]
    assert "canary" not in drift_report.markdown(seen) + drift_report.text(seen)
