"""Access management: users, custom policies, which user has which, and the users' access keys."""

from __future__ import annotations

import re
import secrets
from typing import Any

from local.providers.cloud import Cloud
from local.providers.identities import Identities, delete_key, held_by, letters, now, rename_user
from local.providers.kinds import Kind
from local.providers.volcengine.errors import ACCOUNT, permit, refused
from local.providers.wire import Properties
from planning.catalog import fact

_IDENTITIES = Identities(
    service="iam",
    refused=refused,
    permit=permit,
    names={
        "users": re.compile(f"[A-Za-z0-9._@-]{{1,{fact('tos', 'iam', 'userNameLimit')}}}"),
        "policies": re.compile(f"[A-Za-z0-9+=,.@_-]{{1,{fact('tos', 'iam', 'policyNameLimit')}}}"),
    },
    document_characters=fact("tos", "iam", "policyCharacters"),
    keys_per_user=fact("tos", "iam", "keysPerUser"),
    attachment_id="{user}:{policy}:{kind}",
    missing_code="{what}NotExist",
    taken_code="{what}AlreadyExists",
    name_code="Invalid{what}Name",
    length_code="InvalidPolicyDocument",
    json_code="InvalidPolicyDocument",
    attached_code="PolicyAlreadyAttached",
    keys_code="LimitExceeded",
)
_USER_FIELDS = ("description", "displayName", "email", "mobilePhone", "tags")


def _create_user(cloud: Cloud, news: Properties) -> str:
    name = news["userName"]
    _IDENTITIES.check_new(cloud, "users", name)
    fields = {key: news[key] for key in _USER_FIELDS if key in news}
    cloud.users[name] = {"id": str(secrets.randbelow(10**8)), "createDate": now(), "updateDate": now(), **fields}
    return name


def _read_user(cloud: Cloud, name: str, state: Properties) -> Properties | None:
    if name not in cloud.users:
        return None
    user = dict(_IDENTITIES.need(cloud, "users", name))
    return {
        "userName": name,
        "userId": user.pop("id"),
        "accountId": ACCOUNT,
        "trn": f"trn:iam::{ACCOUNT}:user/{name}",
        "emailIsVerify": False,
        "mobilePhoneIsVerify": False,
        **user,
    }


def _update_user(cloud: Cloud, name: str, news: Properties) -> None:
    """Also a new name, in place: the user keeps its keys and policies."""
    user, new = _IDENTITIES.need(cloud, "users", name), news["userName"]
    if new != name:
        _IDENTITIES.check_new(cloud, "users", new)
    fields = {key: news[key] for key in _USER_FIELDS if key in news}
    entry = {"id": user["id"], "createDate": user["createDate"], "updateDate": now(), **fields}
    rename_user(cloud, name, new, entry)


def _delete_user(cloud: Cloud, name: str, state: Properties) -> None:
    _IDENTITIES.need(cloud, "users", name)
    for table, what in ((cloud.keys, "access keys"), (cloud.attachments, "policies")):
        if held := held_by(table, name):
            raise refused(409, "DeleteConflict", f"The user still has {len(held)} {what}: {name}.")
    del cloud.users[name]


def _check_document(text: str) -> None:
    document = _IDENTITIES.document(text)
    if not isinstance(document, dict) or not document.get("Statement"):
        raise refused(400, "InvalidPolicyDocument", "The policy needs a Statement.")


def _create_policy(cloud: Cloud, news: Properties) -> str:
    name = news["policyName"]
    _IDENTITIES.check_new(cloud, "policies", name)
    _check_document(news["policyDocument"])
    cloud.policies[name] = {
        "document": news["policyDocument"],
        "description": news.get("description", ""),
        "createDate": now(),
        "updateDate": now(),
    }
    return name


def _read_policy(cloud: Cloud, name: str, state: Properties) -> Properties | None:
    """A policy that is gone is an error here, and not «gone»: so does the official plugin read it."""
    policy = _IDENTITIES.need(cloud, "policies", name)
    return {
        **({"description": policy["description"]} if policy["description"] else {}),
        "policyName": name,
        "policyDocument": policy["document"],
        "policyType": "Custom",
        "policyTrn": f"trn:iam::{ACCOUNT}:policy/{name}",
        "createDate": policy["createDate"],
        "updateDate": policy["updateDate"],
        "category": "",
        "isServiceRolePolicy": 0,
        "attachmentCount": sum(entry["policy"] == name for entry in cloud.attachments.values()),
    }


def _update_policy(cloud: Cloud, name: str, news: Properties) -> None:
    """Also a new name, in place: users keep the policy."""
    policy, new = _IDENTITIES.need(cloud, "policies", name), news["policyName"]
    _check_document(news["policyDocument"])
    if new != name:
        _IDENTITIES.check_new(cloud, "policies", new)
    changed = {"document": news["policyDocument"], "description": news.get("description", ""), "updateDate": now()}
    del cloud.policies[name]
    cloud.policies[new] = policy | changed
    for entry in cloud.attachments.values():
        if entry["policy"] == name:
            entry["policy"] = new


def _delete_policy(cloud: Cloud, name: str, state: Properties) -> None:
    if name not in cloud.policies:
        return
    _IDENTITIES.need(cloud, "policies", name)
    if any(entry["policy"] == name for entry in cloud.attachments.values()):
        raise refused(409, "DeleteConflict", f"The policy is attached to users: {name}.")
    del cloud.policies[name]


def _create_key(cloud: Cloud, news: Properties) -> str:
    key_id, made = f"AKLT{letters(43)}", now()
    news["secretAccessKey"] = secret = letters(60)
    fields = {"secret": secret, "status": news["status"], "createDate": made, "updateDate": made}
    return _IDENTITIES.create_key(cloud, key_id, news["userName"], **fields)


def _key(cloud: Cloud, key_id: str) -> dict[str, Any]:
    if key_id not in cloud.keys:
        raise refused(404, "AccessKeyNotExist", f"The access key does not exist: {key_id}.")
    return cloud.keys[key_id]


def _read_key(cloud: Cloud, key_id: str, state: Properties) -> Properties | None:
    """The secret is told once, to its creator; who has it in the state keeps it."""
    key = _key(cloud, key_id)
    shown = {"userName": key["user"], "accessKeyId": key_id}
    shown |= {name: key[name] for name in ("status", "createDate", "updateDate")}
    return shown | ({"secretAccessKey": state["secretAccessKey"]} if "secretAccessKey" in state else {})


def _update_key(cloud: Cloud, key_id: str, news: Properties) -> None:
    _key(cloud, key_id).update(status=news["status"], updateDate=now())


KINDS = {
    "volcengine:iam/user:User": Kind(
        label="iam user",
        service="iam",
        required=frozenset({"userName"}),
        optional=frozenset(_USER_FIELDS),
        outputs=frozenset("accountId createDate emailIsVerify mobilePhoneIsVerify trn updateDate userId".split()),
        create=_create_user,
        read=_read_user,
        update=_update_user,
        delete=_delete_user,
    ),
    "volcengine:iam/policy:Policy": Kind(
        label="iam policy",
        service="iam",
        required=frozenset({"policyName", "policyDocument"}),
        optional=frozenset({"description"}),
        outputs=frozenset(
            "attachmentCount category createDate isServiceRolePolicy policyTrn policyType updateDate".split()
        ),
        patient=True,
        create=_create_policy,
        read=_read_policy,
        update=_update_policy,
        delete=_delete_policy,
    ),
    "volcengine:iam/userPolicyAttachment:UserPolicyAttachment": _IDENTITIES.attachment_kind(
        "iam user policy attachment", patient=True
    ),
    "volcengine:iam/accessKey:AccessKey": Kind(
        label="access key",
        service="iam",
        # The official plugin makes a key of the caller's own user when none is named: not here, not by accident.
        required=frozenset({"userName"}),
        optional=frozenset({"status"}),
        replacing=frozenset({"userName"}),
        outputs=frozenset({"accessKeyId", "createDate", "secretAccessKey", "updateDate"}),
        secrets=frozenset({"secretAccessKey"}),
        defaults={"status": "active"},
        choices={"status": ("active", "inactive")},
        patient=True,
        create=_create_key,
        read=_read_key,
        update=_update_key,
        delete=delete_key,
    ),
}
