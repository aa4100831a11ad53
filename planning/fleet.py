"""What AIBrix and KubeRay derive from a fleet's name and port. Pure: rules use it before anything runs."""

from __future__ import annotations

from planning.catalog import fact


def ray_port(port: int) -> tuple[str, str] | None:
    """Why an engine cannot listen on `port` beside Ray, and what to write instead."""
    taken = ray_ports()
    return (f"Ray's {taken[port]} listens there in the same pod", "write 8000") if port in taken else None


def ray_ports() -> dict[int, str]:
    """The ports on which Ray listens in the engine's pod, each with the part of Ray that does."""
    return {
        number: name
        for facts in ("headPorts", "agentPorts")
        for name, number in fact("fleet", "kuberay", facts).items()
    }


def name_limit() -> int:
    """The longest name of a fleet, in characters.

    Its RayClusters are called `<fleet>-<hash>-<random>`. KubeRay clips the names that it derives from that on the left,
    which is where two fleets differ.
    """
    room = fact("fleet", "kuberay", "nameClippedAt") - len(fact("fleet", "kuberay", "longestSuffix"))
    return room - fact("fleet", "aibrix", "hashLength") - fact("fleet", "kuberay", "randomLength") - len("--")
