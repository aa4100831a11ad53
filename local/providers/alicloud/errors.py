"""How Alibaba Cloud's services refuse a request."""

from __future__ import annotations

from local.providers.cloud import Cloud, CloudError


def refused(service: str, status: int, code: str, message: str) -> CloudError:
    """A refusal as the SDK of its service (`oss`, `ram`) tells it."""
    if service == "oss":
        told = "[SDK aliyun-oss-go-sdk ERROR]:\noss: service returned error: "
        return CloudError(f'{told}StatusCode={status}, ErrorCode={code}, ErrorMessage="{message}"')
    told = f"[SDK alibaba-cloud-sdk-go ERROR]:\nSDKError:\n   StatusCode: {status}\n   Code: {code}\n"
    return CloudError(f"{told}   Message: {message}")


def permit(cloud: Cloud, service: str, kind: str, name: str) -> None:
    """Raises CloudError where the control plane's faults forbid what concerns this object."""
    if not cloud.forbids(kind, name):
        return
    if service == "oss":
        raise refused(service, 403, "AccessDenied", "You have no right to access this object.")
    raise refused(service, 403, "NoPermission", "You are not authorized to do this action.")
