"""The status of a RayClusterFleet's rollout."""

from __future__ import annotations

from planning.names import COLOUR, FLEET
from watch.rollout import Reader, RolloutStatus
from watch.rollout_group import look_at_group

_RAY, _INSTANCE = "ray.io/", "app.kubernetes.io/instance"
_HEAD = (f"{_RAY}node-type", "head")


def look(reader: Reader, name: str) -> RolloutStatus | None:
    """The status of the fleet `name`; None while it cannot be read."""
    fleet = reader.custom("orchestration.aibrix.ai/v1alpha1", "rayclusterfleets", name)
    if fleet is None:
        return None
    spec = fleet["spec"]["template"]["spec"]
    size = 1 + sum(workers["replicas"] for workers in spec.get("workerGroupSpecs") or [])
    # A fleet that has a colour shares the instance with another one.
    own = FLEET if COLOUR in (fleet["metadata"].get("annotations") or {}) else _INSTANCE
    ours = f"{_RAY}cluster,{own}={name}", f"{own}!={name}"
    return look_at_group(reader, ours, size, fleet["spec"].get("replicas", 1), _HEAD)
