"""`python -m local.providers.kubernetes ENGINE_ADDRESS`: the plugin process."""

from __future__ import annotations

import gc
import sys
import types
from importlib.machinery import PathFinder


def _skip_sdk() -> None:
    """Makes the SDK's generated gRPC modules importable without the SDK, whose import costs more than all the rest."""
    found = PathFinder.find_spec("pulumi")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the kubernetes provider stand-in needs the Python package pulumi: install requirements.txt")
    for name in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto"):
        module = types.ModuleType(name)
        module.__path__ = [found.submodule_search_locations[0] + name.removeprefix("pulumi").replace(".", "/")]
        sys.modules[name] = module


def main() -> None:
    _skip_sdk()
    gc.disable()  # an eighth of the start goes into looking for garbage that imports do not make
    from local.providers.kubernetes.server import serve  # only now can it be imported cheaply

    gc.enable()
    serve(sys.argv[1])


if __name__ == "__main__":
    main()
