"""How Volcengine's services refuse a request."""

from __future__ import annotations

from local.providers.cloud import Cloud, CloudError

ACCOUNT = "2100000001"
"""The rehearsal's own account. A bucket in `cloud.json` with another owner is somebody else's."""


def refused(status: int, code: str, message: str) -> CloudError:
    """A refusal as the Go SDK tells it, which is the same for all services."""
    return CloudError(f"{code}: {message}\n\tstatus code: {status}, request id: ")


def permit(cloud: Cloud, kind: str, name: str) -> None:
    """Raises CloudError where the control plane's faults forbid what concerns this object."""
    if cloud.forbids(kind, name):
        raise refused(403, "AccessDenied", f"User is not authorized to perform this action on {kind} {name}.")
