"""The engine's command line and volumes, from the stack file. One `weights_path` feeds mount and argument alike."""

from __future__ import annotations

from components.kubernetes import Manifest
from planning.catalog import fact
from stacks.config import Service, Weights
from stacks.plans import Planned

_MOUNT = "/weights"


def weights_path(weights: Weights, service: Service) -> str:
    """Where the model's files are inside the pod."""
    return f"{_MOUNT}/{weights.prefix}/{service.model}"


def weights_volume(weights: Weights) -> Manifest:
    """The pod's volume with the weights, which no pod may change."""
    return {"name": "weights", "persistentVolumeClaim": {"claimName": weights.claim, "readOnly": True}}


def weights_mount() -> Manifest:
    """Where the volume goes in the container."""
    return {"name": "weights", "mountPath": _MOUNT, "readOnly": True}


def arguments(name: str, planned: Planned, weights: Weights) -> list[str]:
    """The argument list of `vllm serve` for the service called `name`."""
    service, layout, engine = planned.service, planned.layout, planned.service.engine
    args = [
        weights_path(weights, service),
        "--served-model-name",
        service.served_model_name or name,
        "--port",
        str(service.port),
        "--tensor-parallel-size",
        str(layout.tensor),
        "--pipeline-parallel-size",
        str(layout.pipeline),
        "--max-model-len",
        str(planned.max_model_len),
    ]
    if layout.nodes > 1:
        # Always said: releases from 0.11.1 on no longer choose Ray by themselves.
        args += ["--distributed-executor-backend", engine.launcher]
    if engine.gpu_memory_utilization:
        args += ["--gpu-memory-utilization", str(engine.gpu_memory_utilization)]
    return args + list(engine.extra_args)


def environment(planned: Planned) -> dict[str, str]:
    """Environment variables of the engine, the user's last."""
    engine, ready = planned.service.engine, fact("engines", "vllm", "readyTimeoutVariable")
    env = {}
    if _release(engine.version) >= _release(ready["since"]):
        env[ready["name"]] = str(planned.startup_seconds)
    return env | engine.env


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
