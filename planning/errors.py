"""The planner's refusal: what is wrong with a request, in lines that a person can act on."""

from __future__ import annotations


class PlanError(Exception):
    """The request cannot be planned. `lines` holds one finding each: what, why, what to write instead."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))
