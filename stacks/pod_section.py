"""A `pod` section of the stack file as components take it."""

from __future__ import annotations

from components.cluster.pod_extras import NOTHING, PodExtras
from config.pods import CachePod, EnginePod, SyncPod


def extras(pod: EnginePod | SyncPod | CachePod | None) -> PodExtras:
    """What the section says, in Kubernetes' own spelling; nothing where there is none."""
    if pod is None:
        return NOTHING
    fields = {key: value for key, value in pod.model_dump(by_alias=True, mode="json").items() if value}
    return PodExtras(
        volumes=fields.pop("volumes", ()),
        mounts=fields.pop("volumeMounts", ()),
        container_security=fields.pop("containerSecurityContext", {}),
        labels=fields.pop("labels", {}),
        annotations=fields.pop("annotations", {}),
        spec=fields,
    )
