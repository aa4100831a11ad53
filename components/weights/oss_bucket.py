"""A bucket of Alibaba Cloud's OSS, and the RAM users that may use a part of it: what ModelBucket makes there."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pulumi

from components.weights import bucket_users
from components.weights.bucket_users import Accounts, allow
from planning.catalog import fact

BUCKET = "alicloud:oss/bucket:Bucket"
BUCKET_ACL = "alicloud:oss/bucketAcl:BucketAcl"
PUBLIC_ACCESS_BLOCK = "alicloud:oss/bucketPublicAccessBlock:BucketPublicAccessBlock"
_ACCOUNTS = Accounts(
    package="alicloud:ram",
    name="name",
    secret="secret",
    # A run that is killed while it makes a key leaves one that nobody knows, and no function lists them.
    user_arguments={"force": True},
    # Each change makes a version, and the cloud keeps five: the oldest goes then, and all with the policy.
    policy_arguments={"rotateStrategy": "DeleteOldestNonDefaultVersionWhenLimitExceeded", "force": True},
)
identity = partial(bucket_users.identity, _ACCOUNTS)
ACCESS_KEY = _ACCOUNTS.access_key
NAME_PATTERN = fact("oss", "bucket", "namePattern")
# What a mount (ossfs), a cache (JindoFS) and a copy ask of a bucket before they ask for an object.
_READ_BUCKET = ("oss:GetBucketInfo", "oss:GetBucketLocation", "oss:GetBucketStat")
_READ_OBJECTS = ("oss:GetObject",)
_WRITE_BUCKET = ("oss:ListMultipartUploads",)
_WRITE_OBJECTS = ("oss:PutObject", "oss:AbortMultipartUpload", "oss:ListParts", "oss:DeleteObject")


def endpoint(region: str) -> str:
    """The host that serves a region's buckets to its own network, without traffic fees; it speaks S3 as well."""
    return fact("oss", "endpoint", "internal").format(region=region)


def bucket_settings(bucket: str, abort_upload_days: int) -> dict[str, Any]:
    """The bucket's arguments. The access control list is a resource of its own."""
    return {
        "bucket": bucket,
        "storageClass": "Standard",
        "forceDestroy": False,
        "serverSideEncryptionRule": {"sseAlgorithm": "AES256"},
        "lifecycleRules": [
            {
                # Without an id of ours the cloud makes one up, which then differs from what is written here.
                "id": "abort-stale-uploads",
                "enabled": True,
                "abortMultipartUploads": [{"days": abort_upload_days}],
            }
        ],
    }


def access_policy(bucket: str, prefix: str, *, write: bool) -> str:
    """The RAM policy, JSON, of who reads (and writes) below the prefix and sees nothing else of the bucket."""
    itself = f"acs:oss:*:*:{bucket}"
    below = f"{prefix}/*"
    # The bare prefix as a key too: a client that looks whether it is one must be told «not there», not «not yours».
    keys = [f"{itself}/{below}", f"{itself}/{prefix}"]
    statements = [
        allow(_READ_BUCKET + (_WRITE_BUCKET if write else ()), [itself]),
        # Apart from the others: no other request carries a prefix, and a condition on what is absent never holds. The
        # slash must be asked for: without it the list would show models whose name begins likewise.
        {**allow(["oss:ListObjects"], [itself]), "Condition": {"StringLike": {"oss:Prefix": [below]}}},
        allow(_READ_OBJECTS + (_WRITE_OBJECTS if write else ()), keys),
    ]
    return json.dumps({"Version": "1", "Statement": statements})


def create(
    parent: pulumi.Resource,
    name: str,
    bucket: str,
    abort_upload_days: int,
    *,
    keep: bool,
    hooks: pulumi.ResourceHookBinding | None,
) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """The bucket, and its name once it is closed to the public."""
    made = pulumi.CustomResource(
        BUCKET,
        name,
        bucket_settings(bucket, abort_upload_days),
        # Both have resources of their own; the bucket would put back what those have set.
        pulumi.ResourceOptions(parent=parent, protect=keep, ignore_changes=["acl", "policy"], hooks=hooks),
    )
    named = pulumi.get(made, "bucket")
    # A bucket that stays must stay closed.
    block = pulumi.CustomResource(
        PUBLIC_ACCESS_BLOCK,
        name,
        {"bucket": named, "blockPublicAccess": True},
        pulumi.ResourceOptions(parent=parent, retain_on_delete=keep, hooks=hooks),
    )
    acl = pulumi.CustomResource(
        BUCKET_ACL,
        name,
        {"bucket": named, "acl": "private"},
        pulumi.ResourceOptions(parent=parent, retain_on_delete=keep, depends_on=[block], hooks=hooks),
    )
    return made, pulumi.get(acl, "bucket")


def look_up(parent: pulumi.Resource, name: str, bucket: str) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """A bucket that is there, and its name."""
    found = pulumi.CustomResource(BUCKET, name, {"bucket": None}, pulumi.ResourceOptions(parent=parent, id=bucket))
    return found, pulumi.get(found, "bucket")
