"""The add-ons that a stack installs or adopts: the catalog's charts, with the stack file's changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.cluster.aibrix import gateway_addon
from components.cluster.cluster_addons import Addon
from config.clouds import AddonChoice
from config.errors import ConfigError
from config.stack import StackConfig, aibrix_choice, aibrix_registry, aibrix_release, installs_aibrix, used_addons
from planning import addons
from planning.images import Images
from planning.problems import Problem
from stacks import downloads
from stacks.downloads import OWN, PROJECT, DownloadError, Pins


def wanted(config: StackConfig) -> list[Addon]:
    """The add-ons to install or adopt, without those that are installed already (`install: false`).

    Each chart is a file on this machine, written by `provide_charts`: the plugin loads it at every preview, and a
    preview must not need any network but the cluster's.
    """
    return [replace(addon, chart=_local(addon), repo=None) if _is_remote(addon) else addon for addon in _all(config)]


def provide_charts(config: StackConfig, pins: Pins | None = None, folder: Path = PROJECT) -> None:
    """Writes every chart to where `wanted` looks for it, and fetches those that this machine does not have yet.

    `folder` is the program's folder. Raises ConfigError for charts that cannot be fetched.
    """
    require_charts(config, folder)
    refusals = []
    for addon in _all(config):
        if not _is_remote(addon):
            continue
        place = folder / _local(addon)
        advice = f"mirror it: {_pull(addon, 'charts')}; then write addons.charts: charts"
        try:
            content = downloads.chart(
                addon.chart, addon.repo, addon.version, downloads.cache("charts"), pins or Pins(), advice
            )
            if not place.is_file() or place.read_bytes() != content:
                downloads.write(place, content)
        except DownloadError as error:
            path, value = f"addons.{addon.name}", f"{addon.chart} {addon.version}"
            refusals += [replace(problem, key=path, value=value) for problem in error.problems]
    if refusals:
        raise ConfigError(refusals)


def require_charts(config: StackConfig, folder: Path = PROJECT) -> None:
    """Raises ConfigError for charts that are missing in the folder that the stack file names for all of them.

    `folder` is the program's folder; the plugin resolves a relative path against it. A URL is not checked.
    """
    charts = config.addons.charts
    if charts is None or "://" in charts:
        return
    if not (folder / charts).is_dir():
        raise ConfigError(
            [Problem("addons.charts", charts, "is not a folder on this machine", "create it, or write another")]
        )
    missing = []
    for addon, is_catalogs in _chosen(config):
        there = Path(_mirrored(addon, config).chart)
        if is_catalogs and not addon.adopt and not (folder / there).is_file():
            pull = _pull(addon, charts)
            missing.append(Problem("addons.charts", charts, f"has no {there.name}", f"run: {pull}"))
    if missing:
        raise ConfigError(missing)


def _all(config: StackConfig) -> list[Addon]:
    return [_mirrored(addon, config) if is_catalogs else addon for addon, is_catalogs in _chosen(config)]


def _is_remote(addon: Addon) -> bool:
    return not addon.adopt and (addon.repo is not None or "://" in addon.chart)


def _local(addon: Addon) -> str:
    """Relative, because it is an input of a resource. The origin is in the path, because two repositories may have
    a chart of the same name."""
    origin = addon.repo or addon.chart.rpartition("/")[0]
    archive = addons.archive(addons.chart_name(addon.chart), addon.version)
    return f"./{OWN}/charts/{origin.partition('://')[2].strip('/')}/{archive}"


def _pull(addon: Addon, folder: str) -> str:
    source = f"{addon.chart} --repo {addon.repo}" if addon.repo else addon.chart
    return f"helm pull {source} --version {addon.version} --destination {folder}"


def _chosen(config: StackConfig) -> list[tuple[Addon, bool]]:
    """Each add-on with its publisher's chart, and whether that chart is the catalog's: the user's own is left alone."""
    used = used_addons(config)
    choices = {name: getattr(config.addons, name) or AddonChoice() for name in used if name != "aibrix"}
    chosen = [(_addon(name, choice, config), not choice.chart) for name, choice in choices.items() if choice.install]
    if installs_aibrix(config):
        aibrix = aibrix_choice(config)
        images = Images(registry=aibrix_registry(config), overrides=aibrix.images)
        gateway, chart = gateway_addon(aibrix_release(config), images), aibrix.gateway_chart
        chosen.append((replace(gateway, chart=chart) if chart else gateway, not chart))
    return chosen


def _mirrored(addon: Addon, config: StackConfig) -> Addon:
    """The add-on with its chart from `addons.charts`, or unchanged if the stack file does not set that."""
    charts = config.addons.charts
    if charts is None or addon.adopt:
        return addon
    chart, repo = addons.mirrored(addon.chart, addon.version, charts)
    return replace(addon, chart=chart, repo=repo)


def _addon(name: str, choice: AddonChoice, config: StackConfig) -> Addon:
    source = _source(name, choice, config)
    return Addon(
        name=name,
        release=source.release,
        chart=choice.chart or source.chart,
        repo=choice.repo or (None if choice.chart else source.repo),
        version=choice.chart_version or _chart_version(choice, source),
        app_version=choice.version or source.app_version,
        namespace=choice.namespace or source.namespace,
        values={**_with_images(source, None if choice.chart else config.registry), **choice.values},
        adopt=choice.install == "adopt",
    )


def _with_images(source: addons.Source, registry: str | None) -> dict[str, Any]:
    """The chart's values, with every image that they name moved to the stack's registry."""
    values = copy.deepcopy(dict(source.values))
    for path, image in source.images.items() if registry else ():
        *way, last = path.split(".")
        place = values
        for key in way:
            place = place.setdefault(key, {})
        place[last] = Images(registry=registry).of(image)
    return values


def _source(name: str, choice: AddonChoice, config: StackConfig) -> addons.Source:
    """The catalog's chart of that release: the cloud's own if it has that release, else the project's."""
    region = getattr(config.cloud, "region", "")
    if addons.offers(config.cloud.kind, name):
        clouds_own = addons.source(name, config.cloud.kind, region)
        if name == "fluid" or choice.version == clouds_own.app_version:
            return clouds_own
    return addons.source(name, "upstream", region)


def _chart_version(choice: AddonChoice, source: addons.Source) -> str:
    return choice.version if choice.version and choice.version != source.app_version else source.version
