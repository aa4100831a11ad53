"""The kinds (CRDs) of the rehearsal's operators, as a control plane gets them: JSON, without descriptions.

Owns `definitions/` in the work folder. A description changes nothing but the size: it is three quarters of
LeaderWorkerSet's kinds, which the API server would read, turn into its schema, and send to each run of the kubernetes
plugin. prometheus-operator publishes its kinds both ways for the same reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from local.paths import work_dir

# Below these keys of a schema stand names or values, of which one may be called «description».
_NAMES, _VALUES = ("properties", "patternProperties", "definitions"), ("default", "enum", "example")


def read(files: Sequence[Path]) -> dict[str, bytes]:
    """The definitions in these YAML files: name to JSON. The first read of any files takes seconds and is kept."""
    texts = [file.read_bytes() for file in files]
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for text in texts:
        digest.update(hashlib.sha256(text).digest())
    kept = work_dir() / "definitions" / f"{digest.hexdigest()[:16]}.json"
    if not kept.exists():
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found = [each for text in texts for each in yaml.load_all(text, loader) if each]
        kept.parent.mkdir(exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")  # several control planes may start at once
        fresh.write_text(json.dumps({each["metadata"]["name"]: json.dumps(undescribed(each)) for each in found}))
        fresh.replace(kept)
    return {name: definition.encode() for name, definition in json.loads(kept.read_text()).items()}


def undescribed(part: Any) -> Any:
    """A definition, or a part of one, without its descriptions."""
    if isinstance(part, list):
        return [undescribed(each) for each in part]
    if not isinstance(part, dict):
        return part
    left = {}
    for key, value in part.items():
        if key in _NAMES and isinstance(value, dict):
            left[key] = {name: undescribed(each) for name, each in value.items()}
        elif key in _VALUES:
            left[key] = value
        elif key != "description":
            left[key] = undescribed(value)
    return left
