"""The engine's command line and volumes, from the stack file. One `weights_path` feeds mount and argument alike."""

from __future__ import annotations

from components.kubernetes import Manifest
from planning.catalog import fact
from stacks.config import Service, Weights

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


def arguments(name: str, service: Service, weights: Weights) -> list[str]:
    """The argument list of `vllm serve` for the service called `name`."""
    layout, engine = service.layout, service.engine
    args = [weights_path(weights, service),
            "--served-model-name", service.served_model_name or name,
            "--port", str(service.port),
            "--tensor-parallel-size", str(layout.tensor),
            "--pipeline-parallel-size", str(layout.pipeline)]
    if layout.nodes > 1:
        # Always said: releases from 0.11.1 on no longer choose Ray by themselves.
        args += ["--distributed-executor-backend", engine.launcher]
    if service.max_model_len:
        args += ["--max-model-len", str(service.max_model_len)]
    if engine.gpu_memory_utilization:
        args += ["--gpu-memory-utilization", str(engine.gpu_memory_utilization)]
    return args + list(engine.extra_args)


def environment(service: Service) -> dict[str, str]:
    """Environment variables of the engine, the user's last."""
    ready = fact("engines", "vllm", "readyTimeoutVariable")
    env = {}
    if _release(service.engine.version) >= _release(ready["since"]):
        env[ready["name"]] = str(service.startup_seconds)
    return env | service.engine.env


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
