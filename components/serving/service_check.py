"""A Job that asks a service for a completion when everything else of it is up, and ends `pulumi up` if there is none.

It runs inside the cluster, so an endpoint that nobody else reaches is asked too. It runs anew when what is served has
changed, and not otherwise. Not here: what is asked (`modelserve_verify`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi

from components.cluster.credentials import SecretKey
from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.cluster.program_pod import ProgramPod
from planning import timeouts
from planning.names import check_object

COMPONENT = "verify"
"""The pods' label app.kubernetes.io/component."""
_PROGRAM = Path(__file__).with_name("modelserve_verify.py")
_SERVED = "modelserve.dev/served"
# The Job ends itself at its own limit and reports it; Pulumi has to wait a little longer to see that.
_MARGIN_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class ServiceCheckArgs:
    """The endpoint `url` is asked as `model`, with the API key of `key` if there is one. The answer's text has none of
    `tags`. `served` is what is served: the check is made again when it changes. `spec` has further fields of the pod's
    spec; `image` has Python."""

    stack: str
    namespace: str
    url: pulumi.Input[str]
    model: str
    key: SecretKey | None
    tags: Sequence[str]
    served: Mapping[str, Any]
    image: str
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)


def selector(stack: str, service: str) -> dict[str, str]:
    """Labels that only the pods of this service's check have."""
    return {**labels(stack, service), "app.kubernetes.io/component": COMPONENT}


def job(name: str, args: ServiceCheckArgs) -> Manifest:
    """The Job. It has no time to live: the next refresh would miss it, and the next `up` would create it again."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": check_object(name),
            "namespace": args.namespace,
            "labels": labels(args.stack, name),
            # A failed Job stays failed: replace it.
            "annotations": {"pulumi.com/replaceUnready": "true"},
        },
        "spec": {
            "activeDeadlineSeconds": timeouts.CHECK_SECONDS + timeouts.STEP_FLOOR_SECONDS,
            # The program itself asks again while that may help.
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": _pod(name, args).template(),
        },
    }


def _pod(name: str, args: ServiceCheckArgs) -> ProgramPod:
    values: Mapping[str, pulumi.Input[str]] = {
        "MODELSERVE_URL": args.url,
        "MODELSERVE_MODEL": args.model,
        "MODELSERVE_TAGS": " ".join(args.tags),
        "MODELSERVE_SECONDS": str(timeouts.CHECK_SECONDS),
    }
    env: list[Manifest] = [{"name": key, "value": value} for key, value in values.items()]
    if args.key:
        reference = {"name": args.key.secret, "key": args.key.field}
        env.append({"name": "MODELSERVE_API_KEY", "valueFrom": {"secretKeyRef": reference}})
    return ProgramPod(
        component=COMPONENT,
        file=_PROGRAM,
        config=check_object(name),
        image=args.image,
        labels={**args.pod_labels, **labels(args.stack, name)},
        env=env,
        # A changed pod template replaces the Job.
        annotations={_SERVED: pulumi.Output.json_dumps(args.served, sort_keys=True).apply(_digest)},
        spec=args.spec,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ServiceCheck(pulumi.ComponentResource):
    """The check of one service. Register it after the workload."""

    def __init__(
        self,
        name: str,
        args: ServiceCheckArgs,
        opts: pulumi.ResourceOptions | None = None,
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> None:
        super().__init__("modelserve:serving:ServiceCheck", name, {}, opts)
        metadata = {"namespace": args.namespace, "labels": labels(args.stack, name)}
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on its depends_on
        program = kubernetes_object(f"{check_object(name)}-program", _pod(name, args).config_map(metadata), child)
        limit = f"{timeouts.CHECK_SECONDS + timeouts.STEP_FLOOR_SECONDS + _MARGIN_SECONDS}s"
        opts = pulumi.ResourceOptions(
            parent=self,
            depends_on=[program],
            hooks=hooks,
            custom_timeouts=pulumi.CustomTimeouts(create=limit, update=limit),
            delete_before_replace=True,
        )
        kubernetes_object(check_object(name), job(name, args), opts)
        self.register_outputs({})
