"""The program on ACS: what depends on what, what is kept, what is secret, and which parts each choice adds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from components.serving.service_check import selector
from components.weights.oss_bucket import ACCESS_KEY, BUCKET
from planning.catalog import fact
from tests.support.program import (
    GIVEN_KEYS,
    MADE,
    before,
    env,
    kind_of,
    kinds,
    leaked,
    merged,
    run_program,
    secret_data,
)
from tests.support.recorder import Recorder, inputs
from tests.support.schemas import problems
from tests.support.stack_files import StackFile
from watch.cache_state import CacheReader

WHOLE = StackFile("acs").whole
STREAM = {
    "weights": {"read": "stream"},
    "cache": {"engine": "none"},
    "services": {
        "ds": {
            "engine": {
                "image": "vllm/vllm-openai:v0.19.0",
                "version": "0.19.0",
                "launcher": "native",
                "gpuMemoryUtilization": 0.9,
            }
        }
    },
}
RELEASE = "kubernetes:helm.sh/v3:Release"
SERVICE = "kubernetes:core/v1:Service"
SIDECAR = "alibabacloud.com/fluid-sidecar-target"
SERIES = "alibabacloud.com/gpu-model-series"
BALANCER = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that reports no problem with the cache; `test_cache_look` tests whether the cache is complete."""
    monkeypatch.setattr(CacheReader, "_read", lambda *_: None)


def run(engine: Recorder, changes: Mapping[str, Any] | None = None, *, secrets: Collection[str] = ()) -> dict[str, Any]:
    """Runs the committed stack file with changes merged in (None removes), canaries as secrets; returns the outputs."""
    made = {
        ACCESS_KEY: {"secret": MADE},
        SERVICE: {"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.9"}]}}},
    }
    return run_program(engine, merged(WHOLE, changes or {}), secrets=secrets, made=made)


def templates(engine: Recorder, name: str = "ds") -> list[dict[str, Any]]:
    """The pod templates of the leader and the workers."""
    group = inputs(engine.one("LeaderWorkerSet", name))["spec"]["leaderWorkerTemplate"]
    return [group["leaderTemplate"], group["workerTemplate"]]


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        ("LeaderWorkerSet ds", {"DataLoad deepseek-r1-load", "Job deepseek-r1-sync"}),
        ("LeaderWorkerSet ds", {"Release addons-lws", "Release addons-fluid", "NetworkPolicy ds-network"}),
        ("DataLoad deepseek-r1-load", {"Dataset deepseek-r1-dataset", "JindoRuntime deepseek-r1-runtime"}),
        ("Dataset deepseek-r1-dataset", {"Secret deepseek-r1-cache-key", "Job deepseek-r1-sync"}),
        ("Dataset deepseek-r1-dataset", {"Release addons-fluid", "Bucket weights", "BucketAcl weights"}),
        ("Secret deepseek-r1-cache-key", {"AccessKey weights-reader", "UserPolicyAttachment weights-reader"}),
        ("Job deepseek-r1-sync", {"Secret deepseek-r1-sync-keys", "Bucket weights", "BucketAcl weights"}),
        ("Secret deepseek-r1-sync-keys", {"AccessKey weights-writer", "UserPolicyAttachment weights-writer"}),
    ],
)
def test_what_must_exist_first_is_waited_for_and_outlives_what_needs_it(
    engine: Recorder, later: str, earlier: set[str]
):
    run(engine)
    assert earlier <= before(engine, later)


def test_exactly_the_bucket_is_protected_and_nothing_where_it_is_not_kept(engine: Recorder):
    run(engine)
    assert [key for key, request in engine.seen.items() if request.protect] == [(BUCKET, "weights")]
    other = Recorder(preview=False)
    run(other, {"weights": {"bucket": {"keep": False}}})
    assert not [key for key, request in other.seen.items() if request.protect or request.retainOnDelete]


@pytest.mark.preview_too
@pytest.mark.parametrize("changes", [{}, {"cache": {"engine": "none"}}, STREAM], ids=["fluid", "volume", "stream"])
@pytest.mark.parametrize("given", [(), GIVEN_KEYS], ids=["made keys", "given keys"])
def test_no_secret_is_on_the_wire_in_plain(engine: Recorder, changes: dict[str, Any], given: tuple[str, ...]):
    run(engine, changes, secrets=[*given, "apiKey", "hubToken", "kubeconfig"])
    assert not leaked(engine)
    assert secret_data(engine, "ds-api-key") == {"apiKey": "canary-apiKey"}


def test_keys_that_are_given_make_no_user_and_reach_their_readers(engine: Recorder):
    run(engine, secrets=[*GIVEN_KEYS, "hubToken"])
    assert not {"User", "Policy", "UserPolicyAttachment", "AccessKey"} & set(kinds(engine))
    assert secret_data(engine, "deepseek-r1-cache-key") == {
        "fs.oss.accessKeyId": "canary-accessKey",
        "fs.oss.accessKeySecret": "canary-secretKey",
    }
    assert secret_data(engine, "deepseek-r1-sync-keys") == {
        "id": "canary-syncAccessKey",
        "secret": "canary-syncSecretKey",
        "token": "canary-hubToken",
    }


@pytest.mark.parametrize(
    ("arguments", "weights", "left"),
    [([], "model*.safetensors", True), (["--load-format", "mistral"], "consolidated*.safetensors", False)],
)
def test_the_sync_leaves_out_what_the_services_of_a_model_do_not_read(
    engine: Recorder, arguments: list[str], weights: str, left: bool
):
    run(engine, {"services": {"ds": {"engine": {"extraArgs": arguments}}}})
    (container,) = inputs(engine.one("Job"))["spec"]["template"]["spec"]["containers"]
    found = {each["name"].removeprefix("MODELSERVE_"): each.get("value", "") for each in container["env"]}
    patterns = found["LEAVES"].split()
    assert found["WEIGHTS"] == weights and {"original/*", "metal/*"} <= set(patterns)
    assert ("consolidated*" in patterns) is left


def test_without_a_cache_the_volume_comes_after_the_sync_and_before_the_group(engine: Recorder):
    run(engine, {"cache": {"engine": "none"}, "addons": {"fluid": None}})
    assert not {"Dataset", "JindoRuntime", "DataLoad"} & set(kinds(engine))
    assert [name for token, name in engine.seen if token == RELEASE] == ["addons-lws"]
    assert {"PersistentVolumeClaim deepseek-r1-volume-claim", "Release addons-lws"} <= before(
        engine, "LeaderWorkerSet ds"
    )
    assert {
        "Job deepseek-r1-sync",
        "PersistentVolume deepseek-r1-volume",
        "Secret deepseek-r1-volume-key",
        "AccessKey weights-reader",
        "BucketAcl weights",
    } <= before(engine, "PersistentVolumeClaim deepseek-r1-volume-claim")


def test_a_streaming_engine_reads_the_bucket_itself_with_a_key_by_reference(engine: Recorder):
    run(engine, STREAM)
    assert not {"Dataset", "PersistentVolume", "PersistentVolumeClaim"} & set(kinds(engine))
    assert {"Secret deepseek-r1-stream-key", "AccessKey weights-reader", "Job deepseek-r1-sync"} <= before(
        engine, "LeaderWorkerSet ds"
    )
    for template in templates(engine):
        (container,) = template["spec"]["containers"]
        args = container["args"]
        assert args[args.index("--load-format") + 1] == "runai_streamer"
        assert "s3://modelserve-llm-weights/models/DeepSeek-R1" in args
        refs = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"]}
        keys = {name: ref for name, ref in refs.items() if ref and name != "VLLM_API_KEY"}
        assert keys == {
            "AWS_ACCESS_KEY_ID": {"name": "deepseek-r1-stream-key", "key": "accessKeyId"},
            "AWS_SECRET_ACCESS_KEY": {"name": "deepseek-r1-stream-key", "key": "accessKeySecret"},
        }


def test_kernels_are_kept_on_the_claim_below_the_names_of_namespace_stack_and_service(engine: Recorder):
    run(engine, {"cache": {"compile": {"claim": "kernels"}}})
    (group,) = [found for found in engine.objects() if found["kind"] == "LeaderWorkerSet"]
    assert problems(group) == []
    for template in templates(engine):
        (container,) = template["spec"]["containers"]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "compiled"]
        assert re.fullmatch(r"modelserve/default/test/ds/[0-9a-f]{12}/\$\(MODELSERVE_REPLICA\)", mount["subPathExpr"])


def test_a_bucket_that_is_there_is_read_and_not_owned(engine: Recorder):
    engine.found[BUCKET] = {"bucket": "modelserve-llm-weights"}
    run(engine, {"weights": {"bucket": {"create": False}}})
    assert engine.reads[BUCKET, "weights"].id == "modelserve-llm-weights"
    assert not {"Bucket", "BucketAcl", "BucketPublicAccessBlock"} & set(kinds(engine))
    (mount,) = inputs(engine.one("Dataset"))["spec"]["mounts"]
    assert mount["mountPoint"] == "oss://modelserve-llm-weights/models/DeepSeek-R1/"
    assert "Bucket weights" in before(engine, "Dataset deepseek-r1-dataset")


def test_a_bucket_that_is_filled_already_needs_no_writer_and_no_job(engine: Recorder):
    run(engine, {"weights": {"sync": None}})
    assert "Job" not in kinds(engine)
    assert [name for token, name in engine.seen if token == ACCESS_KEY] == ["weights-reader"]
    assert "AccessKey weights-reader" in before(engine, "LeaderWorkerSet ds")


def test_rdma_is_on_leader_and_workers_alike_or_nowhere(engine: Recorder):
    other = Recorder(preview=False)
    run(engine, {"cloud": {"rdma": True}})
    run(other)
    for with_it, without in zip(templates(engine), templates(other), strict=True):
        labels, fewer = with_it["metadata"]["labels"], without["metadata"]["labels"]
        assert labels.items() - fewer.items() == {("alibabacloud.com/hpn-type", "rdma")}
        assert env(with_it).items() - env(without).items() == {
            ("NCCL_IB_TC", "136"),
            ("NCCL_IB_SL", "5"),
            ("NCCL_IB_GID_INDEX", "3"),
            ("NCCL_IB_HCA", "mlx5"),
            ("NCCL_NET_PLUGIN", "none"),
        }
        assert env(without)["NCCL_SOCKET_IFNAME"] == env(without)["GLOO_SOCKET_IFNAME"] == "eth0"


def test_reserved_nodes_are_chosen_by_their_label_and_other_pods_carry_it(engine: Recorder):
    other = Recorder(preview=False)
    run(engine, {"cloud": {"computeClass": "gpu-hpn"}})
    run(other)
    for reserved, usual in zip(templates(engine), templates(other), strict=True):
        assert reserved["spec"]["nodeSelector"] == {SERIES: "GU8TF"}
        assert SERIES not in reserved["metadata"]["labels"]
        assert reserved["metadata"]["labels"]["alibabacloud.com/compute-class"] == "gpu-hpn"
        assert usual["metadata"]["labels"][SERIES] == "GU8TF" and "nodeSelector" not in usual["spec"]


@pytest.mark.parametrize(
    ("changes", "sidecar"),
    [({}, "acs"), ({"cache": {"engine": "none"}}, None), (STREAM, None)],
    ids=["fluid", "volume", "stream"],
)
def test_pods_ask_for_fluids_sidecar_only_where_fluid_mounts(engine: Recorder, changes: dict[str, Any], sidecar: Any):
    run(engine, changes)
    assert [template["metadata"]["labels"].get(SIDECAR) for template in templates(engine)] == [sidecar] * 2


@pytest.mark.parametrize("changes", [{}, {"cache": {"engine": "none"}}], ids=["fluid", "volume"])
def test_two_services_of_one_model_share_what_the_model_needs(engine: Recorder, changes: dict[str, Any]):
    run(engine, merged(changes, {"services": {"second": WHOLE["services"]["ds"]}}))
    assert sorted(name for token, name in engine.seen if kind_of(token) == "LeaderWorkerSet") == ["ds", "second"]
    once = {"Job", "Dataset", "JindoRuntime", "DataLoad"} if not changes else {"Job", "PersistentVolumeClaim"}
    assert all(kinds(engine).count(kind) == 1 for kind in once)
    last = "DataLoad deepseek-r1-load" if not changes else "PersistentVolumeClaim deepseek-r1-volume-claim"
    assert all(last in before(engine, f"LeaderWorkerSet {name}") for name in ("ds", "second"))


@pytest.mark.parametrize(
    ("expose", "annotations"),
    [
        ({"to": "private"}, {"address-type": "intranet"}),
        (
            {"to": "private", "allowList": "acl-1x"},
            {"address-type": "intranet", "acl-id": "acl-1x", "acl-status": "on", "acl-type": "white"},
        ),
        (
            {"to": "public", "allowList": "acl-1x"},
            {"address-type": "internet", "acl-id": "acl-1x", "acl-status": "on", "acl-type": "white"},
        ),
    ],
)
def test_a_load_balancer_is_asked_for_by_annotations_and_its_address_is_the_endpoint(
    engine: Recorder, expose: dict[str, str], annotations: dict[str, str]
):
    outputs = run(engine, {"services": {"ds": {"expose": expose}}}, secrets=["apiKey"])
    service = inputs(engine.one("Service"))
    assert service["metadata"]["annotations"] == {BALANCER + key: value for key, value in annotations.items()}
    assert service["spec"]["type"] == "LoadBalancer"
    assert outputs["endpoints"] == {"ds": "http://10.0.0.9:8000/v1"}


def test_inside_the_cluster_there_is_no_load_balancer_even_with_a_key(engine: Recorder):
    run(engine, secrets=["apiKey"])
    service = inputs(engine.one("Service"))
    assert service["spec"]["type"] == "ClusterIP"
    assert not [key for key in service["metadata"]["annotations"] if key.startswith(BALANCER)]


def test_releases_that_are_there_are_read_or_left_alone(engine: Recorder):
    engine.found[RELEASE] = {"status": {"appVersion": "0.9.0", "version": "0.9.0"}}
    run(engine, {"addons": {"lws": {"install": "adopt"}, "fluid": {"install": False}}})
    assert "Release" not in kinds(engine)
    assert [name for _, name in engine.reads] == ["addons-lws"]
    assert "Release addons-lws" in before(engine, "LeaderWorkerSet ds")


def test_the_outputs_say_where_and_what_to_ask_and_never_a_secret():
    engine = Recorder(preview=False)
    outputs = run(engine, secrets=["apiKey"])
    assert outputs.pop("plan").keys() == {"ds"}
    assert outputs == {
        "endpoints": {"ds": "http://ds-leader.default.svc.cluster.local:8000/v1"},
        "models": {"ds": "ds"},
        "verify": "python -m ops verify test",
        "bucket": "modelserve-llm-weights",
    }


HERE = {"podSelector": {}}
TEAM = {"namespace": "team", "podLabels": {"app": "web"}}
TEAM_PEER = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "team"}},
    "podSelector": {"matchLabels": {"app": "web"}},
}
OFFICE, OFFICE_PEER = {"cidr": "10.9.0.0/16"}, {"ipBlock": {"cidr": "10.9.0.0/16"}}
CHECK = {"podSelector": {"matchLabels": selector("test", "ds")}}
WORLD = {"ipBlock": {"cidr": "0.0.0.0/0"}}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
PRIVATE = {"to": "private"}


@pytest.mark.parametrize(
    ("service", "secrets", "peers"),
    [
        ({}, [], None),
        ({}, ["apiKey"], [HERE, PROMETHEUS]),
        ({"clients": [TEAM]}, [], [TEAM_PEER, PROMETHEUS]),
        ({"clients": [TEAM, OFFICE]}, ["apiKey"], [TEAM_PEER, OFFICE_PEER, PROMETHEUS]),
        ({"clients": [TEAM], "verifyAfterUp": True}, ["apiKey"], [TEAM_PEER, CHECK, PROMETHEUS]),
        ({"expose": PRIVATE}, ["apiKey"], [HERE, WORLD, PROMETHEUS]),
        ({"expose": PRIVATE, "clients": [OFFICE]}, ["apiKey"], [OFFICE_PEER, PROMETHEUS]),
    ],
)
def test_with_a_key_or_an_exposure_named_peers_alone_reach_the_port(
    engine: Recorder, service: dict[str, Any], secrets: list[str], peers: list[dict[str, Any]] | None
) -> None:
    monitoring = {"enabled": True} | ({"prometheusNamespace": "monitoring"} if peers else {})
    run(engine, {"services": {"ds": service}, "monitoring": monitoring}, secrets=secrets)
    members, http = inputs(engine.one("NetworkPolicy"))["spec"]["ingress"]
    assert "ports" not in members and http.get("from") == peers
    # Behind a load balancer, /metrics requires the key, from the cluster's Prometheus too.
    exposed = "expose" in service
    assert (env(templates(engine)[0]).get("MODELSERVE_METRICS") == "key") == exposed
    (endpoint,) = inputs(engine.one("ServiceMonitor"))["spec"]["endpoints"]
    key = {"credentials": {"name": "ds-api-key", "key": "apiKey"}}
    assert endpoint.get("authorization") == (key if exposed else None)


@pytest.mark.preview_too
@pytest.mark.parametrize("replicas", [0, 1])
def test_the_check_comes_last_reaches_a_private_endpoint_from_inside_and_asks_no_paused_service(engine, replicas):
    pod = {"tolerations": [{"operator": "Exists"}], "priorityClassName": "high"}
    service = {"verifyAfterUp": True, "expose": PRIVATE, "replicas": replicas, "pod": pod}
    run(engine, {"services": {"ds": service}, "registry": "mirror.example"}, secrets=["apiKey"])
    jobs = [name for token, name in engine.seen if kind_of(token) == "Job"]
    assert ("ds-verify" in jobs) == bool(replicas)
    if replicas:
        assert {"LeaderWorkerSet ds", "Service ds-service"} <= before(engine, "Job ds-verify")
        made = inputs(engine.one("Job", "ds-verify"))["spec"]["template"]
        (container,) = made["spec"]["containers"]
        assert env(made)["MODELSERVE_URL"] == "http://ds-leader.default.svc:8000"
        assert env(made)["MODELSERVE_TAGS"] == "<think> </think>"
        assert container["image"].startswith("mirror.example/")
        assert made["metadata"]["labels"] | fact("clouds", "acs", "cpuPodLabels") == made["metadata"]["labels"]
        assert made["spec"]["tolerations"] == pod["tolerations"] and "priorityClassName" not in made["spec"]


@pytest.mark.parametrize(("replicas", "gone"), [(0, True), (1, False)])
def test_a_cache_that_is_dropped_goes_with_the_last_replica_and_all_else_stays(replicas, gone):
    def made(cache: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        engine = Recorder(preview=False)
        run(engine, {"services": {"ds": {"replicas": replicas}}, "cache": cache})
        return {f"{each['kind']}/{each['metadata']['name']}": each for each in engine.objects()}

    kept, dropped = made({}), made({"whilePaused": "drop"})
    parts = {f"{kind}/deepseek-r1" for kind in ("Dataset", "JindoRuntime", "DataLoad")} | {
        "Secret/deepseek-r1-cache-key"
    }
    assert kept.keys() - dropped.keys() == (parts if gone else set())
    # Not a field of the others changes, so a pause and its end touch nothing but the number of replicas.
    assert {name: kept[name] for name in dropped} == dropped
