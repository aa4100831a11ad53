"""What users, policies and keys of every cloud have in common."""

from __future__ import annotations

import secrets
import string
from datetime import datetime, timezone

from local.providers.cloud import Cloud, Table
from local.providers.wire import Properties


def letters(length: int) -> str:
    """Random letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def now() -> str:
    """The time, as the clouds write it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def held_by(table: Table, user: str) -> list[str]:
    """Which keys, or attachments, are a user's."""
    return [key for key, entry in table.items() if entry["user"] == user]


def read_attachment(cloud: Cloud, key: str, state: Properties) -> Properties | None:
    """An attachment's arguments."""
    entry = cloud.attachments.get(key)
    return entry and {"userName": entry["user"], "policyName": entry["policy"], "policyType": entry["type"]}


def detach(cloud: Cloud, key: str, state: Properties) -> None:
    """Takes a policy from a user; one that it has not is none the less taken."""
    cloud.attachments.pop(key, None)


def delete_key(cloud: Cloud, key_id: str, state: Properties) -> None:
    """Deletes an access key, if it is there."""
    cloud.keys.pop(key_id, None)
