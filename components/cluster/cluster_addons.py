"""The operators that a stack's custom resources need, each as one Helm release.

Not here: where a chart comes from and what a release of an operator can do (`planning.addons`), and custom resources.
Helm installs the CRDs in a chart's `crds/` with the first install, and neither upgrades nor deletes them ever after: a
new version's CRDs are applied by hand (https://lws.sigs.k8s.io/docs/installation/#upgrade-by-helm), or by the chart's
own job, as Fluid's does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi

from components.cluster.kubernetes import RELEASE, release_description
from planning import addons
from planning.engine import release_key
from planning.problems import Problem, Refused

_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Addon:
    """One operator. `name` is what `planning.addons` calls it, `release` Helm's name, the same unless given.

    `version` is the chart's, `app_version` the operator's in it, the same unless given. `repo` is for a `chart`
    that is neither a whole address nor a path. `adopt` is for a release that somebody else has installed: it is looked
    at, never changed, and one of ours that becomes adopted stays where it is from then on. Without `install` nothing is
    done. `seconds` is how long its pods may take to get ready.
    Raises Refused for a chart that cannot be found, and for one whose CRDs would go with its release.
    """

    name: str
    chart: str
    version: str
    namespace: str
    repo: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    app_version: str | None = None
    release: str | None = None
    install: bool = True
    adopt: bool = False
    seconds: int = _SECONDS

    def __post_init__(self) -> None:
        if not self.install or self.adopt:
            return
        if wrong := addons.chart_problem(self.chart, self.repo):
            raise Refused(Problem(self.name, self.chart, *wrong))
        addons.require_lasting_crds(self.name, self.operator)

    @property
    def operator(self) -> str:
        """The operator's own version, by which features are gated."""
        return self.app_version or self.version

    @property
    def id(self) -> str:
        """Helm's namespace and name of the release."""
        return f"{self.namespace}/{self.release or self.name}"


@dataclass(frozen=True, kw_only=True)
class ClusterAddonsArgs:
    """The stack's name and its add-ons."""

    stack: str
    addons: Sequence[Addon]


def release_inputs(stack: str, addon: Addon) -> dict[str, Any]:
    """The release as the plugin installs it: it waits, because an operator's webhooks refuse what comes too early.

    Its description says whose it is: a release has no labels of ours, and nothing else tells after an interruption.
    """
    inputs: dict[str, Any] = {
        "name": addon.release or addon.name,
        "namespace": addon.namespace,
        "createNamespace": True,
        "chart": addon.chart,
        "version": addon.version,
        "values": dict(addon.values),
        # Else Helm, given no values any more, goes on with those of the last time.
        "resetValues": True,
        "description": release_description(stack),
        "skipCrds": False,
        "skipAwait": False,
        "timeout": addon.seconds,
    }
    if addon.repo:
        inputs["repositoryOpts"] = {"repo": addon.repo}
    return inputs


def mismatch(addon: Addon, status: Mapping[str, Any] | None) -> Problem | None:
    """Why an adopted release is not what the stack takes it for; None where it is, or cannot be told."""
    found = (status or {}).get("appVersion") or ""
    if status is None or status.get("version") == addon.version or len(release_key(found)) < 3:
        return None
    if release_key(found) == release_key(addon.operator):
        return None
    why = f"the adopted release {addon.id} holds {found}, the stack says {addon.operator}"
    return Problem(f"addons.{addon.name}.version", addon.operator, why, "write the version that is installed")


class HelmRelease(pulumi.CustomResource):
    """The release of an add-on, installed or adopted."""

    addon: Addon
    status: pulumi.Output[Any]
    """What Helm says of it: `version` of the chart, `appVersion`."""

    def __init__(self, name: str, addon: Addon, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        self.addon = addon  # first: whoever looks at resources in the making looks at it
        super().__init__(RELEASE, name, dict(inputs), opts)


class ClusterAddons(pulumi.ComponentResource):
    """The add-ons. Custom resources depend on `releases`, so that their operators outlive them at destroy."""

    releases: list[pulumi.Resource]

    def __init__(self, name: str, args: ClusterAddonsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:cluster:ClusterAddons", name, {}, opts)
        self.releases = []
        for addon in args.addons:
            if addon.install or addon.adopt:
                logical = f"{name}-{addon.name}"
                release = self._adopted(logical, addon) if addon.adopt else self._installed(logical, args.stack, addon)
                self.releases.append(release)
        self.register_outputs({})

    def _installed(self, name: str, stack: str, addon: Addon) -> pulumi.Resource:
        # Two releases of one operator fight over its cluster-wide objects.
        opts = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        return HelmRelease(name, addon, release_inputs(stack, addon), opts)

    def _adopted(self, name: str, addon: Addon) -> pulumi.Resource:
        # Read, not imported: Helm does not keep where a chart came from, so that an import ends in an upgrade to the
        # chart given here (https://github.com/pulumi/pulumi-kubernetes/issues/3502), and a destroy would take it away.
        # Which of its values are secret, only its owner knows.
        opts = pulumi.ResourceOptions(parent=self, id=addon.id, additional_secret_outputs=["values"])
        release = HelmRelease(name, addon, {"status": None}, opts)
        release.status.apply(lambda status: _require(addon, status))
        return release


def _require(addon: Addon, status: Mapping[str, Any] | None) -> None:
    """For a run that could not ask the cluster before: an error inside of it, in the same words."""
    if problem := mismatch(addon, status):
        raise pulumi.RunError(str(problem))
