"""`python -m standins.providers.alicloud ENGINE_ADDRESS`: the plugin process, which exits with its engine."""

from __future__ import annotations

import sys
from typing import Any

from standins.providers.grpc_server import serve


def provider() -> Any:
    """The provider's class. Imported late, because `serve` first makes its imports cheap."""
    from standins.providers.alicloud.alicloud_plugin import Provider

    return Provider


if __name__ == "__main__":
    serve(sys.argv[1], provider)
