"""The stack file of ACS: what is refused, with which remedy; data decides about series, cache and exposure."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from config.errors import ConfigError
from config.judge import parse
from config.plans import plan_services
from config.stack import repository
from local.paths import ROOT
from planning.engine import newest
from planning.startup import FILL, TO_NODES, WARM
from stacks.plan_summary import warnings
from tests.support.stack_files import StackFile, besides_trust, with_values

WHOLE = {
    key.removeprefix("modelserve:"): value
    for key, value in yaml.safe_load((ROOT / "Pulumi.acs.yaml").read_text())["config"].items()
    if key.startswith("modelserve:")
}
KEY = {"secrets": ["apiKey"]}
NATIVE = {"image": "vllm/vllm-openai:v0.19.0", "version": "0.19.0", "launcher": "native"}
VERSION_WITHOUT_RAY = {"services__ds__engine__version": "0.19.0", "services__ds__engine__gpuMemoryUtilization": 0.9}


def changed(**changes: Any) -> dict[str, Any]:
    """The committed stack file with values set by path (`services__ds__replicas`); Ellipsis removes."""
    return with_values(WHOLE, {path.replace("__", "/"): value for path, value in changes.items()})


def lines(raw: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_services(parse(raw, **more))
    return str(caught.value).splitlines()


def only(raw: dict[str, Any], **more: Any) -> str:
    found = lines(raw, **more)
    assert len(found) == 1, found
    return found[0].removeprefix("modelserve:")


KEDA = {"engine": "keda", "maximum": 2}
SCALED, WATCHED = "services__ds__autoscaling", {"monitoring": {"enabled": True}}


@pytest.mark.parametrize("stack", ["acs-next", "volcengine-next"])
def test_the_stack_file_of_todays_recipe_is_accepted_fits_and_runs_the_newest_release_without_known_holes(stack: str):
    config = parse(StackFile(stack).whole)
    (planned,) = plan_services(config).values()
    assert planned.plan.fits
    assert not [
        each for each in warnings(config, {"ds": planned}, ["apiKey"], {}) if "known by ticket only" not in each
    ]
    assert planned.service.engine.version == newest() and planned.service.engine.launcher == "native"
    assert (planned.layout.data, planned.layout.expert_parallel) == (16, True)


def test_the_committed_stack_file_is_accepted_and_fits():
    planned = plan_services(parse(WHOLE))["ds"]
    assert planned.plan.fits and planned.plan.cache is not None and besides_trust(planned.warnings) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({SCALED: {"maximum": 2}}, "autoscaling.engine: aibrix: AIBrix is not installed on acs; write keda or hpa"),
        (
            {SCALED: {"engine": "hpa", "maximum": 2}, **WATCHED, "services__ds__rollout": {"strategy": "blueGreen"}},
            "rollout.strategy: blueGreen: the autoscaling scales one group by its name",
        ),
        ({SCALED: KEDA, **WATCHED}, "autoscaling.prometheus: is missing, and KEDA asks it"),
        ({SCALED: {"engine": "hpa", "maximum": 2}}, "autoscaling.engine: hpa: it reads the engine's metrics"),
        ({SCALED: {"engine": "hpa", "minimum": 0, "maximum": 2}, **WATCHED}, "autoscaling.minimum: 0: without"),
        ({SCALED: {"engine": "hpa", "minimum": 3, "maximum": 2}, **WATCHED}, "autoscaling.maximum: 2: is below"),
        ({SCALED: {**KEDA, "prometheus": "http://p?a=b"}, **WATCHED}, "prometheus: http://p?a=b: KEDA adds a path"),
        (
            {SCALED: {"engine": "hpa", "maximum": 2, "prometheusAuth": {"mode": "basic", "secret": "p"}}, **WATCHED},
            "autoscaling.prometheusAuth: only keda asks Prometheus; leave it out",
        ),
        (
            {SCALED: {**KEDA, "prometheus": "http://p", "prometheusAuth": {"mode": "basic", "secret": "P"}}, **WATCHED},
            "autoscaling.prometheusAuth.secret: is not a Secret",
        ),
        ({SCALED: {**KEDA, "prometheus": "http://a:b@p"}, **WATCHED}, "autoscaling.prometheus: is not an http"),
        ({SCALED: {"engine": "hpa", "maximum": 2, "prometheus": "http://p"}, **WATCHED}, "prometheus: http://p: only"),
        ({"cloud__gpuSeries": "GU9"}, "cloud.gpuSeries: GU9: is a series that the catalog does not know; write one of"),
        ({"cloud__gpuSeries": "<series>"}, "cloud.gpuSeries: <series>: is a placeholder that was left in"),
        ({"cloud__region": "Hangzhou"}, "cloud.region: Hangzhou: is not a region's id; write one such as cn-hangzhou"),
        ({"cloud__region": "<your-region>"}, "cloud.region: <your-region>: is a placeholder"),
        ({"cloud__region": ...}, "cloud.region: is missing; write the region of cluster and bucket"),
        ({"cloud__kind": "aliyun"}, "cloud.kind: aliyun: is not one of the known values; write local or acs"),
        ({"cloud__kind": ...}, "cloud.kind: is missing; write local or acs"),
        ({"cloud__computeClass": "performance"}, "cloud.computeClass: performance: is not one of the known values"),
        (
            {"cloud__computeClass": "gpu-hpn", "cloud__computeQos": "best-effort"},
            "cloud.computeQos: best-effort: gpu-hpn pods run on reserved nodes",
        ),
        ({"cloud__gpuSeries": "T4", "cloud__rdma": True}, "cloud.rdma: true: series T4 has no RDMA network;"),
        ({"weights__bucket__name": "Bad_Name"}, "weights.bucket.name: Bad_Name: is not a bucket's name"),
        ({"weights__bucket__name": "<your-bucket-name>"}, "weights.bucket.name: <your-bucket-name>: is a placeholder"),
        ({"weights__bucket__nam": "x"}, "weights.bucket.nam: x: unknown key; did you mean name?"),
        ({"weights__source": "nfs"}, "weights.source: nfs: is not one of the known values; write pvc or bucket"),
        ({"weights__sync__from": "ftp://x"}, "weights.sync.from: ftp://x: is not a hub; write modelscope"),
        ({"weights__sync__repositories": {"x": "y"}}, "weights.sync.repositories.x: y: is not owner/name"),
        ({"services__ds__layout__gpusPerNode": 4}, "layout.gpusPerNode: 4: series GU8TF of acs has no pod of 4 GPUs"),
        ({"services__ds__resources__cpu": 60}, "resources.cpu: 60: series GU8TF has no pod of 60 vCPU"),
        (
            {"services__ds__resources__memory": "500Gi"},
            "resources.memory: 500Gi: series GU8TF has no pod of 64 vCPU with that memory, and it would be billed as "
            "the next larger; write 512Gi",
        ),
        ({"services__ds__resources__memory": "512G"}, "resources.memory: 512G: is not a whole number of Mi, Gi or Ti"),
        ({"services__ds__resources__limits": {"cpu": 64}}, "requests equal limits"),
        ({"services__ds__resources__ephemeralStorage": "3000Gi"}, "a pod of series GU8TF has at most 2048Gi"),
        ({"services__ds__port": 111}, "services.ds.port: 111: acs reserves it for its own agents; write 8000"),
        ({"services__ds__podLabels": {"alibabacloud.com/compute-class": "x"}}, "set by the program or its controllers"),
        ({"services__ds__engine__extraArgs": ["--swap-spac", "4"]}, "vLLM 0.7.2 has no such argument"),
        ({"services__ds__engine__extraArgs": ["--headless"]}, "another key; use engine.launcher"),
        ({"services__ds__engine__launcher": "native"}, "engine.launcher: native: vLLM 0.7.2 joins nodes by Ray only"),
        ({"services__ds__restartPolicy": "RecreateGroupAfterStart", "addons__lws__version": "0.8.0"}, "Set 0.8.0"),
        ({"addons__lws__version": "0.5.0"}, "addons.lws.version: 0.5.0: Helm would delete its CRDs with the release"),
        ({"addons__lws__version": "latest"}, "addons.lws.version: latest: is not a release; write three numbers"),
        ({"addons__fluid__version": "1.0.8"}, "addons.fluid.version: 1.0.8: too old for acs, which needs 1.0.11"),
        ({"cache__quota": "128Gi"}, "the rest for itself and the pod's overhead; write at most 120Gi"),
        ({"cache__quota": "1024Gi", "cache__memory": "2Ti"}, "cache.quota: 1024Gi: Kubernetes would write it as Ti"),
        ({"cache__low": 0.99}, "cache.low: 0.99: eviction starts at 0.95 and must end below it; write less than 0.95"),
        ({"cache__workers": 5}, "cache.workers: 5: 5 x 120 GiB x 0.95 = 570 GiB, but the cache must hold 673 GiB"),
        (
            {"cloud__computeQos": "best-effort", "services__ds__drainSeconds": 300},
            "services.ds.drainSeconds: 300: an evicted pod has 300 s in all; write at most 265",
        ),
        ({"weights": {"source": "pvc", "claim": "c"}}, "cache.engine: fluid: it caches a bucket, and"),
        ({"weights__read": "stream"}, "cache.engine: fluid: vLLM streams weights from the bucket"),
        ({"services__ds__model": "phi-4", "services__ds__layout": "auto"}, "repositories.phi-4: is missing"),
        (VERSION_WITHOUT_RAY, "images of vLLM 0.19.0 ship without Ray, which joins 2 nodes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_remedy(changes: dict[str, Any], said: str):
    assert said in only(changed(**changes))


def test_a_cache_that_only_an_estimate_calls_too_small_is_warned_of_and_not_refused():
    one = {"nodes": 1, "gpusPerNode": 8, "tensor": 8, "pipeline": 1}
    small = {"services__ds__engine": NATIVE, "services__ds__layout": one, "services__ds__model": "gpt-oss-120b"}
    small |= {"weights__sync": ..., "cache__workers": 1, "cache__memory": "72Gi"}
    (said,) = plan_services(parse(changed(**small)))["ds"].warnings
    assert said.startswith("cache.workers 1: 1 x 67 GiB") and said.endswith("by an estimate")
    known = {"catalog": {"models": {"gpt-oss-120b": {"fileBytes": 65 * 1024**3}}}}
    assert "GiB; write 3, or auto" in only(changed(**small) | known)


def test_bucket_cache_and_times_are_planned_for_every_format_that_services_of_a_model_read():
    asks = {"services__ds__engine__extraArgs": ["--load-format=mistral"]}
    both = changed(**asks)
    both["services"]["twin"] = WHOLE["services"]["ds"]
    once, other, twice = (plan_services(parse(raw))["ds"].plan for raw in (WHOLE, changed(**asks), both))
    assert once.file_bytes == other.file_bytes == twice.file_bytes / 2
    assert twice.cache and once.cache and twice.cache.workers > once.cache.workers
    bytes_of = [{step.name: step.bytes for step in plan.startup.steps} for plan in (once, twice)]
    assert all(bytes_of[1][name] == 2 * bytes_of[0][name] for name in (FILL, WARM))
    assert bytes_of[1][TO_NODES] == bytes_of[0][TO_NODES]


def test_an_fp8_model_is_not_cut_below_its_blocks():
    said = lines(changed(services__ds__layout={"nodes": 4, "tensor": 32, "pipeline": 1}))
    wrong = [line for line in said if line.startswith("modelserve:services.ds.layout.tensor: 32: ")]
    assert any("not a multiple of 128 (FP8 blocks" in line and "layouts that fit: " in line for line in wrong)


@pytest.mark.parametrize("to", ["private", "public"])
def test_nothing_is_reached_from_outside_without_a_key(to: str):
    raw = changed(services__ds__expose={"to": to, "allowList": "acl-bp1x"})
    assert "services.ds.expose.to" in only(raw) and "there is no API key" in only(raw)
    assert parse(raw, **KEY).services["ds"].expose.to == to


def test_clients_of_an_exposed_service_are_not_pods_alone():
    exposed = {"services__ds__expose": {"to": "private"}, "services__ds__clients": [{"namespace": "team"}]}
    why = "services.ds.clients: clients of the load balancer have addresses outside the cluster; add one with cidr"
    assert why in only(changed(**exposed), secrets=["apiKey"])


def test_the_public_needs_an_allow_list():
    raw = changed(services__ds__expose={"to": "public"})
    assert "expose.allowList: is missing, and without it everybody reaches a public address" in only(raw, **KEY)
    assert parse(changed(services__ds__expose={"to": "private"}), **KEY).services["ds"].expose.allow_list is None


@pytest.mark.parametrize(("has", "lacks"), [("accessKey", "secretKey"), ("syncSecretKey", "syncAccessKey")])
def test_half_a_key_pair_is_refused(has: str, lacks: str):
    assert only(WHOLE, secrets=[has]).startswith(f"{lacks}: is missing, and {has} is useless without it")


def test_a_series_that_the_catalog_lacks_can_be_described():
    pods = {"gpus": [8], "memoryGib": {"64": [512]}, "ephemeralGib": 100, "rdma": True}
    raw = changed(cloud__gpuSeries="GU9", cloud__gpu="H20-96", catalog={"gpuPods": {"GU9": pods}}, cloud__rdma=True)
    assert besides_trust(plan_services(parse(raw))["ds"].warnings) == ()
    raw["services"]["ds"]["resources"]["cpu"] = 128
    assert "series GU9 has no pod of 128 vCPU" in only(raw)


def test_a_series_whose_shapes_nobody_knows_takes_any():
    raw = changed(cloud__gpuSeries="L20", cloud__gpu="H20-96", services__ds__resources={"cpu": 60, "memory": "500Gi"})
    assert plan_services(parse(raw))["ds"].plan.fits


def test_doubts_are_warnings_and_not_refusals():
    said = plan_services(parse(changed(cloud__rdma=True, cloud__computeQos="best-effort")))["ds"].warnings
    assert any("evicted with 300 s of notice" in line for line in said)
    assert any("whether series GU8TF has RDMA is known by ticket only" in line for line in said)
    disk = changed(services__ds__resources__ephemeralStorage="200Gi")
    assert "30 GiB of each pod are free" in besides_trust(plan_services(parse(disk))["ds"].warnings)[0]


def test_weights_are_streamed_where_the_engine_can(monkeypatch: pytest.MonkeyPatch):
    raw = changed(weights__read="stream", cache={"engine": "none"}, services__ds__engine=NATIVE)
    assert parse(raw).weights.read == "stream"
    twice = changed(
        weights__read="stream",
        cache={"engine": "none"},
        services__ds__engine=NATIVE | {"extraArgs": ["--load-format", "auto"]},
    )
    assert "services.ds.engine.extraArgs: --load-format: weights.read: stream sets it" in only(twice)
    monkeypatch.setattr("planning.flags.choices", lambda flag, version: ("auto",))
    assert "weights.read: stream: services.ds: vLLM 0.19.0 has no runai_streamer" in only(raw)


def test_native_groups_need_no_ray_in_the_image():
    assert plan_services(parse(changed(services__ds__engine=NATIVE)))["ds"].plan.fits


@pytest.mark.parametrize("install", [False, "adopt"])
def test_an_old_add_on_that_is_there_already_is_taken_as_it_is(install: object):
    assert parse(changed(addons__lws={"install": install, "version": "0.5.0"})).addons.lws is not None


def test_two_models_whose_objects_would_share_a_name_are_told_apart():
    raw = changed(weights__sync=...)
    raw["services"]["two"] = copy.deepcopy(raw["services"]["ds"]) | {"model": "deepseek.r1"}
    raw["catalog"] = {"models": {"deepseek.r1": {}}}
    with pytest.raises(
        ConfigError, match="services.two.model: deepseek.r1: its volume and cache would have the same names"
    ):
        parse(raw)


def test_a_model_whose_name_fluid_cannot_carry_is_refused():
    long = "DeepSeek-R1-Distill-Llama-70B-of-our-own-making"
    raw = changed(services__ds__model=long, weights__sync=..., catalog={"models": {long: {}}})
    with pytest.raises(ConfigError, match=f"services.ds.model: {long}: deepseek-r1-distill-.* has 47 characters"):
        parse(raw)


def test_repositories_come_from_the_catalog_unless_the_stack_file_says_so():
    usual, own = parse(WHOLE), parse(changed(weights__sync__repositories={"DeepSeek-R1": "mine/R1"}))
    assert repository(usual, usual.weights.sync.repositories, "DeepSeek-R1") == "deepseek-ai/DeepSeek-R1"
    assert repository(own, own.weights.sync.repositories, "DeepSeek-R1") == "mine/R1"


def test_everything_wrong_is_said_at_once():
    raw = changed(cloud__gpuSeries="GU9", weights__bucket__name="X", cache__quota="128Gi", services__ds__port=111)
    assert [line.split(": ")[0] for line in lines(raw)] == [
        f"modelserve:{key}" for key in ("cache.quota", "cloud.gpuSeries", "services.ds.port", "weights.bucket.name")
    ]
