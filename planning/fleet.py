"""What AIBrix and KubeRay make of a fleet's name and port. Pure, for rules that are checked before anything runs."""

from __future__ import annotations

from planning.catalog import fact


def ray_port(port: int) -> tuple[str, str] | None:
    """Why an engine cannot listen on `port` beside Ray, and what to write instead."""
    taken = ray_ports()
    return (f"Ray's {taken[port]} listens there in the same pod", "write 8000") if port in taken else None


def ray_ports() -> dict[int, str]:
    """Where Ray listens in the engine's pod, and what of it."""
    return {
        number: name
        for facts in ("headPorts", "agentPorts")
        for name, number in fact("fleet", "kuberay", facts).items()
    }


def name_limit() -> int:
    """The most characters that a fleet's name may have.

    Its RayClusters are called `<fleet>-<hash>-<random>`, and what KubeRay derives from that name it clips on the left,
    where two fleets differ.
    """
    room = fact("fleet", "kuberay", "nameClippedAt") - len(fact("fleet", "kuberay", "longestSuffix"))
    return room - fact("fleet", "aibrix", "hashLength") - fact("fleet", "kuberay", "randomLength") - len("--")
