"""Access management: users, custom policies, which user has which, and the users' access keys."""

from __future__ import annotations

import re
import secrets

from local.providers.alicloud.errors import permit, refused
from local.providers.cloud import Cloud, CloudError
from local.providers.identities import Identities, delete_key, held_by, letters, now, rename_user
from local.providers.kinds import Kind
from local.providers.wire import Properties
from planning.catalog import fact

_USER_FIELDS = ("comments", "displayName", "email", "mobile", "tags")
_ROTATE = "DeleteOldestNonDefaultVersionWhenLimitExceeded"


def _refused(status: int, code: str, message: str) -> CloudError:
    return refused("ram", status, code, message)


def _permit(cloud: Cloud, kind: str, name: str) -> None:
    permit(cloud, "ram", kind, name)


_IDENTITIES = Identities(
    service="ram",
    refused=_refused,
    permit=_permit,
    names={
        "users": re.compile(f"[A-Za-z0-9._@-]{{1,{fact('oss', 'ram', 'userNameLimit')}}}"),
        "policies": re.compile(f"[A-Za-z0-9-]{{1,{fact('oss', 'ram', 'policyNameLimit')}}}"),
    },
    document_characters=fact("oss", "ram", "policyCharacters"),
    keys_per_user=fact("oss", "ram", "keysPerUser"),
    attachment_id="user:{policy}:{kind}:{user}",
    missing_code="EntityNotExist.{what}",
    taken_code="EntityAlreadyExists.{what}",
    name_code="InvalidParameter.{what}Name.InvalidChars",
    length_code="InvalidParameter.PolicyDocument.Length",
    json_code="MalformedPolicyDocument",
    attached_code="EntityAlreadyExists.User.Policy",
    keys_code="LimitExceeded.User.AccessKey",
)


def _name_of(cloud: Cloud, user_id: str) -> str | None:
    """A user's name by id."""
    return next((name for name, user in cloud.users.items() if user["id"] == user_id), None)


def _create_user(cloud: Cloud, news: Properties) -> str:
    name = news["name"]
    _IDENTITIES.check_new(cloud, "users", name)
    user_id = f"2{secrets.randbelow(10**17):017}"
    cloud.users[name] = {"id": user_id, **{key: news[key] for key in _USER_FIELDS if key in news}}
    return user_id


def _read_user(cloud: Cloud, user_id: str, state: Properties) -> Properties | None:
    name = _name_of(cloud, user_id)
    if name is None:
        return None
    fields = {key: value for key, value in _IDENTITIES.need(cloud, "users", name).items() if key != "id"}
    return {"name": name, **fields} | ({"force": state["force"]} if "force" in state else {})


def _update_user(cloud: Cloud, user_id: str, news: Properties) -> None:
    """Also a new name, in place: the user keeps its keys and policies."""
    old, new = _name_of(cloud, user_id), news["name"]
    if old is None:
        raise _refused(404, "EntityNotExist.User", f"The user does not exist: {user_id}.")
    if new != old:
        _IDENTITIES.check_new(cloud, "users", new)
    rename_user(cloud, old, new, {"id": user_id, **{key: news[key] for key in _USER_FIELDS if key in news}})


def _delete_user(cloud: Cloud, user_id: str, state: Properties) -> None:
    name = _name_of(cloud, user_id)
    if name is None:
        return
    _IDENTITIES.need(cloud, "users", name)
    for table, what in ((cloud.keys, "AccessKey"), (cloud.attachments, "Policy")):
        held = held_by(table, name)
        if held and not state.get("force"):
            raise _refused(409, f"DeleteConflict.User.{what}", f"The user still has {len(held)} of them: {name}.")
        for key in held:
            del table[key]
    del cloud.users[name]


def _create_policy(cloud: Cloud, news: Properties) -> str:
    name = news["policyName"]
    _IDENTITIES.check_new(cloud, "policies", name)
    _check_document(news["policyDocument"])
    cloud.policies[name] = {
        "versions": {"v1": news["policyDocument"]},
        "default": "v1",
        "description": news.get("description", ""),
    }
    return name


def _check_document(text: str) -> None:
    document = _IDENTITIES.document(text)
    if document.get("Version") != "1" or not document.get("Statement"):
        raise _refused(400, "MalformedPolicyDocument", 'The policy needs Version "1" and a Statement.')


def _read_policy(cloud: Cloud, name: str, state: Properties) -> Properties | None:
    if name not in cloud.policies:
        return None
    policy = _IDENTITIES.need(cloud, "policies", name)
    attached = [entry for entry in cloud.attachments.values() if entry["policy"] == name]
    return {
        **{key: state[key] for key in ("force", "rotateStrategy", "tags") if key in state},
        **({"description": policy["description"]} if policy["description"] else {}),
        "policyName": name,
        "policyDocument": policy["versions"][policy["default"]],
        "defaultVersion": policy["default"],
        "versionId": policy["default"],
        "type": "Custom",
        "attachmentCount": len(attached),
    }


def _update_policy(cloud: Cloud, name: str, news: Properties) -> None:
    """A new document is a new version, of which there may be few."""
    policy = _IDENTITIES.need(cloud, "policies", name)
    versions, document = policy["versions"], news["policyDocument"]
    if document == versions[policy["default"]]:
        return
    _check_document(document)
    if len(versions) >= fact("oss", "ram", "policyVersions"):
        if news.get("rotateStrategy") != _ROTATE:
            raise _refused(409, "LimitExceeded.Policy.Version", f"The policy has too many versions: {name}.")
        del versions[min((v for v in versions if v != policy["default"]), key=lambda version: int(version[1:]))]
    policy["default"] = f"v{max(int(version[1:]) for version in versions) + 1}"
    versions[policy["default"]] = document


def _delete_policy(cloud: Cloud, name: str, state: Properties) -> None:
    if name not in cloud.policies:
        return
    policy = _IDENTITIES.need(cloud, "policies", name)
    attached = [key for key, entry in cloud.attachments.items() if entry["policy"] == name]
    if not state.get("force"):
        if attached:
            raise _refused(409, "DeleteConflict.Policy.User", f"The policy is attached to users: {name}.")
        if len(policy["versions"]) > 1:
            raise _refused(409, "DeleteConflict.Policy.Version", f"The policy has more than one version: {name}.")
    for key in attached:
        del cloud.attachments[key]
    del cloud.policies[name]


def _create_key(cloud: Cloud, news: Properties) -> str:
    news["secret"] = secret = letters(30)
    fields = {"secret": secret, "status": news["status"], "createTime": now()}
    return _IDENTITIES.create_key(cloud, f"LTAI5t{letters(18)}", news["userName"], **fields)


def _read_key(cloud: Cloud, key_id: str, state: Properties) -> Properties | None:
    """The secret is told once, to its creator; who has it in the state keeps it."""
    key = cloud.keys.get(key_id)
    if key is None:
        return None
    shown = {"userName": key["user"], "status": key["status"], "createTime": key["createTime"]}
    return shown | ({"secret": state["secret"]} if "secret" in state else {})


def _update_key(cloud: Cloud, key_id: str, news: Properties) -> None:
    if key_id not in cloud.keys:
        raise _refused(404, "EntityNotExist.User.AccessKey", f"The access key does not exist: {key_id}.")
    cloud.keys[key_id]["status"] = news["status"]


KINDS = {
    "alicloud:ram/user:User": Kind(
        label="alicloud_ram_user",
        service="ram",
        required=frozenset({"name"}),
        optional=frozenset({*_USER_FIELDS, "force"}),
        create=_create_user,
        read=_read_user,
        update=_update_user,
        delete=_delete_user,
    ),
    "alicloud:ram/policy:Policy": Kind(
        label="alicloud_ram_policy",
        service="ram",
        required=frozenset({"policyName", "policyDocument"}),
        optional=frozenset({"description", "force", "rotateStrategy", "tags"}),
        computed=frozenset({"rotateStrategy"}),
        replacing=frozenset({"policyName"}),
        outputs=frozenset({"attachmentCount", "defaultVersion", "type", "versionId"}),
        choices={"rotateStrategy": (_ROTATE, "None")},
        documents=frozenset({"policyDocument"}),
        create=_create_policy,
        read=_read_policy,
        update=_update_policy,
        delete=_delete_policy,
    ),
    "alicloud:ram/userPolicyAttachment:UserPolicyAttachment": _IDENTITIES.attachment_kind(
        "alicloud_ram_user_policy_attachment"
    ),
    "alicloud:ram/accessKey:AccessKey": Kind(
        label="alicloud_ram_access_key",
        service="ram",
        required=frozenset({"userName"}),
        optional=frozenset({"status"}),
        replacing=frozenset({"userName"}),
        outputs=frozenset({"createTime", "secret"}),
        secrets=frozenset({"secret"}),
        defaults={"status": "Active"},
        choices={"status": ("Active", "Inactive")},
        create=_create_key,
        read=_read_key,
        update=_update_key,
        delete=delete_key,
    ),
}
