"""The program on Volcengine: what depends on what, what is kept, what is secret, and which parts each choice adds."""

from __future__ import annotations

from typing import Any

import pytest

from components.weights.tos_bucket import BUCKET
from planning import flags
from tests.support.program import GIVEN_KEYS, before, env, kind_of, kinds, leaked, secret_data
from tests.support.recorder import Recorder, inputs
from tests.support.volcengine import FILE, GATEWAY, GATEWAY_TYPE, MODEL, SERVICE, run

KEYS = ("accessKey", "secretKey")
FLEET = f"RayClusterFleet {MODEL}"
OPERATOR = "Deployment aibrix-deployment-aibrix-kuberay-operator"
MANAGER = "Deployment aibrix-deployment-aibrix-controller-manager"
EG = "Gateway aibrix-gateway-aibrix-eg"
OUR_BUCKET = {"name": "modelserve-vke-weights"}
CLAIM = {"source": "pvc", "claim": "weights-claim"}
MADE_CLAIM = {**CLAIM, "create": {"storageClass": "nas", "size": "2Ti"}, "sync": {"from": "modelscope"}}
HUB = {"source": "huggingface"}
DISK = {"source": "nvme", "path": "/mnt/nvme0/models"}
FILLED_DISK = {**DISK, "bucket": OUR_BUCKET, "sync": {"from": "modelscope"}}
S3 = {"source": "bucket", "bucket": {"name": "team-weights", "store": "s3", "region": "us-west-2", "create": False}}
GCS = {"source": "bucket", "bucket": {"name": "team-weights", "store": "gcs", "create": False}}
SCALED = {f"{SERVICE}/autoscaling": {"maximum": 3, "target": 0.5}}
LWS = {f"{SERVICE}/workload": "lws"}

# What is created after which parts, and so deleted before them.
ORDER: list[tuple[str, set[str]]] = [
    (FLEET, {"Job deepseek-r1-sync", "Secret deepseek-r1-download-keys", "ConfigMap deepseek-r1-download-program"}),
    (FLEET, {f"NetworkPolicy {MODEL}-network", f"Service {MODEL}-service", f"ConfigMap {MODEL}-launch"}),
    # The controllers that delete a fleet's objects, and the route in front of it, outlive the fleet.
    (FLEET, {MANAGER, OPERATOR, f"HTTPRoute {MODEL}-route", "Release addons-aibrix-kinds"}),
    (f"HTTPRoute {MODEL}-route", {EG, f"Service {MODEL}-service", f"ReferenceGrant {MODEL}-grant"}),
    (EG, {"GatewayClass aibrix-gatewayclass-aibrix-eg", "Release addons-envoy-gateway"}),
    (MANAGER, {"Release addons-aibrix-kinds", "Namespace aibrix-namespace-aibrix-system"}),
    (f"PodAutoscaler {MODEL}-autoscaler", {FLEET, MANAGER}),
    ("Secret deepseek-r1-download-keys", {"AccessKey weights-reader", "UserPolicyAttachment weights-reader"}),
    ("Job deepseek-r1-sync", {"Secret deepseek-r1-sync-keys", "Bucket weights", "BucketEncryption weights"}),
    ("Secret deepseek-r1-sync-keys", {"AccessKey weights-writer", "UserPolicyAttachment weights-writer"}),
]


def pods(engine: Recorder, name: str = MODEL) -> list[dict[str, Any]]:
    """The pod templates of the head and the workers."""
    fleet = inputs(engine.seen["kubernetes:orchestration.aibrix.ai/v1alpha1:RayClusterFleet", name])
    group = fleet["spec"]["template"]["spec"]
    return [group["headGroupSpec"]["template"], *(each["template"] for each in group["workerGroupSpecs"])]


def named(engine: Recorder) -> set[str]:
    return {f"{kind_of(token)} {name}" for token, name in engine.seen}


def volume(template: dict[str, Any], name: str = "weights") -> dict[str, Any]:
    (found,) = (each for each in template["spec"]["volumes"] if each["name"] == name)
    return {key: value for key, value in found.items() if key != "name"}


def init_names(template: dict[str, Any]) -> list[str]:
    return [each["name"] for each in template["spec"].get("initContainers", [])]


def argument(template: dict[str, Any]) -> str:
    return template["spec"]["containers"][0]["args"][0]


def test_what_must_exist_first_is_waited_for_and_outlives_what_needs_it(engine: Recorder):
    run(engine, **SCALED)
    for later, earlier in ORDER:
        assert earlier <= before(engine, later), f"{later} does not wait for {earlier - before(engine, later)}"


def test_weights_are_filled_while_the_gateway_is_installed(engine: Recorder):
    run(engine)
    assert not {EG, MANAGER, "Release addons-envoy-gateway"} & before(engine, "Job deepseek-r1-sync")


def test_exactly_the_bucket_is_protected_and_nothing_where_it_is_not_kept(engine: Recorder):
    run(engine)
    assert [key for key, request in engine.seen.items() if request.protect] == [(BUCKET, "weights")]
    kept = {kind_of(token) for (token, _), request in engine.seen.items() if request.retainOnDelete}
    assert kept == {"BucketEncryption", "BucketLifecycle"}
    other = Recorder(preview=False)
    run(other, weights__bucket__keep=False)
    assert not [key for key, request in other.seen.items() if request.protect or request.retainOnDelete]


def test_the_check_of_a_routed_service_goes_through_the_gateway_after_the_fleet(engine: Recorder):
    run(engine, **{f"{SERVICE}/verifyAfterUp": True}, secrets=["apiKey"])
    assert {FLEET, f"HTTPRoute {MODEL}-route"} <= before(engine, f"Job {MODEL}-verify")
    made = inputs(engine.one("Job", f"{MODEL}-verify"))["spec"]["template"]
    assert env(made).get("MODELSERVE_URL") == (None if engine.preview else "http://10.0.0.9/v1")


@pytest.mark.preview_too
@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({}, ()),
        ({}, GIVEN_KEYS),
        ({"weights": FILLED_DISK}, ()),
        ({"weights": HUB}, ()),
        ({"weights": MADE_CLAIM}, ()),
        ({"weights": S3}, KEYS),
        ({**LWS, "weights__read": "stream", "weights__download": ...}, ()),
    ],
    ids=["made keys", "given keys", "disk", "hub", "claim", "s3", "lws"],
)
def test_no_secret_is_on_the_wire_in_plain(engine: Recorder, changes: dict[str, Any], given: tuple[str, ...]):
    hub = [] if changes.get("weights") == S3 else ["hubToken"]
    run(engine, secrets=[*given, "apiKey", *hub, "kubeconfig"], **changes)
    assert not leaked(engine)
    assert secret_data(engine, f"{MODEL}-api-key") == {"apiKey": "canary-apiKey"}


def test_keys_that_are_given_make_no_user_and_reach_their_readers(engine: Recorder):
    run(engine, secrets=[*GIVEN_KEYS, "hubToken"])
    assert not {"User", "Policy", "UserPolicyAttachment", "AccessKey"} & set(kinds(engine))
    assert secret_data(engine, "deepseek-r1-download-keys") == {
        "id": "canary-accessKey",
        "secret": "canary-secretKey",
    }
    assert secret_data(engine, "deepseek-r1-sync-keys") == {
        "id": "canary-syncAccessKey",
        "secret": "canary-syncSecretKey",
        "token": "canary-hubToken",
    }


# --- the four sources


def test_from_a_bucket_each_node_copies_to_its_disk_what_is_looked_at_first(engine: Recorder):
    run(engine)
    for template in pods(engine):
        assert init_names(template) == ["weights-disk", "weights"]
        assert volume(template) == {"hostPath": {"path": "/mnt/nvme0/models", "type": "Directory"}}
        assert template["spec"]["initContainers"][1]["command"][:3] == [
            "aibrix_download",
            "--model-uri",
            "tos://modelserve-vke-weights/models/DeepSeek-R1/",
        ]


def test_from_a_bucket_without_a_disk_each_pod_copies_to_its_own_temporary_one(engine: Recorder):
    run(engine, weights__download__nodePath=...)
    assert "ConfigMap deepseek-r1-download-program" not in named(engine)
    for template in pods(engine):
        assert init_names(template) == ["weights"]
        size = volume(template)["emptyDir"]["sizeLimit"]
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"]["ephemeral-storage"] == size == "658Gi"


@pytest.mark.parametrize(
    ("weights", "endpoint", "region"),
    [
        (S3, "https://s3.us-west-2.amazonaws.com", "us-west-2"),
        (GCS, "https://storage.googleapis.com", "auto"),
    ],
    ids=["s3", "gcs"],
)
def test_a_foreign_store_is_read_with_the_given_key_and_nothing_of_the_cloud_is_made(
    engine: Recorder, weights: dict[str, Any], endpoint: str, region: str
):
    outputs = run(engine, secrets=KEYS, weights=weights)
    assert not [token for token, _ in engine.seen if "volcengine" in token]
    assert "Job" not in kinds(engine) and "bucket" not in outputs
    assert secret_data(engine, "deepseek-r1-download-keys") == {"id": "canary-accessKey", "secret": "canary-secretKey"}
    for template in pods(engine):
        (container,) = template["spec"]["initContainers"]
        assert "s3://team-weights/models/DeepSeek-R1/" in container["command"]
        values = {each["name"]: each.get("value") for each in container["env"]}
        assert (values["AWS_ENDPOINT_URL"], values["AWS_REGION"]) == (endpoint, region)


def test_a_bucket_that_is_there_is_read_and_not_owned(engine: Recorder):
    engine.found[BUCKET] = {"bucketName": "modelserve-vke-weights"}
    run(engine, weights__bucket__create=False)
    assert engine.reads[BUCKET, "weights"].id == "modelserve-vke-weights"
    assert not {"Bucket", "BucketEncryption", "BucketLifecycle"} & set(kinds(engine))
    assert "Bucket weights" in before(engine, "Job deepseek-r1-sync")


def test_a_bucket_that_is_filled_already_needs_no_writer_and_no_job(engine: Recorder):
    run(engine, weights__sync=...)
    assert "Job" not in kinds(engine)
    assert [name for token, name in engine.seen if kind_of(token) == "AccessKey"] == ["weights-reader"]
    assert "AccessKey weights-reader" in before(engine, FLEET)


def test_from_the_hub_the_engine_loads_by_itself_with_the_token_by_reference(engine: Recorder):
    run(engine, secrets=["hubToken"], weights=HUB)
    assert not {"Bucket", "Job"} & set(kinds(engine)) and not [t for t, _ in engine.seen if "volcengine" in t]
    assert secret_data(engine, "deepseek-r1-download-keys") == {"token": "canary-hubToken"}
    assert "Secret deepseek-r1-download-keys" in before(engine, FLEET)
    for template in pods(engine):
        assert init_names(template) == []
        refs = {each["name"]: each.get("valueFrom") for each in template["spec"]["containers"][0]["env"]}
        assert refs["HF_TOKEN"] == {"secretKeyRef": {"name": "deepseek-r1-download-keys", "key": "token"}}
    assert argument(pods(engine)[0]) == "deepseek-ai/DeepSeek-R1"


def test_from_the_hub_without_a_token_there_is_no_secret(engine: Recorder):
    run(engine, weights=HUB)
    assert [name for token, name in engine.seen if kind_of(token) == "Secret" and "aibrix" not in name] == []


def test_a_claim_that_is_there_is_mounted_read_only_and_nothing_is_made(engine: Recorder):
    run(engine, weights=CLAIM)
    assert not {"PersistentVolumeClaim", "Job", "Bucket", "ModelDownload"} & set(kinds(engine))
    for template in pods(engine):
        assert volume(template) == {"persistentVolumeClaim": {"claimName": "weights-claim", "readOnly": True}}
        assert init_names(template) == []


def test_a_claim_of_the_stack_is_filled_before_the_fleet(engine: Recorder):
    run(engine, weights=MADE_CLAIM)
    assert kinds(engine).count("PersistentVolumeClaim") == 1
    earlier = before(engine, FLEET)
    assert {"Job deepseek-r1-sync", "ModelClaim weights-claim"} <= earlier
    assert "ModelClaim weights-claim" in before(engine, "Job deepseek-r1-sync")
    assert not [token for token, _ in engine.seen if "volcengine" in token]


def test_a_disk_that_is_full_is_looked_at_and_nothing_is_fetched(engine: Recorder):
    run(engine, weights=DISK)
    assert not {"Bucket", "Job", "AccessKey"} & set(kinds(engine))
    assert [init_names(template) for template in pods(engine)] == [["weights-disk"]] * 2
    assert "ConfigMap deepseek-r1-download-program" in before(engine, FLEET)


def test_a_disk_is_filled_once_a_node_from_the_bucket(engine: Recorder):
    run(engine, weights=FILLED_DISK)
    assert {"Job deepseek-r1-sync", "Secret deepseek-r1-download-keys", "Bucket weights"} <= before(engine, FLEET)
    assert [init_names(template) for template in pods(engine)] == [["weights-tool", "weights"]] * 2


# --- in front of it, and around it


def test_without_aibrixs_gateway_a_fleet_has_a_service_and_no_route(engine: Recorder):
    outputs = run(engine, **{f"{SERVICE}/gateway": "none", f"{SERVICE}/routing": ...}, monitoring={"enabled": False})
    assert not {"ModelRoute", "ReferenceGrant"} & set(kinds(engine)) and f"HTTPRoute {MODEL}-route" not in named(engine)
    service = inputs(engine.one("Service", f"{MODEL}-service"))
    assert service["spec"]["selector"]["ray.io/node-type"] == "head"
    name = service["metadata"]["name"]
    assert outputs["endpoints"] == {MODEL: f"http://{name}.default.svc.cluster.local:8000/v1"}


def test_a_group_of_lws_is_routed_to_its_leader_alone(engine: Recorder):
    run(engine, **LWS)
    assert "RayClusterFleet" not in kinds(engine)
    group = inputs(engine.one("LeaderWorkerSet"))
    parts = group["spec"]["leaderWorkerTemplate"]
    assert parts["leaderTemplate"]["metadata"]["labels"]["model.aibrix.ai/name"] == MODEL
    assert "model.aibrix.ai/name" not in parts["workerTemplate"]["metadata"]["labels"]
    # LeaderWorkerSet creates a headless Service with the group's name; AIBrix must find the one with the model's name.
    assert inputs(engine.one("Service", f"{MODEL}-service"))["metadata"]["name"] == MODEL != group["metadata"]["name"]
    later = f"LeaderWorkerSet {engine.one('LeaderWorkerSet').name}"
    assert {"Release addons-lws", EG, MANAGER, f"HTTPRoute {MODEL}-route"} <= before(engine, later)


def test_a_group_without_the_gateway_needs_nothing_of_aibrix(engine: Recorder):
    alone = {f"{SERVICE}/gateway": "none", f"{SERVICE}/routing": ..., "addons": ..., "monitoring": ...}
    run(engine, **LWS, **alone)
    assert [name for token, name in engine.seen if kind_of(token) == "Release"] == ["addons-lws"]
    assert not [name for name in named(engine) if "aibrix" in name] and not engine.reads


@pytest.mark.preview_too
def test_an_aibrix_that_is_there_is_left_alone_and_its_gateway_read(engine: Recorder):
    engine.found[GATEWAY_TYPE] = GATEWAY
    outputs = run(engine, addons__aibrix={"install": False})
    assert "Release" not in kinds(engine) and not [name for name in named(engine) if "aibrix" in name]
    assert engine.reads[GATEWAY_TYPE, "gateway"].id == "aibrix-system/aibrix-eg"
    assert engine.preview or outputs["endpoints"] == {MODEL: "http://10.0.0.9/v1"}


def test_where_another_kuberay_runs_aibrixs_operator_is_left_out_and_the_rest_is_there(engine: Recorder):
    run(engine, addons__aibrix__kuberay="none")
    assert not [name for name in named(engine) if "kuberay" in name]
    assert {MANAGER, EG, "Release addons-envoy-gateway"} <= before(engine, FLEET)


def test_monitoring_is_where_it_is_asked_for(engine: Recorder):
    run(engine)
    assert inputs(engine.one("ServiceMonitor"))["metadata"]["labels"]["volcengine.vmp"] == "true"
    assert "ConfigMap monitoring-dashboard" in named(engine)
    other = Recorder(preview=False)
    run(other, monitoring=...)
    assert not {"ServiceMonitor", "Monitoring"} & set(kinds(other))


def test_the_replicas_of_an_autoscaled_fleet_are_the_autoscalers_alone(engine: Recorder):
    fleet = "kubernetes:orchestration.aibrix.ai/v1alpha1:RayClusterFleet"
    run(engine, **SCALED)
    spec = inputs(engine.one("PodAutoscaler", f"{MODEL}-autoscaler"))["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"], spec["scalingStrategy"]) == (1, 3, "APA")
    assert "spec.replicas" in engine.seen[fleet, MODEL].ignoreChanges
    other = Recorder(preview=False)
    run(other)
    assert "PodAutoscaler" not in kinds(other)
    assert "spec.replicas" not in other.seen[fleet, MODEL].ignoreChanges


def test_rdma_is_on_head_and_workers_alike_or_nowhere(engine: Recorder):
    other = Recorder(preview=False)
    run(engine)
    run(other, cloud__rdma=False)
    networks, device = "k8s.volcengine.com/pod-networks", "vke.volcengine.com/rdma"
    for with_it, without in zip(pods(engine), pods(other), strict=True):
        (container,), (plain,) = with_it["spec"]["containers"], without["spec"]["containers"]
        assert networks in with_it["metadata"]["annotations"]
        assert networks not in without["metadata"].get("annotations", {})
        assert container["resources"]["limits"][device] == container["resources"]["requests"][device] == "8"
        assert device not in plain["resources"]["limits"]
        assert "IPC_LOCK" in container["securityContext"]["capabilities"]["add"]
        assert "add" not in plain["securityContext"]["capabilities"]
        assert env(with_it)["NCCL_IB_DISABLE"] == "0" and env(without)["NCCL_IB_DISABLE"] == "1"
        assert "NCCL_IB_HCA" not in env(without)


def test_two_models_side_by_side_share_bucket_and_gateway_and_nothing_that_goes_with_one(engine: Recorder):
    second = {**FILE.whole["services"][MODEL], "model": "DeepSeek-V3"}
    run(engine, services__second=second)
    for name in (MODEL, "second"):
        own = {f"HTTPRoute {name}-route", f"ReferenceGrant {name}-grant", f"Service {name}-service"}
        others = {each.replace(name, MODEL if name == "second" else "second") for each in own}
        earlier = before(engine, f"RayClusterFleet {name}")
        assert own <= earlier and not others & earlier and {EG, "Bucket weights"} <= earlier
    assert "Job deepseek-r1-sync" not in before(engine, "RayClusterFleet second")
    assert "Job deepseek-v3-sync" in before(engine, "RayClusterFleet second")


def test_two_services_of_one_model_share_its_weights(engine: Recorder):
    run(engine, services__second=FILE.whole["services"][MODEL])
    assert kinds(engine).count("Job") == 1
    assert all("Job deepseek-r1-sync" in before(engine, f"RayClusterFleet {name}") for name in (MODEL, "second"))


def test_the_outputs_say_where_and_what_to_ask_and_never_a_secret():
    engine = Recorder(preview=False)
    outputs = run(engine, secrets=["apiKey"])
    assert outputs.pop("plan").keys() == {MODEL}
    assert outputs == {
        "endpoints": {MODEL: "http://10.0.0.9/v1"},
        "models": {MODEL: MODEL},
        "verify": "python -m ops verify test",
        "bucket": "modelserve-vke-weights",
    }


def test_a_fleet_of_engines_is_told_how_many_are_on_its_head_and_its_workers_only_join_ray(engine: Recorder):
    release = {"image": "vllm/vllm-openai:v0.33.0", "version": "0.33.0", "launcher": "ray", "imageHasRay": True}
    small = ["--max-num-batched-tokens", "2048", "--max-num-seqs", "128"]
    layout = {"nodes": 2, "gpusPerNode": 8, "data": 16, "tensor": 1, "pipeline": 1, "expertParallel": True}
    run(engine, **{f"{SERVICE}/engine": release | {"extraArgs": small}, f"{SERVICE}/layout": layout})
    head, worker = (each["spec"]["containers"][0] for each in pods(engine))
    said = "--data-parallel-size 16 --data-parallel-backend ray --data-parallel-size-local 8 --enable-expert-parallel"
    assert said in " ".join(head["args"]) and flags.problems(head["args"], "0.33.0") == [] and "args" not in worker
    assert {each["command"][-1] for each in (head, worker)} == {"/etc/modelserve/launch.sh"}
    assert "modelserve_servers.Guard" in head["args"]
