"""The alicloud plugin: its kinds, its configuration and its words."""

from __future__ import annotations

import os

from local.providers.alicloud import oss, ram
from local.providers.alicloud.errors import refused
from local.providers.cloud import CloudError
from local.providers.cloud_provider import CloudProvider
from local.providers.kinds import Kind
from local.providers.reporting import Refusal
from local.providers.wire import Properties
from planning.catalog import fact

_KEY_VARIABLES = (
    ("ALICLOUD_ACCESS_KEY", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
    ("ALICLOUD_SECRET_KEY", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
)


class Provider(CloudProvider):
    """OSS and RAM."""

    name, version = "alicloud", "4.0.0"
    kinds = oss.KINDS | ram.KINDS

    def configured(self, settings: Properties) -> tuple[str, str]:
        region = settings.get("region") or os.environ.get("ALICLOUD_REGION", "")
        if region not in fact("oss", "regions", "known"):
            raise Refusal(f"Invalid Alibaba Cloud region: {region}")
        keys = [next((os.environ[name] for name in names if os.environ.get(name)), "") for names in _KEY_VARIABLES]
        if not all(keys):
            names = " and ".join(names[0] for names in _KEY_VARIABLES)
            raise Refusal(f"no valid credentials for Alibaba Cloud: set {names} in the environment")
        return region, keys[0]

    def unknown_key(self, service: str) -> CloudError:
        return refused(service, 404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")

    def failure(self, request: str, urn: str, kind: Kind, name: str, error: CloudError) -> str:
        return f"{request} {urn}: 1 error occurred:\n\t* Resource {name or kind.label} Failed!!! {error}"
