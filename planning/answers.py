"""How long an answer may take: what a pod that is to end waits for."""

from __future__ import annotations

import math

from planning.catalog import fact

# Of the context, where nobody says how long answers may be: prompts take the rest.
_SHARE = 0.25
# Whoever waits longer holds GPUs that an update needs; few answers reach it.
LONGEST_WAIT_SECONDS = 600


def longest_seconds(max_model_len: int, most_tokens: int | None = None) -> int:
    """The longest answer that is waited for: `most_tokens`, or a share of the context, at a slow engine's speed."""
    tokens = min(most_tokens or math.ceil(max_model_len * _SHARE), max_model_len)
    return min(math.ceil(tokens * fact("answers", "speed", "secondsPerToken")), LONGEST_WAIT_SECONDS)
