"""`python -m local.providers.kubernetes [ENGINE_ADDRESS]`: the plugin process."""

from __future__ import annotations

import importlib.util
import sys
import types


def _skip_sdk() -> None:
    """Makes the SDK's generated gRPC modules importable without the SDK, whose import costs more than all the rest."""
    found = importlib.util.find_spec("pulumi")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the kubernetes provider stand-in needs the Python package pulumi: install requirements.txt")
    folder = found.submodule_search_locations[0]
    for name in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto"):
        module = types.ModuleType(name)
        module.__path__ = [folder + name.removeprefix("pulumi").replace(".", "/")]
        sys.modules[name] = module


def main() -> None:
    _skip_sdk()
    from local.providers.kubernetes.server import serve  # only now can it be imported cheaply

    serve(sys.argv[1] if len(sys.argv) > 1 else "")


if __name__ == "__main__":
    main()
