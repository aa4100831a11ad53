"""The add-ons that a stack installs or adopts: the catalog's chart under what the stack file says of it."""

from __future__ import annotations

from components.cluster_addons import Addon
from planning import addons
from stacks.clouds import AddonChoice
from stacks.config import StackConfig


def wanted(config: StackConfig) -> list[Addon]:
    """The add-ons to install or adopt; those that are there already (`install: false`) are not among them."""
    choices = {"lws": config.addons.lws or AddonChoice()}
    if config.cache.engine == "fluid":
        choices["fluid"] = config.addons.fluid or AddonChoice()
    return [_addon(name, choice, config) for name, choice in choices.items() if choice.install]


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
        values={**source.values, **choice.values},
        adopt=choice.install == "adopt",
    )


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
