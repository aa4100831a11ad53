"""A `pod` section of the stack file as components take it."""

from __future__ import annotations

from components.cluster.pod_extras import NOTHING, PodExtras
from config.pods import CachePod, EnginePod, SyncPod


def extras(pod: EnginePod | SyncPod | CachePod | None) -> PodExtras:
    """What the section says, in Kubernetes' own spelling; nothing where there is none."""
    if pod is None:
        return NOTHING
    given = {key: value for key, value in pod.model_dump(by_alias=True, mode="json").items() if value}
    return PodExtras(
        volumes=given.pop("volumes", ()),
        mounts=given.pop("volumeMounts", ()),
        container_security=given.pop("containerSecurityContext", {}),
        labels=given.pop("labels", {}),
        annotations=given.pop("annotations", {}),
        spec=given,
    )
