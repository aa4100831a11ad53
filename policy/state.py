"""Resources of a stack's state, as `pulumi stack export` writes it. Encrypted values stay encrypted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planning.problems import Problem, Refused
from planning.pulumi_values import MARK
from policy.rule_types import SECRET, STACK, UNKNOWN, Resource

# How the engine marks unknown values: sdk/go/common/resource/plugin/rpc.go of Pulumi.
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_WHERE = "state"
_INSTEAD = "write the file that `pulumi stack export` prints"


def read(path: Path, project: str) -> list[Resource]:
    """The resources in a state file of `project`. Raises Refused if the file is not one."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(Problem(_WHERE, str(path), error.strerror or "cannot be read", _INSTEAD)) from None
    except (ValueError, RecursionError) as error:
        raise Refused(Problem(_WHERE, str(path), f"is no whole JSON: {error}", _INSTEAD)) from None
    deployment = given.get("deployment") if isinstance(given, Mapping) else None
    listed = deployment.get("resources") if isinstance(deployment, Mapping) else None
    if not isinstance(listed, list):
        # A stack that was never deployed has a deployment without resources.
        if isinstance(deployment, Mapping) and "manifest" in deployment:
            return []
        raise Refused(Problem(_WHERE, str(path), "has no deployment with resources", _INSTEAD))
    found = [_resource(each) for each in listed if isinstance(each, Mapping) and not each.get("delete")]
    # The engine makes the stack before anything in it.
    of_stack = next((each.urn.split("::")[1:2] for each in found if each.type == STACK), [])
    if found and of_stack != [project]:
        why = f"is of project {''.join(of_stack)}" if of_stack else "has resources of no stack"
        raise Refused(Problem(_WHERE, str(path), why, f"write one of {project}"))
    return found


def _resource(given: Mapping[str, Any]) -> Resource:
    urn = str(given.get("urn", ""))
    sides = (given.get(key) for key in ("outputs", "inputs"))
    properties = next((side for side in sides if side and isinstance(side, Mapping)), {})
    kept = bool(given.get("protect") or given.get("retainOnDelete"))
    return Resource(str(given.get("type", "")), urn.rpartition("::")[2], _plain(properties), kept, urn)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if MARK in value:
            return SECRET
        # Keys with `__` are the provider's own notes, which repeat the object.
        return {key: _plain(below) for key, below in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [_plain(below) for below in value]
    return UNKNOWN if value == _UNKNOWN else value
