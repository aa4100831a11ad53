"""How Volcengine's services refuse a request."""

from __future__ import annotations

from standins.providers.cloud import Cloud, CloudError

ACCOUNT = "2100000001"
"""The rehearsal's own account. A bucket in `cloud.json` with another owner is somebody else's."""


_GONE = ("notfound", "not found", "not exist", "not associate", "invalid", "not_found", "notexist")


def refused(status: int, code: str, message: str) -> CloudError:
    """A refusal as the Go SDK tells it, the same for all services. Some words are «not there» to the plugin."""
    gone = status == 404 or any(word in f"{code}: {message}".lower() for word in _GONE)
    return CloudError(f"{code}: {message}\n\tstatus code: {status}, request id: ", status=status, gone=gone)


def permit(cloud: Cloud, kind: str, name: str) -> None:
    """Raises CloudError where the control plane's faults forbid what concerns this object."""
    if cloud.forbids(kind, name):
        raise refused(403, "AccessDenied", f"User is not authorized to perform this action on {kind} {name}.")
