"""Where a model's files are stored, for tests of the code that mounts or caches them."""

from __future__ import annotations

import pulumi

from components.cluster.credentials import KeyPair

PLACE = {
    "stack": "acs",
    "namespace": "models",
    "bucket": "weights",
    "endpoint": "oss-cn-hangzhou-internal.aliyuncs.com",
    "prefix": "models/DeepSeek-R1",
}
"""Arguments that every way to the files takes."""


def key() -> KeyPair:
    """A key to the files. Call it only inside a program: an Output needs an engine's event loop."""
    return KeyPair(pulumi.Output.secret("id-1"), pulumi.Output.secret("secret-1"))
