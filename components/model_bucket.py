"""The bucket that holds a model's weights, and the two identities that may use them: one reads, one also writes.

Owns the bucket's settings (private, public access blocked, encrypted, stale uploads aborted) and the RAM users with
their keys. Not the objects in it (`model_sync`), nor the Secrets that carry the keys into a cluster (`credentials`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
# What a mount (ossfs), a cache (JindoFS) and a copy ask of a bucket before they ask for an object.
_READ_BUCKET = ("oss:GetBucketInfo", "oss:GetBucketLocation", "oss:GetBucketStat")
_READ_OBJECTS = ("oss:GetObject",)
_WRITE_BUCKET = ("oss:ListMultipartUploads",)
_WRITE_OBJECTS = ("oss:PutObject", "oss:AbortMultipartUpload", "oss:ListParts", "oss:DeleteObject")
# Of a bucket's name in a user's: what a person recognises it by. The digest tells users apart.
_NAME_LENGTH = 30


@dataclass(frozen=True, kw_only=True)
class ModelBucketArgs:
    """One bucket and the part of it that one model owns.

    `prefix` is the key prefix of all models, without a slash at either end. `create` false takes a bucket that is there
    and changes nothing of it. `keep` leaves bucket and weights when the stack is destroyed. A key given as `reader` or
    `writer` is used as it is, else a RAM user is made with a key of its own; `writes` false makes no writer. Uploads
    that nobody has completed after `abort_upload_days` days are thrown away. Raises ValueError for a name that is no
    bucket's and a prefix with slashes at its ends.
    """

    stack: str
    bucket: str
    region: str
    prefix: str
    abort_upload_days: int
    create: bool = True
    keep: bool = True
    reader: KeyPair | None = None
    writer: KeyPair | None = None
    writes: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(fact("oss", "bucket", "namePattern"), self.bucket):
            raise ValueError(
                f"bucket {self.bucket!r} is no bucket name: 3 to 63 lowercase letters, digits and hyphens, "
                "without a hyphen at either end"
            )
        if not self.prefix or self.prefix != self.prefix.strip("/"):
            raise ValueError(
                f"prefix {self.prefix!r}: write it without a slash at either end, such as models/Qwen3-32B"
            )


def internal_endpoint(region: str) -> str:
    """The host that serves a region's buckets to its own network, without traffic fees."""
    return fact("oss", "endpoint", "internal").format(region=region)


def bucket_settings(args: ModelBucketArgs) -> dict[str, Any]:
    """The bucket's arguments. The access control list is a resource of its own."""
    return {
        "bucket": args.bucket,
        "storageClass": "Standard",
        "forceDestroy": False,
        "serverSideEncryptionRule": {"sseAlgorithm": "AES256"},
        "lifecycleRules": [
            {
                # Without an id of ours the cloud makes one up, which then differs from what is written here.
                "id": "abort-stale-uploads",
                "enabled": True,
                "abortMultipartUploads": [{"days": args.abort_upload_days}],
            }
        ],
    }


def access_policy(args: ModelBucketArgs, *, write: bool) -> str:
    """The RAM policy, JSON, of who reads (and writes) below the prefix and sees nothing else of the bucket."""
    bucket = f"acs:oss:*:*:{args.bucket}"
    below = f"{args.prefix}/*"
    # The bare prefix as a key too: a client that looks whether it is one must be told «not there», not «not yours».
    keys = [f"{bucket}/{below}", f"{bucket}/{args.prefix}"]
    statements = [
        _allow(_READ_BUCKET + (_WRITE_BUCKET if write else ()), [bucket]),
        # Apart from the others: no other request carries a prefix, and a condition on what is absent never holds. The
        # slash must be asked for: without it the list would show models whose name begins likewise.
        {**_allow(["oss:ListObjects"], [bucket]), "Condition": {"StringLike": {"oss:Prefix": [below]}}},
        _allow(_READ_OBJECTS + (_WRITE_OBJECTS if write else ()), keys),
    ]
    return json.dumps({"Version": "1", "Statement": statements})


def _allow(actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def identity_name(args: ModelBucketArgs, role: str) -> str:
    """The name of the RAM user for `role`, and of its policy: one for each stack, bucket and prefix."""
    digest = hashlib.sha256("\n".join((args.stack, args.bucket, args.prefix)).encode()).hexdigest()[:8]
    return f"modelserve-{role}-{args.bucket[:_NAME_LENGTH]}-{digest}"


class ModelBucket(pulumi.ComponentResource):
    """The bucket, with one identity that reads and one that writes. Wants a provider of Alibaba Cloud in `opts`.

    `bucket` is its name once it exists and is closed to the public; `reader` and `writer` are keys that may be used
    then; `endpoint` is the host that serves it inside its region.
    """

    def __init__(self, name: str, args: ModelBucketArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:storage:ModelBucket", name, None, opts)
        self.endpoint = internal_endpoint(args.region)
        self.bucket: pulumi.Output[str] = self._create(name, args) if args.create else self._look_up(name, args)
        self.reader = args.reader or self._identity(name, args, "reader")
        self.writer = args.writer or (self._identity(name, args, "writer") if args.writes else None)
        self.register_outputs({"bucket": self.bucket, "endpoint": self.endpoint})

    def _create(self, name: str, args: ModelBucketArgs) -> pulumi.Output[str]:
        bucket = pulumi.CustomResource(
            BUCKET,
            name,
            bucket_settings(args),
            # Both have resources of their own; the bucket would put back what those have set.
            pulumi.ResourceOptions(parent=self, protect=args.keep, ignore_changes=["acl", "policy"]),
        )
        self._itself = bucket
        named = pulumi.get(bucket, "bucket")
        # A bucket that stays must stay closed.
        block = pulumi.CustomResource(
            PUBLIC_ACCESS_BLOCK,
            name,
            {"bucket": named, "blockPublicAccess": True},
            pulumi.ResourceOptions(parent=self, retain_on_delete=args.keep),
        )
        acl = pulumi.CustomResource(
            BUCKET_ACL,
            name,
            {"bucket": named, "acl": "private"},
            pulumi.ResourceOptions(parent=self, retain_on_delete=args.keep, depends_on=[block]),
        )
        return pulumi.get(acl, "bucket")

    def _look_up(self, name: str, args: ModelBucketArgs) -> pulumi.Output[str]:
        bucket = pulumi.CustomResource(
            BUCKET, name, {"bucket": None}, pulumi.ResourceOptions(parent=self, id=args.bucket)
        )
        self._itself = bucket
        return pulumi.get(bucket, "bucket")

    def _identity(self, name: str, args: ModelBucketArgs, role: str) -> KeyPair:
        own = identity_name(args, role)
        # A bucket that cannot be made, or not removed, leaves no identity behind.
        after = [self._itself]
        user = pulumi.CustomResource(
            USER,
            f"{name}-{role}",
            {"name": own},
            # The cloud would rename the user in place, under the keys and policies that are made anew by name.
            pulumi.ResourceOptions(parent=self, replace_on_changes=["name"], depends_on=after),
        )
        policy = pulumi.CustomResource(
            POLICY,
            f"{name}-{role}",
            {
                "policyName": own,
                "policyDocument": access_policy(args, write=role == "writer"),
                # Each change makes a version, and the cloud keeps five: the oldest goes then, and all with the policy.
                "rotateStrategy": "DeleteOldestNonDefaultVersionWhenLimitExceeded",
                "force": True,
            },
            pulumi.ResourceOptions(parent=self, depends_on=after),
        )
        attachment = pulumi.CustomResource(
            ATTACHMENT,
            f"{name}-{role}",
            {
                "userName": pulumi.get(user, "name"),
                "policyName": pulumi.get(policy, "policyName"),
                "policyType": "Custom",
            },
            pulumi.ResourceOptions(parent=self),
        )
        key = pulumi.CustomResource(
            ACCESS_KEY,
            f"{name}-{role}",
            {"userName": pulumi.get(user, "name"), "secret": None},
            # Who gets the key finds it permitted to do what it is for.
            pulumi.ResourceOptions(parent=self, additional_secret_outputs=["secret"], depends_on=[attachment]),
        )
        return KeyPair(pulumi.Output.secret(key.id), pulumi.Output.secret(pulumi.get(key, "secret")))
