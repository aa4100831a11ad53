"""How Pulumi marks values that are not plain JSON, in states, previews and event logs."""

from __future__ import annotations

MARK = "4dabf18193072939515e22adb298388d"
"""The key that such a value has, with its kind (sdk v3.250.0, go/common/resource/sig)."""
SECRET = "1b47061264138c4ac30d75fd1eb44270"
"""The kind of a secret."""
