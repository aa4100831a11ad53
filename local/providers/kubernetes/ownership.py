"""Field ownership: what an update takes over from other field managers, and what it leaves to them."""

from __future__ import annotations

import copy
import re
from typing import Any

from local.providers.kubernetes.client import Api, ApiError, Manifest

CREATE_MANAGER = "pulumi-kubernetes"
_TRIES = 5


def _takes_over(entry: dict[str, Any]) -> bool:
    manager, operation = entry["manager"], entry["operation"]
    if entry.get("subresource"):
        return False
    if manager.startswith("kubectl"):
        return True
    return operation == "Update" and manager in ("before-first-apply", CREATE_MANAGER)


def has_create_entry(live: Manifest) -> bool:
    """Whether nothing but the create has written the object so far: then a dry run has to force."""
    entries = live["metadata"].get("managedFields", [])
    return any(entry["manager"] == CREATE_MANAGER and entry["operation"] == "Update" for entry in entries)


def _merge(into: dict[str, Any], fields: dict[str, Any]) -> None:
    for key, value in fields.items():
        _merge(into.setdefault(key, {}), value)


def take_over(api: Api, live: Manifest, manager: str) -> Manifest:
    """Hands the entries of kubectl and of our own create to `manager`, so that an apply can remove their fields."""
    for attempt in range(_TRIES):
        entries = live["metadata"].get("managedFields", [])
        taken = [entry for entry in entries if _takes_over(entry)]
        if not taken:
            return live
        kept = [entry for entry in entries if entry not in taken]
        ours = next((e for e in kept if e["manager"] == manager and e["operation"] == "Apply"), None)
        fields = copy.deepcopy(ours["fieldsV1"]) if ours else {}
        for entry in taken:
            _merge(fields, entry.get("fieldsV1", {}))
        base = {**(ours or taken[0]), "manager": manager, "operation": "Apply", "fieldsV1": fields}
        patch = [
            {"op": "replace", "path": "/metadata/managedFields", "value": [e for e in kept if e is not ours] + [base]},
            # The server answers 409 when somebody wrote in between.
            {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
        ]
        try:
            return api.request("PATCH", api.path(live), patch, "application/json-patch+json")
        except ApiError as error:
            if error.code != 409 or attempt == _TRIES - 1:
                raise
        live = api.get(live)
    return live


def respect_ignored(manifest: Manifest, live: Manifest, ignored: list[str], manager: str) -> Manifest:
    """The patch without the ignored fields that are somebody else's; those that we own or share keep the live value."""
    patch = copy.deepcopy(manifest)
    entries = live["metadata"].get("managedFields", [])
    for path in ignored:
        keys = re.findall(r'\["([^"]+)"\]|([^.\[\]"]+)', path)
        steps = [quoted or bare for quoted, bare in keys]
        ours, theirs = False, False
        for entry in entries:
            if _dig(entry.get("fieldsV1", {}), [f"f:{step}" for step in steps]) is not None:
                mine = entry["manager"] == manager or _takes_over(entry)
                ours, theirs = ours or mine, theirs or not mine
        parent, value = _dig(patch, steps[:-1]), _dig(live, steps)
        if not isinstance(parent, dict):
            continue
        if theirs and not ours:
            parent.pop(steps[-1], None)
        elif value is not None:
            parent[steps[-1]] = value
    return patch


def _dig(value: Any, steps: list[str]) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value
