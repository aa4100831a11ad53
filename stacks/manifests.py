"""Manifests that a project publishes as files: read from this machine or fetched once, and parsed once.

Not here: how they are fetched (`downloads`), which files a release has (`planning.catalog`), and what is done with
their objects (`components`).
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

    A fetched file stays in `cache`, by host and path, so that later runs need no network, and must match its pin. A
    file of the same name in the folder `instead` is used in place of all that. `advice` ends every error: what to do
    instead. Raises DownloadError if the file cannot be fetched or holds anything but Kubernetes objects.
    """
    shadow = instead / reference.rstrip("/").rpartition("/")[2] if instead else None
    if shadow and shadow.is_file():
        return _parsed(shadow.read_bytes(), str(shadow), cache, advice)
    if "://" not in reference:
        return _parsed(_read(Path(reference).expanduser(), advice), reference, cache, advice)
    # Parse before keeping it: do not keep the error page of a proxy for the next run.
    parse = functools.partial(_parsed, where=reference, cache=cache, advice=advice)
    return parse(downloads.file(reference, cache, pins, advice, parse))


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DownloadError(str(path), str(error.strerror or error), advice) from None


def _parsed(content: bytes, where: str, cache: Path, advice: str) -> list[Manifest]:
    """Megabytes of YAML take seconds to parse; the same as JSON takes hundredths of a second."""
    kept = cache / _PARSED / f"{hashlib.sha256(content).hexdigest()}.json"
    if kept.is_file():
        return json.loads(kept.read_bytes())
    try:
        loaded = yaml.load_all(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        documents = [document for document in loaded if document is not None]
    except yaml.YAMLError as error:
        raise DownloadError(where, f"is not YAML ({str(error).splitlines()[0]})", advice) from None
    if not documents or not all(map(_is_object, documents)):
        raise DownloadError(where, "holds something that is not a Kubernetes object", advice)
    text = json.dumps(documents, default=str)  # YAML turns what looks like a date into one
    downloads.write(kept, text.encode())
    return json.loads(text)


def _is_object(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and all(isinstance(document.get(key), str) for key in ("apiVersion", "kind"))
        and isinstance(document.get("metadata"), dict)
        and bool(document["metadata"].get("name"))
    )
