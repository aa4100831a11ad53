"""A cloud's user that may use a part of a bucket, and its key: what RAM and IAM, which are built alike, have in common.

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
    """A cloud's access management: `package`, as in `volcengine:iam`, and in what its resources differ.

    `name` is a user's argument, `secret` a key's output. `user_arguments` and `policy_arguments` are further ones; a
    change of those that `policy_replaced` names makes a policy anew.
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
    own: str,
    policy_document: str,
    after: pulumi.Resource,
    hooks: pulumi.ResourceHookBinding | None,
) -> KeyPair:
    """A user called `own`, made after the bucket `after`, that is allowed what the document says; its key.

    Every resource has these hooks.
    """
    user = pulumi.CustomResource(
        f"{accounts.package}/user:User",
        name,
        {accounts.name: own, **accounts.user_arguments},
        # The cloud would rename the user in place, under the keys and policies that are made anew by name.
        pulumi.ResourceOptions(parent=parent, replace_on_changes=[accounts.name], depends_on=[after], hooks=hooks),
    )
    policy = pulumi.CustomResource(
        f"{accounts.package}/policy:Policy",
        name,
        {"policyName": own, "policyDocument": policy_document, **accounts.policy_arguments},
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
