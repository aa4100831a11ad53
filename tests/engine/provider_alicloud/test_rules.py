"""Each line of what RULES.md says is kept of the official plugin and of the cloud, resource by resource."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pulumi
import pytest

from local.paths import ROOT
from tests.engine.clouds import Cloud, after
from tests.engine.provider_alicloud.conftest import add_bucket, in_cloud, provided
from tests.engine.small_program import Engine, Outcome

BUCKET, ACL = "oss/bucket:Bucket", "oss/bucketAcl:BucketAcl"
BLOCK = "oss/bucketPublicAccessBlock:BucketPublicAccessBlock"
USER, POLICY, KEY = "ram/user:User", "ram/policy:Policy", "ram/accessKey:AccessKey"
ATTACHMENT = "ram/userPolicyAttachment:UserPolicyAttachment"
DOCUMENT = json.dumps({"Version": "1", "Statement": [{"Effect": "Allow", "Action": "oss:GetObject", "Resource": "*"}]})
READS = {"policyDocument": DOCUMENT}
Steps = Callable[[pulumi.ResourceOptions], None]


def up(engine: Engine, steps: Steps, region: str = "cn-hangzhou") -> Outcome:
    return engine.up(lambda: steps(provided(region)))


def refusal(engine: Engine, steps: Steps, region: str = "cn-hangzhou") -> str:
    outcome = up(engine, steps, region)
    assert not outcome.ok
    return "\n".join(outcome.errors)


def bucket(opts: pulumi.ResourceOptions, name: str = "weights", **arguments: Any) -> Any:
    return in_cloud(BUCKET, "b", opts, bucket=name, creationDate=None, intranetEndpoint=None, **arguments)


@pytest.mark.parametrize(
    "token, arguments, words",
    [
        (ACL, {"bucket": "weights"}, 'Missing required argument. The argument "acl" is required'),
        (BUCKET, {"bucket": "weights", "bukket": 1}, "Invalid or unknown key. Examine values at 'r.bukket'"),
        (BUCKET, {"bucket": "ab"}, "expected length of bucket to be in the range (3 - 63), got ab"),
        (
            ACL,
            {"bucket": "weights", "acl": "open"},
            'to be one of ["private" "public-read" "public-read-write"], got open',
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
    engine: Engine, cloud: Cloud, token: str, arguments: dict[str, Any], words: str
) -> None:
    outcome = engine.preview(lambda: in_cloud(token, "r", provided(), **arguments))
    assert not outcome.ok
    assert words in "\n".join(outcome.errors)
    assert cloud.left() == {}


@pytest.mark.parametrize("name", ["Weights-1", "weights_1", "weights-"])
def test_a_name_that_is_none_is_refused_by_the_cloud(engine: Engine, cloud: Cloud, name: str) -> None:
    assert "InvalidBucketName" in refusal(engine, lambda opts: bucket(opts, name))
    assert cloud.left() == {}


@pytest.mark.parametrize("owner", ["1000000000000001", "2000000000000002"])
def test_a_name_that_anybody_has_taken_is_refused(engine: Engine, cloud: Cloud, owner: str) -> None:
    add_bucket(cloud, "weights", owner=owner)
    told = refusal(engine, bucket)
    assert "alicloud_oss_bucket" in told and "StatusCode=409, ErrorCode=BucketAlreadyExists" in told


def test_a_bucket_tells_what_the_cloud_made_up(engine: Engine, cloud: Cloud) -> None:
    assert up(engine, bucket).ok
    told = engine.resource("b")
    assert told["id"] == "weights"
    assert told["outputs"]["intranetEndpoint"] == "oss-cn-hangzhou-internal.aliyuncs.com"
    assert told["outputs"]["extranetEndpoint"] == "oss-cn-hangzhou.aliyuncs.com"
    assert told["outputs"]["location"] == "oss-cn-hangzhou"
    assert {"creationDate", "owner"} <= told["outputs"].keys()


def test_force_destroy_empties_the_bucket_first(engine: Engine, cloud: Cloud) -> None:
    assert up(engine, lambda opts: bucket(opts, forceDestroy=True)).ok
    (cloud.objects("weights") / "object").write_text("weights")
    assert engine.destroy().ok
    assert cloud.left() == {} and not cloud.objects("weights").exists()


def test_what_cannot_be_changed_is_replaced_and_the_rest_updated(engine: Engine, cloud: Cloud) -> None:
    def detail(**arguments: Any) -> dict[str, str]:
        return engine.preview(lambda: bucket(provided(), **arguments)).detail["b"]

    assert up(engine, lambda opts: bucket(opts, tags={"a": "1"})).ok
    assert detail(tags={"a": "1"}, storageClass="IA") == {"storageClass": "update-replace"}
    assert detail(tags={"a": "1"}, redundancyType="ZRS") == {"redundancyType": "update-replace"}
    assert detail(tags={"a": "2"}) == {"tags": "update"}
    assert detail() == {"tags": "delete"}
    assert detail(tags={"a": "1"}, versioning={"status": "Enabled"}) == {"versioning": "add"}


def test_a_public_list_is_refused_while_public_access_is_blocked(engine: Engine, cloud: Cloud) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        made = bucket(opts)
        block = in_cloud(BLOCK, "block", after(opts, made), bucket="weights", blockPublicAccess=True)
        in_cloud(ACL, "acl", after(opts, block), bucket="weights", acl="public-read")

    assert "Put public bucket acl is not allowed" in refusal(engine, steps)
    assert cloud.tables()["buckets"]["weights"]["acl"] == "private"


def test_a_block_goes_with_its_resource_and_the_list_stays(engine: Engine, cloud: Cloud) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        made = bucket(opts)
        in_cloud(BLOCK, "block", after(opts, made), bucket="weights", blockPublicAccess=True)
        in_cloud(ACL, "acl", after(opts, made), bucket="weights", acl="private")

    assert up(engine, steps).ok
    assert up(engine, bucket).ok
    found = cloud.tables()["buckets"]["weights"]
    assert (found["acl"], found["blockPublicAccess"]) == ("private", False)


def test_settings_of_a_bucket_that_is_not_there_are_refused(engine: Engine, cloud: Cloud) -> None:
    told = refusal(engine, lambda opts: in_cloud(ACL, "acl", opts, bucket="weights", acl="private"))
    assert "NoSuchBucket" in told


def test_drift_shows_after_a_refresh_and_is_put_back(engine: Engine, cloud: Cloud) -> None:
    assert up(engine, lambda opts: bucket(opts, tags={"a": "1"})).ok
    tables = cloud.tables()
    tables["buckets"]["weights"]["settings"]["tags"] = {"a": "somebody's"}
    cloud.file.write_text(json.dumps(tables))
    assert ("same", "b") in engine.up().steps
    assert engine.refresh().ok
    assert ("update", "b") in engine.up().steps
    assert cloud.tables()["buckets"]["weights"]["settings"]["tags"] == {"a": "1"}
    tables["buckets"].clear()
    cloud.file.write_text(json.dumps(tables))
    assert engine.refresh().ok
    assert "b" not in engine.names()


def test_a_bucket_can_be_imported(engine: Engine, cloud: Cloud) -> None:
    add_bucket(cloud, "weights", settings={"tags": {"a": "1"}})
    adopt = pulumi.ResourceOptions(import_="weights")
    outcome = up(engine, lambda opts: bucket(pulumi.ResourceOptions.merge(opts, adopt), tags={"a": "1"}))
    assert outcome.ok, outcome.output
    assert ("import", "b") in outcome.steps
    assert ("same", "b") in up(engine, lambda opts: bucket(opts, tags={"a": "1"})).steps


def test_a_bucket_elsewhere_is_addressed_there(engine: Engine, cloud: Cloud) -> None:
    add_bucket(cloud, "weights", region="cn-beijing")
    adopt = pulumi.ResourceOptions(import_="weights")
    told = refusal(engine, lambda opts: bucket(pulumi.ResourceOptions.merge(opts, adopt)))
    assert "must be addressed using the specified endpoint oss-cn-beijing.aliyuncs.com" in told


@pytest.mark.parametrize("token, arguments", [(USER, {"name": "own"}), (POLICY, {"policyName": "own", **READS})])
def test_a_name_of_a_user_or_policy_is_taken_once(
    engine: Engine, cloud: Cloud, token: str, arguments: dict[str, str]
) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        first = in_cloud(token, "first", opts, **arguments)
        in_cloud(token, "second", after(opts, first), **arguments)

    assert f"Code: EntityAlreadyExists.{token.rpartition(':')[2]}" in refusal(engine, steps)


@pytest.mark.parametrize("user, policy, missing", [("nobody", "read", "User"), ("reader", "none", "Policy")])
def test_a_policy_that_is_there_goes_to_a_user_that_is_there(
    engine: Engine, cloud: Cloud, user: str, policy: str, missing: str
) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        made = in_cloud(USER, "u", opts, name="reader"), in_cloud(POLICY, "p", opts, policyName="read", **READS)
        in_cloud(ATTACHMENT, "a", after(opts, *made), userName=user, policyName=policy, policyType="Custom")

    assert f"Code: EntityNotExist.{missing}" in refusal(engine, steps)
    assert "attachments" not in cloud.left()


def test_a_user_has_two_keys_at_most_and_stays_while_it_has_any(engine: Engine, cloud: Cloud) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        user = in_cloud(USER, "u", opts, name="reader")
        for number in "123":
            in_cloud(KEY, f"k{number}", after(opts, user), userName="reader")

    assert "Code: LimitExceeded.User.AccessKey" in refusal(engine, steps)
    assert len(cloud.left()["keys"]) == 2
    tables = cloud.tables()
    tables["keys"]["LTAIbyhand"] = {"user": "reader", "secret": "x", "status": "Active", "createTime": ""}
    cloud.file.write_text(json.dumps(tables))
    outcome = engine.destroy()
    assert "Code: DeleteConflict.User.AccessKey" in outcome.error
    assert cloud.left()["keys"] == ["LTAIbyhand"]


def test_a_secret_is_told_to_the_keys_creator_only_and_secretly(engine: Engine, cloud: Cloud) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        user = in_cloud(USER, "u", opts, name="reader")
        in_cloud(KEY, "k", after(opts, user), userName="reader", secret=None)

    assert up(engine, steps).ok
    ((key_id, key),) = cloud.tables()["keys"].items()
    told = engine.resource("k")
    assert told["id"] == key_id
    assert engine.refresh().ok
    assert ("same", "k") in up(engine, steps).steps
    for entry in (told, engine.resource("k")):
        assert set(entry["outputs"]["secret"]) == {"4dabf18193072939515e22adb298388d", "ciphertext"}
    assert key["secret"] not in json.dumps(engine.state())


def test_a_policys_document_is_compared_as_json_and_versions_run_out(engine: Engine, cloud: Cloud) -> None:
    def policy(document: str, **arguments: Any) -> Outcome:
        made = {"policyName": "read", "policyDocument": document, **arguments}
        return up(engine, lambda opts: in_cloud(POLICY, "p", opts, **made))

    assert policy(DOCUMENT).ok
    assert ("same", "p") in policy(json.dumps(json.loads(DOCUMENT), indent=4)).steps
    for number in range(4):
        assert policy(DOCUMENT.replace("*", f"acs:oss:*:*:b{number}")).ok
    last = DOCUMENT.replace("*", "acs:oss:*:*:last")
    assert "Code: LimitExceeded.Policy.Version" in policy(last).error
    assert policy(last, rotateStrategy="DeleteOldestNonDefaultVersionWhenLimitExceeded").ok
    assert list(cloud.tables()["policies"]["read"]["versions"]) == ["v2", "v3", "v4", "v5", "v6"]
    assert "Code: DeleteConflict.Policy.Version" in engine.destroy().error


def test_a_user_is_renamed_in_place(engine: Engine, cloud: Cloud) -> None:
    assert up(engine, lambda opts: in_cloud(USER, "u", opts, name="reader")).ok
    made = engine.resource("u")["id"]
    assert ("update", "u") in up(engine, lambda opts: in_cloud(USER, "u", opts, name="other")).steps
    assert cloud.tables()["users"]["other"]["id"] == made


@pytest.mark.parametrize("missing", ["ALICLOUD_ACCESS_KEY", "ALICLOUD_SECRET_KEY"])
def test_without_credentials_even_a_preview_says_which_are_wanted(engine: Engine, cloud: Cloud, missing: str) -> None:
    cloud.environment[missing] = ""
    outcome = engine.preview(lambda: bucket(provided()))
    assert not outcome.ok
    assert "set ALICLOUD_ACCESS_KEY and ALICLOUD_SECRET_KEY in the environment" in "".join(outcome.errors)


def test_a_key_that_the_cloud_does_not_know_is_refused(engine: Engine, cloud: Cloud) -> None:
    cloud.environment["ALICLOUD_ACCESS_KEY"] = "denied"
    assert "InvalidAccessKeyId.NotFound" in refusal(engine, bucket)
    assert cloud.left() == {}


@pytest.mark.parametrize(
    "kind, name, code", [("Bucket", "weights", "AccessDenied"), ("User", "reader", "NoPermission")]
)
def test_a_fault_takes_a_permission_away_until_it_is_gone(
    engine: Engine, cloud: Cloud, kind: str, name: str, code: str
) -> None:
    def steps(opts: pulumi.ResourceOptions) -> None:
        bucket(opts)
        in_cloud(USER, "u", opts, name="reader")

    cloud.fail(kind, name)
    assert code in refusal(engine, steps)
    cloud.fail(kind, name, None)
    assert up(engine, steps).ok
    assert cloud.left() == {"buckets": ["weights"], "users": ["reader"]}


def test_a_region_that_is_none_is_refused_in_the_preview(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(lambda: bucket(provided("cn-hangzou")))
    assert not outcome.ok
    assert "Invalid Alibaba Cloud region: cn-hangzou" in "".join(outcome.errors)


def test_a_type_that_the_stand_in_lacks_is_named(engine: Engine, cloud: Cloud) -> None:
    outcome = engine.preview(lambda: in_cloud("vpc/network:Network", "n", provided()))
    assert not outcome.ok
    assert "has no alicloud:vpc/network:Network" in "".join(outcome.errors)


def test_who_changes_the_cloud_at_once_loses_nothing(cloud: Cloud) -> None:
    code = (
        "import sys; from pathlib import Path; from local.providers.cloud import opened\n"
        "for i in range(40):\n"
        "    with opened(Path(sys.argv[1]), 'cn-hangzhou') as cloud:\n"
        "        cloud.users[f'{sys.argv[2]}-{i}'] = {'id': '1'}\n"
    )
    folder = str(cloud.file.parent)
    running = [subprocess.Popen([sys.executable, "-c", code, folder, who], cwd=ROOT) for who in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(cloud.left()["users"]) == 120
    assert os.stat(cloud.file).st_mode & 0o077 == 0
