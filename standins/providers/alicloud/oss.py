"""Object storage: buckets with their settings, access control lists and public-access blocks."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timezone
from typing import Any

from planning.catalog import fact
from standins.providers.alicloud.alicloud_errors import permit, refused
from standins.providers.cloud import Cloud, CloudError
from standins.providers.kinds import Function, Kind
from standins.providers.wire import Properties

ACCOUNT = "1000000000000001"
"""The rehearsal's own account. A bucket with another owner in `cloud.json` belongs to somebody else."""
_NAME = re.compile(fact("oss", "bucket", "namePattern"))
_ACLS = ("private", "public-read", "public-read-write")
# Stored as the program wrote them, and returned unchanged.
_SETTINGS = frozenset({"lifecycleRules", "serverSideEncryptionRule", "tags"})


def _refused(status: int, code: str, message: str) -> CloudError:
    return refused("oss", status, code, message)


def _bucket(cloud: Cloud, name: str) -> dict[str, Any]:
    """The entry of a bucket that belongs to this account and region."""
    permit(cloud, "oss", "Bucket", name)
    bucket = cloud.buckets.get(name)
    if bucket is None:
        raise _refused(404, "NoSuchBucket", "The specified bucket does not exist.")
    if bucket["owner"] != ACCOUNT:
        raise _refused(403, "AccessDenied", "You have no right to access this object because of bucket acl.")
    if bucket["region"] != cloud.region:
        where = fact("oss", "endpoint", "public").format(region=bucket["region"])
        message = f"The bucket you are attempting to access must be addressed using the specified endpoint {where}."
        raise _refused(403, "AccessDenied", message)
    return bucket


def _create_bucket(cloud: Cloud, news: Properties) -> str:
    name = news["bucket"]
    permit(cloud, "oss", "Bucket", name)
    if not _NAME.fullmatch(name):
        raise _refused(400, "InvalidBucketName", "The specified bucket is not valid.")
    if name in cloud.buckets:
        other = "Please select a different name and try again."
        if cloud.buckets[name]["owner"] != ACCOUNT:
            shared = "The bucket namespace is shared by all users of the system."
            raise _refused(409, "BucketAlreadyExists", f"The requested bucket name is not available. {shared} {other}")
        # Before it creates a bucket, the plugin looks for the name among the account's own buckets.
        shared = "The bucket namespace is shared by all users of the OSS system."
        raise CloudError(f'[ERROR] The specified bucket name: "{name}" is not available. {shared} {other}')
    cloud.buckets[name] = {
        "owner": ACCOUNT,
        "region": cloud.region,
        "creationDate": datetime.now(timezone.utc).date().isoformat(),
        "storageClass": news["storageClass"],
        "acl": "private",
        "blockPublicAccess": False,
        "settings": {key: news[key] for key in _SETTINGS & news.keys()},
    }
    cloud.objects(name).mkdir(parents=True, exist_ok=True)
    return name


def _read_bucket(cloud: Cloud, name: str, state: Properties) -> Properties:
    bucket = _bucket(cloud, name)
    region = bucket["region"]
    return {
        "bucket": name,
        **{key: bucket[key] for key in ("acl", "storageClass", "creationDate", "owner")},
        "redundancyType": "LRS",
        "forceDestroy": state.get("forceDestroy", False),
        "location": f"oss-{region}",
        "extranetEndpoint": fact("oss", "endpoint", "public").format(region=region),
        "intranetEndpoint": fact("oss", "endpoint", "internal").format(region=region),
        **bucket["settings"],
    }


def _update_bucket(cloud: Cloud, name: str, news: Properties) -> None:
    _bucket(cloud, name)["settings"] = {key: news[key] for key in _SETTINGS & news.keys()}


def _delete_bucket(cloud: Cloud, name: str, state: Properties) -> None:
    _bucket(cloud, name)
    if not cloud.is_empty(name):
        raise _refused(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
    shutil.rmtree(cloud.objects(name), ignore_errors=True)
    del cloud.buckets[name]


def _put_acl(cloud: Cloud, name: str, news: Properties) -> None:
    bucket = _bucket(cloud, name)
    if news["acl"] not in _ACLS:
        raise _refused(400, "InvalidArgument", "no such bucket access control exists")
    if bucket["blockPublicAccess"] and news["acl"] != "private":
        raise _refused(403, "AccessDenied", "Put public bucket acl is not allowed")
    bucket["acl"] = news["acl"]


def _read_acl(cloud: Cloud, name: str, state: Properties) -> Properties:
    return {"bucket": name, "acl": _bucket(cloud, name)["acl"]}


def _put_block(cloud: Cloud, name: str, news: Properties) -> None:
    _bucket(cloud, name)["blockPublicAccess"] = news["blockPublicAccess"]


def _read_block(cloud: Cloud, name: str, state: Properties) -> Properties:
    return {"bucket": name, "blockPublicAccess": _bucket(cloud, name)["blockPublicAccess"]}


def _delete_block(cloud: Cloud, name: str, state: Properties) -> None:
    _put_block(cloud, name, {"blockPublicAccess": False})


def _put_acl_of(cloud: Cloud, news: Properties) -> str:
    _put_acl(cloud, news["bucket"], news)
    return news["bucket"]


def _put_block_of(cloud: Cloud, news: Properties) -> str:
    _put_block(cloud, news["bucket"], news)
    return news["bucket"]


KINDS = {
    "alicloud:oss/bucket:Bucket": Kind(
        label="alicloud_oss_bucket",
        service="oss",
        required=frozenset({"bucket"}),
        optional=_SETTINGS | {"forceDestroy", "storageClass"},
        replacing=frozenset({"bucket", "storageClass"}),
        outputs=frozenset("acl creationDate extranetEndpoint intranetEndpoint location owner redundancyType".split()),
        defaults={"forceDestroy": False, "storageClass": "Standard"},
        choices={
            "forceDestroy": (False,),
            "storageClass": ("Standard", "IA", "Archive", "ColdArchive", "DeepColdArchive"),
        },
        forgets=True,
        forgiving=True,
        create=_create_bucket,
        read=_read_bucket,
        update=_update_bucket,
        delete=_delete_bucket,
    ),
    "alicloud:oss/bucketAcl:BucketAcl": Kind(
        label="alicloud_oss_bucket_acl",
        service="oss",
        required=frozenset({"bucket", "acl"}),
        replacing=frozenset({"bucket"}),
        forgets=True,
        create=_put_acl_of,
        read=_read_acl,
        update=_put_acl,
        delete=None,
    ),
    "alicloud:oss/bucketPublicAccessBlock:BucketPublicAccessBlock": Kind(
        label="alicloud_oss_bucket_public_access_block",
        service="oss",
        required=frozenset({"bucket", "blockPublicAccess"}),
        replacing=frozenset({"bucket"}),
        forgets=True,
        create=_put_block_of,
        read=_read_block,
        update=_put_block,
        delete=_delete_block,
    ),
}


def _list_buckets(cloud: Cloud, asked: Properties) -> Properties:
    """The account's buckets in all regions."""
    matching = re.compile(asked.get("nameRegex", ""))
    found = [
        {"name": name, "creationDate": bucket["creationDate"], "location": f"oss-{bucket['region']}"}
        for name, bucket in cloud.buckets.items()
        if bucket["owner"] == ACCOUNT and matching.search(name)
    ]
    return {"buckets": found}


FUNCTIONS = {
    "alicloud:oss/getBuckets:getBuckets": Function(
        service="oss", arguments=frozenset({"nameRegex"}), answer=_list_buckets
    ),
}
