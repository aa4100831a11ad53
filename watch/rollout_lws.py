"""The status of a LeaderWorkerSet's rollout."""

from __future__ import annotations

from watch.rollout import Reader, RolloutStatus
from watch.rollout_group import look_at_group

_GROUP = "leaderworkerset.sigs.k8s.io/"
_LEADER = (f"{_GROUP}worker-index", "0")


def look(reader: Reader, name: str) -> RolloutStatus | None:
    """The status of the group `name`; None while it cannot be read."""
    group = reader.custom("leaderworkerset.x-k8s.io/v1", "leaderworkersets", name)
    if group is None:
        return None
    size, replicas = group["spec"]["leaderWorkerTemplate"]["size"], group["spec"]["replicas"]
    return look_at_group(reader, (f"{_GROUP}name={name}", f"{_GROUP}name!={name}"), size, replicas, _LEADER)
