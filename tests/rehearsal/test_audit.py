"""What `ops audit` and `ops destroy` say of a stack: clean when it has gone, and not when anything of it is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from local.api import ApiError
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.pulumi_stack import Cluster, Stack, one_node

Manifest = dict[str, Any]


def marks(stack: Stack) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "modelserve", "modelserve.dev/stack": stack.name}


def planted(labels: dict[str, str]) -> dict[str, Manifest]:
    """One of each kind that a destroy may leave, by its path."""
    container = {"name": "vllm", "image": "vllm:1", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    claim = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "none",
    }
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": "/nowhere"},
        "claimRef": {"namespace": "default", "name": "deepseek-r1"},
    }
    rbac = "rbac.authorization.k8s.io"
    made: dict[str, tuple[str, Manifest]] = {
        "/api/v1/namespaces/left-over": ("", {"metadata": {"labels": labels}}),
        "/api/v1/namespaces/default/services/balancer": (
            "",
            {"metadata": {"labels": labels}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}},
        ),
        # Of a fleet that is gone: no label of ours.
        "/api/v1/namespaces/default/pods/ds-0": (
            "",
            {
                "metadata": {"labels": {"app.kubernetes.io/instance": "ds"}},
                "spec": {"containers": [container], "nodeName": "nowhere"},
            },
        ),
        "/api/v1/namespaces/default/secrets/keys": ("", {"metadata": {"labels": labels}}),
        "/api/v1/namespaces/default/persistentvolumeclaims/claim": (
            "",
            {"metadata": {"labels": labels}, "spec": claim},
        ),
        # Fluid's own, without a label of ours.
        "/api/v1/persistentvolumes/default-deepseek-r1": ("", {"spec": volume}),
        "/apis/data.fluid.io/v1alpha1/namespaces/default/datasets/deepseek-r1": (
            "data.fluid.io/v1alpha1",
            {"metadata": {"labels": labels}, "spec": {}},
        ),
        f"/apis/{rbac}/v1/clusterroles/left-over": (f"{rbac}/v1", {"metadata": {"labels": labels}, "rules": []}),
        "/apis/batch/v1/namespaces/default/cronjobs/ds-on-0800": (
            "batch/v1",
            {
                "metadata": {"labels": labels},
                "spec": {
                    "schedule": "0 8 * * 1",
                    "suspend": True,
                    "jobTemplate": {
                        "spec": {
                            "template": {
                                "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a:1"}]}
                            }
                        }
                    },
                },
            },
        ),
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/ds-network": (
            "networking.k8s.io/v1",
            {"metadata": {"labels": labels}, "spec": {"podSelector": {}}},
        ),
    }
    kinds = {
        "namespaces": "Namespace",
        "services": "Service",
        "pods": "Pod",
        "secrets": "Secret",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "persistentvolumes": "PersistentVolume",
        "datasets": "Dataset",
        "clusterroles": "ClusterRole",
        "cronjobs": "CronJob",
        "networkpolicies": "NetworkPolicy",
    }
    found = {}
    for path, (version, manifest) in made.items():
        *_, plural, name = path.split("/")
        metadata = manifest.get("metadata", {}) | {"name": name}
        found[path] = manifest | {"apiVersion": version or "v1", "kind": kinds[plural], "metadata": metadata}
    return found


@pytest.fixture
def gone(acs: Stack, cluster: Cluster) -> Iterator[Stack]:
    """A stack that has been up and was destroyed; its bucket is kept. Its add-ons were there before."""
    acs.config["modelserve:addons"] = {"lws": {"install": False}}
    acs.config["modelserve:cache"] = {"engine": "none"}
    acs.config["modelserve:prices"] = {"currency": "CNY", "perGpuHour": 10.0, "asOf": "2026-11-01"}
    acs.services["ds"] = one_node(acs.services["ds"])
    yield acs


def test_a_destroy_leaves_what_is_kept_and_an_audit_finds_anything_else(gone: Stack, cluster: Cluster, cloud: Cloud):
    gone.up()
    users = cloud.tables()["users"]
    told = gone.ops("audit", gone.name)
    assert "nothing unexpected" in told and "bills: 8 GPUs: 80.00 CNY an hour" in told

    told = gone.ops("destroy", gone.name, "--yes", seconds=300)
    assert "Bucket modelserve-llm-weights (kept on purpose)" in told and "nothing unexpected" in told
    assert cluster.ours() == []

    api = cluster.plane.api
    for path, manifest in planted(marks(gone)).items():
        api.apply(path, manifest)
        try:
            told = gone.ops("audit", gone.name, "--after-destroy", code=1)
            assert f"{manifest['kind']} " in told and "1 unexpected" in told, (path, told)
            bills = {"Pod": "8 GPUs: 80.00 CNY an hour", "Service": "1 load balancers: at an unknown price"}
            assert bills.get(manifest["kind"], "") in told
        finally:
            force = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
            api.request("DELETE", path, force)
            cluster.wait(f"{path} is gone", lambda path=path: absent(cluster, path))
    user, entry = next(iter(users.items()))
    cloud.change(users={user: entry})
    told = gone.ops("audit", gone.name, "--after-destroy", code=1)
    assert "User " in told and "1 unexpected" in told
    cloud.change(users={})


def absent(cluster: Cluster, path: str) -> bool:
    try:
        cluster.plane.api.get(path)
    except ApiError as error:
        return error.code == 404
    return False


def test_nothing_is_done_from_another_account_in_another_cluster_or_in_one_that_does_not_answer(
    gone: Stack, cluster: Cluster
):
    gone.up()
    mine = cluster.plane.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    pods = cluster.pods()
    key = gone.env["ALICLOUD_ACCESS_KEY"]
    gone.env["ALICLOUD_ACCESS_KEY"] = "anothers"
    told = gone.ops("destroy", gone.name, "--yes", code=2)
    assert (
        "your credentials are those of account 9999999999999999" in told and "take credentials of that account" in told
    )
    gone.env["ALICLOUD_ACCESS_KEY"] = key

    state = gone.state()
    (stack,) = (each for each in state["deployment"]["resources"] if each["type"] == "pulumi:pulumi:Stack")
    assert stack["outputs"]["cluster"] == mine
    stack["outputs"]["cluster"] = "another"
    gone.run("stack", "import", given=json.dumps(state))
    for told in (gone.ops("destroy", gone.name, "--yes", code=2), gone.up(ok=False), gone.preview(ok=False)):
        assert f"cluster.context: rehearsal: is the cluster {mine}, and stack {gone.name} is in another" in told
    stack["outputs"]["cluster"] = mine
    gone.run("stack", "import", given=json.dumps(state))

    kubeconfig = yaml.safe_load(cluster.plane.kubeconfig.read_text())
    for each in kubeconfig["clusters"]:
        each["cluster"]["server"] = "https://127.0.0.1:9"
    silent = gone.folder / "silent"
    silent.write_text(yaml.safe_dump(kubeconfig))
    there, gone.env["KUBECONFIG"] = gone.env["KUBECONFIG"], str(silent)
    told = gone.ops("destroy", gone.name, "--yes", code=2)
    assert "objects of the stack are in it; bring it back; if it is gone for good: PULUMI_K8S_DELETE" in told
    told = gone.ops("audit", gone.name, code=1)
    assert "could not be looked up: the cluster of context rehearsal" in told
    gone.env["KUBECONFIG"] = there
    assert cluster.pods() == pods, "nothing was touched"
