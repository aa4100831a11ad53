"""References of images, as registries and container runtimes read them. Pure: no registry is asked."""

from __future__ import annotations

import re

from planning.catalog import fact

# `reference := [host "/"] path [":" tag] ["@" digest]`
_HOST, _PATH, _TAG, _DIGEST = (fact("kubernetes", "image", part) for part in ("host", "path", "tag", "digest"))
_NAME = f"(?:(?:{_HOST})/)?{_PATH}"
GRAMMAR = f"{_NAME}(?::{_TAG})?(?:@(?:{_DIGEST}))?"
"""Of any reference."""
FIXED = f"{_NAME}(?:(?::{_TAG})?@(?:{_DIGEST})|:(?!latest$){_TAG})"
"""Of one that has a tag of its own, or a digest."""
REGISTRY = f"(?:{_HOST})(?:/{_PATH})?"
_EXAMPLE = "write host/path:tag, such as registry.example.com/team/vllm:v0.8.5"


def problem(reference: str) -> tuple[str, str] | None:
    """Why no registry has an image of this name, and what to write instead; None where one may."""
    if _reads(reference):
        return None
    why, better = _reason(reference)
    return why, f"write {better}" if better != reference and _reads(better) and fixed(better) else _EXAMPLE


def fixed(reference: str) -> bool:
    """Whether it names the same image tomorrow, as far as its maker does not move a tag."""
    _, tag, digest = _parts(reference)
    return bool(digest) or tag not in (None, "latest")


def registry_problem(registry: str) -> tuple[str, str] | None:
    """Why images cannot be pulled from `host`, or from `host/folder`."""
    if re.fullmatch(REGISTRY, registry.rstrip("/")):
        return None
    return "is no registry's host, with or without a folder", "write one such as registry.example.com/mirror"


def _parts(reference: str) -> tuple[str, str | None, str | None]:
    """Name, tag and digest, whatever is in them."""
    name, at, digest = reference.partition("@")
    colon = name.rfind(":")
    if colon <= name.rfind("/"):
        return name, None, digest if at else None
    return name[:colon], name[colon + 1 :], digest if at else None


def _reads(reference: str) -> bool:
    name = _parts(reference)[0]
    return len(name) <= fact("kubernetes", "image", "nameLimit") and re.fullmatch(GRAMMAR, reference) is not None


def _reason(reference: str) -> tuple[str, str]:
    """What is wrong, and what may have been meant."""
    name, tag, digest = _parts(reference)
    if "://" in reference:
        return "is an address, and an image's name has no scheme", reference.partition("://")[2]
    if "$" in reference or "{" in reference:
        return "has a variable in it, which nobody fills in", ""
    if re.search(r"\s", reference):
        return "has blanks in it", reference.strip()
    if len(name) > (most := fact("kubernetes", "image", "nameLimit")):
        return f"has {len(name)} characters before its tag, and registries take {most}", ""
    if digest is not None and not re.fullmatch(_DIGEST, digest):
        return "has no whole digest: sha256 has 64 hexadecimal digits in small letters", ""
    host, slash, path = name.partition("/")
    small = f"{host}/{path.lower()}" if re.fullmatch(_HOST, host) else name.lower()
    if slash and small != name or not slash and name != name.lower():
        return "has capitals in its path, which registries refuse", small + reference[len(name) :]
    if tag is not None and not re.fullmatch(_TAG, tag):
        return "has a tag that registries refuse (at most 128 letters, digits, '_', '.' and '-')", ""
    return "is no image's name as registries read it", ""
