"""Alibaba Cloud in a folder, for small programs on the real engine."""

from __future__ import annotations

from typing import Any

import pulumi

from components.alicloud import alicloud_provider
from tests.engine.clouds import Cloud, cloud, engine, only_engine

__all__ = ["cloud", "engine", "only_engine"]
REGION = "cn-hangzhou"


def add_bucket(cloud: Cloud, name: str, **settings: Any) -> None:
    """A bucket that is there already."""
    bucket = {
        "owner": "1000000000000001",
        "region": REGION,
        "creationDate": "2026-01-01",
        "storageClass": "Standard",
        "redundancyType": "LRS",
        "acl": "private",
        "blockPublicAccess": False,
        "settings": {},
    }
    cloud.put_bucket(name, {**bucket, **settings})


def in_cloud(token: str, name: str, opts: pulumi.ResourceOptions, /, **arguments: Any) -> Any:
    """One resource, such as `oss/bucket:Bucket`."""
    return pulumi.CustomResource(f"alicloud:{token}", name, arguments, opts)


def provided(region: str = REGION) -> pulumi.ResourceOptions:
    """Options with a provider for the region."""
    return pulumi.ResourceOptions(provider=alicloud_provider(f"cloud-{region}", region))
