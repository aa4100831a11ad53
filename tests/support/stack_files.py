"""Stack files for tests that change one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def with_values(raw: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """A copy of a stack file with values set by path (`services/ds/replicas`), or removed where one is Ellipsis."""
    made: dict[str, Any] = copy.deepcopy(dict(raw))
    for path, value in values.items():
        *way, last = path.split("/")
        place = made
        for key in way:
            place = place.setdefault(key, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return made
