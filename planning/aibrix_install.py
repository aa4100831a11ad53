"""What installing a release of AIBrix takes: its manifests and its Envoy Gateway.

Pure. Not here: what a release can do once it runs (`aibrix_features`), its objects (`components.cluster.aibrix`), and
where their images are pulled from (`images`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planning.catalog import entries
from planning.problems import PlanError, Problem

_FILE = "aibrix_install"


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
