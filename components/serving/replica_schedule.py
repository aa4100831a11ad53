"""CronJobs that give a workload its replicas and take them away again, by the service's schedule.

Each edge of the schedule is a CronJob in the schedule's time zone. Its pod may change the scale of that one workload,
and nothing else. Not here: the hours (`planning.schedule`), and the workload, which leaves its number to the CronJobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pulumi

from components.cluster.kubernetes import Manifest, kubernetes_object, labels
from components.cluster.program_pod import ProgramPod
from planning import timeouts
from planning.schedule import Edge, Schedule

COMPONENT = "schedule"
"""The pods' label app.kubernetes.io/component."""
API = "https://kubernetes.default.svc"
_PROGRAM = Path(__file__).with_name("modelserve_scale.py")
_IDENTITY = "/var/run/secrets/modelserve"
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Workload:
    """The workload that is scaled, by its place in the API: `leaderworkerset.x-k8s.io/v1`, `leaderworkersets`, name."""

    api_version: str
    plural: str
    name: str


@dataclass(frozen=True, kw_only=True)
class ReplicaScheduleArgs:
    """Between the edges of `schedule` the workload has `replicas`, else none. `image` has Python."""

    stack: str
    namespace: str
    workload: Workload
    schedule: Schedule
    replicas: int
    image: str
    pod_labels: Mapping[str, str] = field(default_factory=dict)


def _metadata(name: str, service: str, args: ReplicaScheduleArgs) -> Manifest:
    return {"name": name, "namespace": args.namespace, "labels": labels(args.stack, service)}


def access(name: str, args: ReplicaScheduleArgs) -> list[Manifest]:
    """Who the pods are, and what they may do: change one workload's scale."""
    called = _called(name)
    role = {"apiGroup": _RBAC, "kind": "Role", "name": called}
    rule = {
        "apiGroups": [args.workload.api_version.partition("/")[0]],
        "resources": [f"{args.workload.plural}/scale"],
        "resourceNames": [args.workload.name],
        "verbs": ["patch"],
    }
    account: Manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": False}
    return [
        account | {"metadata": _metadata(called, name, args)},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": _metadata(called, name, args),
            "rules": [rule],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": _metadata(called, name, args),
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": called, "namespace": args.namespace}],
        },
    ]


def cron_job(name: str, args: ReplicaScheduleArgs, edge: Edge) -> Manifest:
    """One edge. A start that the controller missed counts for some minutes; the next day has the edge again."""
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(edge_name(name, edge), name, args),
        "spec": {
            "schedule": edge.cron,
            "timeZone": args.schedule.timezone,
            "startingDeadlineSeconds": timeouts.SCALE_SECONDS,
            # The later edge counts.
            "concurrencyPolicy": "Replace",
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {
                "metadata": {"labels": labels(args.stack, name)},
                "spec": {
                    "activeDeadlineSeconds": timeouts.SCALE_SECONDS,
                    "template": _pod(name, args, edge).template(),
                },
            },
        },
    }


def edge_name(name: str, edge: Edge) -> str:
    """The CronJob's name: `ds-on-0800`."""
    return f"{name}-{'on' if edge.on else 'off'}-{edge.time}"


def _called(name: str) -> str:
    return f"{name}-schedule"


def _pod(name: str, args: ReplicaScheduleArgs, edge: Edge | None = None) -> ProgramPod:
    workload = args.workload
    path = f"/apis/{workload.api_version}/namespaces/{args.namespace}/{workload.plural}/{workload.name}"
    values = {
        "MODELSERVE_API": API,
        "MODELSERVE_WORKLOAD": path,
        "MODELSERVE_REPLICAS": str(args.replicas if edge and edge.on else 0),
        "MODELSERVE_IDENTITY": _IDENTITY,
    }
    identity = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": timeouts.SCALE_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    return ProgramPod(
        component=COMPONENT,
        file=_PROGRAM,
        config=_called(name),
        image=args.image,
        labels={**args.pod_labels, **labels(args.stack, name)},
        env=[{"name": key, "value": value} for key, value in values.items()],
        mounts=[{"name": "identity", "mountPath": _IDENTITY, "readOnly": True}],
        volumes=[{"name": "identity", "projected": {"sources": identity}}],
        spec={"serviceAccountName": _called(name)},
    )


class ReplicaSchedule(pulumi.ComponentResource):
    """The schedule of one workload. Delete it before the workload, so that nothing scales what goes."""

    def __init__(self, name: str, args: ReplicaScheduleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:serving:ReplicaSchedule", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)  # merging opts would pass on its depends_on
        needed = [
            kubernetes_object(f"{_called(name)}-{each['kind'].lower()}", each, child)
            for each in (*access(name, args), _pod(name, args).config_map(_metadata(_called(name), name, args)))
        ]
        after = pulumi.ResourceOptions(parent=self, depends_on=needed)
        for edge in args.schedule.edges():
            kubernetes_object(edge_name(name, edge), cron_job(name, args, edge), after)
        self.register_outputs({})
