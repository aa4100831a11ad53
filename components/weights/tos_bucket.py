"""What ModelBucket creates on Volcengine: a TOS bucket, and IAM users with access to a part of it.

TOS has no permanent block of public access. The access control list closes the bucket, and the provider restores it.
There is no bucket policy: its deny conditions could not be confirmed, and a wrong one might lock out the owner.
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

BUCKET = fact("clouds", "volcengine", "bucketType")
ENCRYPTION = "volcengine:tos/bucketEncryption:BucketEncryption"
LIFECYCLE = "volcengine:tos/bucketLifecycle:BucketLifecycle"
_ACCOUNTS = Accounts(
    package="volcengine:iam",
    name="userName",
    secret="secretAccessKey",
    # The provider would rename it in place, while Pulumi keeps the old name as its id.
    policy_replaced=["policyName"],
)
identity = partial(bucket_users.identity, _ACCOUNTS)
ACCESS_KEY = _ACCOUNTS.access_key
NAME_PATTERN = fact("tos", "bucket", "namePattern")


def endpoint(region: str) -> str:
    """The host that serves a region's buckets over S3 inside its network. It takes the bucket only in the host name."""
    return fact("tos", "endpoint", "s3Internal").format(region=region)


def bucket_settings(bucket: str) -> dict[str, Any]:
    """The bucket's arguments. TOS has no option to empty a bucket on deletion: one with objects stays."""
    return {"bucketName": bucket, "publicAcl": "private", "storageClass": "STANDARD"}


def encryption_rule() -> dict[str, Any]:
    """The default encryption of objects, with a key that TOS keeps; a writer may choose another."""
    return {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}


def lifecycle_rule(abort_upload_days: int) -> dict[str, Any]:
    """The rule that aborts incomplete uploads."""
    return {
        # Without an id the cloud generates one, and Pulumi would see a difference.
        "id": "abort-stale-uploads",
        "status": "Enabled",
        "abortIncompleteMultipartUpload": {"daysAfterInitiation": abort_upload_days},
    }


def access_policy(bucket: str, prefix: str, *, write: bool) -> str:
    """The IAM policy, as JSON: read (and write) below the prefix, and see nothing else of the bucket."""
    itself = fact("tos", "policy", "resource").format(bucket=bucket)
    # Also allow the bare prefix as a key: a client that checks whether it is an object must get «not found», not
    # «access denied».
    keys = [f"{itself}/{prefix}/*", f"{itself}/{prefix}"]
    # Require the slash: without it the list would show models whose names start with this one's.
    listed_prefix = {fact("tos", "policy", "prefixCondition"): [f"{prefix}/", f"{prefix}/*"]}
    statements = [
        allow([*_actions("readBucket"), *(_actions("writeBucket") if write else ())], [itself]),
        # A separate statement: only list requests carry a prefix, and a condition on a missing value never holds.
        {**allow(_actions("list"), [itself]), "Condition": {"StringLike": listed_prefix}},
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
    """The bucket, and its name once it encrypts what is written to it. It is private from the start."""
    resource = pulumi.CustomResource(
        BUCKET, name, bucket_settings(bucket), pulumi.ResourceOptions(parent=parent, protect=keep, hooks=hooks)
    )
    name_in_cloud = pulumi.get(resource, "bucketName")
    # A bucket that is kept keeps its settings.
    kept = pulumi.ResourceOptions(parent=parent, retain_on_delete=keep, hooks=hooks)
    encryption = pulumi.CustomResource(ENCRYPTION, name, {"bucketName": name_in_cloud, "rule": encryption_rule()}, kept)
    rules = [lifecycle_rule(abort_upload_days)]
    pulumi.CustomResource(LIFECYCLE, name, {"bucketName": name_in_cloud, "rules": rules}, kept)
    return resource, pulumi.get(encryption, "bucketName")


def look_up(parent: pulumi.Resource, name: str, bucket: str) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """An existing bucket, and its name."""
    opts = pulumi.ResourceOptions(parent=parent, id=bucket)
    resource = pulumi.CustomResource(BUCKET, name, {"bucketName": None}, opts)
    return resource, pulumi.get(resource, "bucketName")
