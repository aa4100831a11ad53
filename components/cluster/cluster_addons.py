"""The operators that a stack's custom resources need, one Helm release each.

Not here: where a chart comes from and what a release of an operator can do (`planning.addons`), and custom resources.
Helm installs the CRDs in a chart's `crds/` with the first install, and never upgrades or deletes them afterwards
(https://lws.sigs.k8s.io/docs/installation/#upgrade-by-helm); the stack's builder hands in hooks that upgrade them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """One operator. `name` is its name in `planning.addons`, `release` the Helm release's (default: `name`).

    `version` is the chart's, `app_version` the operator's (default: `version`). `repo` is for a `chart` that is neither
    a full address nor a path. `adopt` reads a release that somebody else has installed and never changes it; a release
    of this stack that becomes adopted stays in the cluster. Without `install` nothing happens. `seconds` limits how
    long its pods take to become ready.
    Raises Refused for a chart that cannot be found, and for one whose CRDs would be deleted with its release.
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
        """The operator's version, which decides what features it has."""
        return self.app_version or self.version

    @property
    def id(self) -> str:
        """`namespace/name` of the Helm release."""
        return f"{self.namespace}/{self.release or self.name}"


@dataclass(frozen=True, kw_only=True)
class ClusterAddonsArgs:
    """The stack's name and its add-ons. `kinds` gives the hooks that upgrade an add-on's CRDs."""

    stack: str
    addons: Sequence[Addon]
    kinds: Callable[[Addon], pulumi.ResourceHookBinding] | None = None


def release_inputs(stack: str, addon: Addon) -> dict[str, Any]:
    """The release as Pulumi's plugin installs it. It waits, because an operator's webhooks refuse objects before they
    are ready.

    The description names the stack: a release has no labels of ours, and after an interrupted run nothing else tells
    whose it is.
    """
    inputs: dict[str, Any] = {
        "name": addon.release or addon.name,
        "namespace": addon.namespace,
        "createNamespace": True,
        "chart": addon.chart,
        "version": addon.version,
        "values": dict(addon.values),
        # Otherwise Helm keeps the last values when the stack passes none.
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
    """Why an adopted release is not the version that the stack expects; None if it is, or if nobody can tell."""
    installed = (status or {}).get("appVersion") or ""
    if status is None or status.get("version") == addon.version or len(release_key(installed)) < 3:
        return None
    if release_key(installed) == release_key(addon.operator):
        return None
    why = f"the adopted release {addon.id} holds {installed}, the stack says {addon.operator}"
    return Problem(f"addons.{addon.name}.version", addon.operator, why, "write the version that is installed")


class HelmRelease(pulumi.CustomResource):
    """The release of an add-on, installed or adopted."""

    addon: Addon
    status: pulumi.Output[Any]
    """What Helm says about it: the chart's `version`, and `appVersion`."""

    def __init__(self, name: str, addon: Addon, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        self.addon = addon  # before super().__init__: transforms that run during registration read it
        super().__init__(RELEASE, name, dict(inputs), opts)


class ClusterAddons(pulumi.ComponentResource):
    """The add-ons. Custom resources depend on `releases`, so that a destroy deletes them before their operators."""

    releases: list[pulumi.Resource]

    def __init__(self, name: str, args: ClusterAddonsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:cluster:ClusterAddons", name, {}, opts)
        self.releases = []
        for addon in args.addons:
            if addon.install or addon.adopt:
                logical = f"{name}-{addon.name}"
                release = self._adopted(logical, addon) if addon.adopt else self._installed(logical, args, addon)
                self.releases.append(release)
        self.register_outputs({})

    def _installed(self, name: str, args: ClusterAddonsArgs, addon: Addon) -> pulumi.Resource:
        hooks = args.kinds(addon) if args.kinds else None
        # Two releases of one operator would fight over its cluster-wide objects.
        opts = pulumi.ResourceOptions(parent=self, delete_before_replace=True, hooks=hooks)
        return HelmRelease(name, addon, release_inputs(args.stack, addon), opts)

    def _adopted(self, name: str, addon: Addon) -> pulumi.Resource:
        # Read it, do not import it. Helm does not record where a chart came from, so an import ends in an upgrade to
        # the chart given here (https://github.com/pulumi/pulumi-kubernetes/issues/3502), and a destroy would delete it.
        # All values are secret, because only its owner knows which of them are.
        opts = pulumi.ResourceOptions(parent=self, id=addon.id, additional_secret_outputs=["values"])
        release = HelmRelease(name, addon, {"status": None}, opts)
        release.status.apply(lambda status: _require(addon, status))
        return release


def _require(addon: Addon, status: Mapping[str, Any] | None) -> None:
    """Fails a run whose preflight could not reach the cluster, with the preflight's words."""
    if problem := mismatch(addon, status):
        raise pulumi.RunError(str(problem))
