"""The bucket and its two identities: their names and permissions, and how they are registered with the engine."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pulumi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime.proto import resource_pb2

from components.cluster.alicloud_provider import alicloud_provider
from components.cluster.credentials import KeyPair, Oidc, Role
from components.cluster.volcengine_provider import volcengine_provider
from components.weights import oss_bucket, tos_bucket
from components.weights.model_bucket import ModelBucket, ModelBucketArgs, access_policy, identity_name
from local.paths import ROOT
from planning.catalog import fact
from planning.problems import Refused
from tests.support.clouds_sdk import arguments_of, constructor
from tests.support.recorder import Recorder, inputs, is_secret

OSS = ModelBucketArgs(
    cloud="acs",
    stack="prod",
    bucket="weights-1",
    region="cn-hangzhou",
    prefix="models/DeepSeek-R1",
    abort_upload_days=3,
)
TOS = replace(OSS, cloud="volcengine", region="cn-beijing")
BOTH = pytest.mark.parametrize("args", [OSS, TOS], ids=["oss", "tos"])


@dataclass(frozen=True)
class Words:
    """A cloud's names for things, and the number of kinds of resources that a bucket and its users consist of."""

    package: str
    provider: Callable[[str, str], pulumi.ProviderResource]
    variable: str
    kinds: int
    bucket: str
    name: str
    user: str
    secret: str
    settings: frozenset[str]
    arn: str
    list: str
    prefix: str
    read: tuple[str, ...]
    written: tuple[str, ...]
    forbidden: tuple[str, ...]
    limits: tuple[str, str]


WORDS = {
    "acs": Words(
        package="alicloud",
        provider=alicloud_provider,
        variable="ALICLOUD_ACCESS_KEY",
        kinds=7,
        bucket="alicloud:oss/bucket:Bucket",
        name="bucket",
        user="name",
        secret="secret",
        settings=frozenset({"BucketAcl", "BucketPublicAccessBlock"}),
        arn="acs:oss:*:*:weights-1",
        list="oss:ListObjects",
        prefix="oss:Prefix",
        read=("oss:GetBucketInfo", "oss:GetObject"),
        written=("oss:PutObject", "oss:DeleteObject", "oss:AbortMultipartUpload", "oss:ListParts"),
        forbidden=("oss:DeleteBucket", "oss:PutBucketAcl", "oss:PutBucketPolicy", "oss:ListBuckets"),
        limits=("oss", "ram"),
    ),
    "volcengine": Words(
        package="volcengine",
        provider=volcengine_provider,
        variable="VOLCENGINE_ACCESS_KEY",
        kinds=7,
        bucket="volcengine:tos/bucket:Bucket",
        name="bucketName",
        user="userName",
        secret="secretAccessKey",
        settings=frozenset({"BucketEncryption", "BucketLifecycle"}),
        arn="trn:tos:::weights-1",
        list="tos:ListBucket",
        prefix="tos:prefix",
        read=("tos:HeadBucket", "tos:GetObject"),
        written=("tos:PutObject", "tos:DeleteObject", "tos:AbortMultipartUpload", "tos:ListMultipartUploadParts"),
        forbidden=("tos:DeleteBucket", "tos:PutBucketACL", "tos:PutBucketPolicy", "tos:ListBuckets"),
        limits=("tos", "iam"),
    ),
}


def run(engine: Recorder, args: ModelBucketArgs) -> list[ModelBucket]:
    made: list[ModelBucket] = []

    def program() -> None:
        opts = pulumi.ResourceOptions(providers=[WORDS[args.cloud].provider("cloud", args.region)])
        made.append(ModelBucket("weights", args, opts))

    engine.run(program)
    return made


class Finder(Recorder):
    """A recorder on which all buckets already exist."""

    def ReadResource(self, request: resource_pb2.ReadResourceRequest) -> Any:
        self.seen[request.type, request.name] = request
        found = resource_pb2.ReadResourceResponse(urn=f"urn:pulumi:test::modelserve::{request.type}::{request.name}")
        name = next(words.name for words in WORDS.values() if words.bucket == request.type)
        found.properties.update({name: request.id})
        return found


def allowed(args: ModelBucketArgs, write: bool, action: str, key: str = "", prefix: str | None = None) -> bool:
    """The cloud's decision about a key of the bucket, or about the bucket: a condition holds if the request carries a
    prefix that matches."""
    words = WORDS[args.cloud]
    resource = f"{words.arn}/{key}" if key else words.arn
    for statement in json.loads(access_policy(args, write=write))["Statement"]:
        fits = statement.get("Condition", {}).get("StringLike", {}).get(words.prefix, [])
        if (
            action in statement["Action"]
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])
            and ("Condition" not in statement or any(fnmatch.fnmatchcase(prefix or "", fit) for fit in fits))
        ):
            return True
    return False


@pytest.mark.parametrize("module", ["alicloud", "volcengine"])
def test_the_plugin_is_the_one_of_the_installed_sdk(module: str):
    provider = importlib.import_module(f"components.cluster.{module}_provider")
    assert importlib.metadata.version(f"pulumi-{module}") == provider.PLUGIN_VERSION


def test_the_vendors_plugin_is_looked_for_where_its_sdk_says(engine: Recorder):
    run(engine, TOS)
    sdk = Path(importlib.util.find_spec("pulumi_volcengine").origin).with_name("pulumi-plugin.json")
    assert engine.one("volcengine").pluginDownloadURL == json.loads(sdk.read_text())["server"]


def test_the_program_never_imports_an_sdk():
    code = "import sys, components.weights.model_bucket; "
    code += "import components.cluster.alicloud_provider, components.cluster.volcengine_provider; "
    code += "print([name for name in ('pulumi_alicloud', 'pulumi_volcengine') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "[]\n"


@BOTH
def test_every_argument_is_one_of_the_sdks_own_classes(engine: Recorder, args: ModelBucketArgs):
    run(engine, args)
    kinds = set()
    for (token, _), request in engine.seen.items():
        if token.startswith(f"{WORDS[args.cloud].package}:"):
            kinds.add(token)
            known, given_ = constructor(token), inputs(request).keys()
            assert given_ <= known.keys(), token
            assert {name for name, required in known.items() if required} <= given_, token
    assert len(kinds) == WORDS[args.cloud].kinds


@pytest.mark.parametrize(
    "module, part, name",
    [
        ("alicloud/oss", "serverSideEncryptionRule", "BucketServerSideEncryptionRuleArgs"),
        ("alicloud/oss", "lifecycleRules/0", "BucketLifecycleRuleArgs"),
        ("alicloud/oss", "lifecycleRules/0/abortMultipartUploads/0", "BucketLifecycleRuleAbortMultipartUploadArgs"),
        ("volcengine/tos", "rule", "BucketEncryptionRuleArgs"),
        (
            "volcengine/tos",
            "rule/applyServerSideEncryptionByDefault",
            "BucketEncryptionRuleApplyServerSideEncryptionByDefaultArgs",
        ),
        ("volcengine/tos", "rules/0", "BucketLifecycleRuleArgs"),
        (
            "volcengine/tos",
            "rules/0/abortIncompleteMultipartUpload",
            "BucketLifecycleRuleAbortIncompleteMultipartUploadArgs",
        ),
    ],
)
def test_every_nested_argument_is_one_of_the_sdks_own_classes(module: str, part: str, name: str):
    package, _, folder = module.partition("/")
    value: Any = oss_bucket.bucket_settings("weights-1", 3)
    if folder == "tos":
        value = {"rule": tos_bucket.encryption_rule(), "rules": [tos_bucket.lifecycle_rule(3)]}
    for step in part.split("/"):
        value = value[int(step) if step.isdigit() else step]
    file = Path(importlib.util.find_spec(f"pulumi_{package}").origin).parent / folder / "_inputs.py"
    known = arguments_of(file, name)
    assert value.keys() <= known.keys()
    assert {argument for argument, required in known.items() if required} <= value.keys()


@BOTH
def test_the_provider_takes_its_credentials_from_the_environment_alone(
    engine: Recorder, monkeypatch: pytest.MonkeyPatch, args: ModelBucketArgs
):
    words = WORDS[args.cloud]
    monkeypatch.setenv(words.variable, "canary")
    engine.run(lambda: words.provider("cloud", args.region).id)
    request = engine.one(words.package)
    assert inputs(request) == {"region": args.region}
    assert request.version == importlib.metadata.version(f"pulumi-{words.package}")


def test_a_bucket_of_oss_is_private_before_anybody_has_a_use_for_it(engine: Recorder):
    (made,) = run(engine, OSS)
    block, acl = engine.one("BucketPublicAccessBlock"), engine.one("BucketAcl")
    assert inputs(block) == {"bucket": "weights-1", "blockPublicAccess": True}
    assert inputs(acl) == {"bucket": "weights-1", "acl": "private"}
    assert engine.urn(block) in acl.dependencies
    assert engine.urn(engine.one("Bucket")) in block.dependencies
    assert made.endpoint == "oss-cn-hangzhou-internal.aliyuncs.com"


def test_a_bucket_of_tos_is_private_from_its_first_moment_and_encrypts_what_it_gets(engine: Recorder):
    (made,) = run(engine, TOS)
    bucket, encryption = engine.one("Bucket"), engine.one("BucketEncryption")
    assert inputs(bucket) == {"bucketName": "weights-1", "publicAcl": "private", "storageClass": "STANDARD"}
    assert inputs(encryption)["rule"] == {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}
    assert engine.urn(bucket) in encryption.dependencies
    (rule,) = inputs(engine.one("BucketLifecycle"))["rules"]
    assert (rule["status"], rule["abortIncompleteMultipartUpload"]) == ("Enabled", {"daysAfterInitiation": 3})
    assert made.endpoint == "tos-s3-cn-beijing.ivolces.com"


def test_who_takes_a_bucket_of_tos_waits_for_its_encryption(engine: Recorder):
    def program() -> None:
        made = ModelBucket("weights", TOS, pulumi.ResourceOptions(providers=[volcengine_provider("cloud", TOS.region)]))
        pulumi.CustomResource("test:x:Taker", "taker", {"bucket": made.bucket})

    engine.run(program)
    assert engine.urn(engine.one("BucketEncryption")) in engine.one("Taker").dependencies


@BOTH
def test_exactly_the_bucket_is_protected_and_its_settings_stay_with_it(engine: Recorder, args: ModelBucketArgs):
    run(engine, args)
    protected = {name for name, request in engine.seen.items() if getattr(request, "protect", False)}
    assert protected == {(WORDS[args.cloud].bucket, "weights")}
    retained = {token.rpartition(":")[2] for (token, _), request in engine.seen.items() if request.retainOnDelete}
    assert retained == WORDS[args.cloud].settings


@BOTH
def test_a_bucket_that_is_not_kept_goes_whole(engine: Recorder, args: ModelBucketArgs):
    run(engine, replace(args, keep=False))
    assert not [name for name, request in engine.seen.items() if request.protect or request.retainOnDelete]


def test_the_bucket_leaves_alone_what_other_resources_set(engine: Recorder):
    run(engine, OSS)
    assert set(engine.one("Bucket").ignoreChanges) == {"acl", "policy"}


@pytest.mark.preview_too
@BOTH
def test_keys_are_secret_and_come_after_what_they_are_allowed(engine: Recorder, args: ModelBucketArgs):
    run(engine, args)
    for role in ("reader", "writer"):
        key = engine.one("AccessKey", f"weights-{role}")
        assert list(key.additionalSecretOutputs) == [WORDS[args.cloud].secret]
        assert engine.urn(engine.one("UserPolicyAttachment", f"weights-{role}")) in key.dependencies


@BOTH
def test_a_renamed_user_is_a_new_one(engine: Recorder, args: ModelBucketArgs):
    run(engine, args)
    assert list(engine.one("User", "weights-reader").replaceOnChanges) == [WORDS[args.cloud].user]


def test_a_renamed_policy_of_volcengine_is_a_new_one(engine: Recorder):
    run(engine, TOS)
    assert list(engine.one("Policy", "weights-reader").replaceOnChanges) == ["policyName"]


@pytest.mark.preview_too
@BOTH
def test_keys_leave_the_component_as_secrets(engine: Recorder, args: ModelBucketArgs):
    def program() -> None:
        opts = pulumi.ResourceOptions(providers=[WORDS[args.cloud].provider("cloud", args.region)])
        made = ModelBucket("weights", args, opts)
        for role in ("reader", "writer"):
            pair = getattr(made, role)
            pulumi.CustomResource("test:x:Taker", role, {"id_": pair.id, "secret": pair.secret})

    engine.run(program)
    for role in ("reader", "writer"):
        taken = inputs(engine.one("Taker", role))
        # A key that does not exist yet has nothing to mark.
        assert engine.preview or is_secret(taken["id_"])


@BOTH
def test_a_given_key_is_handed_on_and_no_user_made(engine: Recorder, args: ModelBucketArgs):
    def program() -> None:
        given_ = KeyPair(pulumi.Output.secret("LTAI"), pulumi.Output.secret("canary"))
        opts = pulumi.ResourceOptions(providers=[WORDS[args.cloud].provider("cloud", args.region)])
        made = ModelBucket("weights", replace(args, reader=given_), opts)
        assert made.reader is given_ and made.writer is not given_

    engine.run(program)
    assert [name for token, name in engine.seen if token.endswith(":User")] == ["weights-writer"]


@BOTH
@pytest.mark.parametrize("preview", [False, True])
def test_a_bucket_that_is_there_is_read_and_nothing_of_it_owned(preview: bool, args: ModelBucketArgs):
    engine = Finder(preview=preview)
    run(engine, replace(args, create=False))
    request = engine.one("Bucket")
    assert isinstance(request, resource_pb2.ReadResourceRequest) and request.id == "weights-1"
    made = {token.rpartition(":")[2] for token, _ in engine.seen}
    assert "AccessKey" in made and not made & WORDS[args.cloud].settings


@BOTH
def test_the_reader_reads_below_the_prefix_and_the_writer_writes_there(args: ModelBucketArgs):
    words, inside = WORDS[args.cloud], "models/DeepSeek-R1/model-00001.safetensors"
    ask, read = words.read
    for write in (False, True):
        assert allowed(args, write, ask) and allowed(args, write, read, inside)
        assert allowed(args, write, words.list, prefix="models/DeepSeek-R1/")
        assert allowed(args, write, words.list, prefix="models/DeepSeek-R1/original/")
    for action in words.written:
        assert (allowed(args, False, action, inside), allowed(args, True, action, inside)) == (False, True)


@BOTH
@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("elsewhere", ["other/key", "models/DeepSeek-R1-Zero/key", "models", ""])
def test_nobody_sees_anything_beside_the_prefix(args: ModelBucketArgs, write: bool, elsewhere: str):
    words, other = WORDS[args.cloud], replace(args, bucket="other")
    for action in (words.read[1], *words.written):
        assert not elsewhere or not allowed(args, write, action, elsewhere)
        assert not allowed(other, write, action, "models/DeepSeek-R1/key")
    assert not allowed(args, write, words.list, prefix=elsewhere)
    assert not allowed(args, write, words.list)
    # This prefix would list DeepSeek-R1-Zero too.
    assert not allowed(args, write, words.list, prefix="models/DeepSeek-R1")
    for action in words.forbidden:
        assert not allowed(args, write, action)


@BOTH
def test_a_policy_fits_the_clouds_limit_with_the_longest_key_there_is(args: ModelBucketArgs):
    longest = replace(args, bucket="b" * 63, prefix="p" * 900)
    assert len(access_policy(longest, write=True)) <= fact(*WORDS[args.cloud].limits, "policyCharacters")


@BOTH
@given(
    stack=st.text(min_size=1, max_size=100),
    bucket=st.from_regex(fact("oss", "bucket", "namePattern"), fullmatch=True).filter(str.isascii),
    role=st.sampled_from(["reader", "writer"]),
)
def test_a_name_fits_users_and_policies_alike(args: ModelBucketArgs, stack: str, bucket: str, role: str):
    name = identity_name(replace(args, stack=stack, bucket=bucket), role)
    limits = WORDS[args.cloud].limits
    assert re.fullmatch(r"[A-Za-z0-9-]+", name)
    assert len(name) <= min(fact(*limits, "userNameLimit"), fact(*limits, "policyNameLimit"))


def test_names_tell_stacks_buckets_prefixes_and_roles_apart():
    others = [replace(OSS, stack="dev"), replace(OSS, bucket="weights-2"), replace(OSS, prefix="models/other")]
    names = [identity_name(args, role) for args in (OSS, *others) for role in ("reader", "writer")]
    assert len(set(names)) == len(names)


@BOTH
@pytest.mark.parametrize(
    "name", ["ab", "Weights", "weights_1", "weights-", "-weights", "a" * 64, "<bucket>", "weights\n"]
)
def test_a_name_that_is_no_buckets_is_refused(args: ModelBucketArgs, name: str):
    with pytest.raises(Refused, match="is no bucket name"):
        replace(args, bucket=name)


@pytest.mark.parametrize("prefix", ["", "/models", "models/"])
def test_a_prefix_with_slashes_at_its_ends_is_refused(prefix: str):
    with pytest.raises(Refused, match="has a slash at an end"):
        replace(OSS, prefix=prefix)


def test_a_cloud_without_buckets_is_refused():
    with pytest.raises(Refused, match="cloud local: has no buckets here; use acs or volcengine"):
        replace(OSS, cloud="local")


# --- roles and generations


OIDC = Oidc("acs:ram::1:oidc-provider/ack-rrsa-c1", "https://oidc.example/c1")
TAKEN = replace(
    OSS, oidc=OIDC, takers={"reader": ["ack-csi-fuse:csi-fuse-ossfs"], "writer": ["ml:a-sync", "ml:b-sync"]}
)


def test_who_takes_a_role_has_no_user_and_no_key_and_is_allowed_the_same(engine: Recorder):
    (made,) = run(engine, TAKEN)
    assert isinstance(made.reader, Role) and isinstance(made.writer, Role)
    tokens = {token for token, _ in engine.seen}
    assert not tokens & {"alicloud:ram/user:User", oss_bucket.ACCESS_KEY} and oss_bucket.ROLE_POLICY in tokens
    for who in ("reader", "writer"):
        role, policy = (
            inputs(engine.seen[f"alicloud:ram/{kind}", f"weights-{who}"]) for kind in ("role:Role", "policy:Policy")
        )
        assert role["roleName"] == policy["policyName"] == identity_name(OSS, who)
        assert policy["policyDocument"] == access_policy(OSS, write=who == "writer")
        assert len(role["roleName"]) <= fact("oss", "ram", "roleNameLimit")


def test_a_role_trusts_these_accounts_of_this_cluster_alone(engine: Recorder):
    run(engine, TAKEN)
    (trust,) = json.loads(inputs(engine.seen[oss_bucket.ROLE, "weights-writer"])["assumeRolePolicyDocument"])[
        "Statement"
    ]
    assert (trust["Effect"], trust["Action"]) == ("Allow", "sts:AssumeRole")
    assert trust["Principal"] == {"Federated": [OIDC.provider]}
    assert trust["Condition"] == {
        "StringEquals": {
            "oidc:aud": "sts.aliyuncs.com",
            "oidc:iss": OIDC.issuer,
            "oidc:sub": ["system:serviceaccount:ml:a-sync", "system:serviceaccount:ml:b-sync"],
        }
    }


def test_every_argument_of_a_role_is_one_of_the_sdks_own_classes(engine: Recorder):
    run(engine, TAKEN)
    for token in (oss_bucket.ROLE, oss_bucket.ROLE_POLICY):
        known, given_ = constructor(token), inputs(engine.seen[token, "weights-reader"]).keys()
        assert given_ <= known.keys() and {name for name, required in known.items() if required} <= given_


@BOTH
def test_each_generation_is_a_user_with_a_key_and_the_first_named_is_in_use(engine: Recorder, args: ModelBucketArgs):
    words = WORDS[args.cloud]
    used: list[str] = []

    def program() -> None:
        opts = pulumi.ResourceOptions(providers=[words.provider("cloud", args.region)])
        made = ModelBucket("weights", replace(args, keys=(2, 1), writes=False), opts)
        assert isinstance(made.reader, KeyPair)
        made.reader.id.apply(used.append)

    engine.run(program)
    assert "weights-reader-2" in used[0]
    keys = {name for token, name in engine.seen if token.endswith(":AccessKey")}
    assert keys == {"weights-reader", "weights-reader-2"}
    users = {
        name: inputs(request)[words.user] for (token, name), request in engine.seen.items() if token.endswith(":User")
    }
    own = identity_name(args, "reader")
    assert users == {"weights-reader": own, "weights-reader-2": f"{own}-2"}
    assert len([token for token, _ in engine.seen if token.endswith("/policy:Policy")]) == 1
