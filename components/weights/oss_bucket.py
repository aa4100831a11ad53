"""What ModelBucket creates on Alibaba Cloud: an OSS bucket, and RAM users or roles with access to a part of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pulumi

from components.cluster.credentials import Oidc, Role
from components.weights import bucket_users
from components.weights.bucket_users import Accounts, allow
from planning.catalog import fact

BUCKET = fact("clouds", "acs", "bucketType")
BUCKET_ACL = "alicloud:oss/bucketAcl:BucketAcl"
PUBLIC_ACCESS_BLOCK = "alicloud:oss/bucketPublicAccessBlock:BucketPublicAccessBlock"
_ACCOUNTS = Accounts(
    package="alicloud:ram",
    name="name",
    secret="secret",
    # A run killed while it creates a key leaves a key that no state knows and no function lists. Force deletes it with
    # its user.
    user_arguments={"force": True},
    # Each change adds a version, and the cloud keeps five: delete the oldest then, and all of them with the policy.
    policy_arguments={"rotateStrategy": "DeleteOldestNonDefaultVersionWhenLimitExceeded", "force": True},
)
identity = partial(bucket_users.identity, _ACCOUNTS)
ACCESS_KEY = _ACCOUNTS.access_key
ROLE = "alicloud:ram/role:Role"
ROLE_POLICY = "alicloud:ram/rolePolicyAttachment:RolePolicyAttachment"
NAME_PATTERN = fact("oss", "bucket", "namePattern")
# Requests about the bucket that a mount (ossfs), a cache (JindoFS) and a copy send before they read an object.
_READ_BUCKET = ("oss:GetBucketInfo", "oss:GetBucketLocation", "oss:GetBucketStat")
_READ_OBJECTS = ("oss:GetObject",)
_WRITE_BUCKET = ("oss:ListMultipartUploads",)
_WRITE_OBJECTS = ("oss:PutObject", "oss:AbortMultipartUpload", "oss:ListParts", "oss:DeleteObject")


def endpoint(region: str) -> str:
    """The host that serves a region's buckets inside its network, without traffic fees; it also speaks S3."""
    return fact("oss", "endpoint", "internal").format(region=region)


def bucket_settings(bucket: str, abort_upload_days: int) -> dict[str, Any]:
    """The bucket's arguments. The access control list is a separate resource."""
    return {
        "bucket": bucket,
        "storageClass": "Standard",
        "forceDestroy": False,
        "serverSideEncryptionRule": {"sseAlgorithm": "AES256"},
        "lifecycleRules": [
            {
                # Without an id the cloud generates one, and Pulumi would see a difference.
                "id": "abort-stale-uploads",
                "enabled": True,
                "abortMultipartUploads": [{"days": abort_upload_days}],
            }
        ],
    }


def access_policy(bucket: str, prefix: str, *, write: bool) -> str:
    """The RAM policy, as JSON: read (and write) below the prefix, and see nothing else of the bucket."""
    itself = f"acs:oss:*:*:{bucket}"
    below = f"{prefix}/*"
    # Also allow the bare prefix as a key: a client that checks whether it is an object must get «not found», not
    # «access denied».
    keys = [f"{itself}/{below}", f"{itself}/{prefix}"]
    statements = [
        allow(_READ_BUCKET + (_WRITE_BUCKET if write else ()), [itself]),
        # A separate statement: only list requests carry a prefix, and a condition on a missing value never holds.
        # Require the slash: without it the list would show models whose names start with this one's.
        {**allow(["oss:ListObjects"], [itself]), "Condition": {"StringLike": {"oss:Prefix": [below]}}},
        allow(_READ_OBJECTS + (_WRITE_OBJECTS if write else ()), keys),
    ]
    return json.dumps({"Version": "1", "Statement": statements})


def trust_policy(oidc: Oidc, accounts: Sequence[str]) -> str:
    """The policy, JSON, of who may take a role: pods of one cluster that run as one of these service accounts, each
    `namespace:name`."""
    said = {
        "oidc:aud": fact("oss", "rrsa", "audience"),
        "oidc:iss": oidc.issuer,
        "oidc:sub": [f"system:serviceaccount:{each}" for each in accounts],
    }
    statement = {
        "Action": "sts:AssumeRole",
        "Effect": "Allow",
        "Principal": {"Federated": [oidc.provider]},
        "Condition": {"StringEquals": said},
    }
    return json.dumps({"Version": "1", "Statement": [statement]})


def role(
    parent: pulumi.Resource,
    name: str,
    own: str,
    policy_document: str,
    trust: str,
    after: pulumi.Resource,
    hooks: pulumi.ResourceHookBinding | None,
) -> Role:
    """A role called `own`, made after the bucket `after`, that is allowed what the document says, and may be taken by
    whom `trust` names."""
    allowed = bucket_users.policy(_ACCOUNTS, parent, name, own, policy_document, after, hooks)
    resource = pulumi.CustomResource(
        ROLE,
        name,
        {
            "roleName": own,
            "assumeRolePolicyDocument": trust,
            "maxSessionDuration": fact("oss", "rrsa", "sessionSeconds"),
            "force": True,
        },
        pulumi.ResourceOptions(parent=parent, depends_on=[after], hooks=hooks),
    )
    attachment = pulumi.CustomResource(
        ROLE_POLICY,
        name,
        {"roleName": pulumi.get(resource, "roleName"), "policyName": allowed, "policyType": "Custom"},
        pulumi.ResourceOptions(parent=parent, hooks=hooks),
    )
    # The attachment's own, so that the role can do something once its name is known.
    return Role(pulumi.get(attachment, "roleName"))


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
    resource = pulumi.CustomResource(
        BUCKET,
        name,
        bucket_settings(bucket, abort_upload_days),
        # Both are separate resources; without this the bucket would undo what they set.
        pulumi.ResourceOptions(parent=parent, protect=keep, ignore_changes=["acl", "policy"], hooks=hooks),
    )
    name_in_cloud = pulumi.get(resource, "bucket")
    # A bucket that is kept must stay closed.
    block = pulumi.CustomResource(
        PUBLIC_ACCESS_BLOCK,
        name,
        {"bucket": name_in_cloud, "blockPublicAccess": True},
        pulumi.ResourceOptions(parent=parent, retain_on_delete=keep, hooks=hooks),
    )
    acl = pulumi.CustomResource(
        BUCKET_ACL,
        name,
        {"bucket": name_in_cloud, "acl": "private"},
        pulumi.ResourceOptions(parent=parent, retain_on_delete=keep, depends_on=[block], hooks=hooks),
    )
    return resource, pulumi.get(acl, "bucket")


def look_up(parent: pulumi.Resource, name: str, bucket: str) -> tuple[pulumi.Resource, pulumi.Output[str]]:
    """An existing bucket, and its name."""
    resource = pulumi.CustomResource(BUCKET, name, {"bucket": None}, pulumi.ResourceOptions(parent=parent, id=bucket))
    return resource, pulumi.get(resource, "bucket")
