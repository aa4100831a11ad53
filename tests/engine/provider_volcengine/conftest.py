"""Volcengine in a folder, for small programs on the real engine."""

from __future__ import annotations

from typing import Any

import pulumi

from components.volcengine import volcengine_provider
from tests.engine.clouds import Cloud, cloud, engine, only_engine

__all__ = ["cloud", "engine", "only_engine"]
REGION = "cn-beijing"


def add_bucket(cloud: Cloud, name: str, **settings: Any) -> None:
    """A bucket that is there already."""
    bucket = {
        "owner": "2100000001",
        "region": REGION,
        "creationDate": "2026-01-01T00:00:00.000Z",
        "azRedundancy": "single-az",
        "settings": {"publicAcl": "private", "storageClass": "STANDARD", "bucketType": "fns", "projectName": "default"},
    }
    cloud.put_bucket(name, {**bucket, **settings})


def in_cloud(token: str, name: str, opts: pulumi.ResourceOptions, /, **arguments: Any) -> Any:
    """One resource, such as `tos/bucket:Bucket`."""
    return pulumi.CustomResource(f"volcengine:{token}", name, arguments, opts)


def provided(region: str = REGION) -> pulumi.ResourceOptions:
    """Options with a provider for the region."""
    return pulumi.ResourceOptions(provider=volcengine_provider(f"cloud-{region}", region))
