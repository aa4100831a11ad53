"""What pods need if they fetch the weights themselves: from a hub, from a bucket, from a disk of their node."""

from __future__ import annotations

import base64
from typing import Any

import pulumi
import pytest

from components.cluster.credentials import KeyPair, SecretKey
from components.cluster.kubernetes import Manifest
from components.weights import model_download, model_sync
from components.weights.bucket_weights import BucketWeightsArgs, check_scheme, from_bucket
from components.weights.disk_weights import DiskOrigin, DiskWeightsArgs, check_host_path, from_node_disk
from components.weights.hub_weights import HubWeightsArgs, from_hub
from components.weights.model_download import ModelDownload, ModelDownloadArgs
from components.weights.pod_weights import PodWeights
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs, is_secret, unmarked
from tests.support.schemas import problems

R1_BYTES = 688586727753
ORIGIN = DiskOrigin(
    bucket="weights",
    prefix="models/DeepSeek-R1",
    endpoint="tos-s3-cn-beijing.ivolces.com",
    key_secret="r1-download-keys",
    tool_image="rclone/rclone:1.74.4",
)


def hub(**changes: Any) -> PodWeights:
    given: dict[str, Any] = {"repository": "deepseek-ai/DeepSeek-R1", "file_bytes": R1_BYTES}
    return from_hub(HubWeightsArgs(**given | changes))


def bucket(**changes: Any) -> PodWeights:
    given: dict[str, Any] = {
        "version": "0.2.1",
        "scheme": "tos",
        "bucket": "weights",
        "prefix": "models/DeepSeek-R1",
        "model": "DeepSeek-R1",
        "endpoint": "https://tos-s3-cn-beijing.ivolces.com",
        "region": "cn-beijing",
        "key_secret": "r1-download-keys",
        "file_bytes": R1_BYTES,
    }
    return from_bucket(BucketWeightsArgs(**given | changes))


def disk(**changes: Any) -> PodWeights:
    given: dict[str, Any] = {
        "host_path": "/mnt/nvme0/models",
        "model": "DeepSeek-R1",
        "python_image": "vllm/vllm-openai:v0.7.3",
        "program": "r1-download-program-1",
        "origin": ORIGIN,
    }
    return from_node_disk(DiskWeightsArgs(**given | changes))


def environment(container: Manifest) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def pod(weights: PodWeights) -> Manifest:
    """A pod as a workload would build it."""
    engine = {"name": "engine", "image": "e", "volumeMounts": list(weights.mounts)}
    spec = {
        "containers": [engine],
        "initContainers": list(weights.init_containers),
        "volumes": list(weights.volumes),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


EVERY = {
    "hub": lambda: hub(),
    "bucket": lambda: bucket(),
    "bucket to a disk": lambda: bucket(host_path="/mnt/nvme0", python_image="p", program="c"),
    "disk": lambda: disk(),
    "disk as it is": lambda: disk(origin=None),
}


@pytest.mark.parametrize("made", EVERY.values(), ids=EVERY)
def test_a_pod_with_it_passes_strict_validation_and_mounts_only_what_it_has(made):
    weights = made()
    manifest = pod(weights)
    assert problems(manifest) == []
    names = {volume["name"] for volume in weights.volumes}
    containers = [*weights.init_containers, manifest["spec"]["containers"][0]]
    assert {mount["name"] for container in containers for mount in container["volumeMounts"]} == names


@pytest.mark.parametrize("made", EVERY.values(), ids=EVERY)
def test_no_init_container_asks_for_more_than_an_engine_or_gains_powers(made):
    for container in made().init_containers:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert int(container["resources"]["requests"]["cpu"]) <= 4
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("made", "copies", "gib"),
    [("hub", "pod", 658), ("bucket", "pod", 658), ("bucket to a disk", "node", 0), ("disk", "node", 0)],
)
def test_each_source_says_how_often_the_files_cross_the_network_and_what_it_takes_of_the_pods_disk(made, copies, gib):
    weights = EVERY[made]()
    assert (weights.copies, weights.ephemeral_gib) == (copies, gib)
    limits = [
        volume["emptyDir"]["sizeLimit"] for volume in weights.volumes if "sizeLimit" in volume.get("emptyDir", {})
    ]
    assert limits == ([f"{gib}Gi"] if gib else [])
    assert disk(origin=None).copies == "none"


# --- from a hub


def test_the_engine_loads_the_repository_itself_onto_a_sized_disk():
    weights = hub()
    assert weights.argument == "deepseek-ai/DeepSeek-R1" and not weights.args and not weights.init_containers
    (mount,) = weights.mounts
    assert weights.env["HF_HOME"].startswith(mount["mountPath"]) and "readOnly" not in mount
    assert weights.env["HF_ENDPOINT"] == "https://huggingface.co"
    assert int(weights.env["HF_HUB_DOWNLOAD_TIMEOUT"]) > 10 and "HF_HUB_DISABLE_XET" not in weights.env
    assert weights.secret_env == {}


def test_revision_mirror_and_token_are_passed_on_and_a_mirror_is_asked_for_whole_files():
    weights = hub(revision="v1", endpoint="https://hf-mirror.com/", token=SecretKey("s", "token"))
    assert weights.args == ("--revision", "v1")
    assert (weights.env["HF_ENDPOINT"], weights.env["HF_HUB_DISABLE_XET"]) == ("https://hf-mirror.com", "1")
    assert weights.secret_env == {"HF_TOKEN": SecretKey("s", "token")} and "HF_TOKEN" not in weights.env


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repository": "DeepSeek-R1"}, "is not owner/name"),
        ({"endpoint": "hf-mirror.com"}, "is not an http or https URL"),
        ({"endpoint": "https://me:canary@hub"}, "URL without credentials"),
    ],
)
def test_what_is_no_repository_or_hub_is_refused(changes, said):
    with pytest.raises(Refused, match=said):
        hub(**changes)


# --- from a bucket


def test_the_downloader_is_told_by_arguments_and_variables_that_every_release_reads():
    (container,) = bucket().init_containers
    assert container["image"] == "aibrix/runtime:v0.2.1"
    assert container["command"] == [
        *("aibrix_download", "--model-uri", "tos://weights/models/DeepSeek-R1/"),
        *("--local-dir", "/weights", "--model-name", "DeepSeek-R1"),
    ]
    found = environment(container)
    assert found["TOS_ENDPOINT"] == "https://tos-s3-cn-beijing.ivolces.com" and found["TOS_REGION"] == "cn-beijing"
    assert found["DOWNLOADER_TOS_VERSION"] == "v2" and found["DOWNLOADER_NUM_THREADS"] == "16"
    assert found["DOWNLOADER_ALLOW_FILE_SUFFIX"] == "json,safetensors,py"
    assert found["TOS_SECRET_KEY"] == {"secretKeyRef": {"name": "r1-download-keys", "key": "secret"}}
    assert "DOWNLOADER_MODEL_NAME" not in found
    assert bucket().argument == "/weights/DeepSeek-R1"


def test_s3_and_clouds_that_speak_it_have_variables_of_their_own():
    (container,) = bucket(
        scheme="s3", endpoint="storage.googleapis.com", region="auto", suffixes=("json", "model"), threads=8
    ).init_containers
    found = environment(container)
    assert (found["AWS_ENDPOINT_URL"], found["AWS_REGION"]) == ("https://storage.googleapis.com", "auto")
    assert found["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "r1-download-keys", "key": "id"}}
    assert (found["DOWNLOADER_ALLOW_FILE_SUFFIX"], found["DOWNLOADER_NUM_THREADS"]) == ("json,model", "8")
    assert not [name for name in found if "TOS" in name]


def test_the_image_comes_from_a_registry_or_is_named_whole():
    images = [bucket(**each).init_containers[0]["image"] for each in ({"registry": "cr.example/"}, {"image": "r:1"})]
    assert images == ["cr.example/aibrix/runtime:v0.2.1", "r:1"]


def test_a_disk_of_the_node_is_looked_at_before_the_downloader_writes_there():
    weights = bucket(host_path="/mnt/nvme0/models", python_image="p", program="c")
    look, download = weights.init_containers
    assert environment(look)["MODELSERVE_FROM"] == "elsewhere" and download["command"][0] == "aibrix_download"
    assert {"name": "weights", "hostPath": {"path": "/mnt/nvme0/models", "type": "Directory"}} in weights.volumes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scheme": "gs"}, r"^scheme gs: .*; write s3://, endpoint https://storage.googleapis.com, and an HMAC key$"),
        ({"scheme": "oss"}, "^scheme oss: .*; write tos:// or s3://$"),
        ({"endpoint": "tos-cn-beijing.ivolces.com"}, "write tos-s3-cn-beijing.ivolces.com$"),
        ({"suffixes": (".json",)}, "without its dot, such as json"),
        ({"objects": 1001}, "^AIBrix 0.2.1: copies only the first 1000 objects .*; take 0.5.0 or later"),
        ({"host_path": "/mnt/nvme0"}, "give python_image and program too"),
        ({"host_path": "/usr/models", "python_image": "p", "program": "c"}, "system disk"),
    ],
)
def test_what_the_downloader_cannot_do_is_refused_in_one_line(changes, said):
    with pytest.raises(Refused, match=said):
        bucket(**changes)


def test_releases_that_read_every_page_take_any_number_of_objects():
    assert bucket(version="0.7.0", objects=5000).init_containers
    check_scheme("s3")


# --- from a disk of the node


def test_the_disk_is_filled_by_the_syncs_program_with_rclone_out_of_its_image():
    tool, fill = disk().init_containers
    assert tool["image"] == "rclone/rclone:1.74.4" and fill["image"] == "vllm/vllm-openai:v0.7.3"
    found = environment(fill)
    wanted = {"MOUNT": "/weights", "FOLDER": "/weights/DeepSeek-R1", "HOST_PATH": "/mnt/nvme0/models", "FROM": "bucket"}
    wanted |= {"BUCKET": "weights", "PREFIX": "models/DeepSeek-R1", "MANIFEST": "1", "RCLONE": "/tools/rclone"}
    assert {f"MODELSERVE_{name}": value for name, value in wanted.items()}.items() <= found.items()
    assert found["MODELSERVE_KEY_SECRET"] == {"secretKeyRef": {"name": "r1-download-keys", "key": "secret"}}
    assert fill["securityContext"]["runAsUser"] == 0 and fill["securityContext"]["readOnlyRootFilesystem"]


def test_only_a_folder_that_is_there_is_mounted_and_the_engine_cannot_write_to_it():
    weights = disk()
    assert {"name": "weights", "hostPath": {"path": "/mnt/nvme0/models", "type": "Directory"}} in weights.volumes
    assert weights.mounts == [{"name": "weights", "mountPath": "/weights", "readOnly": True}]
    assert weights.argument == "/weights/DeepSeek-R1"


def test_the_system_disk_is_shown_by_a_folder_without_secrets_and_read_only():
    for weights in (disk(), disk(origin=None)):
        node = environment(weights.init_containers[-1])["MODELSERVE_NODE"]
        (mount,) = [each for each in weights.init_containers[-1]["volumeMounts"] if each["mountPath"] == node]
        (volume,) = [each for each in weights.volumes if each["name"] == mount["name"]]
        assert volume["hostPath"] == {"path": "/usr", "type": "Directory"} and mount["readOnly"]


def test_without_a_bucket_the_disk_is_only_looked_at():
    (look,) = disk(origin=None).init_containers
    assert environment(look)["MODELSERVE_FROM"] == "nowhere"
    assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in look["volumeMounts"]
    assert "MODELSERVE_KEY_ID" not in environment(look)


@pytest.mark.parametrize("path", ["/usr/models", "/etc", "/var/lib/kubelet/models", "/tmp", "/root/models"])
def test_a_path_of_the_system_disk_is_refused_by_its_name(path):
    with pytest.raises(Refused, match="is on the system disk, and weights would fill it"):
        check_host_path(path)


@pytest.mark.parametrize("path", ["models", "", "/", "/mnt/../etc", "/mnt/./nvme0", "/mnt/nvme0/", "/mnt//nvme0"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(Refused, match="is not an absolute path"):
        check_host_path(path)


# --- Secret and program


def download(name: str = "r1", **changes: Any) -> ModelDownload:
    key = KeyPair(pulumi.Output.secret("AKLT-canary"), pulumi.Output.secret("canary-secret"))
    given: dict[str, Any] = {"stack": "test", "namespace": "models", "key": key, "program": True}
    return ModelDownload(name, ModelDownloadArgs(**given | changes))


def test_every_object_passes_strict_validation_against_its_real_schema(engine: Recorder):
    engine.run(lambda: download(token=pulumi.Output.secret("canary-token")))
    assert {made["kind"]: problems(made) for made in engine.objects()} == {"Secret": [], "ConfigMap": []}


@pytest.mark.preview_too
def test_the_key_is_in_the_secret_and_nowhere_else(engine: Recorder):
    engine.run(lambda: download(token=pulumi.Output.secret("canary-token")))
    data = inputs(engine.one("Secret"))["data"]
    assert is_secret(data) or all(is_secret(value) for value in data.values())
    expected = {"id": "AKLT-canary", "secret": "canary-secret", "token": "canary-token"}
    assert unmarked(data) == {name: base64.b64encode(value.encode()).decode() for name, value in expected.items()}
    assert "canary" not in str(unmarked(inputs(engine.one("ConfigMap"))))


def test_the_names_are_those_that_the_pods_are_told(engine: Recorder):
    engine.run(download)
    names = {made["kind"]: made["metadata"]["name"] for made in engine.objects()}
    assert names == {"Secret": model_download.secret_name("r1"), "ConfigMap": model_download.program_name("r1")}
    assert inputs(engine.one("ConfigMap"))["data"] == model_sync.program()


@pytest.mark.parametrize(("changes", "kinds"), [({"key": None}, ["ConfigMap"]), ({"program": False}, ["Secret"])])
def test_only_what_the_pods_read_is_made(engine: Recorder, changes, kinds):
    engine.run(lambda: download(**changes))
    assert [made["kind"] for made in engine.objects()] == kinds


def test_two_models_fit_in_one_stack(engine: Recorder):
    engine.run(lambda: [download(name) for name in ("r1", "r1-download")])
    names = [(made["kind"], made["metadata"]["name"]) for made in engine.objects()]
    assert len(names) == len(set(names)) == 4
