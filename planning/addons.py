"""The operators that a stack needs in its cluster: where their charts are, and what each release can do.

Knows no cluster: the stack file says what is installed there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planning.catalog import entries, fact
from planning.engine import release_key
from planning.problems import PlanError, Problem


@dataclass(frozen=True, kw_only=True)
class Source:
    """A chart and how to install it. `version` is the chart's version, `app_version` the operator's.

    `repo` is None where `chart` is a full URL. `images` maps each chart value that names an image without a tag to that
    image.
    """

    release: str
    namespace: str
    chart: str
    version: str
    app_version: str
    repo: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)


def chart_name(chart: str) -> str:
    """The chart's plain name, from its name in a repository or from its URL."""
    last = chart.rstrip("/").rpartition("/")[2]
    return re.sub(r"-v?\d+\.\d+\.\d+[^/]*\.tgz$", "", last)


def archive(name: str, version: str) -> str:
    """The file name that `helm pull` gives a chart."""
    return f"{name}-{version}.tgz"


def mirrored(chart: str, version: str, charts: str) -> tuple[str, str | None]:
    """Chart and repository of the same chart in the mirror `charts`: an https:// repository, a path in an oci://
    registry, or a folder of archives. A relative folder stays relative to the program's folder."""
    name = chart_name(chart)
    if charts.startswith("oci://"):
        return f"{charts.rstrip('/')}/{name}", None
    if "://" in charts:
        return name, charts.rstrip("/")
    start = "" if charts.startswith(("/", "./", "../")) else "./"
    return f"{start}{charts.rstrip('/')}/{archive(name, version)}", None


def chart_problem(chart: str, repo: str | None) -> tuple[str, str] | None:
    """Why Helm would not find a chart, and what to write instead. A path begins with a dot or a slash."""
    if "://" in chart:
        return ("is a full URL", "leave repo out") if repo else None
    if repo or chart.startswith((".", "/")):
        return None
    return "is neither a URL nor a path", "write its repository's URL as repo"


def has(addon: str, version: str, feature: str) -> bool:
    """Whether this release of the operator (`lws`, `0.5.0`; a leading v is fine) has a feature that the catalog lists.

    A release candidate counts as its release; a release that the catalog does not know, as the newest one before it.
    Raises PlanError if `version` is not a version, KeyError if the catalog does not have the feature.
    """
    return _key(addon, version) >= release_key(since(addon, feature))


def since(addon: str, feature: str) -> str:
    """The first release of the operator that has the feature. Raises KeyError if the catalog has no such feature."""
    return fact("addons", addon, "features")[feature]


def offers(origin: str, addon: str) -> bool:
    """Whether a cloud's own chart catalog (`acs`) has this operator."""
    return origin in entries("addons")[addon]


def source(addon: str, origin: str, region: str) -> Source:
    """The chart of `lws` or `fluid` from `upstream` or from a cloud's catalog (`acs`), with that cloud's values.

    Raises KeyError for an origin that the catalog does not have.
    """
    chart = fact("addons", addon, origin)
    return Source(
        release=chart["release"],
        namespace=chart["namespace"],
        chart=chart["chart"],
        version=chart["version"],
        app_version=chart["appVersion"],
        repo=chart["repo"],
        values=_in_region(chart["values"], region),
        images=chart.get("images", {}),
    )


def minimum(addon: str, origin: str) -> str | None:
    """The oldest release of the operator that works on that cloud; None where the catalog knows of no limit."""
    return entries("addons")[addon].get(f"{origin}Minimum", {}).get("value")


def require_minimum(addon: str, origin: str, version: str) -> None:
    """Raises PlanError if the release is too old for that cloud."""
    oldest = minimum(addon, origin)
    if oldest and _key(addon, version) < release_key(oldest):
        why = f"too old for {origin}, which needs {oldest}"
        raise PlanError(Problem(addon, version, why, f"write {oldest} or newer"))


def require_lasting_crds(addon: str, version: str) -> None:
    """Raises PlanError if the release's chart keeps its CRDs among its templates: Helm would delete the CRDs with the
    release, and the API server would then delete every custom resource of every stack."""
    if not has(addon, version, "crdsOutliveRelease"):
        oldest = since(addon, "crdsOutliveRelease")
        instead = f"write {oldest} or newer, or install: adopt or false if the release is installed already"
        raise PlanError(Problem(addon, version, "Helm would delete its CRDs with the release", instead))


def _key(addon: str, version: str) -> tuple[int, ...]:
    key = release_key(version)
    if len(key) < 3:
        raise PlanError(Problem(addon, version, "is not a release", "write three numbers, such as 0.9.0"))
    return key


def _in_region(values: Any, region: str) -> Any:
    if isinstance(values, Mapping):
        return {key: _in_region(value, region) for key, value in values.items()}
    return values.replace("{region}", region) if isinstance(values, str) else values
