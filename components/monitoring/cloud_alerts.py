"""The alerts as rules of the clouds' own Prometheus, which read no PrometheusRules: ARMS and VMP.

The rules are those of `alerts`; here they become the arguments of each cloud's resource. Not here: who is notified, by
which channel; the cloud's notification policies say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pulumi

from components.monitoring.alerts import group
from components.monitoring.args import MonitoringArgs
from planning.catalog import fact

ARMS_RULE = "alicloud:arms/prometheusAlertRule:PrometheusAlertRule"
VMP_RULE = "volcengine:vmp/alertingRule:AlertingRule"
_Rule = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """Who evaluates the rules: the ARMS or VMP instance `instance`. `policy` is the notification policy, `group_policy`
    how VMP groups notifications. All are ids."""

    kind: Literal["arms", "vmp"]
    instance: str
    policy: str | None = None
    group_policy: str | None = None


def arms_rule(name: str, rule: _Rule, ruler: Ruler) -> dict[str, Any]:
    """A Prometheus rule for ARMS, which counts whole minutes."""
    minutes = math.ceil(_seconds(rule) / 60)
    least, most = fact("monitoring", "rulers", "armsMinutes")
    return {
        "clusterId": ruler.instance,
        "prometheusAlertRuleName": name,
        "expression": rule["expr"],
        "duration": str(min(max(minutes, least), most)),
        "message": rule["annotations"]["summary"],
        "labels": _pairs(rule["labels"]),
        "annotations": _pairs({key: text for key, text in rule["annotations"].items() if key != "summary"}),
        **({"notifyType": "DISPATCH_RULE", "dispatchRuleId": ruler.policy} if ruler.policy else {}),
    }


def vmp_rule(name: str, rule: _Rule, ruler: Ruler) -> dict[str, Any]:
    """A Prometheus rule for VMP, which compares a number and waits for one of a few times: whether the expression has a
    result, and for longer times whether it had one all the while."""
    found, seconds = f"count({rule['expr']})", _seconds(rule)
    times = fact("monitoring", "rulers", "vmpFor")
    lasting = next((each for each, length in times.items() if length >= seconds), None)
    if lasting is None:
        found, lasting = f"min_over_time(({found} or vector(0))[{seconds}s:{_STEP_SECONDS}s])", next(iter(times))
    level = fact("monitoring", "rulers", "vmpLevels")[rule["labels"]["severity"]]
    return {
        "name": name,
        "description": rule["annotations"]["summary"],
        "query": {"workspaceId": ruler.instance, "promQl": found},
        "levels": [{"level": level, "for": lasting, "comparator": ">", "threshold": 0}],
        "labels": _pairs(rule["labels"]),
        "annotations": _pairs(rule["annotations"]),
        "notifyGroupPolicyId": ruler.group_policy,
        **({"notifyPolicyId": ruler.policy} if ruler.policy else {}),
    }


_STEP_SECONDS = 60


def _seconds(rule: _Rule) -> int:
    return int(rule["for"].removesuffix("s"))


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": key, "value": values[key]} for key in sorted(values)]


_FORMS = {"arms": (ARMS_RULE, arms_rule), "vmp": (VMP_RULE, vmp_rule)}


class CloudAlerts(pulumi.ComponentResource):
    """The alerts of the stack's engines, in the cloud."""

    def __init__(
        self, name: str, args: MonitoringArgs, ruler: Ruler, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("modelserve:monitoring:CloudAlerts", name, {}, opts)
        token, made = _FORMS[ruler.kind]
        # Most arguments of a rule replace it, and the two may have one name.
        child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        for service in args.services:
            for rule in group("alerts", service, args)["rules"]:
                called = f"{args.stack}.{service}.{rule['alert']}"
                pulumi.CustomResource(token, f"{name}-{service}-{rule['alert']}", made(called, rule, ruler), child)
        self.register_outputs({})
