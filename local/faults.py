"""What is to go wrong on a control plane, said before the object exists that it befalls.

Owns the file `faults.json` in a control plane's folder: `KIND/NAME` to how it fails. Whoever plays that kind's
controller reads it; pods that exist already are broken by their annotation instead.
"""

from __future__ import annotations

import json
from pathlib import Path

_FILE = "faults.json"


def of(folder: Path, kind: str, name: str) -> str | None:
    """How the object is to fail, or None."""
    return _read(folder).get(f"{kind}/{name}")


def put(folder: Path, kind: str, name: str, how: str | None) -> None:
    """Lets the object fail so from now on; None takes the fault away."""
    faults = _read(folder)
    faults.pop(f"{kind}/{name}", None)
    if how is not None:
        faults[f"{kind}/{name}"] = how
    fresh = folder / f"{_FILE}.new"
    fresh.write_text(json.dumps(faults, indent=2, sort_keys=True))
    fresh.replace(folder / _FILE)


def _read(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        return {}
