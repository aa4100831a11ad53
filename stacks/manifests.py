"""Manifests that a project releases as files: found on this machine or fetched once, and parsed once.

Owns the folder of what was fetched and parsed. Not here: which files a release has (`planning.catalog`), and what
becomes of their objects (`components`).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from planning.errors import PlanError

_TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces of the answer
_PARSED = "parsed"

Manifest = dict[str, Any]


def load(reference: str, cache: Path, *, instead: Path | None = None, advice: str) -> list[Manifest]:
    """The objects of a file of YAML documents; `reference` is its https URL or its path.

    What was fetched once stays in `cache`, by host and path, so that later runs need no network. A file of the same
    name in the folder `instead` is taken in place of all of that. `advice` ends every error: what to do instead.
    Raises PlanError, one line, for what cannot be had and for what holds no Kubernetes objects.
    """
    is_url = "://" in reference
    shadow = instead / reference.rstrip("/").rpartition("/")[2] if instead else None
    if shadow and shadow.is_file():
        return _parsed(shadow.read_bytes(), str(shadow), cache, advice)
    if not is_url:
        return _parsed(_read(Path(reference).expanduser(), advice), reference, cache, advice)
    place = _place(reference, cache, advice)
    if place.is_file():
        return _parsed(place.read_bytes(), str(place), cache, advice)
    content = _fetched(reference, advice)
    # First parsed, then kept: a proxy's page of apologies must not be found again at the next run.
    documents = _parsed(content, reference, cache, advice)
    _write(place, content)
    return documents


def _place(url: str, cache: Path, advice: str) -> Path:
    parts = urlsplit(url)
    path = parts.path.strip("/")
    if parts.scheme != "https" or not parts.hostname or not path or ".." in path.split("/"):
        raise PlanError(f"{url}: is no https URL of a file; {advice}")
    return cache / parts.netloc / path


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror or error}; {advice}") from None


def _fetched(url: str, advice: str) -> bytes:
    import requests  # as costly as a whole preview, and needed once

    try:
        answer = requests.get(url, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
    except requests.HTTPError as error:
        raise PlanError(f"{url}: the server answers {error.response.status_code}; {advice}") from None
    except requests.RequestException as error:
        raise PlanError(f"{url}: cannot be fetched ({type(error).__name__}); {advice}") from None
    return answer.content


def _parsed(content: bytes, where: str, cache: Path, advice: str) -> list[Manifest]:
    """YAML of some megabytes takes seconds to parse, the same as JSON hundredths of one."""
    kept = cache / _PARSED / f"{hashlib.sha256(content).hexdigest()}.json"
    if kept.is_file():
        return json.loads(kept.read_bytes())
    try:
        found = yaml.load_all(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        documents = [document for document in found if document is not None]
    except yaml.YAMLError as error:
        raise PlanError(f"{where}: is not YAML ({str(error).splitlines()[0]}); {advice}") from None
    if not documents or not all(map(_is_object, documents)):
        raise PlanError(f"{where}: holds what is no Kubernetes object; {advice}")
    text = json.dumps(documents, default=str)  # a date that YAML makes of what looks like one
    _write(kept, text.encode())
    return json.loads(text)


def _is_object(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and all(isinstance(document.get(key), str) for key in ("apiVersion", "kind"))
        and isinstance(document.get("metadata"), dict)
        and bool(document["metadata"].get("name"))
    )


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing: two runs may meet here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)
