"""The entry point for Pulumi's engine: hands it the rules as policies.

A rule that needs only its own resource runs before that resource is created; the others run once at the end of a
preview, with all resources. Unlike the rest of this package, it needs the packages of requirements.txt.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The engine puts this folder on the path; the project's packages are one level up.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import grpc  # noqa: E402
from pulumi_policy import (  # noqa: E402
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyPack,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy import policy as sdk  # noqa: E402
from pulumi_policy.proxy import UnknownValueError  # noqa: E402

from planning.problems import Refused  # noqa: E402
from policy import pack_config  # noqa: E402
from policy.rule_types import UNKNOWN, Resource, Rule, Stack  # noqa: E402
from policy.rules import RULES  # noqa: E402


def plain(value: Any) -> Any:
    """A property without the SDK's proxies, which raise at each value that is still unknown."""
    if isinstance(value, Mapping):
        return {key: _known(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_known(value, index) for index in range(len(value))]
    return value


def _known(holder: Any, key: Any) -> Any:
    try:
        return plain(holder[key])
    except UnknownValueError:
        return UNKNOWN


def _resource(given: Any) -> Resource:
    # The engine does not say whether a resource is retained on delete.
    return Resource(given.resource_type, given.name, plain(given.props), bool(given.opts.protect), given.urn)


def _message(rule: Rule, reason: str) -> str:
    return f"{reason}; {rule.remedy}"


def _settings(rule: Rule, given: Mapping[str, Any]) -> dict[str, Any]:
    return {**rule.defaults(), **plain(given)}


def _alone(rule: Rule) -> Callable[[ResourceValidationArgs, Callable[..., None]], None]:
    def validate(args: ResourceValidationArgs, report: Callable[..., None]) -> None:
        resource = _resource(args)
        for reason in rule.judge(
            resource, Stack([resource], datetime.date.today()), _settings(rule, args.get_config())
        ):
            report(_message(rule, reason))

    return validate


def _together(rule: Rule) -> Callable[[StackValidationArgs, Callable[..., None]], None]:
    def validate(args: StackValidationArgs, report: Callable[..., None]) -> None:
        stack = Stack([_resource(each) for each in args.resources], datetime.date.today())
        for resource in stack.resources:
            for reason in rule.judge(resource, stack, _settings(rule, args.get_config())):
                report(_message(rule, reason), resource.urn)

    return validate


def _policy(rule: Rule) -> Policy:
    common = {
        "name": rule.id,
        "description": f"{rule.reason}.",
        "enforcement_level": EnforcementLevel(rule.severity),
        "config_schema": PolicyConfigSchema(pack_config.schema(rule)) if rule.settings else None,
        "remediation_steps": rule.remedy,
    }
    if rule.alone:
        return ResourceValidationPolicy(validate=_alone(rule), **common)
    return StackValidationPolicy(validate=_together(rule), **common)


class _Checked(sdk._PolicyAnalyzerServicer):  # type: ignore[misc]  # the SDK has no types here
    """Refuses a config with unknown keys: the engine passes them on, and the SDK drops them silently."""

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        given = {name: sdk.json_format.MessageToDict(each.properties) for name, each in request.policyConfig.items()}
        if wrong := list(pack_config.problems(given)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "\n".join(map(str, wrong)))
        return super().Configure(request, context)


def _initial() -> dict[str, Any]:
    given = pack_config.load(pack_config.FILE)
    pack_config.parse(given)
    levels = {"enforcementLevel", *pack_config.LEVELS}

    def level(value: Any) -> Any:
        return EnforcementLevel(value) if isinstance(value, str) and value in levels else value

    return {
        name: level(value)
        if isinstance(value, str)
        else {key: level(each) if key == "enforcementLevel" else each for key, each in value.items()}
        for name, value in given.items()
    }


sdk._PolicyAnalyzerServicer = _Checked
try:
    PolicyPack("modelserve", [_policy(rule) for rule in RULES.values()], initial_config=_initial() or None)
except Refused as error:
    sys.exit("\n".join(error.lines))
