"""The volcengine plugin: its kinds, its configuration and its words."""

from __future__ import annotations

from local.providers.cloud import CloudError
from local.providers.cloud_provider import CloudProvider
from local.providers.kinds import Kind
from local.providers.volcengine import iam, tos
from local.providers.volcengine.errors import refused
from planning.catalog import fact


class Provider(CloudProvider):
    """TOS and IAM."""

    name, title, version = "volcengine", "Volcengine", "0.0.47"
    kinds = tos.KINDS | iam.KINDS
    regions = fact("tos", "regions", "known")
    region_variable = "VOLCENGINE_REGION"
    key_variables = (("VOLCENGINE_ACCESS_KEY",), ("VOLCENGINE_SECRET_KEY",))

    def unknown_key(self, service: str) -> CloudError:
        return refused(403, "InvalidAccessKeyId", "The access key ID you provided does not exist in our records.")

    def failure(self, request: str, urn: str, kind: Kind, name: str, error: CloudError) -> str:
        return f'{request} {urn}: 1 error occurred:\n\t* error on {request} {kind.label} "{name}", {error}'
