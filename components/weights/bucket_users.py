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
) -> KeyPair:
    """Creates the user `cloud_name` after the bucket `after`, allows it what the document says, and returns its key.

    Every resource gets these hooks.
    """
    user = pulumi.CustomResource(
        f"{accounts.package}/user:User",
        name,
        {accounts.name: cloud_name, **accounts.user_arguments},
        # Replace it: renaming in place would pull the user away from keys and policies that refer to it by name.
        pulumi.ResourceOptions(parent=parent, replace_on_changes=[accounts.name], depends_on=[after], hooks=hooks),
    )
    policy = pulumi.CustomResource(
        f"{accounts.package}/policy:Policy",
        name,
        {"policyName": cloud_name, "policyDocument": policy_document, **accounts.policy_arguments},
        pulumi.ResourceOptions(
            parent=parent, replace_on_changes=list(accounts.policy_replaced), depends_on=[after], hooks=hooks
        ),
    )
    user_name, policy_name = pulumi.get(user, accounts.name), pulumi.get(policy, "policyName")
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
