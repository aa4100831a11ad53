"""What `ops audit` and `ops destroy` say of a stack: clean when it has gone, and not when anything of it is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import yaml

from config.stack_file import read
from local import operators, processes, toolchain
from local.api import ApiError
from local.nodes import NodePool
from ops.audit import names_of
from standins.members import FAIL
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.pulumi_stack import Cluster, Stack, one_node
from watch import leftovers

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

    # Each kind alone is found; then the command, once, with all of them.
    api, kubeconfig = cluster.plane.api, cluster.plane.kubeconfig.read_text()
    config, _ = read(gone.file).judged(with_cluster=False)
    names = names_of(config, gone.name)
    things = planted(marks(gone))
    for path, manifest in things.items():
        assert leftovers.look("rehearsal", kubeconfig, names) == ([], []), path
        api.apply(path, manifest)
        ((found,), unread) = leftovers.look("rehearsal", kubeconfig, names)
        assert (found.kind, found.name, unread) == (manifest["kind"], path.rpartition("/")[2], [])
        remove(cluster, path)
    for path, manifest in things.items():
        api.apply(path, manifest)
    held = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/ds-network"
    api.merge(held, {"metadata": {"finalizers": ["example.com/guard"]}})
    api.delete(held)
    user, entry = next(iter(users.items()))
    cloud.change(users={user: entry})
    told = gone.ops("audit", gone.name, "--after-destroy", code=1)
    assert f"{len(things) + 1} unexpected" in told and "User " in told
    assert all(f"{manifest['kind']} " in told for manifest in things.values())
    assert "bills: 8 GPUs: 80.00 CNY an hour" in told and "1 load balancers: at an unknown price" in told
    assert "NetworkPolicy default/ds-network: waits for example.com/guard" in told
    api.merge(held, {"metadata": {"finalizers": None}})
    cloud.change(users={})
    for path in things:
        remove(cluster, path)


def remove(cluster: Cluster, path: str) -> None:
    if not absent(cluster, path):
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        cluster.plane.api.request("DELETE", path, body)
        cluster.wait(f"{path} is gone", lambda: absent(cluster, path))


def absent(cluster: Cluster, path: str) -> bool:
    try:
        cluster.plane.api.get(path)
    except ApiError as error:
        return error.code == 404
    return False


@pytest.mark.soak
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


GROUP, POD = (
    "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets/ds",
    "/api/v1/namespaces/default/pods/ds-0",
)
UNKNOWN, FLUIDS = "example.com/guard", "fluid-dataset-controller-finalizer"


def finalizer(cluster: Cluster, path: str, name: str | None) -> None:
    cluster.plane.api.merge(path, {"metadata": {"finalizers": [name] if name else None}})


def lose_node(cluster: Cluster) -> None:
    """What a kubelet reports is over for this pod."""
    cluster.plane.api.merge(POD, {"metadata": {"annotations": {FAIL: "node-gone"}}})


def forget_node(cluster: Cluster) -> None:
    """The command that was said; then Kubernetes' own controller takes the pod, and the node is there for others."""
    node = cluster.plane.api.get(POD)["spec"]["nodeName"]
    cluster.plane.api.delete(f"/api/v1/nodes/{node}")
    cluster.wait("the cluster forgets the node's pods", lambda: absent(cluster, POD))
    (manifest,) = (each for each in NodePool().manifests() if each["metadata"]["name"] == node)
    cluster.plane.api.apply(f"/api/v1/nodes/{node}", manifest)


def stop_operator(cluster: Cluster) -> None:
    os.kill(processes.alive(cluster.plane.folder)["lws-manager"], signal.SIGKILL)


def start_operator(cluster: Cluster) -> None:
    folder = cluster.plane.folder
    settings = json.loads((folder / "lws-manager.json").read_text())
    ports = settings["webhook"]["port"], int(settings["health"]["healthProbeBindAddress"].rpartition(":")[2])
    (lws,) = operators.BASIC.operators
    operators.launch(lws, folder, toolchain.ensure(lws.program)[lws.program], ports)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("plant", "said", "remedy"),
    [
        pytest.param(
            partial(finalizer, path=GROUP, name=FLUIDS),
            f"LeaderWorkerSet default/ds: waits for {FLUIDS} of Fluid, which is gone: install it again",
            partial(finalizer, path=GROUP, name=None),
            id="operator-gone",
        ),
        pytest.param(
            partial(finalizer, path=POD, name=UNKNOWN),
            f"Pod default/ds-0: waits for {UNKNOWN}, and its owner has to run: bring that operator back",
            partial(finalizer, path=POD, name=None),
            id="finalizer-of-nobody",
        ),
        pytest.param(lose_node, "lets the cluster forget its pods", forget_node, id="node-gone"),
        pytest.param(
            stop_operator,
            "LeaderWorkerSet default/ds: the API server takes no change of it: Internal error",
            start_operator,
            id="webhook-without-operator",
        ),
    ],
)
def test_a_destroy_that_hangs_says_meanwhile_what_it_waits_for_and_ends_with_it(
    stack: Stack,
    cluster: Cluster,
    plant: Callable[[Cluster], None],
    said: str,
    remedy: Callable[[Cluster], None],
):
    stack.services["ds"] = one_node(stack.services["ds"]) | {"drainSeconds": 1}
    stack.up()
    plant(cluster)
    run = stack.begin_ops("destroy", stack.name, "--yes")
    told, remedied = "", False
    for line in run.stdout or ():
        told += line
        if said in line and not remedied:
            remedied = True
            remedy(cluster)
    stack.said.append(told)
    assert (run.wait(), remedied) == (0, True), told
    assert "nothing unexpected" in told
