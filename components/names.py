"""Names that two parties need before either object exists. Pure, for commands that import no Pulumi too."""

API_KEY = "apiKey"
"""The key inside the API key's Secret."""


def service_object(name: str) -> str:
    """The Kubernetes Service of a service. LeaderWorkerSet takes the bare name for its own headless one."""
    return f"{name}-leader"


def api_key_secret(name: str) -> str:
    """The Secret with the API key of a service."""
    return f"{name}-api-key"
