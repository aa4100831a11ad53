"""A bucket of Alibaba Cloud's OSS, and the RAM users that may use a part of it: what ModelBucket makes there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pulumi

from components.credentials import KeyPair
from planning.catalog import fact

BUCKET = "alicloud:oss/bucket:Bucket"
BUCKET_ACL = "alicloud:oss/bucketAcl:BucketAcl"
PUBLIC_ACCESS_BLOCK = "alicloud:oss/bucketPublicAccessBlock:BucketPublicAccessBlock"
USER = "alicloud:ram/user:User"
POLICY = "alicloud:ram/policy:Policy"
ATTACHMENT = "alicloud:ram/userPolicyAttachment:UserPolicyAttachment"
ACCESS_KEY = "alicloud:ram/accessKey:AccessKey"
NAME_PATTERN = fact("oss", "bucket", "namePattern")
# What a mount (ossfs), a cache (JindoFS) and a copy ask of a bucket before they ask for an object.
_READ_BUCKET = ("oss:GetBucketInfo", "oss:GetBucketLocation", "oss:GetBucketStat")
_READ_OBJECTS = ("oss:GetObject",)
_WRITE_BUCKET = ("oss:ListMultipartUploads",)
_WRITE_OBJECTS = ("oss:PutObject", "oss:AbortMultipartUpload", "oss:ListParts", "oss:DeleteObject")


def endpoint(region: str) -> str:
    """The host that serves a region's buckets to its own network, without traffic fees; it speaks S3 as well."""
    return fact("oss", "endpoint", "internal").format(region=region)


native_endpoint = endpoint


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
        _allow(_READ_BUCKET + (_WRITE_BUCKET if write else ()), [itself]),
        # Apart from the others: no other request carries a prefix, and a condition on what is absent never holds. The
        # slash must be asked for: without it the list would show models whose name begins likewise.
        {**_allow(["oss:ListObjects"], [itself]), "Condition": {"StringLike": {"oss:Prefix": [below]}}},
        _allow(_READ_OBJECTS + (_WRITE_OBJECTS if write else ()), keys),
    ]
    return json.dumps({"Version": "1", "Statement": statements})


def _allow(actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def create(
    parent: pulumi.Resource, name: str, bucket: str, abort_upload_days: int, *, keep: bool
) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """The bucket, and its name once it is closed to the public."""
    made = pulumi.CustomResource(
        BUCKET,
        name,
        bucket_settings(bucket, abort_upload_days),
        # Both have resources of their own; the bucket would put back what those have set.
        pulumi.ResourceOptions(parent=parent, protect=keep, ignore_changes=["acl", "policy"]),
    )
    named = pulumi.get(made, "bucket")
    # A bucket that stays must stay closed.
    block = pulumi.CustomResource(
        PUBLIC_ACCESS_BLOCK,
        name,
        {"bucket": named, "blockPublicAccess": True},
        pulumi.ResourceOptions(parent=parent, retain_on_delete=keep),
    )
    acl = pulumi.CustomResource(
        BUCKET_ACL,
        name,
        {"bucket": named, "acl": "private"},
        pulumi.ResourceOptions(parent=parent, retain_on_delete=keep, depends_on=[block]),
    )
    return made, pulumi.get(acl, "bucket")


def look_up(parent: pulumi.Resource, name: str, bucket: str) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """A bucket that is there, and its name."""
    found = pulumi.CustomResource(BUCKET, name, {"bucket": None}, pulumi.ResourceOptions(parent=parent, id=bucket))
    return found, pulumi.get(found, "bucket")


def identity(parent: pulumi.Resource, name: str, own: str, policy_document: str, after: pulumi.Resource) -> KeyPair:
    """A RAM user called `own`, made after the bucket `after`, that is allowed what the document says; its key."""
    user = pulumi.CustomResource(
        USER,
        name,
        {"name": own},
        # The cloud would rename the user in place, under the keys and policies that are made anew by name.
        pulumi.ResourceOptions(parent=parent, replace_on_changes=["name"], depends_on=[after]),
    )
    policy = pulumi.CustomResource(
        POLICY,
        name,
        {
            "policyName": own,
            "policyDocument": policy_document,
            # Each change makes a version, and the cloud keeps five: the oldest goes then, and all with the policy.
            "rotateStrategy": "DeleteOldestNonDefaultVersionWhenLimitExceeded",
            "force": True,
        },
        pulumi.ResourceOptions(parent=parent, depends_on=[after]),
    )
    attachment = pulumi.CustomResource(
        ATTACHMENT,
        name,
        {"userName": pulumi.get(user, "name"), "policyName": pulumi.get(policy, "policyName"), "policyType": "Custom"},
        pulumi.ResourceOptions(parent=parent),
    )
    key = pulumi.CustomResource(
        ACCESS_KEY,
        name,
        {"userName": pulumi.get(user, "name"), "secret": None},
        # Who gets the key finds it permitted to do what it is for.
        pulumi.ResourceOptions(parent=parent, additional_secret_outputs=["secret"], depends_on=[attachment]),
    )
    return KeyPair(pulumi.Output.secret(key.id), pulumi.Output.secret(pulumi.get(key, "secret")))
