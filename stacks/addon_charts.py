"""The add-ons that a stack installs or adopts: the catalog's chart under what the stack file says of it."""

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
    """The add-ons to install or adopt; those that are there already (`install: false`) are not among them.

    A chart is a file on this machine, where `provide_charts` has put it: the plugin loads it at every preview, which is
    not to need another network than the cluster's.
    """
    return [replace(addon, chart=_local(addon), repo=None) if _is_remote(addon) else addon for addon in _all(config)]


def provide_charts(config: StackConfig, pins: Pins | None = None, folder: Path = PROJECT) -> None:
    """Puts every chart where `wanted` says that it is, fetched if it is not on this machine yet.

    `folder` is that of the program. Raises ConfigError for those that cannot be had.
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
    """Raises ConfigError for charts that are not in the folder where the stack file says all are.

    `folder` is that of the program, by which the plugin takes a relative path. What an address holds, it alone knows.
    """
    charts = config.addons.charts
    if charts is None or "://" in charts:
        return
    if not (folder / charts).is_dir():
        raise ConfigError([Problem("addons.charts", charts, "is no folder here", "make it, or write another place")])
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
    """Relative, because it is an input of a resource; by its origin, because two may have a chart of the same name."""
    origin = addon.repo or addon.chart.rpartition("/")[0]
    archive = addons.archive(addons.chart_name(addon.chart), addon.version)
    return f"./{OWN}/charts/{origin.partition('://')[2].strip('/')}/{archive}"


def _pull(addon: Addon, folder: str) -> str:
    source = f"{addon.chart} --repo {addon.repo}" if addon.repo else addon.chart
    return f"helm pull {source} --version {addon.version} --destination {folder}"


def _chosen(config: StackConfig) -> list[tuple[Addon, bool]]:
    """Each add-on as its maker has it, and whether its chart is the catalog's: one of the user's own is left alone."""
    used = used_addons(config)
    choices = {name: getattr(config.addons, name) or AddonChoice() for name in used if name != "aibrix"}
    found = [(_addon(name, choice, config), not choice.chart) for name, choice in choices.items() if choice.install]
    if installs_aibrix(config):
        own = aibrix_choice(config)
        gateway = gateway_addon(aibrix_release(config), Images(registry=aibrix_registry(config), overrides=own.images))
        chart = own.gateway_chart
        found.append((replace(gateway, chart=chart) if chart else gateway, not chart))
    return found


def _mirrored(addon: Addon, config: StackConfig) -> Addon:
    """The add-on with its chart from where the stack file has all of them; as it is where that says nothing."""
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
    """The chart's values, with the images that they name out of the stack's registry."""
    values = copy.deepcopy(dict(source.values))
    for path, image in source.images.items() if registry else ():
        *way, last = path.split(".")
        place = values
        for key in way:
            place = place.setdefault(key, {})
        place[last] = Images(registry=registry).of(image)
    return values


def _source(name: str, choice: AddonChoice, config: StackConfig) -> addons.Source:
    """The catalog's chart of that release: the cloud's own where it is that one, else the project's."""
    region = getattr(config.cloud, "region", "")
    if addons.offers(config.cloud.kind, name):
        clouds_own = addons.source(name, config.cloud.kind, region)
        if name == "fluid" or choice.version == clouds_own.app_version:
            return clouds_own
    return addons.source(name, "upstream", region)


def _chart_version(choice: AddonChoice, source: addons.Source) -> str:
    return choice.version if choice.version and choice.version != source.app_version else source.version
