"""How Volcengine's services refuse a request."""

from __future__ import annotations

from standins.providers.cloud import Cloud, CloudError

ACCOUNT = "2100000001"
"""The rehearsal's own account. A bucket with another owner in `cloud.json` belongs to somebody else."""


_GONE = ("notfound", "not found", "not exist", "not associate", "invalid", "not_found", "notexist")


def refused(status: int, code: str, message: str) -> CloudError:
    """A refusal as the Go SDK reports it, for all services. The plugin reads some words as «does not exist»."""
    gone = status == 404 or any(word in f"{code}: {message}".lower() for word in _GONE)
    return CloudError(f"{code}: {message}\n\tstatus code: {status}, request id: ", status=status, gone=gone)


def permit(cloud: Cloud, kind: str, name: str) -> None:
    """Raises CloudError if the control plane's faults forbid requests for this object."""
    if cloud.forbids(kind, name):
        raise refused(403, "AccessDenied", f"User is not authorized to perform this action on {kind} {name}.")
