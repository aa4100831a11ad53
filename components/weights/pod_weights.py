"""What the pods of an engine need to bring their weights by themselves, whatever the source.

Not here: the sources. Each has a file with its arguments and a function that gives `PodWeights`: `hub_weights`,
`bucket_weights`, `disk_weights`. A new source is another such file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.cluster.credentials import SecretKey
from components.cluster.kubernetes import Manifest
from planning.catalog import fact
from planning.units import quantity

MOUNT = "/weights"
"""Where the engine finds the weights in its container."""
VOLUME = "weights"
"""The pod's volume with the weights."""
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class PodWeights:
    """What every pod of a replica needs for its weights.

    `argument` is the engine's model argument; `args` follow it. `mounts` are the engine container's; `init_containers`
    bring their own. `ephemeral_gib` is the room for weights on the pod's temporary disk, without what else is written
    there. `copies` says how often all files cross the network: once per pod, once per node (as long as its disk lives),
    or never.
    """

    argument: str
    args: Sequence[str] = ()
    init_containers: Sequence[Manifest] = ()
    volumes: Sequence[Manifest] = ()
    mounts: Sequence[Manifest] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, SecretKey] = field(default_factory=dict)
    ephemeral_gib: int = 0
    copies: Literal["pod", "node", "none"] = "pod"


def needed_gib(file_bytes: int) -> int:
    """Size in GiB of the temporary disk that holds a copy of the files."""
    return math.ceil(file_bytes / _GIB) + fact("weights", "sizes", "marginGib")


def temporary_volume(size_gib: int) -> Manifest:
    """The volume for weights that last as long as the pod."""
    return {"name": VOLUME, "emptyDir": {"sizeLimit": quantity(f"{size_gib}Gi")}}
