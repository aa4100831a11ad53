"""Image references as registries and container runtimes read them, and the registries that images come from.

Pure: asks no registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from planning.catalog import fact
from planning.problems import PlanError, Problem

_FILE = "aibrix_install"
_OWN = "aibrix"
# `reference := [host "/"] path [":" tag] ["@" digest]`
_HOST, _PATH, _TAG, _DIGEST = (fact("kubernetes", "image", part) for part in ("host", "path", "tag", "digest"))
_NAME = f"(?:(?:{_HOST})/)?{_PATH}"
GRAMMAR = f"{_NAME}(?::{_TAG})?(?:@(?:{_DIGEST}))?"
"""Matches any reference."""
FIXED = f"{_NAME}(?:(?::{_TAG})?@(?:{_DIGEST})|:(?!latest$){_TAG})"
"""Matches a reference with a digest, or with a tag that is not `latest`."""
REGISTRY = f"(?:{_HOST})(?:/{_PATH})?"
"""Matches a host, with or without a folder."""
_EXAMPLE = "write host/path:tag, such as registry.example.com/team/vllm:v0.8.5"


class _Parts(NamedTuple):
    """The parts of a reference, unchecked. `host` is empty if the reference names none and so means Docker Hub."""

    host: str
    path: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        return f"{self.host}/{self.path}" if self.host else self.path


def _parts(reference: str) -> _Parts:
    name, at, digest = reference.partition("@")
    tag: str | None = None
    if (colon := name.rfind(":")) > name.rfind("/"):
        name, tag = name[:colon], name[colon + 1 :]
    host, slash, path = name.partition("/")
    if not slash or not re.fullmatch(_HOST, host):
        host, path = "", name
    return _Parts(host, path, tag, digest if at else None)


def problem(reference: str) -> tuple[str, str] | None:
    """Why no registry can have an image of this name, and what to write instead; None if one can."""
    if _reads(reference):
        return None
    why, better = _reason(reference)
    return why, f"write {better}" if better != reference and _reads(better) and fixed(better) else _EXAMPLE


def fixed(reference: str) -> bool:
    """Whether the reference will name the same image tomorrow, as long as nobody moves the tag."""
    parts = _parts(reference)
    return bool(parts.digest) or parts.tag not in (None, "latest")


def registry_problem(registry: str) -> tuple[str, str] | None:
    """Why images cannot be pulled from `host`, or from `host/folder`."""
    if re.fullmatch(REGISTRY, registry):
        return None
    return "is not a registry", "write its host and folder, without https://, such as registry.example.com/llm"


def pulled(image: str, registry: str | None) -> str:
    """The reference to pull: from `registry`, unless the image already names its own registry."""
    return image if registry is None or registry_of(image) else f"{registry}/{image}"


def registry_of(image: str) -> str:
    """The registry that a reference names; empty if it names none and so means Docker Hub."""
    return _parts(image).host


def image_name(image: str) -> str:
    """An image's name without registry, tag and digest: `redis`, `aibrix/controller-manager`."""
    return _parts(image).path.removeprefix("library/")


@dataclass(frozen=True, kw_only=True)
class Images:
    """Where images are pulled from: from `registry`, if there is one, under their own names. `overrides` replaces
    single images: it maps names (as `image_name` gives them) to full references.

    AIBrix's own mirrors keep other projects' images in one folder. An image that a release leaves without a version
    gets one from the catalog.
    """

    registry: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)

    def of(self, image: str) -> str:
        """The reference to pull instead of `image`."""
        name, whole = image_name(image), _parts(image).name
        if name in self.overrides:
            return self.overrides[name]
        mirrors = fact(_FILE, "images", "mirrors")
        host = (self.registry or "").partition("/")[0]
        pins = mirrors["pins"] if host in mirrors["hosts"] else fact(_FILE, "images", "pins")
        version = f":{pins[name]}" if name in pins else image[len(whole) :]
        if not self.registry:
            return whole + version
        if self.registry in mirrors["hosts"] and not name.startswith(f"{_OWN}/"):
            name = f"{mirrors['folder']}/{name.rpartition('/')[2]}"
        return f"{self.registry.rstrip('/')}/{name}{version}"

    def require_known(self, images: Iterable[str]) -> None:
        """Raises PlanError if an override names none of these images."""
        known = sorted({image_name(image) for image in images})
        if unknown := sorted(self.overrides.keys() - set(known)):
            instead = f"write one of {', '.join(known)}"
            raise PlanError(*(Problem("image", name, "AIBrix has no such image", instead) for name in unknown))


def _reads(reference: str) -> bool:
    name = _parts(reference).name
    return len(name) <= fact("kubernetes", "image", "nameLimit") and re.fullmatch(GRAMMAR, reference) is not None


def _reason(reference: str) -> tuple[str, str]:
    """What is wrong, and what the user may have meant."""
    parts = _parts(reference)
    if "://" in reference:
        return "is a URL, and an image reference has no scheme", reference.partition("://")[2]
    if "$" in reference or "{" in reference:
        return "contains a variable, which nothing fills in", ""
    if re.search(r"\s", reference):
        return "contains spaces", reference.strip()
    if len(parts.name) > (most := fact("kubernetes", "image", "nameLimit")):
        return f"has {len(parts.name)} characters before its tag, and registries take at most {most}", ""
    if parts.digest is not None and not re.fullmatch(_DIGEST, parts.digest):
        return "has an incomplete digest: sha256 has 64 lower-case hexadecimal digits", ""
    if parts.path != parts.path.lower():
        small = parts._replace(path=parts.path.lower()).name
        return "has capitals in its path, which registries refuse", small + reference[len(parts.name) :]
    if parts.tag is not None and not re.fullmatch(_TAG, parts.tag):
        return "has a tag that registries refuse (at most 128 letters, digits, '_', '.' and '-')", ""
    return "is not an image reference", ""
