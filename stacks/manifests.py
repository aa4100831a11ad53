"""Manifests that a project releases as files: found on this machine or fetched once, and parsed once.

Not here: how they are fetched (`downloads`), which files a release has (`planning.catalog`), and what becomes of their
objects (`components`).
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from stacks import downloads
from stacks.downloads import DownloadError, Pins

_PARSED = "parsed"

Manifest = dict[str, Any]


def load(reference: str, cache: Path, pins: Pins, *, instead: Path | None = None, advice: str) -> list[Manifest]:
    """The objects of a file of YAML documents; `reference` is its https URL or its path.

    What was fetched once stays in `cache`, by host and path, so that later runs need no network, and must be what its
    pin says. A file of the same name in the folder `instead` is taken in place of all of that. `advice` ends every
    error: what to do instead. Raises DownloadError for what cannot be had and for what holds no Kubernetes
    objects.
    """
    shadow = instead / reference.rstrip("/").rpartition("/")[2] if instead else None
    if shadow and shadow.is_file():
        return _parsed(shadow.read_bytes(), str(shadow), cache, advice)
    if "://" not in reference:
        return _parsed(_read(Path(reference).expanduser(), advice), reference, cache, advice)
    # First parsed, then kept: a proxy's page of apologies must not be found again at the next run.
    parse = functools.partial(_parsed, where=reference, cache=cache, advice=advice)
    return parse(downloads.file(reference, cache, pins, advice, parse))


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DownloadError(str(path), str(error.strerror or error), advice) from None


def _parsed(content: bytes, where: str, cache: Path, advice: str) -> list[Manifest]:
    """YAML of some megabytes takes seconds to parse, the same as JSON hundredths of one."""
    kept = cache / _PARSED / f"{hashlib.sha256(content).hexdigest()}.json"
    if kept.is_file():
        return json.loads(kept.read_bytes())
    try:
        found = yaml.load_all(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        documents = [document for document in found if document is not None]
    except yaml.YAMLError as error:
        raise DownloadError(where, f"is not YAML ({str(error).splitlines()[0]})", advice) from None
    if not documents or not all(map(_is_object, documents)):
        raise DownloadError(where, "holds what is no Kubernetes object", advice)
    text = json.dumps(documents, default=str)  # a date that YAML makes of what looks like one
    downloads.write(kept, text.encode())
    return json.loads(text)


def _is_object(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and all(isinstance(document.get(key), str) for key in ("apiVersion", "kind"))
        and isinstance(document.get("metadata"), dict)
        and bool(document["metadata"].get("name"))
    )
