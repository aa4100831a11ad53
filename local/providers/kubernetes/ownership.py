"""Field ownership: what an update takes over from other field managers, and what it leaves to them."""

from __future__ import annotations

import copy
import re
from typing import Any

from local.providers.kubernetes.client import Api, ApiError, Manifest

CREATE_MANAGER = "pulumi-kubernetes"
_TRIES = 5


def _entries(live: Manifest) -> list[dict[str, Any]]:
    return live["metadata"].get("managedFields", [])


def _takes_over(entry: dict[str, Any]) -> bool:
    if entry.get("subresource"):
        return False
    ours = entry["operation"] == "Update" and entry["manager"] in ("before-first-apply", CREATE_MANAGER)
    return ours or entry["manager"].startswith("kubectl")


def has_create_entry(live: Manifest) -> bool:
    """Whether nothing but the create has written the object so far: then a dry run has to force."""
    return any(e["manager"] == CREATE_MANAGER and e["operation"] == "Update" for e in _entries(live))


def _merge(into: dict[str, Any], fields: dict[str, Any]) -> None:
    for key, value in fields.items():
        _merge(into.setdefault(key, {}), value)


def take_over(api: Api, live: Manifest, manager: str) -> None:
    """Hands the entries of kubectl and of our own create to `manager`, so that an apply can remove their fields."""
    for attempt in range(_TRIES):
        handed = [
            entry
            for entry in _entries(live)
            if _takes_over(entry) or (entry["manager"] == manager and entry["operation"] == "Apply")
        ]
        if not any(map(_takes_over, handed)):
            return
        merged = {**handed[0], "manager": manager, "operation": "Apply", "fieldsV1": {}}
        for entry in handed:
            _merge(merged["fieldsV1"], entry.get("fieldsV1", {}))
        entries = [entry for entry in _entries(live) if entry not in handed] + [merged]
        patch = [
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
            # The server answers 409 when somebody wrote in between.
            {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
        ]
        try:
            api.request("PATCH", api.path(live), patch, "application/json-patch+json")
            return
        except ApiError as error:
            if error.code != 409 or attempt == _TRIES - 1:
                raise
        live = api.get(live)


def respect_ignored(manifest: Manifest, live: Manifest, ignored: list[str], manager: str) -> Manifest:
    """The patch without the ignored fields that are somebody else's; those that we own or share keep the live value."""
    patch = copy.deepcopy(manifest)
    for path in ignored:
        steps = [quoted or bare for quoted, bare in re.findall(r'\["([^"]+)"\]|([^.\[\]"]+)', path)]
        fields = [f"f:{step}" for step in steps]
        owners = [entry for entry in _entries(live) if _dig(entry.get("fieldsV1"), fields) is not None]
        parent, value = _dig(patch, steps[:-1]), _dig(live, steps)
        if not isinstance(parent, dict):
            continue
        if owners and not any(entry["manager"] == manager or _takes_over(entry) for entry in owners):
            parent.pop(steps[-1], None)
        elif value is not None:
            parent[steps[-1]] = value
    return patch


def _dig(value: Any, steps: list[str]) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value
