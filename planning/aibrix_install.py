"""What it takes to install a release of AIBrix: its manifests and its Envoy Gateway.

Pure. Elsewhere: what a release can do once it runs (`aibrix_features`), its objects (`components.cluster.aibrix`), and
the registries of their images (`images`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planning.catalog import entries
from planning.problems import PlanError, Problem

_FILE = "aibrix_install"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release that can be installed. `manifests` maps `core`, and `crds` and `dependency` if the release has them,
    to URLs. The release fixes `envoy_gateway`, because its patches name Envoy's routes and filters by position.

    `envoy_image` is the image that its gateway runs where its manifests name none. `gateway_timeout_variable` is None
    where its controllers read no such variable.
    """

    envoy_gateway: str
    envoy_image: str
    gateway_timeout_variable: str | None
    manifests: Mapping[str, str]


def release(version: str) -> Release:
    """The release, such as `0.7.0`. Raises PlanError if it is broken, or not in the catalog: the version of Envoy
    Gateway that it needs cannot be guessed."""
    known = entries(_FILE)["releases"]
    if version not in known:
        broken = entries(_FILE)["broken"].get(version)
        why = broken["value"] if broken else "the catalog does not know which Envoy Gateway it needs"
        instead = f"write {' or '.join(known)}, or install: false if it is installed already"
        raise PlanError(Problem("AIBrix", version, why, instead))
    value = known[version]["value"]
    return Release(
        envoy_gateway=value["envoyGateway"],
        envoy_image=value["envoyImage"],
        gateway_timeout_variable=value["gatewayTimeoutVariable"],
        manifests=value["manifests"],
    )
