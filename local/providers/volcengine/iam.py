"""Access management: users, custom policies, which user has which, and the users' access keys."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from local.providers.cloud import Cloud
from local.providers.identities import delete_key, detach, held_by, letters, now, read_attachment
from local.providers.kinds import Kind
from local.providers.volcengine.errors import ACCOUNT, permit, refused
from local.providers.wire import Properties
from planning.catalog import fact

_USER_NAME = re.compile(f"[A-Za-z0-9._@-]{{1,{fact('tos', 'iam', 'userNameLimit')}}}")
_POLICY_NAME = re.compile(f"[A-Za-z0-9+=,.@_-]{{1,{fact('tos', 'iam', 'policyNameLimit')}}}")
_USER_FIELDS = ("description", "displayName", "email", "mobilePhone", "tags")


def _need(cloud: Cloud, table: str, name: str) -> dict[str, Any]:
    what = {"users": "User", "policies": "Policy"}[table]
    permit(cloud, what, name)
    found = getattr(cloud, table).get(name)
    if found is None:
        raise refused(404, f"{what}NotExist", f"The {what.lower()} does not exist: {name}.")
    return found


def _check_new(cloud: Cloud, table: str, name: str, pattern: re.Pattern[str]) -> None:
    what = {"users": "User", "policies": "Policy"}[table]
    permit(cloud, what, name)
    if not pattern.fullmatch(name):
        raise refused(400, f"Invalid{what}Name", f"The name of the {what.lower()} is not valid: {name}.")
    if name in getattr(cloud, table):
        raise refused(409, f"{what}AlreadyExists", f"There is a {what.lower()} of this name: {name}.")


def _create_user(cloud: Cloud, news: Properties) -> str:
    name = news["userName"]
    _check_new(cloud, "users", name, _USER_NAME)
    fields = {key: news[key] for key in _USER_FIELDS if key in news}
    cloud.users[name] = {"id": str(secrets.randbelow(10**8)), "createDate": now(), "updateDate": now(), **fields}
    return name


def _read_user(cloud: Cloud, name: str, state: Properties) -> Properties | None:
    if name not in cloud.users:
        return None
    user = dict(_need(cloud, "users", name))
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
    user, new = _need(cloud, "users", name), news["userName"]
    if new != name:
        _check_new(cloud, "users", new, _USER_NAME)
    fields = {key: news[key] for key in _USER_FIELDS if key in news}
    del cloud.users[name]
    cloud.users[new] = {"id": user["id"], "createDate": user["createDate"], "updateDate": now(), **fields}
    for entry in (*cloud.keys.values(), *cloud.attachments.values()):
        if entry["user"] == name:
            entry["user"] = new


def _delete_user(cloud: Cloud, name: str, state: Properties) -> None:
    _need(cloud, "users", name)
    for table, what in ((cloud.keys, "access keys"), (cloud.attachments, "policies")):
        if held := held_by(table, name):
            raise refused(409, "DeleteConflict", f"The user still has {len(held)} {what}: {name}.")
    del cloud.users[name]


def _check_document(text: str) -> None:
    limit = fact("tos", "iam", "policyCharacters")
    if len(text) > limit:
        raise refused(400, "InvalidPolicyDocument", f"The policy is longer than {limit} characters.")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise refused(400, "InvalidPolicyDocument", f"The policy is not JSON: {error}.") from error
    if not isinstance(document, dict) or not document.get("Statement"):
        raise refused(400, "InvalidPolicyDocument", "The policy needs a Statement.")


def _create_policy(cloud: Cloud, news: Properties) -> str:
    name = news["policyName"]
    _check_new(cloud, "policies", name, _POLICY_NAME)
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
    policy = _need(cloud, "policies", name)
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
    policy, new = _need(cloud, "policies", name), news["policyName"]
    _check_document(news["policyDocument"])
    if new != name:
        _check_new(cloud, "policies", new, _POLICY_NAME)
    changed = {"document": news["policyDocument"], "description": news.get("description", ""), "updateDate": now()}
    del cloud.policies[name]
    cloud.policies[new] = policy | changed
    for entry in cloud.attachments.values():
        if entry["policy"] == name:
            entry["policy"] = new


def _delete_policy(cloud: Cloud, name: str, state: Properties) -> None:
    if name not in cloud.policies:
        return
    _need(cloud, "policies", name)
    if any(entry["policy"] == name for entry in cloud.attachments.values()):
        raise refused(409, "DeleteConflict", f"The policy is attached to users: {name}.")
    del cloud.policies[name]


def _attach(cloud: Cloud, news: Properties) -> str:
    user, policy, kind = news["userName"], news["policyName"], news["policyType"]
    _need(cloud, "users", user)
    if kind == "Custom":
        _need(cloud, "policies", policy)
    key = f"{user}:{policy}:{kind}"
    if key in cloud.attachments:
        raise refused(409, "PolicyAlreadyAttached", f"The policy is attached to the user: {policy}.")
    cloud.attachments[key] = {"user": user, "policy": policy, "type": kind}
    return key


def _create_key(cloud: Cloud, news: Properties) -> str:
    user = news["userName"]
    _need(cloud, "users", user)
    if len(held_by(cloud.keys, user)) >= fact("tos", "iam", "keysPerUser"):
        raise refused(409, "LimitExceeded", f"The user has as many access keys as it may: {user}.")
    key_id, news["secretAccessKey"] = f"AKLT{letters(43)}", letters(60)
    cloud.keys[key_id] = {
        "user": user,
        "secret": news["secretAccessKey"],
        "status": news["status"],
        "createDate": now(),
        "updateDate": now(),
    }
    return key_id


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
    "volcengine:iam/userPolicyAttachment:UserPolicyAttachment": Kind(
        label="iam user policy attachment",
        service="iam",
        required=frozenset({"userName", "policyName", "policyType"}),
        replacing=frozenset({"userName", "policyName", "policyType"}),
        choices={"policyType": ("System", "Custom")},
        patient=True,
        create=_attach,
        read=read_attachment,
        delete=detach,
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
