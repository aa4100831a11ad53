"""An engine's pods, the same in a group and in a fleet: what their templates promise, and how either is registered."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.cluster.pod_extras import PodExtras
from components.serving import engine_pods, ray_cluster_fleet, ray_lws_group
from components.serving.compile_cache import CompileCache, folder
from components.serving.ray_cluster_fleet import RayClusterFleet, RayClusterFleetArgs
from components.serving.ray_lws_group import RayLwsGroup, RayLwsGroupArgs
from planning.problems import Refused
from standins.providers.wire import UNKNOWN
from tests.support.pods import ADDITIONS, PODS, container_of, env_of, having
from tests.support.recorder import Recorder, inputs
from tests.unit.components.serving.test_ray_cluster_fleet import ARGS as FLEET
from tests.unit.components.serving.test_ray_lws_group import ARGS as GROUP
from watch.progress import Progress

LAYOUT = "modelserve.dev/layout"
# The other options of a group and a fleet, with the same layout.
OTHER: dict[str, Any] = ADDITIONS | {
    "scheduled": True,
    "scaled_to": 4,
    "stack": "b",
    "namespace": "b",
    "colour": "blue",
    "image": "b:1",
    "engine_args": [],
    "several_servers": True,
    "cpu": 1,
    "memory": "1Gi",
    "shm": "1Gi",
    "startup_seconds": 1,
    "drain_seconds": 1,
    "drains_itself": True,
    "routes": [],
    "metrics_need_key": True,
    "weights_seconds": 900,
    "readiness_probe": False,
    "compiled": CompileCache(
        node_path=None, claim="kernels", folder="modelserve/default/b/ds/0", variables={"VLLM_CACHE_ROOT": "vllm"}
    ),
    "extras": PodExtras(spec={"schedulerName": "b"}),
}
LAYOUT_FIELDS = {"nodes", "gpus_per_node", "data", "tensor", "pipeline"}


@dataclass(frozen=True)
class Workload:
    """A group or a fleet: its arguments, its manifest, its templates, and its component."""

    kind: str
    component: Callable[..., RayLwsGroup | RayClusterFleet]
    args: RayLwsGroupArgs | RayClusterFleetArgs
    manifest: Callable[[str, Any], dict[str, Any]]
    template: Callable[[Any, bool], dict[str, Any]]
    own: dict[str, Any]

    def made(self, **changes: Any) -> dict[str, Any]:
        return self.manifest("ds", having(self.args, **changes))

    def register(self, name: str = "ds", opts: pulumi.ResourceOptions | None = None, **changes: Any) -> None:
        hooks = Progress("here", "default", None).group_hooks()
        self.component(name, having(self.args, **changes), opts, hooks)


LWS = Workload(
    "LeaderWorkerSet",
    RayLwsGroup,
    GROUP,
    ray_lws_group.leader_worker_set,
    lambda args, leads: ray_lws_group.pod_template("ds", args, leader=leads),
    {
        "replicas": 3,
        "launcher": "native",
        "lws_version": "0.5.0",
        "object_name": "b",
        "leader_labels": {"b": "b"},
        "startup_policy": "LeaderReady",
        "restart_policy": "None",
    },
)
RAY = Workload(
    "RayClusterFleet",
    RayClusterFleet,
    FLEET,
    ray_cluster_fleet.fleet,
    lambda args, leads: ray_cluster_fleet.pod_template("ds", args, head=leads),
    {
        "replicas": 3,
        "aibrix_version": "0.2.1",
        "strategy": "RollingUpdate",
        "max_surge": 1,
    },
)
BOTH = pytest.mark.parametrize("workload", [LWS, RAY], ids=["group", "fleet"])


@dataclass(frozen=True)
class Role:
    """The pods of one role, with their template."""

    workload: Workload
    leads: bool

    def __call__(self, **changes: Any) -> dict[str, Any]:
        return self.workload.template(having(self.workload.args, **changes), self.leads)


ROLES = {
    "leader": Role(LWS, True),
    "group's worker": Role(LWS, False),
    "head": Role(RAY, True),
    "fleet's worker": Role(RAY, False),
}
EVERY = pytest.mark.parametrize("pod", ROLES.values(), ids=ROLES)
LEADING = pytest.mark.parametrize("pod", [pod for pod in ROLES.values() if pod.leads], ids=["leader", "head"])


# --- pods


@EVERY
def test_every_pod_requests_exactly_its_limits(pod: Role):
    resources = container_of(pod(**OTHER))["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"] == {
        "cpu": "1",
        "memory": "1Gi",
        "nvidia.com/gpu": "8",
        "ephemeral-storage": "800Gi",
        "vke.volcengine.com/rdma": "8",
    }


@EVERY
def test_shared_memory_is_a_volume_of_its_own_with_a_limit(pod: Role):
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}} in pod()["spec"]["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container_of(pod())["volumeMounts"]


@EVERY
def test_kernels_are_kept_on_a_volume_in_a_folder_of_the_service_and_of_each_replica_of_a_group(pod: Role):
    made = pod(**OTHER)
    (mount,) = [each for each in container_of(made)["volumeMounts"] if each["name"] == "compiled"]
    claim = {"name": "compiled", "persistentVolumeClaim": {"claimName": "kernels"}}
    assert claim in made["spec"]["volumes"] and "readOnly" not in mount
    assert env_of(made)["VLLM_CACHE_ROOT"] == f"{mount['mountPath']}/vllm"
    if pod.workload is LWS:
        assert mount["subPathExpr"] == "modelserve/default/b/ds/0/$(MODELSERVE_REPLICA)"
        label = env_of(made)["MODELSERVE_REPLICA"]["fieldRef"]["fieldPath"]
        assert label == "metadata.labels['leaderworkerset.sigs.k8s.io/group-index']"
    else:
        assert mount["subPath"] == "modelserve/default/b/ds/0"
    disk = pod(compiled=replace(OTHER["compiled"], claim=None, node_path="/mnt/nvme0"))["spec"]["volumes"]
    assert {"name": "compiled", "hostPath": {"path": "/mnt/nvme0", "type": "DirectoryOrCreate"}} in disk


@EVERY
def test_without_a_place_for_kernels_nothing_speaks_of_one(pod: Role):
    assert not {"compiled", "MODELSERVE_REPLICA"} & {
        *env_of(pod()),
        *(each["name"] for each in container_of(pod())["volumeMounts"]),
    }


def test_kernels_of_another_stack_service_image_release_or_gpu_are_never_read():
    told = ("default", "acs", "ds", "vllm/vllm-openai:v0.33.0", "0.33.0", "H20-96")
    others = [folder(*told[:i], "other", *told[i + 1 :]) for i in range(len(told))]
    assert len({folder(*told), *others}) == len(told) + 1
    assert all(re.fullmatch(r"modelserve(/[a-z0-9-]+){4}", each) for each in (folder(*told), *others))


@EVERY
def test_what_the_builder_adds_reaches_every_pod(pod: Role):
    made = pod(**OTHER)
    container, env = container_of(made), env_of(made)
    assert made["spec"]["initContainers"] == OTHER["init_containers"]
    assert made["spec"]["nodeSelector"] == {"pool": "h20"}
    assert OTHER["volumes"][0] in made["spec"]["volumes"]
    assert OTHER["volume_mounts"][0] in container["volumeMounts"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert (env["NCCL_IB_DISABLE"], env["HF_TOKEN"]) == ("0", {"secretKeyRef": {"name": "hub", "key": "token"}})
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["annotations"] == {
        "k8s.volcengine.com/pod-networks": "[]",
        "modelserve.dev/api-key-revision": "1",
    }


@EVERY
def test_a_pod_without_additions_has_none(pod: Role):
    assert not {"initContainers", "nodeSelector"} & pod()["spec"].keys()
    assert "annotations" not in pod()["metadata"]
    assert "add" not in container_of(pod())["securityContext"]["capabilities"]
    assert container_of(pod())["resources"]["limits"].keys() == {"cpu", "memory", "nvidia.com/gpu"}


@EVERY
def test_a_pod_gains_nothing_it_was_not_given_unless_the_clusters_owner_says_so(pod: Role):
    made = pod()
    assert made["spec"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert container_of(made)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    loose: dict[str, Any] = {"seccompProfile": {"type": "Unconfined"}}
    other = pod(
        extras=PodExtras(spec={"securityContext": loose}, container_security={"allowPrivilegeEscalation": True})
    )
    assert other["spec"]["securityContext"] == loose
    assert container_of(other)["securityContext"]["allowPrivilegeEscalation"]


@EVERY
def test_no_service_of_the_namespace_can_set_a_variable_and_no_token_is_mounted(pod: Role):
    assert pod()["spec"]["enableServiceLinks"] is False
    assert pod()["spec"]["automountServiceAccountToken"] is False


@EVERY
def test_a_users_label_cannot_take_a_pod_out_of_its_stack(pod: Role):
    taken = {"modelserve.dev/stack": "b", "app.kubernetes.io/instance": "b", "app.kubernetes.io/managed-by": "b"}
    assert pod(pod_labels=taken)["metadata"]["labels"] == pod()["metadata"]["labels"]


@EVERY
def test_a_pod_knows_its_address_and_the_size_of_its_replica(pod: Role):
    env = env_of(pod())
    assert (env["MODELSERVE_NODES"], env["MODELSERVE_GPUS_PER_NODE"]) == ("2", "8")
    assert env["VLLM_HOST_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}


@EVERY
def test_the_api_key_is_for_who_leads(pod: Role):
    key = {"secretKeyRef": {"name": "ds-api-key", "key": "apiKey"}}
    assert env_of(pod(api_key_secret="ds-api-key")).get("VLLM_API_KEY") == (key if pod.leads else None)
    assert pod.leads or "ds-api-key" not in str(pod(api_key_secret="ds-api-key"))
    assert "VLLM_API_KEY" not in env_of(pod())


@LEADING
def test_probes_ask_for_health_on_the_port_that_the_stack_chose(pod: Role):
    container = container_of(pod(port=9000))
    (port,) = (port["name"] for port in container["ports"] if port["containerPort"] == 9000)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port}
    assert "readinessProbe" not in container_of(pod(readiness_probe=False))


# --- the launch script's ConfigMap


@EVERY
def test_every_pod_runs_the_launch_script_out_of_its_configmap(pod: Role):
    config = engine_pods.launch_config("ds", pod.workload.args.pods)
    beside = Path(engine_pods.__file__).parent
    assert config["data"] == {name: (beside / name).read_text() for name in ("launch.sh", "modelserve_guard.py")}
    assert {"name": "launch", "configMap": {"name": config["metadata"]["name"]}} in pod()["spec"]["volumes"]
    container = container_of(pod())
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "launch")
    assert container["command"] == ["bash", f"{mount['mountPath']}/launch.sh"]


@EVERY
def test_a_new_script_is_a_new_configmap_which_rolls_the_pods(pod: Role, monkeypatch: pytest.MonkeyPatch):
    before = engine_pods.launch_config("ds", pod.workload.args.pods)["metadata"]["name"], pod()
    files = engine_pods.launch_files(pod.workload.args.pods)
    monkeypatch.setattr(engine_pods, "launch_files", lambda args: files | {"modelserve_guard.py": "pass\n"})
    after = engine_pods.launch_config("ds", pod.workload.args.pods)["metadata"]["name"], pod()
    assert before[0] != after[0] and before[1] != after[1]


# --- what the cluster's owner asks


EXTRAS = PodExtras(
    spec={
        "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"pool": "gpu", "ours": "theirs"},
        "securityContext": {"fsGroup": 5},
        "schedulerName": "volcano",
    },
    volumes=[{"name": "ca", "configMap": {"name": "company-ca"}}],
    mounts=[{"name": "ca", "mountPath": "/etc/company"}],
    container_security={"runAsUser": 5, "capabilities": {"add": ["SYS_PTRACE"], "drop": ["NET_RAW"]}},
)


@EVERY
def test_what_the_cluster_asks_is_on_every_pod_beside_what_is_ours(pod: Role):
    ours = {"capabilities": ["IPC_LOCK"], "node_selector": {"ours": "yes"}}
    plain, dressed = pod(**ours), pod(**ours, extras=EXTRAS)
    spec, container = dressed["spec"], container_of(dressed)
    assert spec["imagePullSecrets"] == [{"name": "pull"}] and spec["schedulerName"] == "volcano"
    assert spec["nodeSelector"] == {"pool": "gpu", "ours": "yes"}
    assert spec["securityContext"] == {"fsGroup": 5, "seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["volumes"] == [*plain["spec"]["volumes"], *EXTRAS.volumes]
    assert container["volumeMounts"] == [*container_of(plain)["volumeMounts"], *EXTRAS.mounts]
    capabilities = {"add": ["IPC_LOCK", "SYS_PTRACE"], "drop": ["ALL", "NET_RAW"]}
    asked = {"runAsUser": 5, "capabilities": capabilities, "allowPrivilegeEscalation": False}
    assert container["securityContext"] == asked
    assert dressed["metadata"] == plain["metadata"]


# --- guard and end


@LEADING
def test_whoever_serves_has_the_guard_outermost_and_told_what_to_let_through(pod: Role):
    container = container_of(pod(engine_args=["/m", "--middleware", "theirs.Own"]))
    assert container["args"] == ["/m", "--middleware", "theirs.Own", "--middleware", "modelserve_guard.Guard"]
    env = env_of(pod())
    assert (env["MODELSERVE_PATHS"], env["MODELSERVE_PORT"]) == ("GET /health POST /v1/chat/completions", "8000")
    assert "MODELSERVE_METRICS" not in env and env_of(pod(metrics_need_key=True))["MODELSERVE_METRICS"] == "key"


@EVERY
def test_every_pod_waits_before_it_ends_and_is_not_killed_before(pod: Role):
    made = pod(drain_seconds=300)
    hook = container_of(made)["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["python3", "/etc/modelserve/modelserve_guard.py", "drain" if pod.leads else "await-leader"]
    waits = sum(int(env_of(made)[f"MODELSERVE_{name}_SECONDS"]) for name in ("SETTLE", "DRAIN"))
    assert 300 < waits < made["spec"]["terminationGracePeriodSeconds"]


@LEADING
def test_an_engine_that_can_wait_itself_is_told_so(pod: Role):
    args = container_of(pod(drains_itself=True, drain_seconds=300))["args"]
    assert args[args.index("--shutdown-timeout") + 1] == "300"
    assert "--shutdown-timeout" not in container_of(pod())["args"]


# --- layout


@BOTH
@pytest.mark.parametrize("change", [{"tensor": 4}, {"nodes": 3}, {"pipeline": 3}, {"gpus_per_node": 7}])
def test_a_layout_that_does_not_fill_the_gpus_is_refused_with_its_numbers(workload: Workload, change: dict[str, int]):
    with pytest.raises(Refused, match=r"tensor \d+: x pipeline \d+ is not nodes \d+ x gpus_per_node \d+; change"):
        having(workload.args, **change)


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 1, "tensor": 8, "pipeline": 1},
        {"gpus_per_node": 4, "tensor": 4, "pipeline": 2},
        {"nodes": 4, "gpus_per_node": 4},
        {"tensor": 4, "pipeline": 4},
    ],
)
def test_the_layout_annotation_changes_with_the_layout(workload: Workload, change: dict[str, int]):
    before, after = (made["metadata"]["annotations"][LAYOUT] for made in (workload.made(), workload.made(**change)))
    assert before != after


@BOTH
def test_the_layout_annotation_changes_with_nothing_but_the_layout(workload: Workload):
    other = OTHER | workload.own
    names = {field.name for args in (workload.args, workload.args.pods) for field in fields(args)}
    assert other.keys() == names - LAYOUT_FIELDS - {"pods"}
    before, after = (made["metadata"]["annotations"][LAYOUT] for made in (workload.made(), workload.made(**other)))
    assert before == after


# --- registration


@BOTH
@pytest.mark.parametrize(("given", "ignored"), [({"scaled_to": 4}, ["spec.replicas"]), ({}, [])])
def test_replicas_are_the_autoscalers_alone_where_there_is_one(
    engine: Recorder, workload: Workload, given: dict[str, Any], ignored: list[str]
):
    engine.run(lambda: workload.register(**given))
    assert list(made(engine, workload).ignoreChanges) == ignored


@BOTH
def test_an_update_may_take_a_round_for_each_replica_that_an_autoscaler_may_have_brought(
    engine: Recorder, workload: Workload
):
    rolling = {"strategy": "RollingUpdate"} if workload is RAY else {}
    engine.run(lambda: workload.register(scaled_to=4, **rolling))
    assert made(engine, workload).customTimeouts.update == f"{4 * PODS.limits.replace_seconds}s"


@BOTH
def test_a_changed_layout_replaces_the_workload_and_frees_its_gpus_first(engine: Recorder, workload: Workload):
    engine.run(workload.register)
    request = made(engine, workload)
    assert list(request.replaceOnChanges) == [f'metadata.annotations["{LAYOUT}"]']
    assert LAYOUT in inputs(request)["metadata"]["annotations"]
    assert request.deleteBeforeReplace and request.deleteBeforeReplaceDefined


@BOTH
def test_the_workload_comes_after_its_launch_script(engine: Recorder, workload: Workload):
    engine.run(workload.register)
    assert list(made(engine, workload).dependencies) == [engine.urn(engine.one("ConfigMap"))]


@BOTH
def test_every_object_belongs_to_the_component_and_nothing_is_left_unfinished(engine: Recorder, workload: Workload):
    engine.run(workload.register)
    owner = engine.urn(component(engine, workload))
    assert {engine.one("ConfigMap").parent, made(engine, workload).parent} == {owner}
    assert "ready" in engine.finished[owner].outputs


@BOTH
def test_no_option_of_the_component_leaks_into_its_objects(engine: Recorder, workload: Workload):
    def program() -> None:
        other = pulumi.CustomResource("cloud:index:Bucket", "other", {})
        opts = pulumi.ResourceOptions(
            depends_on=[other],
            ignore_changes=["spec"],
            replace_on_changes=["*"],
            retain_on_delete=True,
            custom_timeouts=pulumi.CustomTimeouts(create="1s"),
            additional_secret_outputs=["spec"],
            delete_before_replace=False,
        )
        workload.register(opts=opts)

    engine.run(program)
    bucket = engine.urn(engine.one("Bucket"))
    assert list(component(engine, workload).dependencies) == [bucket]
    for request in (engine.one("ConfigMap"), made(engine, workload)):
        assert bucket not in request.dependencies
        assert not request.ignoreChanges and not request.additionalSecretOutputs and not request.retainOnDelete
        assert "*" not in request.replaceOnChanges and request.customTimeouts.create != "1s"


@BOTH
def test_the_workload_is_replaced_with_what_its_pods_mount(engine: Recorder, workload: Workload):
    def program() -> None:
        claim = pulumi.CustomResource("cloud:index:Claim", "claim", {})
        workload.component("ds", workload.args, mounts=[claim])

    engine.run(program)
    assert list(made(engine, workload).replace_with) == [engine.urn(engine.one("Claim"))]


@pytest.mark.preview_too
@BOTH
def test_a_claim_that_is_not_known_yet_holds_the_workload_back_and_reaches_every_pod(
    engine: Recorder, workload: Workload
):
    def program() -> None:
        sync = pulumi.CustomResource("cloud:index:Sync", "sync", {})
        claim = {"claimName": sync.id.apply(lambda _: "claim"), "readOnly": True}
        workload.register(volumes=[{"name": "weights", "persistentVolumeClaim": claim}])

    engine.run(program)
    assert engine.urn(engine.one("Sync")) in made(engine, workload).dependencies
    (found,) = (each for each in engine.objects() if each["kind"] == workload.kind)
    claims = list(_claims(found))
    assert claims == [UNKNOWN if engine.preview else "claim"] * 2


def _claims(value: Any) -> list[str]:
    """The names of all claims that an object mounts."""
    if isinstance(value, list):
        return [name for below in value for name in _claims(below)]
    if not isinstance(value, dict):
        return []
    return [value["claimName"]] if "claimName" in value else _claims(list(value.values()))


def made(engine: Recorder, workload: Workload) -> Any:
    """The request for the custom resource; the component's type may end in the same kind."""
    (found,) = (
        request
        for (token, _), request in engine.seen.items()
        if token.startswith("kubernetes:") and token.endswith(f":{workload.kind}")
    )
    return found


def component(engine: Recorder, workload: Workload) -> Any:
    return engine.seen[f"modelserve:serving:{workload.component.__name__}", "ds"]
