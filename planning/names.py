"""Names that two parties need before either object exists. Pure, for commands that import no Pulumi too."""

import re

API_KEY = "apiKey"
"""The key inside the API key's Secret."""


def service_object(name: str) -> str:
    """The Kubernetes Service of a service. LeaderWorkerSet takes the bare name for its own headless one."""
    return f"{name}-leader"


def group_object(name: str) -> str:
    """The LeaderWorkerSet of a service whose bare name a gateway wants for its Service: LeaderWorkerSet gives its own
    headless one the group's name."""
    return f"{name}-group"


def api_key_secret(name: str) -> str:
    """The Secret with the API key of a service."""
    return f"{name}-api-key"


def model_object(model: str) -> str:
    """What belongs to a model rather than to a service (volume, cache, sync) is named by it, as DNS-1035 allows."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
