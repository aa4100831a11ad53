"""What users, policies and keys have in common in every cloud."""

from __future__ import annotations

import functools
import json
import re
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from standins.providers.cloud import Cloud, CloudError, Table
from standins.providers.kinds import Kind
from standins.providers.wire import Properties

_WHAT = {"users": "User", "policies": "Policy", "roles": "Role"}


@dataclass(frozen=True, kw_only=True)
class Identities:
    """One cloud's access management: its `service`, its limits, and its error codes.

    `names` maps a table to the pattern of its names. In a code, `{what}` stands for User, Role or Policy.
    """

    service: str
    refused: Callable[[int, str, str], CloudError]
    permit: Callable[[Cloud, str, str], None]
    names: Mapping[str, re.Pattern[str]]
    document_characters: int
    keys_per_user: int
    attachment_id: str
    missing_code: str
    missing_key: Callable[[str], CloudError]
    missing_attachment: Callable[[str], CloudError]
    taken_code: str
    name_code: str
    length_code: str
    json_code: str
    attached_code: str
    keys_code: str

    def need(self, cloud: Cloud, table: str, name: str) -> dict[str, Any]:
        """The entry of a user or policy. Raises CloudError if it does not exist."""
        what = _WHAT[table]
        self.permit(cloud, what, name)
        found = getattr(cloud, table).get(name)
        if found is None:
            code = self.missing_code.format(what=what)
            raise self.refused(404, code, f"The {what.lower()} does not exist: {name}.")
        return found

    def check_new(self, cloud: Cloud, table: str, name: str) -> None:
        """Raises CloudError unless a user or policy with this name may be created."""
        what = _WHAT[table]
        self.permit(cloud, what, name)
        if not self.names[table].fullmatch(name):
            raise self.refused(400, self.name_code.format(what=what), f"The {what.lower()} name is not valid: {name}.")
        if name in getattr(cloud, table):
            raise self.refused(409, self.taken_code.format(what=what), f"The {what.lower()} already exists: {name}.")

    def document(self, text: str) -> Any:
        """A policy's document, parsed."""
        if len(text) > self.document_characters:
            message = f"The policy is longer than {self.document_characters} characters."
            raise self.refused(400, self.length_code, message)
        try:
            return json.loads(text)
        except ValueError as error:
            raise self.refused(400, self.json_code, f"The policy is not JSON: {error}.") from error

    def create_key(self, cloud: Cloud, key_id: str, user: str, **fields: str) -> str:
        """Creates an access key for a user; returns its id."""
        self.need(cloud, "users", user)
        if len(held_by(cloud.keys, user)) >= self.keys_per_user:
            raise self.refused(409, self.keys_code, f"The user has as many access keys as it may: {user}.")
        cloud.keys[key_id] = {"user": user, **fields}
        return key_id

    def key(self, cloud: Cloud, key_id: str) -> dict[str, Any]:
        """The entry of a key. Raises CloudError if it does not exist."""
        if key_id not in cloud.keys:
            raise self.missing_key(key_id)
        return cloud.keys[key_id]

    def delete_key(self, cloud: Cloud, key_id: str, state: Properties) -> None:
        """Deletes an access key."""
        self.key(cloud, key_id)
        del cloud.keys[key_id]

    def attachment_kind(self, label: str, holder: str = "user", **ways: Any) -> Kind:
        """The kind of resource that attaches a policy to a user or a role."""
        arguments = frozenset({f"{holder}Name", "policyName", "policyType"})
        return Kind(
            label=label,
            service=self.service,
            required=arguments,
            replacing=arguments,
            choices={"policyType": ("System", "Custom")},
            create=functools.partial(self._attach, holder),
            read=self._read_attachment,
            delete=self._detach,
            **ways,
        )

    def _attach(self, holder: str, cloud: Cloud, news: Properties) -> str:
        name, policy, kind = news[f"{holder}Name"], news["policyName"], news["policyType"]
        self.need(cloud, f"{holder}s", name)
        if kind == "Custom":
            self.need(cloud, "policies", policy)
        key = self.attachment_id.format(holder=holder, name=name, policy=policy, kind=kind)
        if key in cloud.attachments:
            code = self.attached_code.format(what=_WHAT[f"{holder}s"])
            raise self.refused(409, code, f"The policy is attached to the {holder}: {policy}.")
        cloud.attachments[key] = {holder: name, "policy": policy, "type": kind}
        return key

    def _read_attachment(self, cloud: Cloud, key: str, state: Properties) -> Properties:
        if key not in cloud.attachments:
            raise self.missing_attachment(key)
        entry = cloud.attachments[key]
        holder = "role" if "role" in entry else "user"
        return {f"{holder}Name": entry[holder], "policyName": entry["policy"], "policyType": entry["type"]}

    def _detach(self, cloud: Cloud, key: str, state: Properties) -> None:
        self._read_attachment(cloud, key, state)
        del cloud.attachments[key]


def letters(length: int) -> str:
    """Random letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def now() -> str:
    """The current time in the clouds' format."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def held_by(table: Table, user: str, kind: str = "user") -> list[str]:
    """The keys or attachments of a user, or of another `kind` of holder."""
    return [key for key, entry in table.items() if entry.get(kind) == user]
