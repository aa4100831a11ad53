"""Checks what the article on Volcengine says about its deployment, one statement per case, against this stack.

`test_volcengine_parity` compares the article's files field by field: what a field says is not repeated here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from config.judge import parse
from config.plans import Planned, plan_services
from config.stack import aibrix_release
from planning import aibrix_features
from planning.catalog import fact
from tests.support.recorder import Recorder, inputs
from tests.support.volcengine import FILE, MODEL, SERVICE, rendered, run

REGISTRY = "aibrix-cn-beijing.cr.volces.com/"
# The unchanged stack file, and what each of the article's choices changes.
CHOICES: dict[str, dict[str, Any]] = {
    "bucket": {},
    "hub": {"weights": {"source": "huggingface"}},
    "claim": {"weights": {"source": "pvc", "claim": "deepseekr1"}},
    "disk": {"weights": {"source": "nvme", "path": "/mnt/nvme0/models"}},
    "filled disk": {
        "weights": {"source": "nvme", "path": "/mnt/nvme0/models", "bucket": FILE.whole["weights"]["bucket"]},
    },
    "s3": {"weights": {"source": "bucket", "bucket": {"name": "team-weights", "store": "s3", "create": False}}},
    "gcs": {"weights": {"source": "bucket", "bucket": {"name": "team-weights", "store": "gcs", "create": False}}},
    "autoscaled": {f"{SERVICE}/autoscaling": {"maximum": 4, "target": 0.5}},
}
Statement = Callable[[], tuple[object, object]]
STATEMENTS: list[Any] = []


def states(words: str) -> Callable[[Statement], Statement]:
    """Registers a statement of the article; its function returns what we render and what the article says."""

    def note(statement: Statement) -> Statement:
        STATEMENTS.append(pytest.param(statement, id=words))
        return statement

    return note


@functools.cache
def objects(choice: str = "bucket") -> list[dict[str, Any]]:
    keys = ("accessKey", "secretKey") if choice in ("s3", "gcs") else ()
    return rendered(secrets=keys, **CHOICES[choice])


@functools.cache
def planned() -> Planned:
    return plan_services(parse(FILE.whole))[MODEL]


@functools.cache
def recorded() -> tuple[Recorder, dict[str, Any]]:
    engine = Recorder(preview=False)
    return engine, run(engine)


def one(kind: str, name: str = "", choice: str = "bucket") -> dict[str, Any]:
    (found,) = (each for each in objects(choice) if each["kind"] == kind and name in each["metadata"]["name"])
    return found


def pods(choice: str = "bucket") -> list[dict[str, Any]]:
    """The templates of the head and the workers, one of each pod."""
    group = one("RayClusterFleet", choice=choice)["spec"]["template"]["spec"]
    workers = [each["template"] for each in group["workerGroupSpecs"] for _ in range(each["replicas"])]
    return [group["headGroupSpec"]["template"], *workers]


def engines(choice: str = "bucket") -> list[dict[str, Any]]:
    return [container for pod in pods(choice) for container in pod["spec"]["containers"]]


def inits(choice: str = "bucket") -> list[list[str]]:
    """The first words of each pod's init containers."""
    return [[each["command"][0] for each in pod["spec"].get("initContainers", [])] for pod in pods(choice)]


def volumes(choice: str) -> list[str]:
    """The kind of volume that holds each pod's weights."""
    return [
        next(kind for kind in each if kind != "name")
        for pod in pods(choice)
        for each in pod["spec"]["volumes"]
        if each["name"] == "weights"
    ]


def ports(container: dict[str, Any]) -> list[int]:
    return [each["containerPort"] for each in container.get("ports", [])]


def selected(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def kuberay_labels(pod: dict[str, Any], node: str) -> dict[str, str]:
    """A pod's labels, with the one by which KubeRay tells heads from workers."""
    return {**pod["metadata"]["labels"], "ray.io/node-type": node}


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


def downloader(choice: str) -> dict[str, Any]:
    (found,) = (each for each in pods(choice)[0]["spec"]["initContainers"] if each["command"][0] == "aibrix_download")
    return found


# --- what it needs


states("the model needs sixteen GPUs")(
    lambda: (sum(int(each["resources"]["limits"]["nvidia.com/gpu"]) for each in engines()), 16)
)


@states("each GPU has 80 GB or more")
def _() -> tuple[object, object]:
    node = pods()[0]["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"]
    gpu = fact("clouds", "volcengine", "gpuNodes")[node]["gpu"]
    return int(gpu.partition("-")[2]) >= 80, True


states("they are in two nodes")(lambda: (len(pods()), 2))
states("its window of 128k tokens is there")(lambda: (planned().max_model_len >= 128_000, True))
states("the weights are in object storage beforehand")(
    lambda: (one("Job", "sync")["metadata"]["name"], "deepseek-r1-sync")
)
states("the image is AIBrix's own build of vLLM 0.7.3")(
    lambda: ({each["image"].partition("/")[2] for each in engines()}, {"aibrix/vllm-openai:v0.7.3.self.post1"})
)
states("in China the image is pulled from AIBrix's registry there")(
    lambda: ([each["image"].startswith(REGISTRY) for each in engines()], [True, True])
)
states("the same prefix goes before the runtime's image")(
    lambda: (downloader("bucket")["image"].startswith(f"{REGISTRY}aibrix/runtime:v"), True)
)

# --- four places of weights


@states("Hugging Face needs no volume of anybody's")
def _() -> tuple[object, object]:
    kinds = {kind for pod in pods("hub") for each in pod["spec"]["volumes"] for kind in each if kind != "name"}
    return (kinds, inits("hub")), ({"emptyDir", "configMap"}, [[], []])


states("a persistent volume is a claim that every pod mounts")(
    lambda: ((volumes("claim"), inits("claim")), (["persistentVolumeClaim"] * 2, [[], []]))
)
states("from object storage AIBrix's runtime copies onto the host")(
    lambda: ((volumes("bucket"), [each[-1] for each in inits()]), (["hostPath"] * 2, ["aibrix_download"] * 2))
)


@states("object storage is S3, with its endpoint")
def _() -> tuple[object, object]:
    found = downloader("s3")
    uri = found["command"][found["command"].index("--model-uri") + 1]
    return (uri, variables(found)["AWS_ENDPOINT_URL"]), (
        "s3://team-weights/models/DeepSeek-R1/",
        "https://s3.us-east-1.amazonaws.com",
    )


@states("object storage is GCS, which speaks S3's protocol")
def _() -> tuple[object, object]:
    found = downloader("gcs")
    uri = found["command"][found["command"].index("--model-uri") + 1]
    return (uri, variables(found)["AWS_ENDPOINT_URL"]), (
        "s3://team-weights/models/DeepSeek-R1/",
        "https://storage.googleapis.com",
    )


states("a local disk is a host path with an init container")(
    lambda: ((volumes("disk"), [len(each) for each in inits("disk")]), (["hostPath"] * 2, [1, 1]))
)
states("a local disk is filled by a download of its own")(
    lambda: ((volumes("filled disk"), [len(each) for each in inits("filled disk")]), (["hostPath"] * 2, [2, 2]))
)
states("files of json, safetensors and py are copied")(
    lambda: (variables(downloader("bucket"))["DOWNLOADER_ALLOW_FILE_SUFFIX"].split(","), ["json", "safetensors", "py"])
)

# --- the fast network


@states("memory is shared at /dev/shm")
def _() -> tuple[object, object]:
    mounted = [each["name"] for container in engines() for each in container["volumeMounts"] if "shm" in each["name"]]
    media = [each["emptyDir"]["medium"] for pod in pods() for each in pod["spec"]["volumes"] if each["name"] in mounted]
    return media, ["Memory", "Memory"]


# --- installing it


states("several nodes need AIBrix 0.2.1 or later")(
    lambda: (tuple(map(int, aibrix_release(parse(FILE.whole)).split("."))) >= (0, 2, 1), True)
)


@states("AIBrix is its dependencies and its core")
def _() -> tuple[object, object]:
    engine, _ = recorded()
    releases = [name for token, name in engine.seen if token.endswith(":Release")]
    core = [each["metadata"]["name"] for each in objects() if each["kind"] == "Deployment"]
    return ("addons-envoy-gateway" in releases, "aibrix-controller-manager" in core), (True, True)


@states("the control plane's images come from a registry of one's own")
def _() -> tuple[object, object]:
    parts = [one("EnvoyProxy"), *(each for each in objects() if each["kind"] == "Deployment")]
    images = re.findall(r'"image": "([^"]+)"', json.dumps(parts))
    chart = json.dumps(inputs(recorded()[0].one("Release", "addons-envoy-gateway"))["values"])
    found = [*images, *re.findall(r'"image": "([^"]+)"', chart)]
    return [image for image in found if not image.startswith(REGISTRY)], []


# --- how it works


@states("a RayClusterFleet has one Ray cluster for each replica")
def _() -> tuple[object, object]:
    spec = one("RayClusterFleet")["spec"]
    template = spec["template"]["spec"]
    return (spec["replicas"], sorted(template)), (1, ["headGroupSpec", "rayVersion", "workerGroupSpecs"])


@states("vLLM's HTTP server is on the head")
def _() -> tuple[object, object]:
    head = engines()[0]
    return (8000 in ports(head), head["args"][head["args"].index("--port") + 1]), (True, "8000")


states("workers serve no HTTP")(lambda: ([(ports(each), each.get("args")) for each in engines()[1:]], [([], None)]))


@states("the router sends to heads alone")
def _() -> tuple[object, object]:
    selector = one("Service", MODEL)["spec"]["selector"]
    head, worker = pods()
    return (
        selected(kuberay_labels(head, "head"), selector),
        selected(kuberay_labels(worker, "worker"), selector),
        "model.aibrix.ai/name" in worker["metadata"]["labels"],
    ), (True, False, False)


@states("the autoscaler reads metrics of serving pods alone")
def _() -> tuple[object, object]:
    target = one("PodAutoscaler", choice="autoscaled")["spec"]["scaleTargetRef"]
    fleet = one("RayClusterFleet", target["name"], "autoscaled")
    # AIBrix's: the fleet's selector, and KubeRay's label of a head.
    selector = {**fleet["spec"]["selector"]["matchLabels"], "ray.io/node-type": "head"}
    head, worker = pods("autoscaled")
    return (
        selected(kuberay_labels(head, "head"), selector),
        selected(kuberay_labels(worker, "worker"), selector),
    ), (True, False)


@states("it scales by the use of the KV cache")
def _() -> tuple[object, object]:
    (source,) = one("PodAutoscaler", choice="autoscaled")["spec"]["metricsSources"]
    version = FILE.whole["services"][MODEL]["engine"]["version"]
    return (
        re.sub("^(gpu|kv)_", "", source["targetMetric"]),
        source["targetMetric"] == aibrix_features.metric(aibrix_release(parse(FILE.whole)), version),
        0 < float(source["targetValue"]) < 1,
        source["port"],
    ), ("cache_usage_perc", True, True, "8000")


states("a deployment takes up to twenty minutes, by the network to the storage")(
    lambda: (15 <= planned().copy_seconds / 60 <= 20, True)
)


@states("pods are called fleet, hash, letters, group and role, whole")
def _() -> tuple[object, object]:
    letters = 1 + fact("fleet", "aibrix", "hashLength") + 1 + fact("fleet", "kuberay", "randomLength")
    (group,) = one("RayClusterFleet")["spec"]["template"]["spec"]["workerGroupSpecs"]
    longest = [len(MODEL) + letters + len(end) for end in ("-head", f"-{group['groupName']}-worker", "-head-svc")]
    return [length for length in longest if length > fact("fleet", "kuberay", "nameClippedAt")], []


# --- requests


states("requests go to the address of the gateway aibrix-eg, port 80")(
    lambda: (recorded()[1]["endpoints"], {MODEL: "http://10.0.0.9/v1"})
)


@states("its Service is envoy-aibrix-system-aibrix-eg-903790dc")
def _() -> tuple[object, object]:
    metadata = one("Gateway")["metadata"]
    digest = hashlib.sha256(f"{metadata['namespace']}/{metadata['name']}".encode()).hexdigest()[:8]
    return f"envoy-{metadata['namespace']}-{metadata['name']}-{digest}", "envoy-aibrix-system-aibrix-eg-903790dc"


@states("its Service has a load balancer of the cloud's")
def _() -> tuple[object, object]:
    service = one("EnvoyProxy")["spec"]["provider"]["kubernetes"]["envoyService"]
    key = "service.beta.kubernetes.io/volcengine-loadbalancer-address-type"
    return service["annotations"][key], "PRIVATE"


@states("the model in a request is deepseek-r1-671b")
def _() -> tuple[object, object]:
    head = pods()[0]
    args = engines()[0]["args"]
    return {
        head["metadata"]["labels"]["model.aibrix.ai/name"],
        one("Service", MODEL)["metadata"]["name"],
        args[args.index("--served-model-name") + 1],
    }, {"deepseek-r1-671b"}


@states("chat completions have a route")
def _() -> tuple[object, object]:
    (rule,) = one("HTTPRoute", MODEL)["spec"]["rules"]
    return "/v1/chat/completions" in [match["path"]["value"] for match in rule["matches"]], True


@states("the header routing-strategy may say least-request")
def _() -> tuple[object, object]:
    known = aibrix_features.strategies(aibrix_release(parse(FILE.whole)))
    return (aibrix_features.ROUTING_HEADER, "least-request" in known), ("routing-strategy", True)


@states("without that header Kubernetes itself routes, by the Service")
def _() -> tuple[object, object]:
    (rule,) = one("HTTPRoute", MODEL)["spec"]["rules"]
    service = one("Service", MODEL)
    (backend,), (port,) = rule["backendRefs"], service["spec"]["ports"]
    headers = {header["name"] for match in rule["matches"] for header in match["headers"]}
    return (backend["name"], backend["namespace"], backend["port"], headers), (
        service["metadata"]["name"],
        service["metadata"]["namespace"],
        port["port"],
        {"model"},
    )


# --- monitoring


@states("the ServiceMonitor finds the head's metrics")
def _() -> tuple[object, object]:
    monitor, service = one("ServiceMonitor")["spec"], one("Service", MODEL)
    (endpoint,) = monitor["endpoints"]
    found = [port["targetPort"] for port in service["spec"]["ports"] if port["name"] == endpoint["port"]]
    return (
        selected(service["metadata"]["labels"], monitor["selector"]["matchLabels"]),
        service["metadata"]["namespace"] in monitor["namespaceSelector"]["matchNames"],
        found,
    ), (True, True, [8000])


@states("a dashboard shows how the model does, with any Prometheus")
def _() -> tuple[object, object]:
    (text,) = one("ConfigMap", "monitoring")["data"].values()
    board = json.loads(text)
    panels = [panel for panel in board["panels"] if "targets" in panel]
    return (
        {panel["datasource"]["uid"] for panel in panels},
        len([panel for panel in panels if all("vllm:" in target["expr"] for target in panel["targets"])]),
    ), ({"${datasource}"}, 12)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_article_says_that(statement: Statement):
    here, said = statement()
    assert here == said
