"""Access management: users, roles, custom policies, policy attachments, and the users' access keys."""

from __future__ import annotations

import re
import secrets

from planning.catalog import fact
from standins.providers.alicloud.alicloud_errors import permit, refused
from standins.providers.alicloud.oss import ACCOUNT
from standins.providers.cloud import Cloud, CloudError
from standins.providers.identities import Identities, held_by, letters, now
from standins.providers.kinds import Function, Kind
from standins.providers.wire import Properties

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
        "roles": re.compile(f"[A-Za-z0-9._-]{{1,{fact('oss', 'ram', 'roleNameLimit')}}}"),
        "policies": re.compile(f"[A-Za-z0-9-]{{1,{fact('oss', 'ram', 'policyNameLimit')}}}"),
    },
    document_characters=fact("oss", "ram", "policyCharacters"),
    keys_per_user=fact("oss", "ram", "keysPerUser"),
    attachment_id="{holder}:{policy}:{kind}:{name}",
    missing_code="EntityNotExist.{what}",
    missing_key=lambda key: _refused(404, "EntityNotExist.User.AccessKey", f"The access key does not exist: {key}."),
    missing_attachment=lambda key: _refused(404, "EntityNotExist.User.Policy", f"Nobody has the policy so: {key}."),
    taken_code="EntityAlreadyExists.{what}",
    name_code="InvalidParameter.{what}Name.InvalidChars",
    length_code="InvalidParameter.PolicyDocument.Length",
    json_code="MalformedPolicyDocument",
    attached_code="EntityAlreadyExists.{what}.Policy",
    keys_code="LimitExceeded.User.AccessKey",
)


def _name_of(cloud: Cloud, user_id: str) -> str:
    """The name of the user with this id."""
    for name, user in cloud.users.items():
        if user["id"] == user_id:
            return name
    raise _refused(404, "EntityNotExist.User", f"The user does not exist: {user_id}.")


def _create_user(cloud: Cloud, news: Properties) -> str:
    name = news["name"]
    _IDENTITIES.check_new(cloud, "users", name)
    user_id = f"2{secrets.randbelow(10**17):017}"
    cloud.users[name] = {"id": user_id}
    return user_id


def _read_user(cloud: Cloud, user_id: str, state: Properties) -> Properties:
    name = _name_of(cloud, user_id)
    _IDENTITIES.need(cloud, "users", name)
    return {"name": name} | {key: state[key] for key in ("force",) if key in state}


def _update_user(cloud: Cloud, user_id: str, news: Properties) -> None:
    if news["name"] != _name_of(cloud, user_id):
        raise CloudError("a new name in place is not played here: the program makes a renamed user anew")


def _delete_user(cloud: Cloud, user_id: str, state: Properties) -> None:
    name = _name_of(cloud, user_id)
    _IDENTITIES.need(cloud, "users", name)
    if state.get("force"):
        for table in (cloud.keys, cloud.attachments):
            for held in held_by(table, name):
                del table[held]
    if held_by(cloud.keys, name) or held_by(cloud.attachments, name):
        held = "any access keys, login profile, groups, policies, or MFA device attached"
        hint = "You can force the deletion of the user by setting force equals true."
        raise CloudError(f"The user can not be deleted if he has {held}. {hint}")
    del cloud.users[name]


def _create_policy(cloud: Cloud, news: Properties) -> str:
    name = news["policyName"]
    _IDENTITIES.check_new(cloud, "policies", name)
    _check_document(news["policyDocument"])
    cloud.policies[name] = {"versions": {"v1": news["policyDocument"]}, "default": "v1"}
    return name


def _check_document(text: str) -> None:
    document = _IDENTITIES.document(text)
    if document.get("Version") != "1" or not document.get("Statement"):
        raise _refused(400, "MalformedPolicyDocument", 'The policy needs Version "1" and a Statement.')


def _read_policy(cloud: Cloud, name: str, state: Properties) -> Properties:
    policy = _IDENTITIES.need(cloud, "policies", name)
    attached = [entry for entry in cloud.attachments.values() if entry["policy"] == name]
    return {
        **{key: state[key] for key in ("force", "rotateStrategy") if key in state},
        "policyName": name,
        "policyDocument": policy["versions"][policy["default"]],
        "defaultVersion": policy["default"],
        "versionId": policy["default"],
        "type": "Custom",
        "attachmentCount": len(attached),
    }


def _update_policy(cloud: Cloud, name: str, news: Properties) -> None:
    """Adds the new document as a new version. RAM limits the number of versions."""
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


def _check_trust(text: str) -> None:
    """Refuses a role that nobody may assume."""
    document = _IDENTITIES.document(text)
    statements = document.get("Statement") if document.get("Version") == "1" else None
    if not statements or not all(each.get("Principal") and each.get("Action") for each in statements):
        raise _refused(400, "MalformedPolicyDocument", "The assume role policy needs a Statement with a Principal.")


def _create_role(cloud: Cloud, news: Properties) -> str:
    name = news["roleName"]
    _IDENTITIES.check_new(cloud, "roles", name)
    _check_trust(news["assumeRolePolicyDocument"])
    seconds = news.get("maxSessionDuration", fact("oss", "rrsa", "sessionSeconds"))
    cloud.roles[name] = {"trust": news["assumeRolePolicyDocument"], "seconds": seconds}
    return name


def _read_role(cloud: Cloud, name: str, state: Properties) -> Properties:
    role = _IDENTITIES.need(cloud, "roles", name)
    return {
        **{key: state[key] for key in ("force",) if key in state},
        "roleName": name,
        "assumeRolePolicyDocument": role["trust"],
        "maxSessionDuration": role["seconds"],
        "arn": f"acs:ram::{ACCOUNT}:role/{name}",
    }


def _update_role(cloud: Cloud, name: str, news: Properties) -> None:
    _check_trust(news["assumeRolePolicyDocument"])
    role = _IDENTITIES.need(cloud, "roles", name)
    role.update(trust=news["assumeRolePolicyDocument"], seconds=news.get("maxSessionDuration", role["seconds"]))


def _delete_role(cloud: Cloud, name: str, state: Properties) -> None:
    _IDENTITIES.need(cloud, "roles", name)
    attached = held_by(cloud.attachments, name, "role")
    if attached and not state.get("force"):
        raise _refused(409, "DeleteConflict.Role.Policy", f"The role has policies: {name}.")
    for key in attached:
        del cloud.attachments[key]
    del cloud.roles[name]


def _create_key(cloud: Cloud, news: Properties) -> str:
    news["secret"] = secret = letters(30)
    fields = {"secret": secret, "status": "Active", "createTime": now()}
    return _IDENTITIES.create_key(cloud, f"LTAI5t{letters(18)}", news["userName"], **fields)


def _read_key(cloud: Cloud, key_id: str, state: Properties) -> Properties:
    """The cloud tells the secret only once, to the key's creator; after that only the state holds it."""
    key = _IDENTITIES.key(cloud, key_id)
    shown = {"userName": key["user"], "status": key["status"], "createTime": key["createTime"]}
    return shown | ({"secret": state["secret"]} if "secret" in state else {})


KINDS = {
    "alicloud:ram/user:User": Kind(
        label="alicloud_ram_user",
        service="ram",
        required=frozenset({"name"}),
        optional=frozenset({"force"}),
        forgets=True,
        forgiving=True,
        create=_create_user,
        read=_read_user,
        update=_update_user,
        delete=_delete_user,
    ),
    "alicloud:ram/policy:Policy": Kind(
        label="alicloud_ram_policy",
        service="ram",
        required=frozenset({"policyName", "policyDocument"}),
        optional=frozenset({"force", "rotateStrategy"}),
        replacing=frozenset({"policyName"}),
        outputs=frozenset({"attachmentCount", "defaultVersion", "type", "versionId"}),
        choices={"rotateStrategy": (_ROTATE, "None")},
        forgets=True,
        forgiving=True,
        patient=True,
        create=_create_policy,
        read=_read_policy,
        update=_update_policy,
        delete=_delete_policy,
    ),
    "alicloud:ram/userPolicyAttachment:UserPolicyAttachment": _IDENTITIES.attachment_kind(
        "alicloud_ram_user_policy_attachment", forgets=True, forgiving=True
    ),
    "alicloud:ram/role:Role": Kind(
        label="alicloud_ram_role",
        service="ram",
        required=frozenset({"roleName", "assumeRolePolicyDocument"}),
        optional=frozenset({"force", "maxSessionDuration"}),
        replacing=frozenset({"roleName"}),
        outputs=frozenset({"arn"}),
        forgets=True,
        forgiving=True,
        create=_create_role,
        read=_read_role,
        update=_update_role,
        delete=_delete_role,
    ),
    "alicloud:ram/rolePolicyAttachment:RolePolicyAttachment": _IDENTITIES.attachment_kind(
        "alicloud_ram_role_policy_attachment", "role", forgets=True, forgiving=True
    ),
    "alicloud:ram/accessKey:AccessKey": Kind(
        label="alicloud_ram_access_key",
        service="ram",
        required=frozenset({"userName"}),
        replacing=frozenset({"userName"}),
        outputs=frozenset({"createTime", "secret", "status"}),
        secrets=frozenset({"secret"}),
        forgets=True,
        forgiving=True,
        create=_create_key,
        read=_read_key,
        delete=_IDENTITIES.delete_key,
    ),
}


def _list_users(cloud: Cloud, asked: Properties) -> Properties:
    matching = re.compile(asked.get("nameRegex", ""))
    return {"users": [{"id": user["id"], "name": name} for name, user in cloud.users.items() if matching.search(name)]}


def _list_roles(cloud: Cloud, asked: Properties) -> Properties:
    matching = re.compile(asked.get("nameRegex", ""))
    return {"roles": [{"id": name, "name": name} for name in cloud.roles if matching.search(name)]}


def _list_policies(cloud: Cloud, asked: Properties) -> Properties:
    """All custom policies, or those attached to one user or role, which must exist."""
    names = list(cloud.policies)
    for holder in ("user", "role"):
        if name := asked.get(f"{holder}Name"):
            _IDENTITIES.need(cloud, f"{holder}s", name)
            names = [cloud.attachments[key]["policy"] for key in held_by(cloud.attachments, name, holder)]
    matching = re.compile(asked.get("nameRegex", ""))
    return {"policies": [{"policyName": name, "type": "Custom"} for name in names if matching.search(name)]}


def _caller(cloud: Cloud, asked: Properties) -> Properties:
    account = cloud.caller(ACCOUNT)
    return {
        "id": account,
        "accountId": account,
        "arn": f"acs:ram::{account}:user/deployer",
        "identityType": "RAMUser",
    }


FUNCTIONS = {
    "alicloud:index/getCallerIdentity:getCallerIdentity": Function(
        service="sts", arguments=frozenset(), answer=_caller
    ),
    "alicloud:ram/getUsers:getUsers": Function(service="ram", arguments=frozenset({"nameRegex"}), answer=_list_users),
    "alicloud:ram/getPolicies:getPolicies": Function(
        service="ram",
        arguments=frozenset({"enableDetails", "nameRegex", "roleName", "type", "userName"}),
        answer=_list_policies,
    ),
    "alicloud:ram/getRoles:getRoles": Function(service="ram", arguments=frozenset({"nameRegex"}), answer=_list_roles),
}
