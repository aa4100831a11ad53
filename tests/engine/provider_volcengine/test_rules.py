"""Each line of what RULES.md says is kept of the official plugin and of the cloud, resource by resource."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pulumi
import pytest

from local.paths import ROOT
from tests.engine.clouds import Cloud
from tests.engine.provider.conftest import Engine, Outcome
from tests.engine.provider_volcengine.conftest import add_bucket, in_cloud, provided

BUCKET, ENCRYPTION = "tos/bucket:Bucket", "tos/bucketEncryption:BucketEncryption"
USER, POLICY, KEY = "iam/user:User", "iam/policy:Policy", "iam/accessKey:AccessKey"
ATTACHMENT = "iam/userPolicyAttachment:UserPolicyAttachment"
DOCUMENT = json.dumps({"Statement": [{"Effect": "Allow", "Action": ["tos:GetObject"], "Resource": ["*"]}]})
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


def after(opts: pulumi.ResourceOptions, *others: Any) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=list(others)))


def test_wrong_arguments_are_refused_before_anything_is_made(engine: Engine, cloud: Cloud) -> None:
    def steps() -> None:
        opts = provided()
        in_cloud(BUCKET, "acl", opts, bucketName="weights", publicAcl="open")
        in_cloud(ENCRYPTION, "rule", opts, bucketName="weights")
        in_cloud(POLICY, "policy", opts, policyName="read", policyDocument=DOCUMENT, force=True)

    outcome = engine.preview(steps)
    told = "\n".join(outcome.errors)
    assert not outcome.ok and cloud.left() == {}
    assert 'expected publicAcl to be one of ["private" "public-read"' in told
    assert "Invalid or unknown key. Examine values at 'policy.force'" in told
    assert 'Missing required argument. The argument "rule" is required' in told


@pytest.mark.parametrize("owner", ["2100000001", "1000000000000001"])
def test_a_name_that_anybody_has_taken_is_refused(engine: Engine, cloud: Cloud, owner: str) -> None:
    add_bucket(cloud, "weights", owner=owner)
    told = refusal(engine, bucket)
    assert "error on creating tos bucket" in told and "BucketAlreadyExists: " in told and "status code: 409" in told


def test_a_bucket_tells_what_the_cloud_made_up_and_what_cannot_change_is_replaced(engine: Engine, cloud: Cloud) -> None:
    def detail(**arguments: Any) -> dict[str, str]:
        return engine.preview(lambda: bucket(provided(), **arguments)).detail["b"]

    assert "InvalidBucketName" in refusal(engine, lambda opts: bucket(opts, "weights_1"))
    assert up(engine, bucket).ok
    told = engine.resource("b")
    assert told["id"] == "weights"
    assert told["outputs"]["intranetEndpoint"] == "tos-cn-beijing.ivolces.com"
    assert told["outputs"]["extranetEndpoint"] == "tos-cn-beijing.volces.com"
    assert told["outputs"]["location"] == "cn-beijing"
    assert "creationDate" in told["outputs"]
    assert detail(azRedundancy="multi-az") == {"azRedundancy": "update-replace"}
    assert detail(storageClass="IA") == {"storageClass": "update"}


def test_settings_need_a_bucket_and_go_without_it(engine: Engine, cloud: Cloud) -> None:
    def encrypted(opts: pulumi.ResourceOptions) -> None:
        in_cloud(ENCRYPTION, "e", after(opts, bucket(opts)), bucketName="weights", rule=RULE)

    told = refusal(engine, lambda opts: in_cloud(ENCRYPTION, "e", opts, bucketName="weights", rule=RULE))
    assert "NoSuchBucket" in told
    assert up(engine, encrypted).ok
    assert cloud.tables()["buckets"]["weights"]["encryption"] == RULE
    assert up(engine, bucket).ok
    assert "encryption" not in cloud.tables()["buckets"]["weights"]


def test_a_bucket_that_is_gone_fails_a_refresh_and_a_user_that_is_gone_leaves_the_state(
    engine: Engine, cloud: Cloud
) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        in_cloud(USER, "u", opts, userName="reader")

    assert up(engine, steps).ok
    cloud.file.write_text("{}")
    assert engine.refresh().ok
    assert "u" not in engine.names()
    assert up(engine, bucket).ok
    cloud.file.write_text("{}")
    outcome = engine.refresh()
    assert not outcome.ok
    assert "error on reading tos bucket" in "".join(outcome.errors) and "NoSuchBucket" in "".join(outcome.errors)


def test_names_are_taken_once_and_attached_things_must_be_there(engine: Engine, cloud: Cloud) -> None:
    def twice(token: str, **arguments: str) -> str:
        def steps(opts: pulumi.ResourceOptions) -> None:
            in_cloud(token, "second", after(opts, in_cloud(token, "first", opts, **arguments)), **arguments)

        return refusal(engine, steps)

    assert "UserAlreadyExists" in twice(USER, userName="own")
    assert "PolicyAlreadyExists" in twice(POLICY, policyName="own", policyDocument=DOCUMENT)
    lacking = {"userName": "nobody", "policyName": "own", "policyType": "Custom"}
    assert "UserNotExist" in refusal(engine, lambda opts: in_cloud(ATTACHMENT, "a", opts, **lacking))
    bad = {"policyName": "bad", "policyDocument": "{}"}
    assert "InvalidPolicyDocument" in refusal(engine, lambda opts: in_cloud(POLICY, "p", opts, **bad))
    assert not {"attachments"} & cloud.left().keys()


def test_a_user_and_a_policy_stay_while_they_are_used(engine: Engine, cloud: Cloud) -> None:
    cloud.environment["MODELSERVE_CLOUD_RETRY_SECONDS"] = "0"

    def steps(opts: pulumi.ResourceOptions) -> None:
        in_cloud(USER, "u", opts, userName="reader")
        in_cloud(POLICY, "p", opts, policyName="read", policyDocument=DOCUMENT)

    assert up(engine, steps).ok
    tables = cloud.tables()
    tables["attachments"]["reader:read:Custom"] = {"user": "reader", "policy": "read", "type": "Custom"}
    tables["keys"]["AKLTbyhand"] = {"user": "reader", "secret": "x", "status": "active"}
    cloud.file.write_text(json.dumps(tables))
    told = engine.destroy().error
    assert "DeleteConflict: The user still has 1 access keys" in told
    assert "DeleteConflict: The policy is attached to users" in told
    assert {"users", "policies"} <= cloud.left().keys()


def test_a_user_has_two_keys_at_most_and_only_their_creator_is_told_the_secret(engine: Engine, cloud: Cloud) -> None:
    def keys(*numbers: str) -> Steps:
        def steps(opts: pulumi.ResourceOptions) -> None:
            user = in_cloud(USER, "u", opts, userName="reader")
            for number in numbers:
                in_cloud(KEY, f"k{number}", after(opts, user), userName="reader", secretAccessKey=None)

        return steps

    assert up(engine, keys("1", "2")).ok
    assert "LimitExceeded" in refusal(engine, keys("1", "2", "3"))
    assert engine.refresh().ok
    for name in ("k1", "k2"):
        told = engine.resource(name)
        assert told["id"] == told["outputs"]["accessKeyId"] in cloud.tables()["keys"]
        assert set(told["outputs"]["secretAccessKey"]) == {"4dabf18193072939515e22adb298388d", "ciphertext"}
        assert cloud.tables()["keys"][told["id"]]["secret"] not in json.dumps(engine.state())


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


def test_what_the_stand_in_lacks_is_named(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(lambda: bucket(provided("cn-bejing")))
    assert not outcome.ok and "Invalid Volcengine region: cn-bejing" in "".join(outcome.errors)
    outcome = engine.preview(lambda: in_cloud("vpc/vpc:Vpc", "n", provided()))
    assert not outcome.ok and "has no volcengine:vpc/vpc:Vpc: local/providers/volcengine/RULES.md" in "".join(
        outcome.errors
    )


def test_the_plugin_starts_without_the_sdk() -> None:
    code = (
        "import sys; from local.providers import serving; serving.skip_sdk();"
        "import local.providers.volcengine.provider; print('pulumi.output' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "False\n"
