"""The stack file of Volcengine: what is refused, with which remedy, and what each choice leads to."""

from __future__ import annotations

from typing import Any

import pytest

from config.judge import parse
from config.plans import plan_services
from config.stack import own_bucket
from tests.support.stack_files import StackFile, besides_trust

FILE = StackFile("volcengine")
KEY = {"secrets": ["apiKey"]}
NAME = "services__deepseek-r1-671b"
SCALED = {"maximum": 2, "target": 0.5}
ALONE = {
    f"{NAME}__workload": "lws",
    f"{NAME}__gateway": "none",
    f"{NAME}__routing": ...,
    "addons__aibrix": ...,
    "monitoring": ...,
}
BESIDE = {"strategy": "blueGreen"}
CANARY = {**BESIDE, "canary": [10, 50]}
NIGHTLY = {"timezone": "Asia/Shanghai", "on": [{"days": ["mon"], "from": "08:00", "to": "20:00"}]}


def lines(changes: dict[str, Any], **more: Any) -> list[str]:
    return FILE.lines(FILE.changed(**changes), **more)


def test_the_committed_stack_file_is_accepted_and_its_copies_take_what_the_article_says():
    config = parse(FILE.whole)
    planned = plan_services(config)["deepseek-r1-671b"]
    assert planned.plan.fits and besides_trust(planned.warnings) == ()
    # «Up to 20 minutes» for two whole copies over one account's link.
    assert 15 * 60 < planned.copy_seconds < 20 * 60 < planned.startup_seconds
    service = config.services["deepseek-r1-671b"]
    assert (service.workload, service.gateway, own_bucket(config).store) == ("fleet", "aibrix", "tos")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"cloud__instanceType": "ecs.none"},
            "cloud.gpu: is missing: the catalog does not say which GPUs ecs.none has",
        ),
        ({"cloud__rdmaDevices": 4}, "cloud.rdmaDevices: 4: the pods of services.deepseek-r1-671b have 8 GPUs"),
        ({"cloud__rdma": False, "cloud__rdmaDevices": 8}, "cloud.rdmaDevices: 8: rdma is false"),
        ({"cloud__nodes": 1}, "cloud.nodes: 1: the services need 2 nodes at most"),
        (
            {"cloud__nodes": 2, f"{NAME}__rollout": {"strategy": "RollingUpdate", "maxSurge": 1}},
            "rollout.maxSurge: 1: an update needs 4 nodes, and there are 2; write 0",
        ),
        (
            {"cloud__nodes": 3, **ALONE, f"{NAME}__rollout": BESIDE},
            "rollout.strategy: blueGreen: an update needs 4 nodes, and there are 3; leave rollout out",
        ),
        (
            {f"{NAME}__rollout": BESIDE, f"{NAME}__routing__strategy": "random"},
            "rollout.strategy: blueGreen: with routing.strategy random AIBrix sends requests to every ready pod",
        ),
        (
            {f"{NAME}__rollout": CANARY, f"{NAME}__routing__strategy": "random"},
            "rollout.canary: [10, 50]: with routing.strategy random AIBrix sends requests to every ready pod",
        ),
        (
            {**ALONE, f"{NAME}__rollout": {**BESIDE, "maxSurge": 1}},
            "rollout.maxSurge: 1: blueGreen starts all new replicas beside the old ones; write 0",
        ),
        (
            {f"{NAME}__rollout": {"canary": [10, 50]}},
            "rollout.canary: [10, 50]: Recreate replaces the old replicas, and leaves none for the other requests",
        ),
        *(
            (
                {f"{NAME}__rollout": {**CANARY, "canary": shares}},
                f"rollout.canary: {shares}: the new group's share has",
            )
            for shares in ([50, 10], [10, 10], [10, 50, 20])
        ),
        ({f"{NAME}__rollout": {**CANARY, "canary": []}}, "rollout.canary: []: names no share; leave it out, or write"),
        *(
            ({f"{NAME}__rollout": {**CANARY, "canary": [10, share]}}, f"rollout.canary[1]: {share}: ")
            for share in (0, 100, -1, "x")
        ),
        ({f"{NAME}__rollout": {**CANARY, "canary": 10}}, "rollout.canary: 10: "),
        (
            {**ALONE, f"{NAME}__rollout": CANARY},
            "rollout.canary: [10, 50]: a Service sends to all its pods alike; leave it out, or write gateway: aibrix",
        ),
        (
            {f"{NAME}__rollout": {**BESIDE, "stepSeconds": 5}},
            "rollout.stepSeconds: 5: only the shares of canary last; leave it out, or write canary",
        ),
        ({f"{NAME}__rollout": {**CANARY, "stepSeconds": 0}}, "rollout.stepSeconds: 0: "),
        (
            {f"services__{'m' * 19}": {**FILE.whole["services"]["deepseek-r1-671b"], "rollout": BESIDE}},
            "has 19 characters; the names of its Ray pods, built from it, would be cut; write at most",
        ),
        (
            {**ALONE, f"{NAME}__rollout": BESIDE, f"{NAME}__schedule": NIGHTLY},
            "rollout.strategy: blueGreen: the schedule starts and stops one group by its name",
        ),
        ({f"{NAME}__rollout": {"maxSurge": 1}}, "rollout.maxSurge: 1: Recreate starts nothing before the old ones end"),
        ({"services__deepseek-r1-671b-by-the-team": FILE.whole["services"]["deepseek-r1-671b"]}, "has 28 characters"),
        ({"services__Deep_Seek": FILE.whole["services"]["deepseek-r1-671b"]}, "is not a DNS-1035 name, which AIBrix"),
        (
            {f"{NAME}__servedModelName": "DeepSeek-R1"},
            "servedModelName: DeepSeek-R1: AIBrix finds a model by its service's own name; leave",
        ),
        ({f"{NAME}__engine__launcher": "native"}, "launcher"),
        ({f"{NAME}__layout__gpusPerNode": 16}, "layout.gpusPerNode: 16: volcengine has no pod of 16 GPUs"),
        ({f"{NAME}__expose": {"to": "private"}}, "there is no API key"),
        (
            {f"{NAME}__workload": "lws", "addons__aibrix__version": "0.2.1"},
            "AIBrix 0.2.1 cannot route to a LeaderWorkerSet",
        ),
        (
            {f"{NAME}__workload": "lws", f"{NAME}__autoscaling": SCALED},
            "autoscaling.engine: aibrix: AIBrix 0.7.0 has no permission to change a LeaderWorkerSet; write keda or hpa",
        ),
        ({f"{NAME}__autoscaling": {**SCALED, "engine": "hpa"}}, "autoscaling.engine: hpa: only AIBrix scales a fleet"),
        ({f"{NAME}__autoscaling": {"maximum": 2, "target": 50.0}}, "autoscaling.target: 50"),
        ({f"{NAME}__autoscaling": {"maximum": 2, "strategy": "KPA"}}, "autoscaling.strategy: KPA"),
        ({f"{NAME}__autoscaling": {"minimum": 3, "maximum": 2}}, "autoscaling.maximum: 2: is below the minimum of 3"),
        ({f"{NAME}__autoscaling": {**SCALED, "cooldownSeconds": 60}}, "cooldownSeconds: 60: a replica needs 17"),
        ({f"{NAME}__autoscaling": {**SCALED, "schedules": [{"at": "8"}]}}, "autoscaling.schedules"),
        ({f"{NAME}__autoscaling": SCALED, f"{NAME}__replicas": 2}, "the autoscaler sets the number of replicas"),
        ({f"{NAME}__podLabels": {"model.aibrix.ai/name": "x"}}, "is set by the program or its controllers"),
        ({"addons__aibrix__version": "0.6.0"}, "addons.aibrix.version: 0.6.0"),
        ({"addons__aibrix__version": "0.1.0"}, "addons.aibrix.version: 0.1.0"),
        (
            {"addons__aibrix__version": "0.5.0"},
            "the catalog does not know which Envoy Gateway it needs; write 0.2.1 or",
        ),
        ({f"{NAME}__routing__strategy": "fastest"}, "routing.strategy: fastest: AIBrix 0.7.0 has no such strategy"),
        (
            {f"{NAME}__routing__strategy": "power-of-two", "addons__aibrix__version": "0.2.1"},
            "routing.strategy: power-of-two: AIBrix 0.2.1 does not know it yet",
        ),
        (
            {f"{NAME}__routing__strategy": "least-request", "addons__aibrix__version": "0.2.1"},
            "takes a strategy only from each request, in its header routing-strategy",
        ),
        (
            {
                f"{NAME}__gateway": "none",
                f"{NAME}__routing__strategy": "random",
                "monitoring__prometheusNamespace": ...,
            },
            "only a Kubernetes Service routes",
        ),
        ({"addons__aibrix__gatewayChart": "gateway-helm"}, "gatewayChart: gateway-helm: is not a full URL; write"),
        ({"addons__aibrix__address": "public"}, "addons.aibrix.address: public: there is no API key"),
        (
            {"weights__bucket__name": "gs://my-bucket/x"},
            "Google's buckets are read through their S3 endpoint; write name",
        ),
        (
            {"weights__bucket": {"name": "my-bucket", "store": "gcs", "create": False}, "weights__sync": ...},
            "weights.bucket.store: gcs: the stack cannot create a user there, and there is no access key; run",
        ),
        (
            {"weights__bucket__store": "oss"},
            "weights.bucket.store: oss: volcengine reads only its own buckets; write tos",
        ),
        ({"weights__read": "volume"}, "weights.read: volume: volcengine cannot read so; write download or stream"),
        (
            {
                "weights__read": "stream",
                "weights__download": ...,
                f"{NAME}__engine__extraArgs": ["--load-format", "auto"],
            },
            "engine.extraArgs: --load-format: weights.read: stream sets it; leave it out",
        ),
        ({"weights__download__nodePath": "/usr/models"}, "download.nodePath: /usr/models: /usr is on the system disk"),
        ({"weights": {"source": "nvme", "path": "/root/models"}}, "weights.path: /root/models: /root is on the system"),
        ({"weights": {"source": "nvme", "path": "models"}}, "weights.path: models: is not an absolute path"),
        (
            {"weights": {"source": "nvme", "path": "/mnt/nvme0", "sync": {"from": "modelscope"}}},
            "weights.sync: there is no bucket to fill",
        ),
        (
            {"weights": {"source": "pvc", "claim": "c", "create": {"storageClass": "nas", "size": "2Ti"}}},
            "weights.sync: is missing, and a claim that the stack creates is empty",
        ),
        (
            {
                "weights": {
                    "source": "pvc",
                    "claim": "c",
                    "create": {"storageClass": "ebs", "size": "2Ti", "accessMode": "ReadWriteOnce"},
                    "sync": {"from": "modelscope"},
                }
            },
            "weights.create.accessMode: ReadWriteOnce: services.deepseek-r1-671b may run on more than one node",
        ),
        ({"cache": {"engine": "fluid"}}, "cache.engine: fluid: only acs has it; write none"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_remedy(changes: dict[str, Any], said: str):
    (line,) = lines(changes)
    assert said in line


def test_a_foreign_bucket_is_read_with_a_key_and_neither_made_nor_filled():
    keys = {"secrets": ["accessKey", "secretKey"]}
    made = FILE.changed(weights__bucket__store="s3", weights__sync=...)
    assert "weights.bucket.create: true: this cloud cannot create a bucket in s3" in FILE.lines(made, **keys)[0]
    filled = FILE.changed(weights__bucket={"name": "my-bucket", "store": "s3", "create": False})
    assert "weights.sync: a stack fills buckets of its own cloud only" in FILE.lines(filled, **keys)[0]
    read = FILE.changed(weights__bucket={"name": "my-bucket", "store": "s3", "create": False}, weights__sync=...)
    config = parse(read, **keys)
    assert own_bucket(config) is None and plan_services(config)["deepseek-r1-671b"].copy_seconds > 0


def test_a_prometheus_that_may_not_reach_the_engines_is_warned_of():
    planned = plan_services(parse(FILE.changed(monitoring={"enabled": True})))["deepseek-r1-671b"]
    assert besides_trust(planned.warnings) == (
        "only the gateway reaches the engine, so Prometheus does not: write monitoring.prometheusNamespace",
    )


def test_a_second_replica_is_warned_of_and_changes_no_limit_of_the_pods_that_run():
    one, two = (plan_services(parse(FILE.changed(**{f"{NAME}__replicas": n})))["deepseek-r1-671b"] for n in (1, 2))
    assert (one.startup_seconds, one.copy_seconds) == (two.startup_seconds, two.copy_seconds)
    assert besides_trust(one.warnings) == () and besides_trust(two.warnings) == (
        "2 replicas copy their weights at the same time over one link, which takes up to 2 times as long as the plan "
        "says",
    )


def test_a_public_gateway_is_fine_with_a_key():
    assert parse(FILE.changed(addons__aibrix__address="public"), **KEY).addons.aibrix.address == "public"


def test_an_autoscalers_bounds_come_with_their_price():
    prices = {"currency": "CNY", "perGpuHour": 10.0, "asOf": "2026-11-01"}
    planned = plan_services(parse(FILE.changed(**{f"{NAME}__autoscaling": SCALED, "prices": prices})))
    assert besides_trust(planned["deepseek-r1-671b"].warnings)[0] == (
        "autoscaling between 1 and 2 replicas, 160.00 to 320.00 CNY an hour"
    )
    money = planned["deepseek-r1-671b"].plan.cost
    assert (money.per_hour, money.most_per_hour) == (160, 320)


def test_only_weights_that_the_stack_has_put_somewhere_to_stay_bill_after_a_destroy():
    prices = {"currency": "CNY", "perGibMonth": 0.12, "asOf": "2026-11-01"}

    def kept(**changes: object) -> float | None:
        return plan_services(parse(FILE.changed(prices=prices, **changes)))["deepseek-r1-671b"].plan.cost.kept_per_hour

    assert kept() == pytest.approx(641.3 * 0.12 / 730, rel=0.01)
    assert kept(weights__bucket__keep=False) == kept(weights={"source": "huggingface"}) == 0
    assert kept(weights__bucket__create=False, weights__sync=...) == 0


def test_weights_from_the_hub_or_a_disk_are_planned_as_copies_of_their_own():
    hub = plan_services(parse(FILE.changed(weights={"source": "huggingface"})))["deepseek-r1-671b"]
    # vLLM downloads the weights itself: the probes must allow for that, because no init container does it.
    assert hub.copy_seconds == 0 and hub.startup_seconds > 3600
    assert besides_trust(hub.warnings) == (
        "each pod keeps 642 GiB of weights on its node's own disk; weights.source: nvme puts them on another",
    )
    disk = plan_services(parse(FILE.changed(weights={"source": "nvme", "path": "/mnt/nvme0/models"})))
    assert disk["deepseek-r1-671b"].startup_seconds < hub.startup_seconds
