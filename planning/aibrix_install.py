"""What installing a release of AIBrix takes: its manifests, its Envoy Gateway, and where its images are pulled from.

Pure. Not here: what a release can do once it runs (`aibrix_features`), and its objects (`components.cluster.aibrix`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planning.catalog import entries, fact
from planning.problems import PlanError, Problem

_FILE = "aibrix_install"
_OWN = "aibrix"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release that can be installed. `manifests` maps `core`, and where there are any `crds` and `dependency`, to
    URLs. `envoy_gateway` is pinned by the release: its patches name Envoy's own routes and filters, by their position.

    `envoy_image` is what its gateway runs where its manifests name none; `gateway_timeout_variable` is None where its
    controllers read no such variable.
    """

    envoy_gateway: str
    envoy_image: str
    gateway_timeout_variable: str | None
    manifests: Mapping[str, str]


def release(version: str) -> Release:
    """The release, such as `0.7.0`. Raises PlanError for one that is broken, and for one that is not in the catalog:
    Envoy Gateway's version cannot be guessed."""
    known = entries(_FILE)["releases"]
    if version not in known:
        broken = entries(_FILE)["broken"].get(version)
        why = broken["value"] if broken else "the catalog does not know which Envoy Gateway it needs"
        instead = f"write {' or '.join(known)}, or install: false where it is there"
        raise PlanError(Problem("AIBrix", version, why, instead))
    value = known[version]["value"]
    return Release(
        envoy_gateway=value["envoyGateway"],
        envoy_image=value["envoyImage"],
        gateway_timeout_variable=value["gatewayTimeoutVariable"],
        manifests=value["manifests"],
    )


def image_name(image: str) -> str:
    """What an image is called without registry, tag and digest: `redis`, `aibrix/controller-manager`."""
    name = image.partition("@")[0]
    if name.rfind(":") > name.rfind("/"):
        name = name[: name.rfind(":")]
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        name = rest
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
