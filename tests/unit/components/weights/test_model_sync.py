"""The sync's Job: what runs in it, how much it may use, when it is replaced, and that no secret leaves its Secret."""

from __future__ import annotations

import ast
import base64
import sys
from typing import Any

import pulumi
import pytest

from components.cluster.credentials import KeyPair
from components.cluster.pod_extras import NOTHING
from components.weights import model_sync
from components.weights.model_sync import BucketTarget, ClaimTarget, ModelSync, ModelSyncArgs, PodRole
from components.weights.sync.bucket import remote_environment
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs, is_secret, unmarked
from tests.support.schemas import problems

KEY_ID, KEY_SECRET, TOKEN = "LTAI-canary-id", "canary-secret", "canary-token"
SHARED: dict[str, Any] = {
    "stack": "test",
    "namespace": "default",
    "model": "DeepSeek-R1",
    "repository": "deepseek-ai/DeepSeek-R1",
    "source": "modelscope",
    "revision": "",
    "prefix": "models/DeepSeek-R1",
    "tool_image": "rclone/rclone:1.74.4",
    "python_image": "python:3.12-slim",
    "seconds": 7200,
    "pod_labels": {"alibabacloud.com/compute-class": "general-purpose"},
    "token": None,
    "weights": (),
    "leaves": (),
    "extras": NOTHING,
}

PROVIDER = "acs:ram::1:oidc-provider/ack-rrsa-c1"


def arguments(**changes: Any) -> ModelSyncArgs:
    """Arguments outside a program, where no Output can be created: only a program reads the key."""
    return ModelSyncArgs(**SHARED | {"target": into_bucket(KeyPair(None, None))} | changes)


def into_bucket(key: KeyPair | PodRole, bucket: pulumi.Input[str] = "weights") -> BucketTarget:
    return BucketTarget(bucket, "oss-cn-hangzhou-internal.aliyuncs.com", key, scratch_gib=30)


def program(bucket: pulumi.Input[str] = "weights", **changes: Any) -> None:
    """A sync, wired as in a stack."""
    target = into_bucket(KeyPair(pulumi.Output.secret(KEY_ID), pulumi.Output.secret(KEY_SECRET)), bucket)
    ModelSync("r1-sync", arguments(target=target, token=pulumi.Output.secret(TOKEN), **changes))


def environment(args: ModelSyncArgs) -> dict[str, Any]:
    (container,) = model_sync.pod_template("r1-sync", args)["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


# --- the Job


def test_every_object_passes_strict_validation_against_its_real_schema(engine: Recorder):
    engine.run(program)
    objects = engine.objects()
    assert [found["kind"] for found in objects] == ["ConfigMap", "Secret", "Job"]
    assert {found["kind"]: problems(found) for found in objects if problems(found)} == {}


def test_a_failed_job_is_replaced_before_another_writes_to_the_same_prefix(engine: Recorder):
    engine.run(program)
    job = engine.one("Job")
    manifest = unmarked(inputs(job))
    assert manifest["metadata"]["annotations"] == {"pulumi.com/replaceUnready": "true"}
    assert manifest["metadata"]["name"] == "r1-sync" and job.deleteBeforeReplace
    assert "ttlSecondsAfterFinished" not in manifest["spec"]
    assert set(job.dependencies) == {engine.urn(engine.one("ConfigMap")), engine.urn(engine.one("Secret"))}


def test_the_wait_outlasts_the_jobs_own_limit(engine: Recorder):
    engine.run(program)
    job = engine.one("Job")
    assert unmarked(inputs(job))["spec"]["activeDeadlineSeconds"] == 7200
    assert job.customTimeouts.create == job.customTimeouts.update == "7260s"


def test_a_failed_pod_stays_with_its_log_and_every_failure_but_an_eviction_ends_the_job_at_its_limit():
    spec = model_sync.job("r1-sync", arguments())["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    # The plugin keeps waiting after any failure, except one at a limit of retries or time.
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore"]
    assert 1 <= spec["backoffLimit"] <= 5


def test_the_pod_gets_what_it_asks_for_and_scratch_is_part_of_it():
    spec = model_sync.pod_template("r1-sync", arguments())["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert spec["containers"][0]["resources"]["limits"]["ephemeral-storage"] == "30Gi"
    assert {"name": "scratch", "emptyDir": {"sizeLimit": "30Gi"}} in spec["volumes"]
    assert spec["automountServiceAccountToken"] is False


def test_the_pod_may_do_nothing_but_write_to_its_own_volumes():
    spec = model_sync.pod_template("r1-sync", arguments())["spec"]
    assert (
        spec["securityContext"].items() >= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}.items()
    )
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_pod_is_found_by_its_labels_and_carries_the_clouds():
    labels = model_sync.pod_template("r1-sync", arguments())["metadata"]["labels"]
    assert labels == {
        "alibabacloud.com/compute-class": "general-purpose",
        "app.kubernetes.io/component": "sync",
        "app.kubernetes.io/instance": "r1-sync",
        "app.kubernetes.io/managed-by": "modelserve",
        "modelserve.dev/stack": "test",
    }


def test_two_syncs_of_one_stack_share_no_name():
    def names(name: str) -> set[str]:
        args = arguments()
        made = (model_sync.program_config(name, args), model_sync.job(name, args))
        return {each["metadata"]["name"] for each in made} | {model_sync.secret_name(name)}

    assert not names("one") & names("other")


# --- the program in it


def test_the_program_is_shipped_whole_and_named_by_its_content(monkeypatch: pytest.MonkeyPatch):
    before = model_sync.program_config_name("r1-sync")
    shipped = model_sync.program_config("r1-sync", arguments())["data"]
    assert {"__init__.py", "__main__.py"} <= shipped.keys()
    assert sum(map(len, shipped.values())) < 1 << 20, "a ConfigMap holds a mebibyte"
    monkeypatch.setattr(model_sync, "program", lambda: shipped | {"__main__.py": "pass\n"})
    assert model_sync.program_config_name("r1-sync") != before
    volumes = model_sync.pod_template("r1-sync", arguments())["spec"]["volumes"]
    assert volumes[0]["configMap"]["name"] == model_sync.program_config_name("r1-sync")


def test_the_program_needs_nothing_but_python():
    found = set()
    for text in model_sync.program().values():
        for node in ast.walk(ast.parse(text, feature_version=(3, 10))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    assert found and found <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("source", "revision", "kind", "url", "said"),
    [
        ("modelscope", "", "modelscope", "https://modelscope.cn", "master"),
        ("huggingface", "", "huggingface", "https://huggingface.co", "main"),
        ("https://hf-mirror.com", "", "huggingface", "https://hf-mirror.com", "main"),
        ("modelscope", "v1.0", "modelscope", "https://modelscope.cn", "v1.0"),
    ],
)
def test_a_source_is_a_protocol_an_address_and_a_branch(source, revision, kind, url, said):
    found = environment(arguments(source=source, revision=revision))
    assert [found[f"MODELSERVE_{name}"] for name in ("HUB_KIND", "HUB_URL", "REVISION")] == [kind, url, said]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("civitai", "is not a hub; write modelscope, huggingface or a mirror's URL"),
        ("https://me:canary@mirror", "contains credentials"),
    ],
)
def test_what_is_no_source_is_refused_without_showing_a_password(source, said):
    with pytest.raises(Refused) as refused:
        arguments(source=source)
    assert said in str(refused.value) and "canary" not in str(refused.value)


def test_a_bucket_that_is_not_there_yet_may_be_named_by_its_resource(engine: Recorder):
    engine.run(lambda: program(bucket=pulumi.Output.from_input("weights")))
    (container,) = unmarked(inputs(engine.one("Job")))["spec"]["template"]["spec"]["containers"]
    assert {"name": "MODELSERVE_BUCKET", "value": "weights"} in container["env"]


# --- secrets


@pytest.mark.preview_too
def test_secrets_are_in_their_secret_and_nowhere_else(engine: Recorder):
    engine.run(program)
    data = inputs(engine.one("Secret"))["data"]
    assert is_secret(data) or all(is_secret(value) for value in data.values())
    expected = {"id": KEY_ID, "secret": KEY_SECRET, "token": TOKEN}
    assert unmarked(data) == {name: base64.b64encode(value.encode()).decode() for name, value in expected.items()}
    for request in (engine.one("Job"), engine.one("ConfigMap")):
        assert "canary" not in str(unmarked(inputs(request)))


def test_a_key_reaches_the_pod_by_reference_and_its_change_makes_no_new_job():
    found = environment(arguments())
    references = {name: value["secretKeyRef"] for name, value in found.items() if isinstance(value, dict)}
    assert references == {
        "MODELSERVE_KEY_ID": {"name": "r1-sync-keys", "key": "id"},
        "MODELSERVE_KEY_SECRET": {"name": "r1-sync-keys", "key": "secret"},
    }
    other = arguments(target=into_bucket(KeyPair("a", "b")))
    assert model_sync.job("r1-sync", other) == model_sync.job("r1-sync", arguments())


# --- a volume in place of a bucket

CLAIM = ClaimTarget("r1-models", user=0)


def test_a_claim_is_mounted_and_filled_in_place_of_a_bucket_without_scratch_or_key():
    template = model_sync.pod_template("r1-sync", arguments(target=CLAIM))["spec"]
    (container,) = template["containers"]
    found = environment(arguments(target=CLAIM))
    assert found["MODELSERVE_FOLDER"] == "/weights/models/DeepSeek-R1"
    assert not {"MODELSERVE_BUCKET", "MODELSERVE_ENDPOINT", "MODELSERVE_KEY_ID", "MODELSERVE_SCRATCH"} & found.keys()
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "r1-models"}} in template["volumes"]
    assert {"name": "weights", "mountPath": "/weights"} in container["volumeMounts"]
    assert "ephemeral-storage" not in container["resources"]["limits"]
    identity = template["securityContext"]
    assert (identity["runAsUser"], identity["runAsNonRoot"]) == (0, False)
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_sync_to_a_claim_passes_strict_validation_and_needs_no_secret_without_a_token(engine: Recorder):
    def sync() -> None:
        ModelSync("r1-sync", arguments(target=CLAIM))

    engine.run(sync)
    objects = engine.objects()
    assert [found["kind"] for found in objects] == ["ConfigMap", "Job"]
    assert [problems(found) for found in objects] == [[], []]


def test_a_pod_that_takes_a_role_has_its_own_account_and_token_and_no_key(engine: Recorder):
    def with_role() -> None:
        arn = pulumi.Output.from_input("acs:ram::1:role/modelserve-writer")
        role = PodRole(arn=arn, provider=PROVIDER, sts="sts.a")
        ModelSync("r1-sync", arguments(target=into_bucket(role)))

    engine.run(with_role)
    objects = {found["kind"]: found for found in engine.objects()}
    assert list(objects) == ["ConfigMap", "ServiceAccount", "Job"]
    assert [problem for found in objects.values() for problem in problems(found)] == []
    account, spec = objects["ServiceAccount"], objects["Job"]["spec"]["template"]["spec"]
    assert account["metadata"]["annotations"] == {"pod-identity.alibabacloud.com/role-name": "modelserve-writer"}
    assert spec["serviceAccountName"] == account["metadata"]["name"] and not spec["automountServiceAccountToken"]
    (source,) = next(each for each in spec["volumes"] if each["name"] == "token")["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "sts.aliyuncs.com"
    (container,) = spec["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    (at,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "token"]
    assert env["MODELSERVE_TOKEN_FILE"] == f"{at}/{source['serviceAccountToken']['path']}"
    assert not any("KEY" in name for name in env)
    assert engine.urn(engine.one("ServiceAccount")) in engine.one("Job").dependencies


@pytest.mark.parametrize(
    ("endpoint", "wanted"),
    [
        ("oss-cn-hangzhou-internal.aliyuncs.com", {"PROVIDER": "Alibaba"}),
        ("https://tos-s3-cn-beijing.ivolces.com", {"FORCE_PATH_STYLE": "false", "REGION": "cn-beijing"}),
        ("https://s3.eu-west-1.amazonaws.com", {"PROVIDER": "AWS", "REGION": "eu-west-1"}),
        ("https://storage.googleapis.com", {"PROVIDER": "GCS"}),
        ("http://127.0.0.1:9000", {"PROVIDER": "Other"}),
    ],
)
def test_each_object_store_is_spoken_to_in_its_own_dialect(endpoint, wanted):
    found = remote_environment(endpoint)
    assert wanted.items() <= {name.removeprefix("RCLONE_CONFIG_STORE_"): value for name, value in found.items()}.items()
