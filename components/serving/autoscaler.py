"""What the autoscalers of groups (`group_autoscaler`) and of fleets (`pod_autoscaler`) have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object
from planning.problems import Problem
from planning.scaling import Scaling, Wrong


@dataclass(frozen=True, kw_only=True)
class AutoscalerArgs(Scaling):
    """What every autoscaler needs: its settings, and the workload called `target_name`, whose engines have this
    release."""

    stack: str
    namespace: str
    engine_version: str
    target_name: str
    cold_start_seconds: int

    def problems(self, wrong: Wrong) -> list[Problem]:
        """The problems with these fields."""
        return [Problem(field, str(getattr(self, field)), *reason) for field, *reason in wrong]


class Autoscaler(pulumi.ComponentResource):
    """One object that scales a workload, after others that it needs. Pulumi creates it after the workload and deletes
    it before."""

    ready: pulumi.Output[str]
    """The object's id, known once it is ready."""

    def __init__(
        self,
        token: str,
        name: str,
        manifest: Manifest,
        opts: pulumi.ResourceOptions | None,
        before: Sequence[Manifest] = (),
    ) -> None:
        super().__init__(token, name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on our depends_on and ignore_changes
        needed = [kubernetes_object(f"{name}-{each['kind'].lower()}", each, child) for each in before]
        after = pulumi.ResourceOptions(parent=self, depends_on=needed)
        self.ready = kubernetes_object(f"{name}-autoscaler", manifest, after).id
        self.register_outputs({"ready": self.ready})
