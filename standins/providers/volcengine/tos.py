"""Object storage: buckets with their encryption and lifecycle."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timezone
from typing import Any

from planning.catalog import fact
from standins.providers.cloud import Cloud, CloudError
from standins.providers.kinds import Function, Kind
from standins.providers.volcengine.volcengine_errors import ACCOUNT, permit, refused
from standins.providers.wire import Properties

_NAME = re.compile(fact("tos", "bucket", "namePattern"))
# Stored as the program wrote them, and returned unchanged.
_SETTINGS = frozenset({"bucketType", "projectName", "publicAcl", "storageClass"})


def _reach(cloud: Cloud, name: str) -> None:
    """Raises CloudError if no endpoint has the region's name: the plugin accepts any region without a check."""
    permit(cloud, "Bucket", name)
    if cloud.region not in fact("tos", "regions", "known"):
        host = f"{name}.{fact('tos', 'endpoint', 'public').format(region=cloud.region)}"
        raise CloudError(f"RequestError: send request failed\ncaused by: dial tcp: lookup {host}: no such host")


def _bucket(cloud: Cloud, name: str) -> dict[str, Any]:
    """The entry of a bucket of this account in this region, the only region whose buckets the endpoint knows."""
    _reach(cloud, name)
    bucket = cloud.buckets.get(name)
    if bucket is not None and bucket["owner"] != ACCOUNT:
        raise refused(403, "AccessDenied", "Access Denied")
    if bucket is None or bucket["region"] != cloud.region:
        raise refused(404, "NoSuchBucket", f"The specified bucket does not exist: {name}.")
    return bucket


def _create_bucket(cloud: Cloud, news: Properties) -> str:
    name = news["bucketName"]
    _reach(cloud, name)
    if not _NAME.fullmatch(name):
        raise refused(400, "InvalidBucketName", "The specified bucket is not valid.")
    if name in cloud.buckets:
        message = "The requested bucket name is not available. All accounts share the namespace of buckets."
        raise refused(409, "BucketAlreadyExists", message)
    cloud.buckets[name] = {
        "owner": ACCOUNT,
        "region": cloud.region,
        "creationDate": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "azRedundancy": news["azRedundancy"],
        "settings": {key: news[key] for key in _SETTINGS & news.keys()},
    }
    cloud.objects(name).mkdir(parents=True, exist_ok=True)
    return name


def _read_bucket(cloud: Cloud, name: str, state: Properties) -> Properties:
    bucket = _bucket(cloud, name)
    region = bucket["region"]
    return {
        "bucketName": name,
        "azRedundancy": bucket["azRedundancy"],
        "creationDate": bucket["creationDate"],
        "location": region,
        "extranetEndpoint": fact("tos", "endpoint", "public").format(region=region),
        "intranetEndpoint": fact("tos", "endpoint", "internal").format(region=region),
        "bucketAclDelivered": False,
        **bucket["settings"],
    }


def _update_bucket(cloud: Cloud, name: str, news: Properties) -> None:
    _bucket(cloud, name)["settings"] = {key: news[key] for key in _SETTINGS & news.keys()}


def _delete_bucket(cloud: Cloud, name: str, state: Properties) -> None:
    _bucket(cloud, name)
    if not cloud.is_empty(name):
        raise refused(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
    shutil.rmtree(cloud.objects(name), ignore_errors=True)
    del cloud.buckets[name]


def _setting_of_a_bucket(label: str, argument: str, entry: str) -> Kind:
    """A resource that is one setting of a bucket, identified by the bucket's name."""

    def put(cloud: Cloud, name: str, news: Properties) -> None:
        _bucket(cloud, name)[entry] = news[argument]

    def create(cloud: Cloud, news: Properties) -> str:
        put(cloud, news["bucketName"], news)
        return news["bucketName"]

    def read(cloud: Cloud, name: str, state: Properties) -> Properties:
        bucket = _bucket(cloud, name)
        if entry not in bucket:
            raise refused(404, f"NoSuch{entry.capitalize()}Configuration", f"The bucket has no {entry}: {name}.")
        return {"bucketName": name, argument: bucket[entry]}

    def delete(cloud: Cloud, name: str, state: Properties) -> None:
        _bucket(cloud, name).pop(entry, None)

    return Kind(
        label=label,
        service="tos",
        required=frozenset({"bucketName", argument}),
        replacing=frozenset({"bucketName"}),
        forgiving=True,
        patient=True,
        create=create,
        read=read,
        update=put,
        delete=delete,
    )


KINDS: dict[str, Kind] = {
    "volcengine:tos/bucket:Bucket": Kind(
        label="tos bucket",
        service="tos",
        required=frozenset({"bucketName"}),
        optional=_SETTINGS | {"azRedundancy"},
        replacing=frozenset({"azRedundancy", "bucketName"}),
        outputs=frozenset({"bucketAclDelivered", "creationDate", "extranetEndpoint", "intranetEndpoint", "location"}),
        defaults={
            "azRedundancy": "single-az",
            "bucketType": "fns",
            "projectName": "default",
            "publicAcl": "private",
            "storageClass": "STANDARD",
        },
        choices={
            "publicAcl": ("private", "public-read", "public-read-write", "authenticated-read", "bucket-owner-read")
        },
        forgiving=True,
        patient=True,
        create=_create_bucket,
        read=_read_bucket,
        update=_update_bucket,
        delete=_delete_bucket,
    ),
    "volcengine:tos/bucketEncryption:BucketEncryption": _setting_of_a_bucket(
        "tos_bucket_encryption", "rule", "encryption"
    ),
    "volcengine:tos/bucketLifecycle:BucketLifecycle": _setting_of_a_bucket(
        "tos_bucket_lifecycle", "rules", "lifecycle"
    ),
}


def _list_buckets(cloud: Cloud, asked: Properties) -> Properties:
    """The account's buckets in this region."""
    found = [
        {"name": name, "creationDate": bucket["creationDate"], "location": bucket["region"]}
        for name, bucket in cloud.buckets.items()
        if bucket["owner"] == ACCOUNT and bucket["region"] == cloud.region and asked.get("bucketName", name) == name
    ]
    return {"buckets": found}


FUNCTIONS = {
    "volcengine:tos/getBuckets:getBuckets": Function(
        service="tos", arguments=frozenset({"bucketName"}), answer=_list_buckets
    ),
}
