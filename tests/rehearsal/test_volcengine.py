"""The unchanged stack file for Volcengine on a rehearsal: its whole life, from first `up` to `destroy`."""

from __future__ import annotations

import http.server
import json

import pytest

from planning.catalog import fact
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.fleets import NAME, Fleets
from tests.rehearsal.pulumi_stack import Cluster, Stack
from tests.support.patience import PATIENCE_SECONDS

BUCKET = "modelserve-vke-weights"
SYNC = "Job/deepseek-r1-sync"
FLEET, ROUTE, SCALER = f"RayClusterFleet/{NAME}", f"HTTPRoute/{NAME}-route", f"PodAutoscaler/{NAME}-autoscaler"
GATEWAY, CLASS = "Gateway/aibrix-gateway-aibrix-eg", "GatewayClass/aibrix-gatewayclass-aibrix-eg"
ENVOY, KINDS = "Release/addons-envoy-gateway", "Release/addons-aibrix-kinds"
OURS = f"aibrix-system/{NAME}-router"


def controllers(stack: Stack) -> list[str]:
    """The steps of AIBrix's own Deployments."""
    return [name for name in stack.times() if name.startswith("Deployment/aibrix-deployment-")]


def test_the_stack_goes_up_answers_stays_changes_and_goes_though_runs_are_killed(
    volcengine: Stack, cluster: Cluster, cloud: Cloud, fleets: Fleets
):
    volcengine.set_secret("hubToken", "hub-canary-77d0")
    said = volcengine.through_a_kill(FLEET, "up")
    assert f'{NAME}: "http://203.0.113.' in said and f'bucket   : "{BUCKET}"' in said
    everything_came_in_order(volcengine)
    the_pods_are_the_articles(fleets)
    weights = cloud.written(BUCKET)
    assert any(name.endswith("DeepSeek-R1/modelserve-manifest.json") for name in weights)
    volcengine.up("--refresh", "--expect-no-changes")
    assert f"{NAME} answered" in volcengine.ops("verify", volcengine.name)
    assert fleets.way() == OURS and fleets.ask("nobody").status_code == 400
    the_image_is_changed(volcengine, fleets)
    volcengine.through_a_kill("AccessKey/weights-reader", "destroy", "--exclude-protected")
    everything_went_in_order(volcengine)
    cluster.wait_for_end()
    assert cloud.left() == {"buckets": [BUCKET]} and cloud.written(BUCKET) == weights


@pytest.mark.soak
def test_the_stack_is_routed_and_scaled_moves_to_another_layout_and_comes_back_to_the_weights_it_left(
    volcengine: Stack, cluster: Cluster, cloud: Cloud, fleets: Fleets
):
    volcengine.up()
    replicas_go_and_come(volcengine, cluster, fleets)
    routing_is_switched_on_and_off(volcengine, fleets)
    the_layout_is_changed(volcengine, fleets)
    weights = cloud.written(BUCKET)
    with fleets.more_nodes(2):
        autoscaling_is_switched_on_and_off(volcengine, cluster, fleets)
        volcengine.destroy("--exclude-protected")
    autoscaled(volcengine, 1, 2)
    volcengine.up()
    assert "nothing to do: all 9 files" in cluster.sync_log() and cloud.written(BUCKET) == weights
    assert fleets.ready() and fleets.way() == OURS
    volcengine.destroy("--exclude-protected")
    assert volcengine.in_order(SCALER, FLEET)


def everything_came_in_order(stack: Stack) -> None:
    assert len(controllers(stack)) == 6
    for release in (ENVOY, KINDS):
        for controller in controllers(stack):
            assert stack.in_order(release, controller, "EnvoyProxy/aibrix-envoyproxy-aibrix-custom-proxy-config")
    assert stack.in_order("EnvoyProxy/aibrix-envoyproxy-aibrix-custom-proxy-config", CLASS, GATEWAY, ROUTE, FLEET)
    assert stack.in_order("Bucket/weights", "AccessKey/weights-writer", "Secret/deepseek-r1-sync-keys", SYNC, FLEET)
    assert stack.in_order("AccessKey/weights-reader", "Secret/deepseek-r1-download-keys", FLEET)
    assert stack.in_order(f"Secret/{NAME}-api-key", FLEET)


def everything_went_in_order(stack: Stack) -> None:
    for controller in controllers(stack):
        assert stack.in_order(FLEET, ROUTE, GATEWAY, CLASS, controller, ENVOY)
        assert stack.in_order(controller, KINDS)
    for secret in (f"{NAME}-api-key", "deepseek-r1-download-keys"):
        assert stack.in_order(FLEET, f"Secret/{secret}")
    assert stack.in_order(SYNC, "Secret/deepseek-r1-sync-keys", "AccessKey/weights-writer")
    assert stack.in_order("Secret/deepseek-r1-download-keys", "AccessKey/weights-reader")


def the_pods_are_the_articles(fleets: Fleets) -> None:
    assert fleets.ready() and {pod.spec.node_name for pod in fleets.pods()} == {"gpu-0", "gpu-1"}
    rdma = fact("clouds", "volcengine", "rdma")
    for pod in fleets.pods():
        assert len(json.loads(pod.metadata.annotations[rdma["annotation"]])) == 8
        limits = pod.spec.containers[0].resources.limits
        assert (limits["nvidia.com/gpu"], limits[rdma["resource"]]) == ("8", "8")
        assert [each.name for each in pod.spec.init_containers][:2] == ["weights-disk", "weights"]
        (disk,) = [each.host_path for each in pod.spec.volumes if each.name == "weights"]
        assert (disk.path, disk.type) == ("/mnt/nvme0/models", "Directory")


def routing_is_switched_on_and_off(stack: Stack, fleets: Fleets) -> None:
    key = "model.aibrix.ai/config"
    for strategy in ("least-request", None):
        before, since = fleets.uids(), fleets.now()
        stack.services[NAME]["routing"] = {"requestSeconds": 3600, **({"strategy": strategy} if strategy else {})}
        stack.up()
        assert list(stack.steps()) == [FLEET] and not fleets.uids() & before and fleets.ready()
        assert fleets.most_gpus(since) == 16
        told = [(pod.metadata.annotations or {}).get(key, "") for pod in fleets.pods()]
        assert all(("least-request" in each) is bool(strategy) for each in told) and len(told) == 2
        assert fleets.way() == OURS
        # Bypasses every route and Service, and goes to a pod that the plugin chooses.
        assert fleets.way(**{"routing-strategy": "random"}) == "original_route"
    # Never to an address that the client chooses.
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as elsewhere:
        told = {"routing-strategy": "", "target-pod": f"127.0.0.1:{elsewhere.server_address[1]}"}
        elsewhere.timeout = 1
        assert fleets.way(**told) == 503


def the_image_is_changed(stack: Stack, fleets: Fleets) -> None:
    before, since = fleets.uids(), fleets.now()
    image = "aibrix-cn-beijing.cr.volces.com/aibrix/vllm-openai:v0.7.3"
    stack.services[NAME]["engine"]["image"] = image
    stack.up()
    assert list(stack.steps()) == [FLEET] and not fleets.uids() & before and fleets.ready()
    assert fleets.most_gpus(since) == 16
    assert {pod.spec.containers[0].image for pod in fleets.pods()} == {image} and fleets.way() == OURS


def the_layout_is_changed(stack: Stack, fleets: Fleets) -> None:
    uid, before = fleets.fleet()["metadata"]["uid"], fleets.uids()
    stack.services[NAME]["layout"] |= {"tensor": 8, "pipeline": 2}
    stack.up()
    assert stack.steps()[FLEET].operation in ("replace", "create-replacement") and fleets.ready()
    assert fleets.fleet()["metadata"]["uid"] != uid and not fleets.uids() & before


def autoscaled(stack: Stack, minimum: int, maximum: int) -> None:
    stack.services[NAME].pop("replicas", None)
    stack.services[NAME]["autoscaling"] = {"minimum": minimum, "maximum": maximum}


def autoscaling_is_switched_on_and_off(stack: Stack, cluster: Cluster, fleets: Fleets) -> None:
    before = fleets.uids()
    autoscaled(stack, 1, 2)
    stack.up()
    assert stack.in_order(FLEET, SCALER) and fleets.uids() == before
    scaler = cluster.object("PodAutoscaler", NAME)
    assert scaler["spec"]["metricsSources"][0]["targetMetric"] == "gpu_cache_usage_perc"
    assert scaler["spec"]["metricsSources"][0]["targetValue"] == "0.5"
    autoscaled(stack, 2, 2)
    stack.up()
    cluster.wait("the autoscaler has added a replica", lambda: fleets.ready(replicas=2), PATIENCE_SECONDS)
    before = fleets.uids()
    stack.up("--expect-no-changes")
    # Whatever else changes, the autoscaler keeps control of the number of replicas.
    stack.services[NAME]["podLabels"] = {"team": "search"}
    stack.up()
    assert list(stack.steps()) == [FLEET] and fleets.ready(replicas=2) and not fleets.uids() & before
    assert fleets.fleet()["spec"]["replicas"] == 2

    autoscaled(stack, 1, 1)
    stack.up()
    cluster.wait("the autoscaler has taken a replica away", lambda: fleets.ready(replicas=1), PATIENCE_SECONDS)
    del stack.services[NAME]["autoscaling"]
    stack.up()
    assert stack.steps()[SCALER].operation == "delete" and cluster.object("PodAutoscaler", NAME) is None
    assert fleets.ready() and fleets.way() == OURS
    stack.up("--expect-no-changes")


def replicas_go_and_come(stack: Stack, cluster: Cluster, fleets: Fleets) -> None:
    stack.services[NAME]["replicas"] = 0
    stack.up()
    cluster.wait("no pod is left", lambda: fleets.pods() == [])
    assert fleets.way() == 400  # AIBrix learns of models from their pods
    stack.services[NAME]["replicas"] = 1
    stack.up()
    assert fleets.ready() and fleets.way() == OURS
