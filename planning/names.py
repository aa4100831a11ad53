"""Names that two objects share before either exists. Pure, so that commands without Pulumi can use them."""

import re

API_KEY = "apiKey"
"""The key inside the API key's Secret."""
WEIGHTS_CONTAINER = "weights"
"""The init container that copies weights to a pod, or to the disk of its node."""
CLUSTER = "cluster"
"""The stack output that says in which cluster the stack is."""


def service_object(name: str) -> str:
    """The Kubernetes Service of a service. LeaderWorkerSet gives the plain name to its own headless Service."""
    return f"{name}-leader"


def group_object(name: str) -> str:
    """The LeaderWorkerSet of a service behind a gateway. The gateway needs the plain name for its Service, but
    LeaderWorkerSet gives the group's name to its own headless Service."""
    return f"{name}-group"


def workload(name: str, kind: str | None, *, gateway: bool) -> tuple[str, str, str]:
    """API version, plural and name of a service's workload, a `fleet` or `lws`, behind AIBrix's gateway or not."""
    if kind == "fleet":
        return "orchestration.aibrix.ai/v1alpha1", "rayclusterfleets", name
    return "leaderworkerset.x-k8s.io/v1", "leaderworkersets", group_object(name) if gateway else name


def api_key_secret(name: str) -> str:
    """The Secret with the API key of a service."""
    return f"{name}-api-key"


def model_object(model: str) -> str:
    """The name of the objects of a model rather than of a service (volume, cache, sync), as DNS-1035 allows."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def check_object(name: str) -> str:
    """The Job that asks a service for a completion after `up`, and the ConfigMap with its program."""
    return f"{name}-verify"


def sync_object(model_object: str) -> str:
    """The Job that copies a model's weights to a bucket or volume."""
    return f"{model_object}-sync"


def loader_job(load: str) -> str:
    """The Job that Fluid runs for a DataLoad (fluid v1.0.8, charts/fluid-dataloader)."""
    return f"{load}-loader-job"
