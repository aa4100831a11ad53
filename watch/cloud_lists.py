"""What a cloud has of a stack's resources, asked through the cloud's own plugin: no second client, nor credentials.

Buckets, users, policies and keys are looked for in lists: what is missing in one is not there, while a plugin's reading
fails alike for what is gone and for what it may not see. The functions and what they give are those of
aliyun/terraform-provider-alicloud v1.285.0 (data_source_alicloud_*.go) and volcengine/terraform-provider-volcengine
v0.0.194 (data_source_volcengine_*.go); the ids are those of the resources there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

from components.cluster.alicloud_provider import alicloud_provider
from components.cluster.volcengine_provider import volcengine_provider
from components.weights import oss_bucket, tos_bucket
from watch.helm_releases import moment
from watch.outcomes import PROVIDER, Found, Resource, UnreadError, pending_operations

Properties = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Lookup:
    """How to find a resource: `function` with `arguments` gives a list under `items`; its own item has `same`.

    Values are templates of the resource's arguments, `id` of the item's properties too. `since` is the item's time of
    creation.
    """

    function: str
    arguments: Properties
    items: str
    same: Mapping[str, str]
    id: str
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A resource type: how to find it, and what to think of what is found.

    A `named` one has a name that no other stack gives; any other is ours if it was made during the run. One that is
    `written_again` may be created twice: it is a setting, and creating it writes it. A `secret` one tells its creator
    something once: who was cut off cannot use it.
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
    tos_bucket.ACCESS_KEY: Kind(
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

_PROVIDERS = {"alicloud": alicloud_provider, "volcengine": volcengine_provider}


@dataclass(frozen=True)
class Item:
    """One entry of a list: the id of its resource, and when the cloud says that it was made."""

    id: str
    since: str | None = None

    def is_since(self, time: datetime) -> bool:
        """Whether it was made at or after this time, as far as the cloud says: one tells only the day, in UTC."""
        if self.since is None:
            return False
        if "T" not in self.since:
            return date.fromisoformat(self.since) >= time.astimezone(timezone.utc).date()
        return moment(self.since) >= time.replace(microsecond=0)


Answers = Mapping[str, "list[Item] | str"]
"""What there is of each resource, by URN, or in one line why its cloud did not say."""


def find(resources: Sequence[Properties], regions: Mapping[str, str]) -> Answers:
    """Ask for these resources of a state that have a lookup; `regions` by URN. Wants `pulumi` on PATH.

    The engine carries the questions in a preview of a stack that is kept nowhere: it starts the plugins, which take
    their credentials from the environment as in any run.
    """
    asked = [each for each in resources if KINDS[each["type"]].lookup]
    if not asked:
        return {}
    from pulumi import InvokeOptions, automation
    from pulumi.runtime import invoke

    answers: dict[str, list[Item] | str] = {}

    def program() -> None:
        providers: dict[tuple[str, str], Any] = {}
        for resource in asked:
            urn, package = resource["urn"], resource["type"].partition(":")[0]
            place = (package, regions[urn])
            if place not in providers:
                providers[place] = _PROVIDERS[package](f"ask-{len(providers)}", place[1])
            lookup = KINDS[resource["type"]].lookup
            assert lookup is not None
            question = _filled(lookup.arguments, resource["inputs"])
            try:
                given = invoke(lookup.function, question, InvokeOptions(provider=providers[place])).value
            except Exception as error:  # the SDK raises no narrower one
                answers[urn] = str(error).strip().splitlines()[0]
                continue
            answers[urn] = _items(lookup, resource["inputs"], given)

    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{folder}"
        project = automation.ProjectSettings("ask", "python", backend=automation.ProjectBackend(place))
        options = automation.LocalWorkspaceOptions(
            work_dir=folder,
            project_settings=project,
            env_vars={"PULUMI_BACKEND_URL": place, "PULUMI_CONFIG_PASSPHRASE": os.urandom(16).hex()},
        )
        automation.create_stack("ask", project_name="ask", program=program, opts=options).preview()
    return answers


def _items(lookup: _Lookup, inputs: Properties, given: Properties) -> list[Item]:
    same = _filled(lookup.same, inputs)
    return [
        Item(lookup.id.format(**{**inputs, **item}), item.get(lookup.since))
        for item in given.get(lookup.items) or []
        if all(item.get(key) == value for key, value in same.items())
    ]


def _filled(templates: Properties, inputs: Properties) -> dict[str, Any]:
    return {key: text.format(**inputs) if isinstance(text, str) else text for key, text in templates.items()}


class Clouds:
    """The clouds of the stack's pending operations, asked once and only where there are some."""

    def __init__(self, state: dict[str, Any], since: str | None) -> None:
        self._since = moment(since) if since else None
        resources = state["deployment"].get("resources") or []
        self._ids = {(each["urn"], each.get("id")) for each in resources}
        places = {
            each["urn"]: each["inputs"].get("region", "") for each in resources if each["type"].startswith(PROVIDER)
        }
        asked = [each["resource"] for each in pending_operations(state) if each["resource"]["type"] in KINDS]
        regions = {each["urn"]: places.get(each["provider"].rpartition("::")[0], "") for each in asked}
        self._answers = find(asked, regions)

    def look(self, resource: Resource) -> Found | None:
        """What there is of a resource. Raises UnreadError where the cloud does not say, or nothing is known of it."""
        kind, urn, id = KINDS.get(resource["type"]), resource["urn"], resource.get("id")
        if kind is None:
            raise UnreadError(f"nobody knows how to look up a {resource['type']}")
        if kind.lookup is None:
            return Found(unlisted=True)
        answer = self._answers[urn]
        if isinstance(answer, str):
            raise UnreadError(answer)
        # One that has an id was made before the run; of those without, the state's own are others.
        items = [each for each in answer if (each.id == id if id else (urn, each.id) not in self._ids)]
        if not items:
            return None
        item = items[0]
        ours = kind.named or (self._since is not None and item.is_since(self._since))
        return Found(ours, item.id, setting=kind.written_again, lost=kind.secret)
