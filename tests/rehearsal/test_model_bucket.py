"""ModelBucket on both clouds' stand-ins: what engine runs leave in cloud and state, without a control plane."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from components.cluster.alicloud_provider import alicloud_provider
from components.cluster.credentials import KeyPair
from components.cluster.volcengine_provider import volcengine_provider
from components.weights.model_bucket import ModelBucket, ModelBucketArgs, identity_name
from local import pulumi_home
from tests.rehearsal.clouds import BUCKETS, Cloud
from tests.rehearsal.small_program import Engine
from watch import cloud_lists

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PROVIDERS = {"acs": alicloud_provider, "volcengine": volcengine_provider}
KEY_VARIABLES = {"acs": "ALICLOUD_ACCESS_KEY", "volcengine": "VOLCENGINE_ACCESS_KEY"}
OSS = ModelBucketArgs(
    cloud="acs",
    stack="test",
    bucket="weights-1",
    region="cn-hangzhou",
    prefix="models/Qwen3-32B",
    abort_upload_days=3,
    keep=False,
)
TOS = replace(OSS, cloud="volcengine", region="cn-beijing")
BOTH = pytest.mark.parametrize("args", [OSS, TOS], ids=["oss", "tos"])
OSS_FIRST = pytest.mark.parametrize("args", [OSS, pytest.param(TOS, marks=pytest.mark.soak)], ids=["oss", "tos"])
CLOSED = {
    "acs": {
        "acl": "private",
        "blockPublicAccess": True,
        "settings": {
            "serverSideEncryptionRule": {"sseAlgorithm": "AES256"},
            "lifecycleRules": [
                {"id": "abort-stale-uploads", "enabled": True, "abortMultipartUploads": [{"days": 3}]},
            ],
        },
    },
    "volcengine": {
        "settings": BUCKETS["volcengine"]["settings"],
        "encryption": {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}},
        "lifecycle": [
            {
                "id": "abort-stale-uploads",
                "status": "Enabled",
                "abortIncompleteMultipartUpload": {"daysAfterInitiation": 3},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Cloud]]:
    pulumi_home.install(say=lambda line: None)
    folder = tmp_path_factory.mktemp("cloud")
    plane: Any = SimpleNamespace(kubeconfig=folder / "kubeconfig", folder=folder / "plane")
    environment = pulumi_home.environment(plane, folder / "state") | {"MODELSERVE_CLOUD_RETRY_SECONDS": "0.3"}
    with pytest.MonkeyPatch.context() as patch:
        # The automation API looks for the engine on this process's own PATH to learn its version.
        patch.setenv("PATH", environment["PATH"])
        yield Engine(environment, folder), Cloud(plane.folder, environment)


@pytest.fixture
def cloud(made: tuple[Engine, Cloud]) -> Iterator[Cloud]:
    """The cloud, empty, with valid keys."""
    cloud = made[1]
    shutil.rmtree(cloud.plane, ignore_errors=True)
    cloud.plane.mkdir()
    before = dict(cloud.environment)
    yield cloud
    cloud.environment.update(before)


@pytest.fixture
def engine(made: tuple[Engine, Cloud], cloud: Cloud) -> Iterator[Engine]:
    with made[0].fresh() as engine:
        yield engine


def program(args: ModelBucketArgs) -> Callable[[], None]:
    def run() -> None:
        opts = pulumi.ResourceOptions(providers=[PROVIDERS[args.cloud]("cloud", args.region)])
        made = ModelBucket("weights", args, opts)
        pulumi.export("bucket", made.bucket)
        pulumi.export("endpoint", made.endpoint)
        pulumi.export("key", made.reader.secret)

    return run


def names(args: ModelBucketArgs) -> list[str]:
    return sorted(identity_name(args, role) for role in ("reader", "writer"))


def is_closed(cloud: Cloud, args: ModelBucketArgs) -> bool:
    bucket = cloud.tables()["buckets"][args.bucket]
    return CLOSED[args.cloud].items() <= bucket.items()


def secrets(cloud: Cloud) -> list[str]:
    return [key["secret"] for key in cloud.tables()["keys"].values()]


def everything(engine: Engine) -> str:
    """The state, its backups and its history, as stored on disk."""
    return "".join(path.read_text() for path in engine.backend.rglob("*") if path.is_file())


def weights_in(cloud: Cloud, args: ModelBucketArgs) -> Path:
    weights = cloud.objects(args.bucket) / args.prefix / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")
    return weights


@BOTH
def test_a_bucket_is_closed_and_encrypted_another_up_changes_nothing_and_a_destroy_leaves_nothing(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs
) -> None:
    outcome = engine.preview(program(args))
    assert outcome.ok, outcome.output
    assert ("create", "weights-reader") in outcome.steps and cloud.left() == {}
    outcome = engine.up()
    assert outcome.ok, outcome.output
    assert is_closed(cloud, args)
    assert (cloud.left()["users"], cloud.left()["policies"]) == (names(args), names(args))
    assert sorted(key["user"] for key in cloud.tables()["keys"].values()) == names(args)
    before = cloud.file.read_text()
    for run in (engine.preview, engine.refresh, engine.up):
        outcome = run()
        assert outcome.ok, outcome.output
        assert {operation for operation, _ in outcome.steps} <= {"same", "refresh"}, outcome.steps
    assert cloud.file.read_text() == before
    outcome = engine.destroy()
    assert outcome.ok, outcome.output
    assert cloud.left() == {}


@OSS_FIRST
def test_new_settings_change_in_place_a_new_prefix_is_a_new_identity_and_no_secret_is_ever_shown(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs
) -> None:
    said = [engine.up(program(args))]
    hidden = secrets(cloud)
    said.append(engine.up(program(replace(args, abort_upload_days=9))))
    assert {step for step in said[1].steps if step[0] != "same"} == {("update", "weights")}
    moved = replace(args, prefix="models/Qwen3-8B", abort_upload_days=9)
    said += [engine.refresh(), engine.up(program(moved))]
    assert all(outcome.ok for outcome in said), said
    assert (cloud.left()["users"], cloud.left()["policies"]) == (names(moved), names(moved))
    hidden += secrets(cloud)
    assert len(set(hidden)) == 4
    told = everything(engine) + "".join(outcome.output for outcome in said)
    assert not [secret for secret in hidden if secret in told]
    # Neither do the account's own keys, which the plugin itself reads from the environment.
    (provider,) = [item for item in engine.state()["resources"] if item["type"].startswith("pulumi:providers:")]
    assert not {"accessKey", "secretKey"} & {*provider["inputs"], *provider["outputs"]}


@OSS_FIRST
def test_a_kept_bucket_outlives_the_stack_closed_and_a_later_up_finds_it(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs
) -> None:
    kept = replace(args, keep=True)
    assert engine.up(program(kept)).ok
    weights = weights_in(cloud, args)
    refused = engine.destroy()
    assert not refused.ok and "bucket:Bucket::weights" in refused.error and "protect" in refused.error
    outcome = engine.destroy(exclude_protected=True)
    assert outcome.ok, outcome.output
    assert engine.names() == ["weights", "weights"]  # the component, and the bucket
    assert cloud.left() == {"buckets": ["weights-1"]} and is_closed(cloud, args)
    outcome = engine.up()
    assert outcome.ok, outcome.output
    assert {operation for operation, _ in outcome.steps} <= {"same", "create"}
    assert weights.read_text() == "weights" and len(secrets(cloud)) == 2


@OSS_FIRST
def test_a_bucket_with_weights_is_not_destroyed_unless_it_is_emptied(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs
) -> None:
    assert engine.up(program(args)).ok
    weights = weights_in(cloud, args)
    outcome = engine.destroy()
    assert not outcome.ok and "BucketNotEmpty" in outcome.error
    assert cloud.left() == {"buckets": ["weights-1"]}
    weights.unlink()
    assert engine.destroy().ok
    assert cloud.left() == {}


@BOTH
@pytest.mark.soak
def test_a_bucket_that_is_there_is_used_as_it_is_and_never_removed(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs
) -> None:
    adopting = replace(args, create=False)
    outcome = engine.preview(program(adopting))
    missing = {"acs": "resource 'weights-1' does not exist", "volcengine": "status code: 404"}
    assert not outcome.ok and any("weights-1" in error for error in outcome.errors)
    assert missing[args.cloud] in "".join(outcome.errors)
    cloud.put_bucket("weights-1", BUCKETS[args.cloud])
    before = cloud.tables()["buckets"]
    outcome = engine.up()
    assert outcome.ok, outcome.output
    assert len(cloud.left()["users"]) == 2
    assert engine.up().ok
    assert engine.destroy().ok
    assert cloud.tables()["buckets"] == before and cloud.left() == {"buckets": ["weights-1"]}


@BOTH
@pytest.mark.soak
def test_what_the_cloud_refuses_to_create_is_told_by_the_name_that_it_has_there(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs
) -> None:
    cloud.put_bucket("weights-1", BUCKETS[args.cloud] | {"owner": "2000000000000002"})
    refused = engine.up(program(args))
    assert not refused.ok and "BucketAlreadyExists" in "".join(refused.errors)
    assert any("Bucket weights-1: the cloud refused to create it" in error for error in refused.errors)
    cloud.change(buckets={}, users={name: {} for name in names(args)})
    refused = engine.up()
    for name in names(args):
        assert any(f"User {name}: the cloud refused to create it" in error for error in refused.errors)
    cloud.change(users={})


@pytest.mark.soak
def test_another_bucket_replaces_one_that_is_not_kept_and_never_one_that_is(engine: Engine, cloud: Cloud) -> None:
    assert engine.up(program(OSS)).ok
    outcome = engine.up(program(replace(OSS, bucket="weights-2")))
    assert outcome.ok, outcome.output
    assert cloud.left()["buckets"] == ["weights-2"]
    assert engine.up(program(replace(OSS, bucket="weights-2", keep=True))).ok
    outcome = engine.up(program(replace(OSS, bucket="weights-3", keep=True)))
    assert not outcome.ok and "protect" in outcome.error
    assert cloud.left()["buckets"] == ["weights-2"]


@pytest.mark.soak
def test_a_bucket_of_ours_can_be_let_go_and_stays(engine: Engine, cloud: Cloud) -> None:
    kept = replace(OSS, keep=True)
    assert engine.up(program(kept)).ok
    outcome = engine.up(program(replace(kept, create=False)))
    assert outcome.ok, outcome.output
    assert is_closed(cloud, OSS)
    assert engine.destroy().ok
    assert cloud.left() == {"buckets": ["weights-1"]}


@pytest.mark.soak
def test_keys_that_are_given_make_no_identity(engine: Engine, cloud: Cloud) -> None:
    def run() -> None:
        given = KeyPair(pulumi.Output.secret("LTAI-given"), pulumi.Output.secret("canary-given"))
        program(replace(OSS, reader=given, writer=given))()

    assert engine.up(run).ok
    assert cloud.left() == {"buckets": ["weights-1"]}
    assert "canary-given" not in everything(engine)


@pytest.mark.soak
def test_what_somebody_removed_on_volcengine_fails_a_refresh_and_readmes_ways_out_work(
    engine: Engine, cloud: Cloud
) -> None:
    assert engine.up(program(TOS)).ok
    before = cloud.tables()
    cloud.change(attachments={})
    outcome = engine.refresh()
    assert not outcome.ok and "User policy attachment" in outcome.error and "not exist" in outcome.error
    cloud.change(attachments=before["attachments"])
    assert engine.refresh().ok

    lost = engine.resource("AccessKey", "weights-reader")["id"]
    cloud.change(keys={key: entry for key, entry in before["keys"].items() if key != lost})
    assert not engine.refresh().ok
    outcome = engine.up(replace=[engine.resource("AccessKey", "weights-reader")["urn"]])
    assert not outcome.ok and f"access key {lost} not exist" in "".join(outcome.errors)
    engine.forget_pending_deletions()
    for run in (engine.refresh, engine.up, engine.destroy):
        outcome = run()
        assert outcome.ok, outcome.output
    assert cloud.left() == {}


@BOTH
@pytest.mark.soak
def test_users_forgotten_for_keys_that_the_cloud_does_not_know_are_removed_by_hand_and_made_anew(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs
) -> None:
    variable = KEY_VARIABLES[args.cloud]
    good = cloud.environment[variable]
    assert engine.up(program(args)).ok
    cloud.environment[variable] = "denied"
    outcome = engine.refresh()
    assert not outcome.ok and "InvalidAccessKey" in "".join(outcome.errors)
    cloud.environment[variable] = good
    assert re.search("(EntityAlreadyExists.User|UserAlreadyExists)", "".join(engine.up().errors))
    if args.cloud == "volcengine":
        assert engine.destroy().ok
        assert cloud.left() == {"users": names(args)}
    cloud.change(users={}, policies={}, attachments={}, keys={})
    outcome = engine.up()
    assert outcome.ok, outcome.output
    assert cloud.left()["users"] == names(args) and len(secrets(cloud)) == 2


@OSS_FIRST
def test_what_a_run_made_is_found_again_without_a_state_and_what_is_gone_is_not(
    engine: Engine, cloud: Cloud, args: ModelBucketArgs, monkeypatch: pytest.MonkeyPatch
):
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    begun = datetime.now(timezone.utc)
    assert engine.up(program(args)).ok
    made = [each for each in engine.state()["resources"] if each["type"] in cloud_lists.KINDS]
    regions = {each["urn"]: args.region for each in made}
    found = cloud_lists.find(made, regions)
    unlisted = {each["urn"] for each in made if cloud_lists.KINDS[each["type"]].lookup is None}
    assert {urn: [item.id for item in items] for urn, items in found.items()} == {
        each["urn"]: [each["id"]] for each in made if each["urn"] not in unlisted
    }
    bucket = next(each["urn"] for each in made if each["type"].endswith(":Bucket"))
    assert found[bucket][0].is_since(begun) and not found[bucket][0].is_since(begun + timedelta(days=1))

    assert engine.destroy().ok
    gone = cloud_lists.find(made, regions)
    # The plugin looks up attachments and keys by their user, whom the cloud no longer knows.
    asked = {each["urn"] for each in made if "userName" in each["inputs"] and not each["type"].endswith("/user:User")}
    assert all(isinstance(gone[urn], str) if urn in asked else gone[urn] == [] for urn in gone)

    monkeypatch.setenv(KEY_VARIABLES[args.cloud], "denied")
    assert all(isinstance(answer, str) for answer in cloud_lists.find(made, regions).values())
