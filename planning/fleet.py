"""What AIBrix and KubeRay make of a fleet's name. Pure, for rules that are checked before anything is imported."""

from __future__ import annotations

from planning.catalog import fact


def name_limit() -> int:
    """The most characters that a fleet's name may have.

    Its RayClusters are called `<fleet>-<hash>-<random>`, and what KubeRay derives from that name it clips on the left,
    where two fleets differ.
    """
    room = fact("fleet", "kuberay", "nameClippedAt") - len(fact("fleet", "kuberay", "longestSuffix"))
    return room - fact("fleet", "aibrix", "hashLength") - fact("fleet", "kuberay", "randomLength") - len("--")
