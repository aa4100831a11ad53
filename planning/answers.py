"""How long an answer may take, and so how long a pod that is shutting down waits for it."""

from __future__ import annotations

import math

from planning.catalog import fact

# The answer's part of the context, where the stack file does not limit answers: prompts take the rest.
_SHARE = 0.25
# A longer wait would hold GPUs that an update needs, and few answers take this long.
LONGEST_WAIT_SECONDS = 600


def longest_seconds(max_model_len: int, most_tokens: int | None = None) -> int:
    """Seconds to wait for the longest answer: `most_tokens` or a share of the context, at a slow engine's speed."""
    tokens = min(most_tokens or math.ceil(max_model_len * _SHARE), max_model_len)
    return min(math.ceil(tokens * fact("answers", "speed", "secondsPerToken")), LONGEST_WAIT_SECONDS)
