"""`python -m standins.providers.volcengine ENGINE_ADDRESS`: the plugin process, which exits with its engine."""

from __future__ import annotations

import sys
from typing import Any

from standins.providers.grpc_server import serve


def provider() -> Any:
    """The provider's class. Imported late, because `serve` first makes its imports cheap."""
    from standins.providers.volcengine.volcengine_plugin import Provider

    return Provider


if __name__ == "__main__":
    serve(sys.argv[1], provider)
