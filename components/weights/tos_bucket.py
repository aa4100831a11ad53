"""A bucket of Volcengine's TOS, and the IAM users that may use a part of it: what ModelBucket makes there.

TOS has nothing that blocks public access for good, and no bucket policy is written here: a bucket is closed by its
access control list, which the provider puts back, and a policy that denies by conditions which nobody could confirm
might lock out its owner.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pulumi

from components.weights import bucket_users
from components.weights.bucket_users import Accounts, allow
from planning.catalog import fact

BUCKET = "volcengine:tos/bucket:Bucket"
ENCRYPTION = "volcengine:tos/bucketEncryption:BucketEncryption"
LIFECYCLE = "volcengine:tos/bucketLifecycle:BucketLifecycle"
_ACCOUNTS = Accounts(
    package="volcengine:iam",
    name="userName",
    secret="secretAccessKey",
    # It would be renamed in place, while the engine goes on knowing it by the old name, its id.
    policy_replaced=["policyName"],
)
identity = partial(bucket_users.identity, _ACCOUNTS)
ACCESS_KEY = _ACCOUNTS.access_key
NAME_PATTERN = fact("tos", "bucket", "namePattern")


def endpoint(region: str) -> str:
    """The host that serves a region's buckets over S3 to its own network. It takes a bucket in the host name only."""
    return fact("tos", "endpoint", "s3Internal").format(region=region)


def bucket_settings(bucket: str) -> dict[str, Any]:
    """The bucket's arguments. It has no switch that empties it when it is deleted: a full one stays."""
    return {"bucketName": bucket, "publicAcl": "private", "storageClass": "STANDARD"}


def encryption_rule() -> dict[str, Any]:
    """What every object is encrypted with unless its writer says otherwise: a key that TOS keeps."""
    return {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}


def lifecycle_rule(abort_upload_days: int) -> dict[str, Any]:
    """The rule that throws away uploads which nobody has completed."""
    return {
        # Without an id of ours the cloud makes one up, which then differs from what is written here.
        "id": "abort-stale-uploads",
        "status": "Enabled",
        "abortIncompleteMultipartUpload": {"daysAfterInitiation": abort_upload_days},
    }


def access_policy(bucket: str, prefix: str, *, write: bool) -> str:
    """The IAM policy, JSON, of who reads (and writes) below the prefix and sees nothing else of the bucket."""
    itself = fact("tos", "policy", "resource").format(bucket=bucket)
    # The bare prefix as a key too: a client that looks whether it is one must be told «not there», not «not yours».
    keys = [f"{itself}/{prefix}/*", f"{itself}/{prefix}"]
    # The slash must be asked for: without it the list would show models whose name begins likewise.
    asked = {fact("tos", "policy", "prefixCondition"): [f"{prefix}/", f"{prefix}/*"]}
    statements = [
        allow([*_actions("readBucket"), *(_actions("writeBucket") if write else ())], [itself]),
        # Apart from the others: no other request carries a prefix, and a condition on what is absent never holds.
        {**allow(_actions("list"), [itself]), "Condition": {"StringLike": asked}},
        allow([*_actions("readObjects"), *(_actions("writeObjects") if write else ())], keys),
    ]
    return json.dumps({"Statement": statements})


def _actions(kind: str) -> Sequence[str]:
    return fact("tos", "policy", kind)


def create(
    parent: pulumi.Resource,
    name: str,
    bucket: str,
    abort_upload_days: int,
    *,
    keep: bool,
    hooks: pulumi.ResourceHookBinding | None,
) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """The bucket, and its name once what is written to it is encrypted. It is private from its first moment."""
    made = pulumi.CustomResource(
        BUCKET, name, bucket_settings(bucket), pulumi.ResourceOptions(parent=parent, protect=keep, hooks=hooks)
    )
    named = pulumi.get(made, "bucketName")
    # A bucket that stays keeps its settings.
    kept = pulumi.ResourceOptions(parent=parent, retain_on_delete=keep, hooks=hooks)
    encryption = pulumi.CustomResource(ENCRYPTION, name, {"bucketName": named, "rule": encryption_rule()}, kept)
    rules = [lifecycle_rule(abort_upload_days)]
    pulumi.CustomResource(LIFECYCLE, name, {"bucketName": named, "rules": rules}, kept)
    return made, pulumi.get(encryption, "bucketName")


def look_up(parent: pulumi.Resource, name: str, bucket: str) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """A bucket that is there, and its name."""
    found = pulumi.CustomResource(BUCKET, name, {"bucketName": None}, pulumi.ResourceOptions(parent=parent, id=bucket))
    return found, pulumi.get(found, "bucketName")
