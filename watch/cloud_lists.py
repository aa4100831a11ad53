"""Which of a stack's resources exist in a cloud, asked through the cloud's own Pulumi plugin, so without a second
client or other credentials.

Looks buckets, users, policies and keys up in lists: what a list lacks does not exist. Reading a resource, by contrast,
fails in the same way for one that is gone and for one that the key may not see. Functions and results are from
aliyun/terraform-provider-alicloud v1.285.0 (data_source_alicloud_*.go) and volcengine/terraform-provider-volcengine
v0.0.194 (data_source_volcengine_*.go); the ids are those of the resources there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

from components.cluster.alicloud_provider import alicloud_provider
from components.cluster.volcengine_provider import volcengine_provider
from components.monitoring.cloud_alerts import ARMS_RULE, VMP_RULE
from components.weights import oss_bucket, tos_bucket
from watch.helm_releases import moment
from watch.outcomes import PROVIDER, Found, Resource, UnreadError, pending_operations, resources_of

Properties = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Lookup:
    """How to find a resource: `function` with `arguments` returns a list in `items`; the resource's item has `same`.

    Values are templates over the resource's arguments, in `id` also over the item's properties. `since` names the
    item's creation time.
    """

    function: str
    arguments: Properties
    items: str
    same: Mapping[str, str]
    id: str
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A resource type: how to find a resource, and what a found one means.

    `named`: its name is unique to the stack, so a found one is ours; any other is ours if it was created during the
    run. `written_again`: it is a setting, and creating it again just writes it. `secret`: it shows its secret only when
    it is created, so one whose creation was cut off is useless.
    """

    lookup: _Lookup | None
    named: bool = False
    written_again: bool = False
    secret: bool = False


_OSS_BUCKET = _Lookup(
    function="alicloud:oss/getBuckets:getBuckets",
    arguments={"nameRegex": "^{bucket}$"},
    items="buckets",
    same={"name": "{bucket}"},
    id="{name}",
    since="creationDate",
)
_TOS_BUCKET = _Lookup(
    function="volcengine:tos/getBuckets:getBuckets",
    arguments={"bucketName": "{bucketName}"},
    items="buckets",
    same={"name": "{bucketName}"},
    id="{name}",
    since="creationDate",
)
_RAM, _IAM = "alicloud:ram", "volcengine:iam"
KINDS: Mapping[str, Kind] = {
    oss_bucket.BUCKET: Kind(lookup=_OSS_BUCKET),
    oss_bucket.BUCKET_ACL: Kind(lookup=_OSS_BUCKET, written_again=True),
    oss_bucket.PUBLIC_ACCESS_BLOCK: Kind(lookup=_OSS_BUCKET, written_again=True),
    f"{_RAM}/user:User": Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_RAM}/getUsers:getUsers",
            arguments={"nameRegex": "^{name}$"},
            items="users",
            same={"name": "{name}"},
            id="{id}",
        ),
    ),
    f"{_RAM}/policy:Policy": Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_RAM}/getPolicies:getPolicies",
            arguments={"nameRegex": "^{policyName}$", "type": "Custom", "enableDetails": False},
            items="policies",
            same={"policyName": "{policyName}"},
            id="{policyName}",
        ),
    ),
    f"{_RAM}/userPolicyAttachment:UserPolicyAttachment": Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_RAM}/getPolicies:getPolicies",
            arguments={"userName": "{userName}", "type": "{policyType}", "enableDetails": False},
            items="policies",
            same={"policyName": "{policyName}"},
            id="user:{policyName}:{policyType}:{userName}",
        ),
    ),
    oss_bucket.ROLE: Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_RAM}/getRoles:getRoles",
            arguments={"nameRegex": "^{roleName}$"},
            items="roles",
            same={"name": "{roleName}"},
            id="{name}",
        ),
    ),
    oss_bucket.ROLE_POLICY: Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_RAM}/getPolicies:getPolicies",
            arguments={"roleName": "{roleName}", "type": "{policyType}", "enableDetails": False},
            items="policies",
            same={"policyName": "{policyName}"},
            id="role:{policyName}:{policyType}:{roleName}",
        ),
    ),
    ARMS_RULE: Kind(
        named=True,
        lookup=_Lookup(
            function="alicloud:arms/getPrometheusAlertRules:getPrometheusAlertRules",
            arguments={"clusterId": "{clusterId}"},
            items="rules",
            same={"prometheusAlertRuleName": "{prometheusAlertRuleName}"},
            id="{id}",
        ),
    ),
    VMP_RULE: Kind(
        named=True,
        lookup=_Lookup(
            function="volcengine:vmp/getAlertingRules:getAlertingRules",
            arguments={"name": "{name}"},
            items="alertingRules",
            same={"name": "{name}"},
            id="{id}",
        ),
    ),
    # No function lists a user's keys.
    oss_bucket.ACCESS_KEY: Kind(lookup=None, secret=True),
    tos_bucket.BUCKET: Kind(lookup=_TOS_BUCKET),
    tos_bucket.ENCRYPTION: Kind(lookup=_TOS_BUCKET, written_again=True),
    tos_bucket.LIFECYCLE: Kind(lookup=_TOS_BUCKET, written_again=True),
    f"{_IAM}/user:User": Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_IAM}/getUsers:getUsers",
            arguments={"query": "{userName}"},
            items="users",
            same={"userName": "{userName}"},
            id="{userName}",
        ),
    ),
    f"{_IAM}/policy:Policy": Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_IAM}/getPolicies:getPolicies",
            arguments={},
            items="policies",
            same={"policyName": "{policyName}", "policyType": "Custom"},
            id="{policyName}",
        ),
    ),
    f"{_IAM}/userPolicyAttachment:UserPolicyAttachment": Kind(
        named=True,
        lookup=_Lookup(
            function=f"{_IAM}/getUserPolicyAttachments:getUserPolicyAttachments",
            arguments={"userName": "{userName}"},
            items="policies",
            same={"policyName": "{policyName}", "policyType": "{policyType}"},
            id="{userName}:{policyName}:{policyType}",
        ),
    ),
    # The user is the stack's own, so its keys are too: one that nobody knows would keep the user from being deleted.
    tos_bucket.ACCESS_KEY: Kind(
        named=True,
        secret=True,
        lookup=_Lookup(
            function=f"{_IAM}/getAccessKeys:getAccessKeys",
            arguments={"userName": "{userName}"},
            items="accessKeyMetadatas",
            same={"userName": "{userName}"},
            id="{accessKeyId}",
        ),
    ),
}

_CLB = "volcengine:clb/getClbs:getClbs"
BALANCERS: Mapping[str, Kind] = {
    "alicloud::LoadBalancer": Kind(
        lookup=_Lookup(
            function="alicloud:slb/getApplicationLoadBalancers:getApplicationLoadBalancers",
            arguments={"address": "{address}"},
            items="balancers",
            same={"address": "{address}"},
            id="{id}",
        )
    ),
    **{
        f"volcengine::{kind}": Kind(
            lookup=_Lookup(
                function=_CLB, arguments={address: "{address}"}, items="clbs", same={address: "{address}"}, id="{id}"
            )
        )
        for kind, address in (("LoadBalancer", "eniAddress"), ("PublicLoadBalancer", "eipAddress"))
    },
}
"""What a cluster makes in its cloud for a Service, found by its address; no type of Pulumi's."""

# By cloud.kind: its plugin, the function that tells whose credentials these are, and how it names the account.
_CALLERS = {
    "acs": ("alicloud", "alicloud:index/getCallerIdentity:getCallerIdentity", lambda found: found["accountId"]),
    "volcengine": (
        "volcengine",
        "volcengine:iam/getCallerIdentities:getCallerIdentities",
        lambda found: found["callerIdentities"][0]["accountId"],
    ),
}
# Outputs that hold an account's id, of resources in a state.
_ACCOUNTS = {oss_bucket.BUCKET: "owner", f"{_IAM}/user:User": "accountId"}
PACKAGES = {kind: package for kind, (package, _, _) in _CALLERS.items()}
"""By cloud.kind: the plugin's package."""
_PROVIDERS = {"alicloud": alicloud_provider, "volcengine": volcengine_provider}


@dataclass(frozen=True)
class Item:
    """One entry of a list: the id of its resource, and its creation time if the cloud gives it."""

    id: str
    since: str | None = None

    def is_since(self, time: datetime) -> bool:
        """Whether the cloud says that it was created at or after this time. One cloud gives only the day, in UTC."""
        if self.since is None:
            return False
        if "T" not in self.since:
            return date.fromisoformat(self.since) >= time.astimezone(timezone.utc).date()
        return moment(self.since) >= time.replace(microsecond=0)


Answers = Mapping[str, "list[Item] | str"]
"""By URN: what exists of each resource, or why its cloud did not say, in one line."""


def find(resources: Sequence[Properties], regions: Mapping[str, str]) -> Answers:
    """Looks up those of a state's resources whose type has a lookup, and balancers; `regions` is by URN. Needs `pulumi`
    on PATH.

    Pulumi asks in a preview of a temporary stack: it starts the plugins, which take their credentials from the
    environment as in any run.
    """
    kinds = {**KINDS, **BALANCERS}
    asked = [resource for resource in resources if kinds[resource["type"]].lookup]
    if not asked:
        return {}
    from pulumi import InvokeOptions
    from pulumi.runtime import invoke

    answers: dict[str, list[Item] | str] = {}

    def program() -> None:
        providers: dict[tuple[str, str], Any] = {}
        for resource in asked:
            urn, package = resource["urn"], resource["type"].partition(":")[0]
            place = (package, regions[urn])
            if place not in providers:
                providers[place] = _PROVIDERS[package](f"ask-{len(providers)}", place[1])
            lookup = kinds[resource["type"]].lookup
            assert lookup is not None
            question = _filled(lookup.arguments, resource["inputs"])
            try:
                result = invoke(lookup.function, question, InvokeOptions(provider=providers[place])).value
            except Exception as error:  # the SDK raises nothing narrower
                answers[urn] = str(error).strip().splitlines()[0]
                continue
            answers[urn] = _items(lookup, resource["inputs"], result)

    _in_preview(program)
    return answers


def recorded_account(resources: Sequence[Properties]) -> str | None:
    """The account that a state's resources are in; None where none of them tells."""
    for each in resources:
        account = (each.get("outputs") or {}).get(_ACCOUNTS.get(each["type"], ""))
        if account:
            return str(account)
    return None


def account(cloud: str, region: str) -> str:
    """The account of this machine's credentials for a `cloud.kind`. Raises UnreadError if the cloud does not tell."""
    from pulumi import InvokeOptions
    from pulumi.runtime import invoke

    package, function, told = _CALLERS[cloud]
    accounts: list[str] = []
    wrong: list[str] = []

    def program() -> None:
        provider = _PROVIDERS[package]("ask", region)
        try:
            accounts.append(str(told(invoke(function, {}, InvokeOptions(provider=provider)).value)))
        except Exception as error:  # the SDK raises nothing narrower
            wrong.append(str(error).strip().splitlines()[0])

    _in_preview(program)
    if not accounts:
        raise UnreadError(wrong[0])
    return accounts[0]


def _in_preview(program: Callable[[], None]) -> None:
    """Runs the program in a preview of a temporary stack."""
    from pulumi import automation

    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{folder}"
        project = automation.ProjectSettings("ask", "python", backend=automation.ProjectBackend(place))
        options = automation.LocalWorkspaceOptions(
            work_dir=folder,
            project_settings=project,
            env_vars={"PULUMI_BACKEND_URL": place, "PULUMI_CONFIG_PASSPHRASE": os.urandom(16).hex()},
        )
        automation.create_stack("ask", project_name="ask", program=program, opts=options).preview()


def _items(lookup: _Lookup, inputs: Properties, result: Properties) -> list[Item]:
    same = _filled(lookup.same, inputs)
    return [
        Item(lookup.id.format(**{**inputs, **item}), item.get(lookup.since))
        for item in result.get(lookup.items) or []
        if all(item.get(key) == value for key, value in same.items())
    ]


def _filled(templates: Properties, inputs: Properties) -> dict[str, Any]:
    return {key: text.format(**inputs) if isinstance(text, str) else text for key, text in templates.items()}


class Clouds:
    """The clouds of the stack's pending operations, asked once, and only if there are any."""

    def __init__(self, state: dict[str, Any], since: str | None) -> None:
        self._since = moment(since) if since else None
        resources = resources_of(state)
        self._ids = {(each["urn"], each.get("id")) for each in resources}
        # The state leaves empty inputs out, as of the engine's own provider.
        places = {
            each["urn"]: each.get("inputs", {}).get("region", "")
            for each in resources
            if each["type"].startswith(PROVIDER)
        }
        asked = [each["resource"] for each in pending_operations(state) if each["resource"]["type"] in KINDS]
        regions = {each["urn"]: places.get(each["provider"].rpartition("::")[0], "") for each in asked}
        self._answers = find(asked, regions)

    def look(self, resource: Resource) -> Found | None:
        """What exists of a resource. Raises UnreadError if the cloud does not say, or if its type has no lookup."""
        kind, urn, id = KINDS.get(resource["type"]), resource["urn"], resource.get("id")
        if kind is None:
            raise UnreadError(f"this program cannot look up a {resource['type']}")
        if kind.lookup is None:
            return Found(unlisted=True)
        answer = self._answers[urn]
        if isinstance(answer, str):
            raise UnreadError(answer)
        # A resource with an id was created before the run. For one without, skip items that the state already has.
        items = [item for item in answer if (item.id == id if id else (urn, item.id) not in self._ids)]
        if not items:
            return None
        item = items[0]
        ours = kind.named or (self._since is not None and item.is_since(self._since))
        return Found(ours, item.id, setting=kind.written_again, lost=kind.secret)
