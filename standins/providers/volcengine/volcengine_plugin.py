"""The volcengine plugin: its resource types, its configuration and its error messages."""

from __future__ import annotations

from standins.providers import alert_rules
from standins.providers.cloud import CloudError
from standins.providers.cloud_provider import CloudProvider
from standins.providers.kinds import Kind, balancers
from standins.providers.volcengine import iam, tos
from standins.providers.volcengine.volcengine_errors import refused

VMP_RULE = "volcengine:vmp/alertingRule:AlertingRule"
_VMP = alert_rules.kind(
    "vmp alerting rule",
    "vmp",
    refused(404, "NotFound.AlertingRule", "The alerting rule is not there."),
    instance="",
    required=("levels", "notifyGroupPolicyId", "query"),
    more=("annotations", "description", "labels", "name", "notifyPolicyId"),
)


class Provider(CloudProvider):
    """TOS, IAM, and the alert rules of VMP."""

    name, version = "volcengine", "0.0.47"
    kinds = tos.KINDS | iam.KINDS | {VMP_RULE: _VMP}
    functions = (
        tos.FUNCTIONS
        | iam.FUNCTIONS
        | {
            "volcengine:clb/getClbs:getClbs": balancers("clb", "clbs", frozenset({"eipAddress", "eniAddress"})),
            "volcengine:vmp/getAlertingRules:getAlertingRules": alert_rules.listing(
                "vmp", "alertingRules", "name", ("name",)
            ),
        }
    )
    region_variable, default_region = "VOLCENGINE_REGION", ""
    key_variables = (("VOLCENGINE_ACCESS_KEY",), ("VOLCENGINE_SECRET_KEY",))
    no_keys = "access_key and secret_key are required"

    def unknown_key(self, service: str) -> CloudError:
        if service == "tos":
            return refused(403, "InvalidAccessKeyId", "The access key ID you provided does not exist in our records.")
        return refused(401, "InvalidAccessKey", f"The accesskey [{self._key}] included in the request is invalid.")

    def heard(self, kind: Kind, error: CloudError) -> CloudError:
        """The plugin reads a bucket with HEAD, whose response has a status but no message."""
        return refused(error.status, "", "") if kind.label == "tos bucket" and error.status else error

    def failure(self, request: str, kind: Kind, name: str, error: CloudError) -> str:
        read = f'error on  reading  resource "{name}", ' if request == "reading" else ""
        return f'error on {request} {kind.label} "{name}", {read}{error}'
