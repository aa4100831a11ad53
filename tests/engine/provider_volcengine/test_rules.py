"""Each line of what RULES.md says is kept of the official plugin and of the cloud, resource by resource."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pulumi
import pytest

from tests.engine.clouds import Cloud, after
from tests.engine.provider_volcengine.conftest import add_bucket, in_cloud, provided
from tests.engine.small_program import Engine, Outcome

BUCKET, ENCRYPTION = "tos/bucket:Bucket", "tos/bucketEncryption:BucketEncryption"
USER, POLICY, KEY = "iam/user:User", "iam/policy:Policy", "iam/accessKey:AccessKey"
ATTACHMENT = "iam/userPolicyAttachment:UserPolicyAttachment"
DOCUMENT = json.dumps({"Statement": [{"Effect": "Allow", "Action": ["tos:GetObject"], "Resource": ["*"]}]})
READ = {"policyName": "read", "policyDocument": DOCUMENT}
RULE = {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}
Steps = Callable[[pulumi.ResourceOptions], None]


def up(engine: Engine, steps: Steps) -> Outcome:
    return engine.up(lambda: steps(provided()))


def refusal(engine: Engine, steps: Steps) -> str:
    outcome = up(engine, steps)
    assert not outcome.ok
    return "\n".join(outcome.errors)


def bucket(opts: pulumi.ResourceOptions, name: str = "weights", **arguments: Any) -> Any:
    return in_cloud(BUCKET, "b", opts, bucketName=name, **arguments)


@pytest.mark.parametrize(
    "token, arguments, words",
    [
        (BUCKET, {"bucketName": "weights", "publicAcl": "open"}, 'to be one of ["private" "public-read"'),
        (ENCRYPTION, {"bucketName": "weights"}, 'Missing required argument. The argument "rule" is required'),
        (POLICY, {**READ, "force": True}, "Invalid or unknown key. Examine values at 'r.force'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
    engine: Engine, cloud: Cloud, token: str, arguments: dict[str, Any], words: str
) -> None:
    outcome = engine.preview(lambda: in_cloud(token, "r", provided(), **arguments))
    assert not outcome.ok
    assert words in "\n".join(outcome.errors)
    assert cloud.left() == {}


@pytest.mark.parametrize("owner", ["2100000001", "1000000000000001"])
def test_a_name_that_anybody_has_taken_is_refused(engine: Engine, cloud: Cloud, owner: str) -> None:
    add_bucket(cloud, "weights", owner=owner)
    told = refusal(engine, bucket)
    assert "error on creating tos bucket" in told and "BucketAlreadyExists: " in told and "status code: 409" in told


def test_a_bucket_tells_what_the_cloud_made_up_and_what_cannot_change_is_replaced(engine: Engine, cloud: Cloud) -> None:
    def detail(**arguments: Any) -> dict[str, str]:
        return engine.preview(lambda: bucket(provided(), **arguments)).detail["b"]

    assert up(engine, bucket).ok
    told = engine.resource("b")
    assert told["id"] == "weights"
    assert told["outputs"]["intranetEndpoint"] == "tos-cn-beijing.ivolces.com"
    assert told["outputs"]["extranetEndpoint"] == "tos-cn-beijing.volces.com"
    assert told["outputs"]["location"] == "cn-beijing"
    assert "creationDate" in told["outputs"]
    assert detail(azRedundancy="multi-az") == {"azRedundancy": "update-replace"}
    assert detail(storageClass="IA") == {"storageClass": "update"}


def test_a_setting_goes_with_its_resource(engine: Engine, cloud: Cloud) -> None:
    def encrypted(opts: pulumi.ResourceOptions) -> None:
        in_cloud(ENCRYPTION, "e", after(opts, bucket(opts)), bucketName="weights", rule=RULE)

    assert up(engine, encrypted).ok
    assert cloud.tables()["buckets"]["weights"]["encryption"] == RULE
    assert up(engine, bucket).ok
    assert "encryption" not in cloud.tables()["buckets"]["weights"]


def test_a_user_that_is_gone_leaves_the_state(engine: Engine, cloud: Cloud) -> None:
    assert up(engine, lambda opts: in_cloud(USER, "u", opts, userName="reader")).ok
    cloud.file.write_text("{}")
    assert engine.refresh().ok
    assert "u" not in engine.names()


def test_a_bucket_that_is_gone_fails_a_refresh(engine: Engine, cloud: Cloud) -> None:
    assert up(engine, bucket).ok
    cloud.file.write_text("{}")
    outcome = engine.refresh()
    assert not outcome.ok
    assert "error on reading tos bucket" in "".join(outcome.errors) and "NoSuchBucket" in "".join(outcome.errors)


@pytest.mark.parametrize(
    "token, arguments, code",
    [
        (BUCKET, {"bucketName": "weights_1"}, "InvalidBucketName"),
        (ENCRYPTION, {"bucketName": "weights", "rule": RULE}, "NoSuchBucket"),
        (ATTACHMENT, {"userName": "nobody", "policyName": "read", "policyType": "Custom"}, "UserNotExist"),
        (POLICY, {"policyName": "read", "policyDocument": "{}"}, "InvalidPolicyDocument"),
    ],
)
def test_what_the_cloud_does_not_take_is_refused(
    engine: Engine, cloud: Cloud, token: str, arguments: dict[str, Any], code: str
) -> None:
    assert code in refusal(engine, lambda opts: in_cloud(token, "r", opts, **arguments))
    assert cloud.left() == {}


@pytest.mark.parametrize("token, arguments", [(USER, {"userName": "own"}), (POLICY, READ)])
def test_a_name_of_a_user_or_policy_is_taken_once(
    engine: Engine, cloud: Cloud, token: str, arguments: dict[str, str]
) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        in_cloud(token, "second", after(opts, in_cloud(token, "first", opts, **arguments)), **arguments)

    assert f"{token.rpartition(':')[2]}AlreadyExists" in refusal(engine, steps)


@pytest.mark.parametrize(
    "table, key, words",
    [
        ("attachments", "reader:read:Custom", "DeleteConflict: The user still has 1 policies"),
        ("keys", "AKLTbyhand", "DeleteConflict: The user still has 1 access keys"),
    ],
)
def test_a_user_stays_while_it_has_a_key_or_a_policy(
    engine: Engine, cloud: Cloud, table: str, key: str, words: str
) -> None:
    assert up(engine, lambda opts: in_cloud(USER, "u", opts, userName="reader")).ok
    tables = cloud.tables()
    tables[table][key] = {"user": "reader", "policy": "read", "type": "Custom", "secret": "x", "status": "active"}
    cloud.file.write_text(json.dumps(tables))
    assert words in engine.destroy().error
    assert cloud.left()["users"] == ["reader"]


def test_a_policy_stays_while_a_user_has_it(engine: Engine, cloud: Cloud) -> None:
    cloud.environment["MODELSERVE_CLOUD_RETRY_SECONDS"] = "0"
    assert up(engine, lambda opts: in_cloud(POLICY, "p", opts, **READ)).ok
    tables = cloud.tables()
    tables["attachments"]["reader:read:Custom"] = {"user": "reader", "policy": "read", "type": "Custom"}
    cloud.file.write_text(json.dumps(tables))
    assert "DeleteConflict: The policy is attached to users" in engine.destroy().error
    assert cloud.left()["policies"] == ["read"]


def test_a_user_has_two_keys_at_most(engine: Engine, cloud: Cloud) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        user = in_cloud(USER, "u", opts, userName="reader")
        for number in "123":
            in_cloud(KEY, f"k{number}", after(opts, user), userName="reader")

    assert "LimitExceeded" in refusal(engine, steps)
    assert len(cloud.left()["keys"]) == 2


def test_a_secret_is_told_to_the_keys_creator_only_and_secretly(engine: Engine, cloud: Cloud) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        user = in_cloud(USER, "u", opts, userName="reader")
        in_cloud(KEY, "k", after(opts, user), userName="reader", secretAccessKey=None)

    assert up(engine, steps).ok
    assert engine.refresh().ok
    ((key_id, key),) = cloud.tables()["keys"].items()
    told = engine.resource("k")
    assert told["id"] == told["outputs"]["accessKeyId"] == key_id
    assert set(told["outputs"]["secretAccessKey"]) == {"4dabf18193072939515e22adb298388d", "ciphertext"}
    assert key["secret"] not in json.dumps(engine.state())


def test_a_user_is_renamed_under_the_engines_feet(engine: Engine, cloud: Cloud) -> None:
    """Why ModelBucket replaces a renamed one: the engine goes on asking for the old name."""
    assert up(engine, lambda opts: in_cloud(USER, "u", opts, userName="reader")).ok
    outcome = up(engine, lambda opts: in_cloud(USER, "u", opts, userName="other"))
    assert ("update", "u") in outcome.steps
    assert cloud.left() == {"users": ["other"]}
    assert engine.resource("u")["id"] == "reader"


@pytest.mark.parametrize(
    "variable, value, words",
    [
        ("VOLCENGINE_ACCESS_KEY", "", "set VOLCENGINE_ACCESS_KEY and VOLCENGINE_SECRET_KEY in the environment"),
        ("VOLCENGINE_SECRET_KEY", "", "set VOLCENGINE_ACCESS_KEY and VOLCENGINE_SECRET_KEY in the environment"),
        ("VOLCENGINE_ACCESS_KEY", "denied", "InvalidAccessKeyId"),
    ],
)
def test_wrong_credentials_are_named(engine: Engine, cloud: Cloud, variable: str, value: str, words: str) -> None:
    cloud.environment[variable] = value
    assert words in refusal(engine, bucket)
    assert cloud.left() == {}


def test_a_fault_takes_a_permission_away_until_it_is_gone(engine: Engine, cloud: Cloud) -> None:
    cloud.fail("Bucket", "weights")
    assert "AccessDenied" in refusal(engine, bucket)
    cloud.fail("Bucket", "weights", None)
    assert up(engine, bucket).ok


def test_a_region_that_is_none_is_refused_in_the_preview(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(lambda: bucket(provided("cn-bejing")))
    assert not outcome.ok
    assert "Invalid Volcengine region: cn-bejing" in "".join(outcome.errors)


def test_a_type_that_the_stand_in_lacks_is_named(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(lambda: in_cloud("vpc/vpc:Vpc", "n", provided()))
    assert not outcome.ok
    assert "has no volcengine:vpc/vpc:Vpc: local/providers/volcengine/RULES.md" in "".join(outcome.errors)
