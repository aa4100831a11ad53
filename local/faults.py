"""Faults of a control plane, recorded before the objects that will fail exist.

Owns the file `faults.json` in a control plane's folder, which maps `KIND/NAME` to a way to fail. The stand-in for that
kind's controller reads it. Pods that already exist are made to fail by an annotation instead.
"""

from __future__ import annotations

import json
from pathlib import Path

_FILE = "faults.json"


def of(folder: Path, kind: str, name: str) -> str | None:
    """How the object should fail, or None."""
    return _read(folder).get(f"{kind}/{name}")


def put(folder: Path, kind: str, name: str, how: str | None) -> None:
    """Makes the object fail this way from now on; None removes the fault."""
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
