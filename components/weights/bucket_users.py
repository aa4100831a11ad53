"""A cloud user with access to one part of a bucket, and its key: the common part of RAM and IAM, which work alike.

Not here: what a policy allows, and the bucket (`oss_bucket`, `tos_bucket`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi

from components.cluster.credentials import KeyPair


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """A cloud's access management: its `package`, such as `volcengine:iam`, and how its resources differ.

    `name` is the user's argument for its name, `secret` the key's output for its secret. `user_arguments` and
    `policy_arguments` are added to the user and the policy. A change of an argument in `policy_replaced` replaces the
    policy.
    """

    package: str
    name: str
    secret: str
    user_arguments: Mapping[str, Any] = field(default_factory=dict)
    policy_arguments: Mapping[str, Any] = field(default_factory=dict)
    policy_replaced: Sequence[str] = ()

    @property
    def access_key(self) -> str:
        """The type of a key."""
        return f"{self.package}/accessKey:AccessKey"


def allow(actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    """A statement of a policy."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def identity(
    accounts: Accounts,
    parent: pulumi.Resource,
    name: str,
    cloud_name: str,
    policy_document: str,
    after: pulumi.Resource,
    hooks: pulumi.ResourceHookBinding | None,
    generations: Sequence[int] = (1,),
) -> KeyPair:
    """Creates a user for each generation after the bucket `after`, allows them what the document says, and returns the
    first one's key.

    `cloud_name` is the name of the policy and of generation 1's user. A killed run can leave a key that nobody knows;
    it is deleted with its user, so each new key gets a new user. Every resource gets these hooks.
    """
    allowed = policy(accounts, parent, name, cloud_name, policy_document, after, hooks)
    keys = [
        _key(accounts, parent, generation_name(name, each), generation_name(cloud_name, each), allowed, after, hooks)
        for each in generations
    ]
    return keys[0]


def generation_name(name: str, generation: int) -> str:
    """What is called `name` in the first generation."""
    return name if generation == 1 else f"{name}-{generation}"


def policy(
    accounts: Accounts,
    parent: pulumi.Resource,
    name: str,
    cloud_name: str,
    document: str,
    after: pulumi.Resource,
    hooks: pulumi.ResourceHookBinding | None,
) -> pulumi.Output[str]:
    """Creates the policy `cloud_name`; returns its name, known once it exists."""
    resource = pulumi.CustomResource(
        f"{accounts.package}/policy:Policy",
        name,
        {"policyName": cloud_name, "policyDocument": document, **accounts.policy_arguments},
        pulumi.ResourceOptions(
            parent=parent, replace_on_changes=list(accounts.policy_replaced), depends_on=[after], hooks=hooks
        ),
    )
    return pulumi.get(resource, "policyName")


def _key(
    accounts: Accounts,
    parent: pulumi.Resource,
    name: str,
    cloud_name: str,
    policy_name: pulumi.Output[str],
    after: pulumi.Resource,
    hooks: pulumi.ResourceHookBinding | None,
) -> KeyPair:
    user = pulumi.CustomResource(
        f"{accounts.package}/user:User",
        name,
        {accounts.name: cloud_name, **accounts.user_arguments},
        # Replace it: renaming in place would pull the user away from keys and policies that refer to it by name.
        pulumi.ResourceOptions(parent=parent, replace_on_changes=[accounts.name], depends_on=[after], hooks=hooks),
    )
    user_name = pulumi.get(user, accounts.name)
    attachment = pulumi.CustomResource(
        f"{accounts.package}/userPolicyAttachment:UserPolicyAttachment",
        name,
        {"userName": user_name, "policyName": policy_name, "policyType": "Custom"},
        pulumi.ResourceOptions(parent=parent, hooks=hooks),
    )
    key = pulumi.CustomResource(
        accounts.access_key,
        name,
        {"userName": user_name, accounts.secret: None},
        # Create the key after the policy attachment, so that it works as soon as it is handed out.
        pulumi.ResourceOptions(
            parent=parent, additional_secret_outputs=[accounts.secret], depends_on=[attachment], hooks=hooks
        ),
    )
    return KeyPair(pulumi.Output.secret(key.id), pulumi.Output.secret(pulumi.get(key, accounts.secret)))
