"""ModelBucket on the volcengine stand-in: what an `up`, a `destroy` and an `up` again leave in cloud and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pulumi

from components.model_bucket import ModelBucket, ModelBucketArgs, identity_name
from components.volcengine import volcengine_provider
from tests.engine.clouds import Cloud, everything, nothing_to_do, types
from tests.engine.provider_volcengine.conftest import REGION, add_bucket
from tests.engine.small_program import Engine

ARGS = ModelBucketArgs(
    cloud="volcengine",
    stack="test",
    bucket="weights-1",
    region=REGION,
    prefix="models/DeepSeek-R1",
    abort_upload_days=3,
    keep=False,
)
KEPT = replace(ARGS, keep=True)
ENCRYPTED = {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}


def program(args: ModelBucketArgs) -> Callable[[], None]:
    def run() -> None:
        opts = pulumi.ResourceOptions(providers=[volcengine_provider("cloud", args.region)])
        made = ModelBucket("weights", args, opts)
        pulumi.export("bucket", made.bucket)
        pulumi.export("key", made.reader.secret)

    return run


def names(args: ModelBucketArgs) -> list[str]:
    return sorted(identity_name(args, role) for role in ("reader", "writer"))


def test_a_bucket_is_private_and_encrypted_and_an_up_again_changes_nothing(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(program(ARGS))
    assert outcome.ok, outcome.output
    assert ("create", "weights-reader") in outcome.steps and cloud.left() == {}
    outcome = engine.up()
    assert outcome.ok, outcome.output
    bucket = cloud.tables()["buckets"]["weights-1"]
    assert (bucket["settings"]["publicAcl"], bucket["region"], bucket["encryption"]) == ("private", REGION, ENCRYPTED)
    (rule,) = bucket["lifecycle"]
    assert rule["abortIncompleteMultipartUpload"] == {"daysAfterInitiation": 3}
    assert (cloud.left()["users"], cloud.left()["policies"]) == (names(ARGS), names(ARGS))
    assert sorted(key["user"] for key in cloud.tables()["keys"].values()) == names(ARGS)
    nothing_to_do(engine, cloud)
    outcome = engine.destroy()
    assert outcome.ok, outcome.output
    assert cloud.left() == {}


def test_a_new_prefix_is_a_new_identity_and_no_secret_is_ever_shown(engine: Engine, cloud: Cloud) -> None:
    said = [engine.up(program(ARGS))]
    secrets = [key["secret"] for key in cloud.tables()["keys"].values()]
    moved = replace(ARGS, prefix="models/Qwen3-8B", abort_upload_days=9)
    said += [engine.refresh(), engine.preview(), engine.up(program(moved))]
    assert all(outcome.ok for outcome in said)
    assert (cloud.left()["users"], cloud.left()["policies"]) == (names(moved), names(moved))
    secrets += [key["secret"] for key in cloud.tables()["keys"].values()]
    assert len(set(secrets)) == 4
    told = everything(engine) + "".join(outcome.output for outcome in said)
    assert not [secret for secret in secrets if secret in told]
    # Neither do the account's own keys, which the plugin reads out of the environment, for itself.
    (provider,) = [item for item in engine.state()["resources"] if item["type"] == "pulumi:providers:volcengine"]
    assert not {"accessKey", "secretKey"} & {*provider["inputs"], *provider["outputs"]}


def test_a_kept_bucket_outlives_the_stack_with_its_settings_and_a_later_up_finds_it(
    engine: Engine, cloud: Cloud
) -> None:
    assert engine.up(program(KEPT)).ok
    weights = cloud.objects("weights-1") / "models" / "DeepSeek-R1" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")
    refused = engine.destroy()
    assert not refused.ok and "bucket:Bucket::weights" in refused.error and "protect" in refused.error
    outcome = engine.destroy(exclude_protected=True)
    assert outcome.ok, outcome.output
    kept = ["modelserve:storage:ModelBucket", "pulumi:providers:volcengine", "volcengine:tos/bucket:Bucket"]
    assert types(engine) == kept
    assert cloud.left() == {"buckets": ["weights-1"]}
    bucket = cloud.tables()["buckets"]["weights-1"]
    assert (bucket["encryption"], len(bucket["lifecycle"])) == (ENCRYPTED, 1)
    outcome = engine.up(program(KEPT))
    assert outcome.ok, outcome.output
    assert {operation for operation, _ in outcome.steps} <= {"same", "create"}
    assert weights.read_text() == "weights"


def test_a_bucket_with_weights_is_not_destroyed_unless_it_is_emptied(engine: Engine, cloud: Cloud) -> None:
    cloud.environment["MODELSERVE_CLOUD_RETRY_SECONDS"] = "0.3"
    assert engine.up(program(ARGS)).ok
    (cloud.objects("weights-1") / "object").write_text("weights")
    outcome = engine.destroy()
    assert not outcome.ok
    assert "error on deleting tos bucket" in outcome.error and "BucketNotEmpty" in outcome.error
    assert cloud.left() == {"buckets": ["weights-1"]}
    (cloud.objects("weights-1") / "object").unlink()
    assert engine.destroy().ok
    assert cloud.left() == {}


def test_a_bucket_that_is_there_is_used_as_it_is_and_never_removed(engine: Engine, cloud: Cloud) -> None:
    add_bucket(cloud, "weights-1")
    before = cloud.tables()["buckets"]
    outcome = engine.up(program(replace(ARGS, create=False)))
    assert outcome.ok, outcome.output
    assert len(cloud.left()["users"]) == 2
    assert engine.destroy().ok
    assert cloud.tables()["buckets"] == before
    assert cloud.left() == {"buckets": ["weights-1"]}


def test_a_bucket_that_is_not_there_fails_the_preview(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(program(replace(ARGS, create=False)))
    assert not outcome.ok
    assert any("weights-1" in error and "NoSuchBucket" in error for error in outcome.errors), outcome.errors
