"""Where images are pulled from: one registry for all of a stack, or where their names say.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planning.catalog import fact
from planning.problems import PlanError, Problem

_FILE = "aibrix_install"
_OWN = "aibrix"


def pulled(image: str, registry: str | None) -> str:
    """An image whose name may stand alone, as `registry` has it. One that names a registry stays there."""
    return image if registry is None or registry_of(image) else f"{registry}/{image}"


def registry_of(image: str) -> str:
    """The registry that a reference names, empty where Docker Hub is meant without being named."""
    host, slash, _ = image.partition("/")
    return host if slash and ("." in host or ":" in host or host == "localhost") else ""


def image_name(image: str) -> str:
    """What an image is called without registry, tag and digest: `redis`, `aibrix/controller-manager`."""
    name = image.partition("@")[0]
    if name.rfind(":") > name.rfind("/"):
        name = name[: name.rfind(":")]
    if host := registry_of(name):
        name = name.removeprefix(f"{host}/")
    return name.removeprefix("library/")


@dataclass(frozen=True, kw_only=True)
class Images:
    """Where images are pulled from: from `registry`, if there is one, under the names they have, but for those in
    `overrides`, which maps names (as `image_name` has them) to whole references.

    AIBrix's own mirrors have the images of others in one folder. What a release leaves without a version gets one.
    """

    registry: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)

    def of(self, image: str) -> str:
        """The reference to pull instead of `image`."""
        name = image_name(image)
        if name in self.overrides:
            return self.overrides[name]
        mirrors = fact(_FILE, "images", "mirrors")
        host = (self.registry or "").partition("/")[0]
        pins = mirrors["pins"] if host in mirrors["hosts"] else fact(_FILE, "images", "pins")
        suffix = f":{pins[name]}" if name in pins else _suffix(image)
        if not self.registry:
            return image.removesuffix(_suffix(image)) + suffix
        if self.registry in mirrors["hosts"] and not name.startswith(f"{_OWN}/"):
            name = f"{mirrors['folder']}/{name.rpartition('/')[2]}"
        return f"{self.registry.rstrip('/')}/{name}{suffix}"

    def require_known(self, images: Iterable[str]) -> None:
        """Raises PlanError for an override of none of these images."""
        known = sorted({image_name(image) for image in images})
        if unknown := sorted(self.overrides.keys() - set(known)):
            instead = f"write one of {', '.join(known)}"
            raise PlanError(*(Problem("image", name, "AIBrix has no such image", instead) for name in unknown))


def _suffix(image: str) -> str:
    """Tag and digest, with their marks."""
    start = image.rfind("/") + 1
    marks = [at for at in (image.find(":", start), image.find("@", start)) if at >= 0]
    return image[min(marks) :] if marks else ""
