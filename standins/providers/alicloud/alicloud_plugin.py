"""The alicloud plugin: its resource types, its configuration and its error messages."""

from __future__ import annotations

from planning.catalog import fact
from standins.providers import alert_rules
from standins.providers.alicloud import oss, ram
from standins.providers.alicloud.alicloud_errors import refused
from standins.providers.cloud import CloudError
from standins.providers.cloud_provider import CloudProvider
from standins.providers.kinds import Kind, balancers
from standins.providers.reporting import Refusal

ARMS_RULE = "alicloud:arms/prometheusAlertRule:PrometheusAlertRule"
_ARMS = alert_rules.kind(
    "alicloud_arms_prometheus_alert_rule",
    "arms",
    refused("arms", 404, "404", "The alert rule is not there."),
    instance="clusterId",
    required=("clusterId", "duration", "expression", "message", "prometheusAlertRuleName"),
    more=("annotations", "dispatchRuleId", "labels", "notifyType"),
)


class Provider(CloudProvider):
    """OSS, RAM, and the alert rules of ARMS."""

    name, version = "alicloud", "4.0.0"
    kinds = oss.KINDS | ram.KINDS | {ARMS_RULE: _ARMS}
    functions = (
        oss.FUNCTIONS
        | ram.FUNCTIONS
        | {
            "alicloud:slb/getApplicationLoadBalancers:getApplicationLoadBalancers": balancers(
                "slb", "balancers", frozenset({"address"})
            ),
            "alicloud:arms/getPrometheusAlertRules:getPrometheusAlertRules": alert_rules.listing(
                "arms", "rules", "prometheusAlertRuleName", ("clusterId",)
            ),
        }
    )
    region_variable, default_region = "ALICLOUD_REGION", "cn-beijing"
    key_variables = (
        ("ALICLOUD_ACCESS_KEY", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
        ("ALICLOUD_SECRET_KEY", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
    )
    no_keys = (
        "configuring Terraform Alibaba Cloud Provider: no valid credential sources for Terraform Alibaba Cloud "
        "Provider found.\n\nPlease see https://registry.terraform.io/providers/aliyun/alicloud/latest/docs"
        "#authentication\nfor more information about providing credentials."
    )

    def check_region(self, region: str) -> None:
        if region not in fact("oss", "regions", "known"):
            hint = "You can skip checking this region by setting provider parameter 'skip_region_validation'."
            raise Refusal(f"Invalid Alibaba Cloud region: {region}. {hint}")

    def unknown_key(self, service: str) -> CloudError:
        if service == "oss":
            message = "The OSS Access Key Id you provided does not exist in our records."
            return refused(service, 403, "InvalidAccessKeyId", message)
        return refused(service, 404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")

    def failure(self, request: str, kind: Kind, name: str, error: CloudError) -> str:
        return f"Resource {name or kind.label} Failed!!! {error}" if str(error).startswith("[SDK") else str(error)
