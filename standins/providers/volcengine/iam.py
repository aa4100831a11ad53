"""Access management: users, custom policies, policy attachments, and the users' access keys."""

from __future__ import annotations

import re
import secrets

from planning.catalog import fact
from standins.providers.cloud import Cloud, CloudError
from standins.providers.identities import Identities, held_by, letters, now
from standins.providers.kinds import Function, Kind
from standins.providers.volcengine.volcengine_errors import ACCOUNT, permit, refused
from standins.providers.wire import Properties

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
    attachment_id="{name}:{policy}:{kind}",
    missing_code="{what}NotExist",
    # The plugin's own message: it searches lists, and a list request refuses nothing.
    missing_key=lambda key: CloudError(f"access key {key} not exist ", gone=True),
    missing_attachment=lambda key: CloudError(f"User policy attachment {key} not exist ", gone=True),
    taken_code="{what}AlreadyExists",
    name_code="Invalid{what}Name",
    length_code="InvalidPolicyDocument",
    json_code="InvalidPolicyDocument",
    attached_code="PolicyAlreadyAttached",
    keys_code="AccessKeyLimitExceeded",
)


def _create_user(cloud: Cloud, news: Properties) -> str:
    name = news["userName"]
    _IDENTITIES.check_new(cloud, "users", name)
    cloud.users[name] = {"id": str(secrets.randbelow(10**8)), "createDate": now(), "updateDate": now()}
    return name


def _read_user(cloud: Cloud, name: str, state: Properties) -> Properties:
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


def _delete_user(cloud: Cloud, name: str, state: Properties) -> None:
    _IDENTITIES.need(cloud, "users", name)
    for table, code, what in ((cloud.keys, "AccessKey", "ak"), (cloud.attachments, "Policy", "policy")):
        if held_by(table, name):
            message = f"Cannot delete user '{name}' which added to {what}(s)."
            raise refused(409, f"UserDeleteConflictWith{code}", message)
    del cloud.users[name]


def _check_document(text: str) -> None:
    document = _IDENTITIES.document(text)
    if not isinstance(document, dict) or not document.get("Statement"):
        raise refused(400, "InvalidPolicyDocument", "The policy needs a Statement.")


def _create_policy(cloud: Cloud, news: Properties) -> str:
    name = news["policyName"]
    _IDENTITIES.check_new(cloud, "policies", name)
    _check_document(news["policyDocument"])
    cloud.policies[name] = {"document": news["policyDocument"], "createDate": now(), "updateDate": now()}
    return name


def _read_policy(cloud: Cloud, name: str, state: Properties) -> Properties:
    if name not in cloud.policies:
        raise CloudError(f"Policy {name} not exist ", gone=True)
    policy = _IDENTITIES.need(cloud, "policies", name)
    return {
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
    policy = _IDENTITIES.need(cloud, "policies", name)
    if news["policyName"] != name:
        raise CloudError("a new name in place is not played here: the program makes a renamed policy anew")
    _check_document(news["policyDocument"])
    policy.update(document=news["policyDocument"], updateDate=now())


def _delete_policy(cloud: Cloud, name: str, state: Properties) -> None:
    _IDENTITIES.need(cloud, "policies", name)
    if any(entry["policy"] == name for entry in cloud.attachments.values()):
        raise refused(409, "DeleteConflict", f"The policy is attached to users: {name}.")
    del cloud.policies[name]


def _create_key(cloud: Cloud, news: Properties) -> str:
    key_id, made = f"AKLT{letters(43)}", now()
    news["secretAccessKey"] = secret = letters(60)
    fields = {"secret": secret, "status": "active", "createDate": made, "updateDate": made}
    return _IDENTITIES.create_key(cloud, key_id, news["userName"], **fields)


def _read_key(cloud: Cloud, key_id: str, state: Properties) -> Properties:
    """The cloud tells the secret only once, to the key's creator; after that only the state holds it."""
    key = _IDENTITIES.key(cloud, key_id)
    shown = {"userName": key["user"], "accessKeyId": key_id}
    shown |= {name: key[name] for name in ("status", "createDate", "updateDate")}
    return shown | ({"secretAccessKey": state["secretAccessKey"]} if "secretAccessKey" in state else {})


KINDS = {
    "volcengine:iam/user:User": Kind(
        label="iam user",
        service="iam",
        required=frozenset({"userName"}),
        outputs=frozenset("accountId createDate emailIsVerify mobilePhoneIsVerify trn updateDate userId".split()),
        forgets=True,
        create=_create_user,
        read=_read_user,
        delete=_delete_user,
    ),
    "volcengine:iam/policy:Policy": Kind(
        label="iam policy",
        service="iam",
        required=frozenset({"policyName", "policyDocument"}),
        outputs=frozenset(
            "attachmentCount category createDate isServiceRolePolicy policyTrn policyType updateDate".split()
        ),
        forgiving=True,
        patient=True,
        create=_create_policy,
        read=_read_policy,
        update=_update_policy,
        delete=_delete_policy,
    ),
    "volcengine:iam/userPolicyAttachment:UserPolicyAttachment": _IDENTITIES.attachment_kind(
        "iam user policy attachment", forgiving=True, patient=True
    ),
    "volcengine:iam/accessKey:AccessKey": Kind(
        label="access key",
        service="iam",
        # Without this, the official plugin creates a key for the caller's own user. Required here, to avoid accidents.
        required=frozenset({"userName"}),
        replacing=frozenset({"userName"}),
        outputs=frozenset({"accessKeyId", "createDate", "secretAccessKey", "status", "updateDate"}),
        secrets=frozenset({"secretAccessKey"}),
        create=_create_key,
        read=_read_key,
        # The official plugin first deactivates the key and waits until it reads as inactive. A deleted key never does.
        delete=_IDENTITIES.delete_key,
    ),
}


def _list_users(cloud: Cloud, asked: Properties) -> Properties:
    """Users whose names contain the query."""
    names = [name for name in cloud.users if asked.get("query", "") in name]
    return {"users": [{"userName": name, "createDate": cloud.users[name]["createDate"]} for name in names]}


def _list_policies(cloud: Cloud, asked: Properties) -> Properties:
    return {"policies": [{"policyName": name, "policyType": "Custom"} for name in cloud.policies]}


def _list_attachments(cloud: Cloud, asked: Properties) -> Properties:
    user = asked["userName"]
    _IDENTITIES.need(cloud, "users", user)
    held = [cloud.attachments[key] for key in held_by(cloud.attachments, user)]
    return {"policies": [{"policyName": each["policy"], "policyType": each["type"]} for each in held]}


def _list_keys(cloud: Cloud, asked: Properties) -> Properties:
    user = asked["userName"]
    _IDENTITIES.need(cloud, "users", user)
    return {"accessKeyMetadatas": [{"userName": user, "accessKeyId": key} for key in held_by(cloud.keys, user)]}


def _callers(cloud: Cloud, asked: Properties) -> Properties:
    account = cloud.caller(ACCOUNT)
    who = {"accountId": account, "identityId": "1", "identityType": "User", "trn": f"trn:iam::{account}:user/deployer"}
    return {"callerIdentities": [who], "totalCount": 1}


FUNCTIONS = {
    "volcengine:iam/getCallerIdentities:getCallerIdentities": Function(
        service="sts", arguments=frozenset(), answer=_callers
    ),
    "volcengine:iam/getUsers:getUsers": Function(service="iam", arguments=frozenset({"query"}), answer=_list_users),
    "volcengine:iam/getPolicies:getPolicies": Function(service="iam", arguments=frozenset(), answer=_list_policies),
    "volcengine:iam/getUserPolicyAttachments:getUserPolicyAttachments": Function(
        service="iam", arguments=frozenset({"userName"}), answer=_list_attachments
    ),
    "volcengine:iam/getAccessKeys:getAccessKeys": Function(
        service="iam", arguments=frozenset({"userName"}), answer=_list_keys
    ),
}
