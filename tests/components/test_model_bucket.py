"""The bucket and its two identities: what they are called and allowed, and what the engine is told of them."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime.proto import resource_pb2

from components.alicloud import PLUGIN_VERSION, alicloud_provider
from components.credentials import KeyPair
from components.model_bucket import (
    ModelBucket,
    ModelBucketArgs,
    access_policy,
    bucket_settings,
    identity_name,
    internal_endpoint,
)
from planning.catalog import fact
from tests.support.recorder import Recorder, inputs, is_secret

ROOT = Path(__file__).parents[2]
ARGS = ModelBucketArgs(
    stack="prod", bucket="weights-1", region="cn-hangzhou", prefix="models/DeepSeek-R1", abort_upload_days=3
)
BUCKET_ARN = "acs:oss:*:*:weights-1"


def run(engine: Recorder, args: ModelBucketArgs = ARGS) -> list[ModelBucket]:
    made: list[ModelBucket] = []

    def program() -> None:
        opts = pulumi.ResourceOptions(providers=[alicloud_provider("cloud", args.region)])
        made.append(ModelBucket("weights", args, opts))

    engine.run(program)
    return made


class Finder(Recorder):
    """A recorder whose buckets are all there already."""

    def ReadResource(self, request: resource_pb2.ReadResourceRequest) -> Any:
        self.seen[request.type, request.name] = request
        found = resource_pb2.ReadResourceResponse(urn=f"urn:pulumi:test::modelserve::{request.type}::{request.name}")
        found.properties.update({"bucket": request.id})
        return found


def allowed(document: str, action: str, resource: str, prefix: str | None = None) -> bool:
    """What the cloud would answer: a condition holds where the request carries the prefix, and it fits."""
    for statement in json.loads(document)["Statement"]:
        fits = statement.get("Condition", {}).get("StringLike", {}).get("oss:Prefix", [])
        if (
            action in statement["Action"]
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])
            and ("Condition" not in statement or any(fnmatch.fnmatchcase(prefix or "", fit) for fit in fits))
        ):
            return True
    return False


def constructor(token: str) -> dict[str, bool]:
    """The arguments of the SDK's own class for a type, in camelCase: whether each is required."""
    module, kind = re.fullmatch(r"alicloud:(\w+)/\w+:(\w+)", token).groups()
    package = Path(importlib.util.find_spec("pulumi_alicloud").origin).parent
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    return arguments_of(package / module / f"{name}.py", f"{kind}Args")


def arguments_of(file: Path, name: str) -> dict[str, bool]:
    tree = ast.parse(file.read_text())
    (made,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    (init,) = [node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    defaults = {arg.arg: default is None for arg, default in pairs}
    return {re.sub(r"_(\w)", lambda found: found[1].upper(), arg): required for arg, required in defaults.items()}


def test_the_plugin_is_the_one_of_the_installed_sdk():
    assert importlib.metadata.version("pulumi-alicloud") == PLUGIN_VERSION


def test_the_program_never_imports_the_sdk():
    code = "import sys, components.model_bucket, components.alicloud; print('pulumi_alicloud' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "False\n"


def test_every_argument_is_one_of_the_sdks_own_classes(engine: Recorder):
    run(engine)
    kinds = set()
    for (token, _), request in engine.seen.items():
        if token.startswith("alicloud:"):
            kinds.add(token)
            known, given_ = constructor(token), inputs(request).keys()
            assert given_ <= known.keys(), token
            assert {name for name, required in known.items() if required} <= given_, token
    assert len(kinds) == 7


@pytest.mark.parametrize(
    "path, name",
    [
        (("serverSideEncryptionRule",), "BucketServerSideEncryptionRuleArgs"),
        (("lifecycleRules", 0), "BucketLifecycleRuleArgs"),
        (("lifecycleRules", 0, "abortMultipartUploads", 0), "BucketLifecycleRuleAbortMultipartUploadArgs"),
    ],
)
def test_every_nested_argument_is_one_of_the_sdks_own_classes(path: tuple[Any, ...], name: str):
    package = Path(importlib.util.find_spec("pulumi_alicloud").origin).parent
    part: Any = bucket_settings(ARGS)
    for step in path:
        part = part[step]
    known = arguments_of(package / "oss" / "_inputs.py", name)
    assert part.keys() <= known.keys()
    assert {argument for argument, required in known.items() if required} <= part.keys()


def test_the_provider_takes_its_credentials_from_the_environment_alone(engine: Recorder, monkeypatch):
    monkeypatch.setenv("ALICLOUD_ACCESS_KEY", "canary")
    engine.run(lambda: alicloud_provider("cloud", "cn-hangzhou").id)
    request = engine.one("alicloud")
    assert inputs(request) == {"region": "cn-hangzhou"}
    assert request.version == PLUGIN_VERSION


def test_a_bucket_is_private_before_anybody_has_a_use_for_it(engine: Recorder):
    (made,) = run(engine)
    block, acl = engine.one("BucketPublicAccessBlock"), engine.one("BucketAcl")
    assert inputs(block) == {"bucket": "weights-1", "blockPublicAccess": True}
    assert inputs(acl) == {"bucket": "weights-1", "acl": "private"}
    assert engine.urn(block) in acl.dependencies
    assert engine.urn(engine.one("Bucket")) in block.dependencies
    assert made.endpoint == "oss-cn-hangzhou-internal.aliyuncs.com"


def test_exactly_the_bucket_is_protected_and_what_closes_it_stays_with_it(engine: Recorder):
    run(engine)
    protected = {name for name, request in engine.seen.items() if getattr(request, "protect", False)}
    assert protected == {("alicloud:oss/bucket:Bucket", "weights")}
    retained = {token.rpartition(":")[2] for (token, _), request in engine.seen.items() if request.retainOnDelete}
    assert retained == {"BucketAcl", "BucketPublicAccessBlock"}


def test_a_bucket_that_is_not_kept_goes_whole(engine: Recorder):
    run(engine, replace(ARGS, keep=False))
    assert not [name for name, request in engine.seen.items() if request.protect or request.retainOnDelete]


def test_the_bucket_leaves_alone_what_other_resources_set(engine: Recorder):
    run(engine)
    assert set(engine.one("Bucket").ignoreChanges) == {"acl", "policy"}


def test_keys_are_secret_and_come_after_what_they_are_allowed(engine: Recorder):
    run(engine)
    for role in ("reader", "writer"):
        key = engine.one("AccessKey", f"weights-{role}")
        assert list(key.additionalSecretOutputs) == ["secret"]
        assert engine.urn(engine.one("UserPolicyAttachment", f"weights-{role}")) in key.dependencies


def test_a_renamed_user_is_a_new_one(engine: Recorder):
    run(engine)
    assert list(engine.one("User", "weights-reader").replaceOnChanges) == ["name"]


def test_keys_leave_the_component_as_secrets(engine: Recorder):
    made: list[ModelBucket] = []

    def program() -> None:
        opts = pulumi.ResourceOptions(providers=[alicloud_provider("cloud", ARGS.region)])
        made.append(ModelBucket("weights", ARGS, opts))
        for role in ("reader", "writer"):
            pair = getattr(made[0], role)
            pulumi.CustomResource("test:x:Taker", role, {"id_": pair.id, "secret": pair.secret})

    engine.run(program)
    for role in ("reader", "writer"):
        taken = inputs(engine.one("Taker", role))
        # Of a key that is not made yet there is nothing to mark.
        assert engine.preview or is_secret(taken["id_"])


def test_a_given_key_is_handed_on_and_no_user_made(engine: Recorder):
    def program() -> None:
        given_ = KeyPair(pulumi.Output.secret("LTAI"), pulumi.Output.secret("canary"))
        opts = pulumi.ResourceOptions(providers=[alicloud_provider("cloud", ARGS.region)])
        made = ModelBucket("weights", replace(ARGS, reader=given_), opts)
        assert made.reader is given_ and made.writer is not given_

    engine.run(program)
    assert [name for token, name in engine.seen if token.endswith(":User")] == ["weights-writer"]


@pytest.mark.parametrize("preview", [False, True])
def test_a_bucket_that_is_there_is_read_and_nothing_of_it_owned(preview: bool):
    engine = Finder(preview=preview)
    run(engine, replace(ARGS, create=False))
    request = engine.one("Bucket")
    assert isinstance(request, resource_pb2.ReadResourceRequest) and request.id == "weights-1"
    assert not [token for token, _ in engine.seen if token.endswith((":BucketAcl", ":BucketPublicAccessBlock"))]


def test_the_reader_reads_below_the_prefix_and_the_writer_writes_there():
    reads, writes = access_policy(ARGS, write=False), access_policy(ARGS, write=True)
    inside = f"{BUCKET_ARN}/models/DeepSeek-R1/model-00001.safetensors"
    for policy in (reads, writes):
        assert allowed(policy, "oss:GetObject", inside)
        assert allowed(policy, "oss:ListObjects", BUCKET_ARN, "models/DeepSeek-R1/")
        assert allowed(policy, "oss:GetBucketInfo", BUCKET_ARN)
    for action in ("oss:PutObject", "oss:DeleteObject", "oss:AbortMultipartUpload", "oss:ListParts"):
        assert (allowed(reads, action, inside), allowed(writes, action, inside)) == (False, True)


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("elsewhere", ["other/key", "models/DeepSeek-R1-Zero/key", "models", ""])
def test_nobody_sees_anything_beside_the_prefix(write: bool, elsewhere: str):
    policy = access_policy(ARGS, write=write)
    for action in ("oss:GetObject", "oss:PutObject", "oss:DeleteObject"):
        assert not allowed(policy, action, f"{BUCKET_ARN}/{elsewhere}")
        assert not allowed(policy, action, "acs:oss:*:*:other/models/DeepSeek-R1/key")
    assert not allowed(policy, "oss:ListObjects", BUCKET_ARN, elsewhere)
    assert not allowed(policy, "oss:ListObjects", BUCKET_ARN)
    # It would list DeepSeek-R1-Zero too.
    assert not allowed(policy, "oss:ListObjects", BUCKET_ARN, "models/DeepSeek-R1")
    for action in ("oss:DeleteBucket", "oss:PutBucketAcl", "oss:PutBucketPolicy", "oss:ListBuckets"):
        assert not allowed(policy, action, BUCKET_ARN)


def test_a_policy_fits_the_clouds_limit_with_the_longest_key_there_is():
    longest = replace(ARGS, bucket="b" * 63, prefix="p" * 900)
    assert len(access_policy(longest, write=True)) <= fact("oss", "ram", "policyCharacters")


@given(
    stack=st.text(min_size=1, max_size=100),
    bucket=st.from_regex(fact("oss", "bucket", "namePattern"), fullmatch=True).filter(str.isascii),
    role=st.sampled_from(["reader", "writer"]),
)
def test_a_name_fits_users_and_policies_alike(stack: str, bucket: str, role: str):
    name = identity_name(replace(ARGS, stack=stack, bucket=bucket), role)
    assert re.fullmatch(r"[A-Za-z0-9-]+", name)
    assert len(name) <= min(fact("oss", "ram", "userNameLimit"), fact("oss", "ram", "policyNameLimit"))


def test_names_tell_stacks_buckets_prefixes_and_roles_apart():
    others = [replace(ARGS, stack="dev"), replace(ARGS, bucket="weights-2"), replace(ARGS, prefix="models/other")]
    names = [identity_name(args, role) for args in (ARGS, *others) for role in ("reader", "writer")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name", ["ab", "Weights", "weights_1", "weights-", "-weights", "a" * 64, "<bucket>", "weights\n"]
)
def test_a_name_that_is_no_buckets_is_refused(name: str):
    with pytest.raises(ValueError, match="is no bucket name"):
        replace(ARGS, bucket=name)


@pytest.mark.parametrize("prefix", ["", "/models", "models/"])
def test_a_prefix_with_slashes_at_its_ends_is_refused(prefix: str):
    with pytest.raises(ValueError, match="without a slash"):
        replace(ARGS, prefix=prefix)


def test_the_endpoint_is_the_regions_internal_one():
    assert internal_endpoint("cn-beijing") == "oss-cn-beijing-internal.aliyuncs.com"
