"""Names and amounts that a registry, Kubernetes or a cloud would refuse only after part of the stack exists."""

from __future__ import annotations

from typing import Any

import pytest

from config.judge import parse
from config.plans import plan_services
from planning.catalog import fact
from tests.support import volcengine
from tests.support.stack_files import StackFile

LOCAL, ACS, VKE = StackFile("local"), StackFile("acs"), volcengine.FILE
DS, FLEET = "services/ds", volcengine.SERVICE
ENGINE = {"image": "vllm/vllm-openai:v0.25.0", "version": "0.25.0", "imageHasRay": True}
KEYS = {"secrets": ["accessKey", "secretKey"]}
FOREIGN = {"region": "us-central1", "create": False}
LONG = "M" * 59


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        # of registries
        (
            LOCAL,
            {f"{DS}/engine/image": "https://r.io/a:1"},
            "services.ds.engine.image: https://r.io/a:1: is a URL",
        ),
        (LOCAL, {f"{DS}/engine/image": "https://u:canary@r.io/a:1"}, "services.ds.engine.image: is a URL"),
        (ACS, {"weights/sync/toolImage": "Rclone:1"}, "weights.sync.toolImage: Rclone:1: has capitals in its path"),
        (ACS, {"weights/sync/pythonImage": "a b:1"}, "weights.sync.pythonImage: a b:1: contains spaces"),
        (VKE, {"weights/download/image": "a:${TAG}"}, "weights.download.image: a:${TAG}: contains a variable"),
        (VKE, {"addons/aibrix/images": {"redis": "A:7"}}, "addons.aibrix.images.redis: A:7: has capitals"),
        (
            VKE,
            {"addons/aibrix/registry": "https://r.io"},
            "addons.aibrix.registry: https://r.io: is not a registry; write its host",
        ),
        (ACS, {"addons/lws": {"chart": "lws", "repo": "r.io"}}, "addons.lws.repo: r.io: is not an http or https URL"),
        (ACS, {"addons/lws/chartVersion": "0.9 .0"}, "addons.lws.chartVersion: 0.9 .0: is not a release"),
        (ACS, {"addons/lws/version": "0.9.0/x"}, "addons.lws.version: 0.9.0/x: is not a release"),
        # of the hub
        (ACS, {"weights/sync/revision": "a b"}, "weights.sync.revision: a b: is not a branch, tag or commit"),
        (VKE, {"weights": {"source": "huggingface", "revision": "-x"}}, "weights.revision: -x: is not a branch"),
        # of Kubernetes
        (LOCAL, {"cluster/namespace": "kube-system"}, "cluster.namespace: kube-system: is Kubernetes' own"),
        (LOCAL, {f"{DS}/engine/env": {"1X": "a"}}, "services.ds.engine.env.1X: is not a variable's name"),
        (LOCAL, {f"{DS}/engine/env": {"A B": "a"}}, "services.ds.engine.env.A B: is not a variable's name"),
        (LOCAL, {f"{DS}/podLabels": {"a b": "x"}}, "services.ds.podLabels.a b: x: has a key that Kubernetes refuses"),
        (LOCAL, {f"{DS}/podLabels": {"Up.io/a": "x"}}, "services.ds.podLabels.Up.io/a: x: has a key that"),
        (LOCAL, {f"{DS}/podLabels": {"a": "x y"}}, "services.ds.podLabels.a: x y: is not a label's value"),
        (LOCAL, {f"{DS}/podLabels": {"a": "x" * 64}}, f"services.ds.podLabels.a: {'x' * 59}…: is not a label's value"),
        (LOCAL, {f"{DS}/podAnnotations": {"a/b/c": "x"}}, "services.ds.podAnnotations.a/b/c: x: has a key that"),
        (LOCAL, {f"{DS}/podAnnotations": {"a": "x" * 2**18}}, "brings the annotations to 262145 bytes"),
        (LOCAL, {"monitoring/labels": {"a": "-"}}, "monitoring.labels.a: -: is not a label's value"),
        (LOCAL, {"monitoring/dashboardLabels": {"": "x"}}, "monitoring.dashboardLabels.: x: has a key that"),
        (LOCAL, {f"{DS}/pod": {"nodeSelector": {"a": "x y"}}}, "services.ds.pod.nodeSelector.a: x y: is not a label's"),
        (LOCAL, {f"{DS}/clients": [{"podLabels": {"a b": "x"}}]}, "clients[0].podLabels.a b: x: has a key that"),
        (LOCAL, {f"{DS}/serviceAnnotations": {"a/b/c": "x"}}, "serviceAnnotations.a/b/c: x: has a key that"),
        (LOCAL, {"weights/claim": "a_b"}, "weights.claim: a_b: is not a claim's name"),
        (
            VKE,
            {
                "weights": {
                    "source": "pvc",
                    "claim": "c" * 64,
                    "create": {"storageClass": "nas", "size": "2Ti"},
                    "sync": {"from": "modelscope"},
                }
            },
            f"weights.claim: {'c' * 59}…: has 64 characters, and the stack puts it",
        ),
        (LOCAL, {f"{DS}/replicas": 2**31}, "services.ds.replicas: 2147483648: input should be less than"),
        (LOCAL, {f"{DS}/startupSeconds": 2**30}, "services.ds.startupSeconds: 1073741824: input should be less than"),
        (VKE, {f"{FLEET}/autoscaling": {"maximum": 2**31}}, "autoscaling.maximum: 2147483648: input should be less"),
        (LOCAL, {f"{DS}/resources/memory": "8589934592Gi"}, "resources.memory: 8589934592Gi: is more than Kubernetes"),
        (LOCAL, {f"{DS}/resources/memory": "9" * 5000 + "Gi"}, "resources.memory: 9999999"),
        (LOCAL, {"weights/gbitPerSecond": 1e-300}, "weights.gbitPerSecond: 1e-300: input should be greater than"),
        (
            LOCAL,
            {
                "cloud/gpu": "Own",
                "catalog/gpus": {"Own": {"usableGib": 95.0, "link": "nvlink"}},
                "catalog/models": {"DeepSeek-R1": {"fileBytes": 10**18}},
            },
            "services.ds.startupSeconds: a start takes",
        ),
        (
            ACS,
            {f"{DS}/model": LONG, "catalog/models": {LONG: {}}, "cache/engine": "none", "weights/sync": ...},
            f"services.ds.model: {LONG}: {LONG.lower()} has 59 characters, the labels of its objects take 58",
        ),
        (
            ACS,
            {f"{DS}/model": "3B", "catalog/models": {"3B": {}}, "weights/sync": ...},
            "services.ds.model: 3B: 3b begins with a digit, which Fluid refuses; write cache.engine: none",
        ),
        # of clouds
        (ACS, {"cloud/region": "cn-hangzou"}, "cloud.region: cn-hangzou: is a region of acs that the catalog does not"),
        (VKE, {"cloud/region": "cn-hangzhou"}, "cloud.region: cn-hangzhou: is a region of volcengine that the catalog"),
        (VKE, {f"{FLEET}/resources/cpu": 512}, "resources.cpu: 512: a node of ecs.ebmhpcpni3l.48xlarge has 192; write"),
        (VKE, {f"{FLEET}/resources/memory": "4096Gi"}, "resources.memory: 4096Gi: a node of ecs.ebmhpcpni3l.48xlarge"),
        (ACS, {"weights/bucket/name": "my.bucket"}, "weights.bucket.name: my.bucket: is not a bucket's name (3 to 63"),
        (ACS, {"weights/prefix": "./models"}, "weights.prefix: ./models: is not a relative path of plain names"),
        (
            ACS,
            {"catalog/regions": ["cn-new-1"]},
            "catalog.regions[0]: nothing in this stack has that name; leave it out",
        ),
        # of the engine
        (VKE, {f"{FLEET}/engine": ENGINE | {"reasoningParser": "glm46"}}, "glm46: vLLM 0.25.0 has no value glm46 for"),
        (
            LOCAL,
            {f"{DS}/engine": {"image": "a:1", "version": "0.6.6", "reasoningParser": "deepseek_r1"}},
            "services.ds.engine.reasoningParser: deepseek_r1: vLLM 0.6.6 has no reasoning parser; write none",
        ),
        (
            LOCAL,
            {f"{DS}/engine/extraArgs": ["word", "--max-num-seqs", "8"]},
            "services.ds.engine.extraArgs[0]: word: comes before the first flag",
        ),
        (
            VKE,
            {f"{FLEET}/engine": ENGINE | {"extraArgs": ["--max-num-seqs", "two"]}},
            "engine.extraArgs[1]: two: vLLM 0.25.0 takes a whole number for --max-num-seqs",
        ),
        (LOCAL, {f"{DS}/servedModelName": "-x"}, "services.ds.servedModelName: -x: begins with '-'"),
    ],
)
def test_what_would_be_refused_later_is_one_line_at_its_key(file: StackFile, values: dict[str, Any], said: str):
    (line,) = file.lines(file.changed(**values))
    assert said in line and "canary" not in line


@pytest.mark.parametrize(
    ("file", "values"),
    [
        (LOCAL, {"weights/claim": "weights.v1"}),
        (LOCAL, {f"{DS}/podLabels": {"example.com/a_B.c": "", "b": "X_y.z-1"}}),
        (LOCAL, {f"{DS}/podAnnotations": {"Example.com/A": "any text; at all", "b": "x" * (2**18 - 100)}}),
        (LOCAL, {f"{DS}/engine/env": {"NCCL_DEBUG": "INFO", "a.b-c": "$(HOME)"}}),
        (ACS, {"weights/sync/revision": "refs/pr/1"}),
        (ACS, {"cloud/region": "cn-new-1", "catalog/regions": ["cn-new-1"]}),
        (VKE, {f"{FLEET}/resources/cpu": 192, f"{FLEET}/resources/memory": "2048Gi"}),
        (VKE, {"cloud/instanceType": "ecs.new", "cloud/gpu": "H20-96", f"{FLEET}/resources/cpu": 512}),
        (VKE, {"weights/bucket": FOREIGN | {"name": "my.bucket", "store": "s3"}, "weights/sync": ...}),
        (VKE, {"weights/bucket": FOREIGN | {"name": "my_bucket", "store": "gcs"}, "weights/sync": ...}),
        (
            VKE,
            {
                f"{FLEET}/engine": ENGINE
                | {"reasoningParser": "mine", "extraArgs": ["--reasoning-parser-plugin", "/mine.py"]}
            },
        ),
        (VKE, {f"{FLEET}/engine": ENGINE | {"extraArgs": ["--max-num-batched-tokens=8k", "--seed", "-1"]}}),
        (LOCAL, {f"{DS}/engine/reasoningParser": "none"}),
        (
            LOCAL,
            {
                "cloud/gpu": "Mine",
                "catalog/gpus": {"Own": {"usableGib": 95.0, "link": "nvlink", "alsoNamed": ["Mine"]}},
            },
        ),
    ],
)
def test_what_they_take_is_taken(file: StackFile, values: dict[str, Any]):
    assert plan_services(parse(file.changed(**values), **({} if file is LOCAL else KEYS)))


@pytest.mark.parametrize("cloud", ["oss", "tos"])
def test_a_region_that_the_catalog_knows_is_one_of_the_cloud(cloud: str):
    file = {"oss": ACS, "tos": VKE}[cloud]
    for region in fact(cloud, "regions", "known"):
        assert parse(file.changed(cloud__region=region)).cloud.region == region


def test_a_number_with_a_unit_is_planned_as_the_engine_reads_it():
    def activation(value: str) -> float:
        arguments = ["--max-num-batched-tokens", value]
        planned = plan_services(parse(VKE.changed(**{f"{FLEET}/engine": ENGINE | {"extraArgs": arguments}})))
        return planned[volcengine.MODEL].plan.fit.stages[0].activation

    assert activation("16k") == activation("16000") > activation("8192") == activation("8K")
