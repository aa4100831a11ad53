"""The volcengine plugin: its kinds, its configuration and its words."""

from __future__ import annotations

import os

from local.providers.cloud import CloudError
from local.providers.cloud_provider import CloudProvider
from local.providers.kinds import Kind
from local.providers.reporting import Refusal
from local.providers.volcengine import iam, tos
from local.providers.volcengine.errors import refused
from local.providers.wire import Properties
from planning.catalog import fact

_KEY_VARIABLES = ("VOLCENGINE_ACCESS_KEY", "VOLCENGINE_SECRET_KEY")


class Provider(CloudProvider):
    """TOS and IAM."""

    name, version = "volcengine", "0.0.47"
    kinds = tos.KINDS | iam.KINDS

    def configured(self, settings: Properties) -> tuple[str, str]:
        region = settings.get("region") or os.environ.get("VOLCENGINE_REGION", "")
        if region not in fact("tos", "regions", "known"):
            raise Refusal(f"Invalid Volcengine region: {region}")
        keys = [os.environ.get(name, "") for name in _KEY_VARIABLES]
        if not all(keys):
            names = " and ".join(_KEY_VARIABLES)
            raise Refusal(f"no valid credentials for Volcengine: set {names} in the environment")
        return region, keys[0]

    def unknown_key(self, service: str) -> CloudError:
        return refused(403, "InvalidAccessKeyId", "The access key ID you provided does not exist in our records.")

    def failure(self, request: str, urn: str, kind: Kind, name: str, error: CloudError) -> str:
        return f'{request} {urn}: 1 error occurred:\n\t* error on {request} {kind.label} "{name}", {error}'
