"""Object storage: buckets with their settings, access control lists and public-access blocks."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timezone
from typing import Any

from local.providers.alicloud.errors import permit, refused
from local.providers.cloud import Cloud, CloudError
from local.providers.kinds import Kind
from local.providers.wire import Properties
from planning.catalog import fact

ACCOUNT = "1000000000000001"
"""The rehearsal's own account. A bucket in `cloud.json` with another owner is somebody else's."""
_NAME = re.compile(fact("oss", "bucket", "namePattern"))
_ACLS = ("private", "public-read", "public-read-write")
# Kept as the program wrote them, and given back so.
_SETTINGS = frozenset(
    "accessMonitor corsRules lifecycleRuleAllowSameActionOverlap lifecycleRules logging refererConfig resourceGroupId "
    "serverSideEncryptionRule tags transferAcceleration versioning website policy".split()
)


def _refused(status: int, code: str, message: str) -> CloudError:
    return refused("oss", status, code, message)


def _bucket(cloud: Cloud, name: str) -> dict[str, Any]:
    """The entry of a bucket of this account in this region."""
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
    if name in cloud.buckets and cloud.buckets[name]["owner"] != ACCOUNT:
        message = (
            "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
            "Please select a different name and try again."
        )
        raise _refused(409, "BucketAlreadyExists", message)
    if name in cloud.buckets:
        message = "The bucket you try to create already exists in your account."
        raise _refused(409, "BucketAlreadyExists", message)
    _check_acl(news.get("acl"), blocked=False)
    cloud.buckets[name] = {
        "owner": ACCOUNT,
        "region": cloud.region,
        "creationDate": datetime.now(timezone.utc).date().isoformat(),
        "storageClass": news["storageClass"],
        "redundancyType": news["redundancyType"],
        "acl": news.get("acl", "private"),
        "blockPublicAccess": False,
        "settings": {key: news[key] for key in _SETTINGS & news.keys()},
    }
    cloud.objects(name).mkdir(parents=True, exist_ok=True)
    return name


def _read_bucket(cloud: Cloud, name: str, state: Properties) -> Properties | None:
    if name not in cloud.buckets:
        return None
    bucket = _bucket(cloud, name)
    region = bucket["region"]
    return {
        "bucket": name,
        **{key: bucket[key] for key in ("acl", "storageClass", "redundancyType", "creationDate", "owner")},
        "forceDestroy": state.get("forceDestroy", False),
        "location": f"oss-{region}",
        "extranetEndpoint": fact("oss", "endpoint", "public").format(region=region),
        "intranetEndpoint": fact("oss", "endpoint", "internal").format(region=region),
        **bucket["settings"],
    }


def _update_bucket(cloud: Cloud, name: str, news: Properties) -> None:
    bucket = _bucket(cloud, name)
    if "acl" in news:
        _check_acl(news["acl"], blocked=bucket["blockPublicAccess"])
        bucket["acl"] = news["acl"]
    bucket["settings"] = {key: news[key] for key in _SETTINGS & news.keys()}


def _delete_bucket(cloud: Cloud, name: str, state: Properties) -> None:
    if name not in cloud.buckets:
        return
    _bucket(cloud, name)
    if not state.get("forceDestroy") and not cloud.is_empty(name):
        raise _refused(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
    shutil.rmtree(cloud.objects(name), ignore_errors=True)
    del cloud.buckets[name]


def _check_acl(acl: str | None, *, blocked: bool) -> None:
    if blocked and acl in _ACLS[1:]:
        raise _refused(403, "AccessDenied", "Put public bucket acl is not allowed")


def _put_acl(cloud: Cloud, name: str, news: Properties) -> None:
    bucket = _bucket(cloud, name)
    _check_acl(news["acl"], blocked=bucket["blockPublicAccess"])
    bucket["acl"] = news["acl"]


def _read_acl(cloud: Cloud, name: str, state: Properties) -> Properties | None:
    return {"bucket": name, "acl": _bucket(cloud, name)["acl"]} if name in cloud.buckets else None


def _put_block(cloud: Cloud, name: str, news: Properties) -> None:
    _bucket(cloud, name)["blockPublicAccess"] = news["blockPublicAccess"]


def _read_block(cloud: Cloud, name: str, state: Properties) -> Properties | None:
    if name not in cloud.buckets:
        return None
    return {"bucket": name, "blockPublicAccess": _bucket(cloud, name)["blockPublicAccess"]}


def _delete_block(cloud: Cloud, name: str, state: Properties) -> None:
    if name in cloud.buckets:
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
        optional=_SETTINGS | {"acl", "forceDestroy", "redundancyType", "storageClass"},
        computed=frozenset({"acl", "resourceGroupId"}),
        replacing=frozenset({"bucket", "redundancyType", "storageClass"}),
        outputs=frozenset({"creationDate", "extranetEndpoint", "intranetEndpoint", "location", "owner"}),
        defaults={"forceDestroy": False, "redundancyType": "LRS", "storageClass": "Standard"},
        choices={
            "acl": _ACLS,
            "redundancyType": ("LRS", "ZRS"),
            "storageClass": ("Standard", "IA", "Archive", "ColdArchive", "DeepColdArchive"),
        },
        lengths={"bucket": (3, 63)},
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
        choices={"acl": _ACLS},
        create=_put_acl_of,
        read=_read_acl,
        update=_put_acl,
        delete=lambda cloud, name, state: None,  # a bucket always has one; the official plugin leaves it too
    ),
    "alicloud:oss/bucketPublicAccessBlock:BucketPublicAccessBlock": Kind(
        label="alicloud_oss_bucket_public_access_block",
        service="oss",
        required=frozenset({"bucket", "blockPublicAccess"}),
        replacing=frozenset({"bucket"}),
        create=_put_block_of,
        read=_read_block,
        update=_put_block,
        delete=_delete_block,
    ),
}
