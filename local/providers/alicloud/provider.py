"""The alicloud plugin: its kinds, its configuration and its words."""

from __future__ import annotations

from local.providers.alicloud import oss, ram
from local.providers.alicloud.errors import refused
from local.providers.cloud import CloudError
from local.providers.cloud_provider import CloudProvider
from local.providers.kinds import Kind
from planning.catalog import fact


class Provider(CloudProvider):
    """OSS and RAM."""

    name, title, version = "alicloud", "Alibaba Cloud", "4.0.0"
    kinds = oss.KINDS | ram.KINDS
    regions = fact("oss", "regions", "known")
    region_variable = "ALICLOUD_REGION"
    key_variables = (
        ("ALICLOUD_ACCESS_KEY", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
        ("ALICLOUD_SECRET_KEY", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
    )

    def unknown_key(self, service: str) -> CloudError:
        return refused(service, 404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")

    def failure(self, request: str, urn: str, kind: Kind, name: str, error: CloudError) -> str:
        return f"{request} {urn}: 1 error occurred:\n\t* Resource {name or kind.label} Failed!!! {error}"
