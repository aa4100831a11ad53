"""ModelBucket on the stand-in: what an `up`, a `destroy` and an `up` again leave in the cloud and in the state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pulumi

from components.alicloud import alicloud_provider
from components.credentials import KeyPair
from components.model_bucket import ModelBucket, ModelBucketArgs, identity_name
from tests.engine.clouds import Cloud, everything, nothing_to_do, types
from tests.engine.provider_alicloud.conftest import REGION, add_bucket
from tests.engine.small_program import Engine

ARGS = ModelBucketArgs(
    stack="test", bucket="weights-1", region=REGION, prefix="models/Qwen3-32B", abort_upload_days=3, keep=False
)
KEPT = replace(ARGS, keep=True)
IDENTITY = ["reader", "writer"]


def program(args: ModelBucketArgs) -> Callable[[], None]:
    def run() -> None:
        opts = pulumi.ResourceOptions(providers=[alicloud_provider("cloud", args.region)])
        made = ModelBucket("weights", args, opts)
        pulumi.export("bucket", made.bucket)
        pulumi.export("endpoint", made.endpoint)
        pulumi.export("key", made.reader.secret)

    return run


def changed(steps: list[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(operation, name) for operation, name in steps if operation != "same"}


def test_a_preview_makes_nothing(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(program(ARGS))
    assert outcome.ok, outcome.output
    assert ("create", "weights-reader") in outcome.steps
    assert cloud.left() == {}


def test_a_bucket_is_private_closed_and_encrypted_and_an_up_again_changes_nothing(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.up(program(ARGS))
    assert outcome.ok, outcome.output
    bucket = cloud.tables()["buckets"]["weights-1"]
    assert (bucket["acl"], bucket["blockPublicAccess"], bucket["region"]) == ("private", True, REGION)
    assert bucket["settings"]["serverSideEncryptionRule"] == {"sseAlgorithm": "AES256"}
    (rule,) = bucket["settings"]["lifecycleRules"]
    assert rule["abortMultipartUploads"] == [{"days": 3}]
    names = sorted(identity_name(ARGS, role) for role in IDENTITY)
    assert (cloud.left()["users"], cloud.left()["policies"]) == (names, names)
    assert sorted(key["user"] for key in cloud.tables()["keys"].values()) == names
    nothing_to_do(engine, cloud)
    outcome = engine.destroy()
    assert outcome.ok, outcome.output
    assert cloud.left() == {}


def test_new_settings_are_an_update_in_place_and_a_new_prefix_is_a_new_identity(engine: Engine, cloud: Cloud) -> None:
    assert engine.up(program(ARGS)).ok
    outcome = engine.up(program(replace(ARGS, abort_upload_days=9)))
    assert changed(outcome.steps) == {("update", "weights")}
    moved = replace(ARGS, prefix="models/Qwen3-8B", abort_upload_days=9)
    outcome = engine.up(program(moved))
    assert outcome.ok, outcome.output
    names = sorted(identity_name(moved, role) for role in IDENTITY)
    assert (cloud.left()["users"], cloud.left()["policies"], len(cloud.left()["keys"])) == (names, names, 2)


def test_another_bucket_replaces_one_that_is_not_kept_and_never_one_that_is(engine: Engine, cloud: Cloud) -> None:
    assert engine.up(program(ARGS)).ok
    outcome = engine.up(program(replace(ARGS, bucket="weights-2")))
    assert outcome.ok, outcome.output
    assert cloud.left()["buckets"] == ["weights-2"]
    assert engine.up(program(replace(KEPT, bucket="weights-2"))).ok
    outcome = engine.up(program(replace(KEPT, bucket="weights-3")))
    assert not outcome.ok
    assert "protect" in outcome.error
    assert cloud.left()["buckets"] == ["weights-2"]


def test_a_kept_bucket_outlives_the_stack_closed_and_a_later_up_finds_it(engine: Engine, cloud: Cloud) -> None:
    assert engine.up(program(KEPT)).ok
    weights = cloud.objects("weights-1") / "models" / "Qwen3-32B" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")
    outcome = engine.destroy(exclude_protected=True)
    assert outcome.ok, outcome.output
    assert types(engine) == [
        "alicloud:oss/bucket:Bucket",
        "modelserve:storage:ModelBucket",
        "pulumi:providers:alicloud",
    ]
    assert cloud.left() == {"buckets": ["weights-1"]}
    bucket = cloud.tables()["buckets"]["weights-1"]
    assert (bucket["acl"], bucket["blockPublicAccess"]) == ("private", True)
    outcome = engine.up(program(KEPT))
    assert outcome.ok, outcome.output
    assert not {name for operation, name in changed(outcome.steps) if operation != "create"}
    assert weights.read_text() == "weights"
    assert len(cloud.left()["keys"]) == 2


def test_a_kept_bucket_is_refused_to_a_plain_destroy(engine: Engine, cloud: Cloud) -> None:
    assert engine.up(program(KEPT)).ok
    outcome = engine.destroy()
    assert not outcome.ok
    assert "bucket:Bucket::weights" in outcome.error and "protect" in outcome.error
    bucket = cloud.tables()["buckets"]["weights-1"]
    assert (bucket["acl"], bucket["blockPublicAccess"]) == ("private", True)


def test_a_bucket_with_weights_is_not_destroyed_unless_it_is_emptied(engine: Engine, cloud: Cloud) -> None:
    assert engine.up(program(ARGS)).ok
    (cloud.objects("weights-1") / "object").write_text("weights")
    outcome = engine.destroy()
    assert not outcome.ok
    assert "BucketNotEmpty" in outcome.error
    assert cloud.left() == {"buckets": ["weights-1"]}
    (cloud.objects("weights-1") / "object").unlink()
    assert engine.destroy().ok
    assert cloud.left() == {}


def test_a_bucket_that_is_there_is_used_as_it_is_and_never_removed(engine: Engine, cloud: Cloud) -> None:
    add_bucket(cloud, "weights-1", acl="public-read", settings={"tags": {"owner": "somebody"}})
    before = cloud.tables()["buckets"]
    adopting = replace(ARGS, create=False)
    outcome = engine.up(program(adopting))
    assert outcome.ok, outcome.output
    assert len(cloud.left()["users"]) == 2
    assert engine.up().ok
    assert engine.destroy().ok
    assert cloud.tables()["buckets"] == before
    assert cloud.left() == {"buckets": ["weights-1"]}


def test_a_bucket_that_is_not_there_fails_the_preview_in_one_line(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(program(replace(ARGS, create=False)))
    assert not outcome.ok
    assert any("weights-1" in error and "does not exist" in error for error in outcome.errors), outcome.errors
    add_bucket(cloud, "weights-1", owner="2000000000000002")
    outcome = engine.preview()
    assert not outcome.ok
    assert "AccessDenied" in "".join(outcome.errors)


def test_a_bucket_of_ours_can_be_let_go_and_stays(engine: Engine, cloud: Cloud) -> None:
    assert engine.up(program(KEPT)).ok
    outcome = engine.up(program(replace(KEPT, create=False)))
    assert outcome.ok, outcome.output
    bucket = cloud.tables()["buckets"]["weights-1"]
    assert (bucket["acl"], bucket["blockPublicAccess"]) == ("private", True)
    assert engine.destroy().ok
    assert cloud.left() == {"buckets": ["weights-1"]}


def test_keys_that_are_given_make_no_identity(engine: Engine, cloud: Cloud) -> None:
    def run() -> None:
        given = KeyPair(pulumi.Output.secret("LTAI-given"), pulumi.Output.secret("canary-given"))
        program(replace(ARGS, reader=given, writer=given))()

    assert engine.up(run).ok
    assert cloud.left() == {"buckets": ["weights-1"]}
    assert "canary-given" not in everything(engine)


def test_no_secret_of_a_key_stands_in_the_state_or_is_said(engine: Engine, cloud: Cloud) -> None:
    said = [engine.up(program(ARGS))]
    secrets = [key["secret"] for key in cloud.tables()["keys"].values()]
    assert len(secrets) == 2
    said += [engine.refresh(), engine.preview(), engine.up(program(replace(ARGS, prefix="models/other")))]
    secrets += [key["secret"] for key in cloud.tables()["keys"].values()]
    assert all(outcome.ok for outcome in said)
    assert secrets[0] != secrets[2]
    told = everything(engine) + "".join(outcome.output for outcome in said)
    assert not [secret for secret in secrets if secret in told]
