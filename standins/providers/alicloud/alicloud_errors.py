"""How Alibaba Cloud's services refuse a request."""

from __future__ import annotations

from standins.providers.cloud import Cloud, CloudError


def refused(service: str, status: int, code: str, message: str) -> CloudError:
    """A refusal as the SDK of the service (`oss`, `ram`) reports it. The plugin reads any 404 as «does not exist»."""
    if service == "oss":
        told = "[SDK aliyun-oss-go-sdk ERROR]:\noss: service returned error: "
        told += f'StatusCode={status}, ErrorCode={code}, ErrorMessage="{message}"'
    else:
        told = "[SDK alibaba-cloud-sdk-go ERROR]:\nSDKError:\n"
        told += f"   StatusCode: {status}\n   Code: {code}\n   Message: {message}"
    return CloudError(told, status=status, gone=status == 404)


def permit(cloud: Cloud, service: str, kind: str, name: str) -> None:
    """Raises CloudError if the control plane's faults forbid requests for this object."""
    if not cloud.forbids(kind, name):
        return
    if service == "oss":
        raise refused(service, 403, "AccessDenied", "You have no right to access this object.")
    raise refused(service, 403, "NoPermission", "You are not authorized to do this action.")
