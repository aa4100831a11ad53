"""The planner's refusal: what is wrong with a request, in lines that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class PlanError(Exception):
    """The request cannot be planned. `lines` holds one finding each: what, why, what to write instead.

    `alternatives` are the nearest layouts that can, as a plan's JSON has them.
    """

    def __init__(self, *lines: str, alternatives: Sequence[Mapping[str, int]] = ()) -> None:
        self.lines, self.alternatives = lines, tuple(alternatives)
        super().__init__("\n".join(lines))

    def to_json(self) -> dict[str, Any]:
        """A plan's JSON, under its names, of what has no plan."""
        return {
            "fits": False,
            "stages": [],
            "kv_tokens": 0,
            "max_model_len": 0,
            "max_concurrency": 0.0,
            "reasons": list(self.lines),
            "alternatives": list(self.alternatives),
            "startup": None,
            "cost": None,
            "refusals": list(self.lines),
        }
