"""Stacks on ACS other than the committed one: streamed weights, an external address, adopted add-ons, more models."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from local import charts
from local.control_plane import ControlPlane
from tests.rehearsal.clouds import BUCKETS, Cloud
from tests.rehearsal.pulumi_stack import Cluster, Stack, one_node

THERE = {"lws": {"install": False}, "fluid": {"install": False}}
STREAMING = {"image": "vllm/vllm-openai:v0.19.0", "version": "0.19.0", "launcher": "native"}
INSTALLED = """
import pulumi

from components.cluster.cluster_addons import Addon, ClusterAddons, ClusterAddonsArgs
from components.cluster.kubernetes import kubernetes_provider

lws = Addon(name="lws", chart="{chart}", version="0.9.0", namespace="lws-system")
opts = pulumi.ResourceOptions(provider=kubernetes_provider("cluster", "rehearsal", None))
ClusterAddons("addons", ClusterAddonsArgs(stack=pulumi.get_stack(), addons=[lws]), opts)
"""


@pytest.mark.soak
def test_an_engine_streams_the_bucket_with_a_key_of_its_own_behind_a_private_address(acs: Stack, cluster: Cluster):
    acs.config["modelserve:addons"] = {"lws": THERE["lws"]}
    acs.config["modelserve:cache"] = {"engine": "none"}
    acs.config["modelserve:weights"]["read"] = "stream"
    acs.services["ds"] |= {"engine": STREAMING, "expose": {"to": "private"}}
    acs.set_secret("accessKey", "AKID-canary-3b1c")
    acs.set_secret("secretKey", "secret-canary-e7f2")
    said = acs.up()
    assert cluster.ready() and not [name for name in cluster.ours() if name.startswith(("Persistent", "Dataset"))]
    for name in cluster.pods():
        container = cluster.core.read_namespaced_pod(name, "default").spec.containers[0]
        env = {each.name: each for each in container.env}
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert env[variable].value is None
            assert env[variable].value_from.secret_key_ref.name == "deepseek-r1-stream-key"
        assert env["AWS_ENDPOINT_URL"].value == "https://oss-cn-hangzhou-internal.aliyuncs.com"
        assert container.args[:3] == [
            "s3://modelserve-llm-weights/models/DeepSeek-R1",
            "--load-format",
            "runai_streamer",
        ]
    service = cluster.core.read_namespaced_service("ds-leader", "default")
    (ingress,) = service.status.load_balancer.ingress
    assert ipaddress.ip_address(ingress.ip) and f'ds: "http://{ingress.ip}:8000/v1"' in said
    kind = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type"
    assert service.spec.type == "LoadBalancer" and service.metadata.annotations[kind] == "intranet"
    acs.up("--expect-no-changes")


@pytest.mark.soak
def test_models_of_which_the_plan_knows_only_an_estimate_are_cached_whole_and_are_so_at_the_next_up(
    acs: Stack, cluster: Cluster, cloud: Cloud
):
    # GiB at their repositories' roots. The plan assumes more, because ranks duplicate or pad some weights.
    models = {"Qwen3-30B-A3B-Instruct-2507": 56.89, "gpt-oss-120b": 60.80}
    acs.config["modelserve:addons"] = THERE
    weights = acs.config["modelserve:weights"]
    del weights["sync"]
    weights["bucket"] |= {"create": False}
    cloud.put_bucket(weights["bucket"]["name"], BUCKETS["acs"])
    for model, gib in models.items():
        cloud.lay(weights["bucket"]["name"], f"models/{model}/model.safetensors", int(gib * 1024**3))
    service = one_node(acs.services.pop("ds")) | {"engine": STREAMING}
    for name, model in zip(("qwen", "oss"), models, strict=True):
        acs.services[name] = service | {"model": model}
    said = acs.up()
    assert cluster.ready("qwen") and cluster.ready("oss")
    for model, gib in models.items():
        files = cluster.object("Dataset", model.lower())["status"]
        assert files["cacheStates"]["cached"] == files["ufsTotal"] == f"{gib:.2f}GiB"
        assert f"{model.lower()}: the bucket holds {gib:.2f}GiB, the plan counts with" in said
    acs.up("--expect-no-changes")


@pytest.mark.soak
def test_an_add_on_of_another_stack_is_adopted_and_left_at_destroy(
    acs: Stack, cluster: Cluster, control_plane: ControlPlane, tmp_path: Path
):
    folder = tmp_path / "other"
    folder.mkdir()
    other = Stack(control_plane, folder, "acs")
    (folder / "__main__.py").unlink()
    (folder / "__main__.py").write_text(INSTALLED.replace("{chart}", str(charts.pack("lws", "0.9.0", "0.9.0"))))
    other.up()
    acs.config["modelserve:cache"] = {"engine": "none"}
    acs.config["modelserve:addons"]["lws"]["install"] = "adopt"
    del acs.config["modelserve:addons"]["fluid"]
    installed = [name for name in cluster.ours() if name.startswith(("Release/", "Deployment/"))]
    assert installed == ["Deployment/lws-controller-manager", "Release/sh.helm.release.v1.lws.v1"]
    acs.up()
    assert cluster.ready()
    acs.destroy("--exclude-protected")
    cluster.wait("only the release is left", lambda: cluster.ours() == installed)
    other.destroy()


@pytest.mark.soak
def test_services_of_one_model_share_bucket_sync_and_cache_and_another_model_has_its_own(
    acs: Stack, cluster: Cluster, cloud: Cloud
):
    acs.config["modelserve:addons"] = THERE
    acs.services["ds"] = one_node(acs.services["ds"])
    acs.services["twin"] = one_node(acs.services["ds"])
    acs.up()
    assert cluster.ready("ds") and cluster.ready("twin")
    assert shared(cluster) == ["DataLoad/deepseek-r1", "Dataset/deepseek-r1", "Job/deepseek-r1-sync"]
    before = cluster.pods("ds")
    acs.services["twin"]["model"] = "DeepSeek-V3"
    acs.up()
    assert cluster.ready("twin") and cluster.pods("ds") == before
    assert [name for name in shared(cluster) if "v3" in name] == [
        "DataLoad/deepseek-v3",
        "Dataset/deepseek-v3",
        "Job/deepseek-v3-sync",
    ]
    assert len(cloud.tables()["buckets"]) == 1 and len(cloud.tables()["users"]) == 2
    assert {file.name for file in (cloud.objects("modelserve-llm-weights") / "models").iterdir()} == {
        "DeepSeek-R1",
        "DeepSeek-V3",
    }


def shared(cluster: Cluster) -> list[str]:
    """The objects that exist once for each model."""
    return [name for name in cluster.ours() if name.startswith(("DataLoad/", "Dataset/", "Job/"))]
