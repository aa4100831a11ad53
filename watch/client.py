"""The one client for reading a stack's cluster besides Pulumi: one timeout, one list of errors.

Importing it is cheap; creating a client loads the Kubernetes library, which takes about a second. Not here: the
provider of the stack's resources, which the builder creates.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from config.kubeconfig import kubeconfig_files, parsed

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from kubernetes.dynamic import DynamicClient

TIMEOUT_SECONDS = (3, 10)
"""To connect, and between two parts of an answer. The library's default is to wait forever."""
FOLLOWED_SECONDS = (3, 86400)
"""The same for a followed log, which may be silent for hours. The library has no value for «forever»."""


def api_client(context: str, kubeconfig: str | None = None) -> ApiClient:
    """A client for `context` in `kubeconfig` (its content) or in this machine's files. Raises one of `errors()`."""
    from kubernetes import config

    if kubeconfig:
        client = config.new_client_from_config_dict(parsed(kubeconfig, "modelserve:kubeconfig"), context)
    else:
        client = config.new_client_from_config(os.pathsep.join(map(str, kubeconfig_files())), context)
    request = client.rest_client.request

    def timed(*args: Any, _request_timeout: Any = None, **more: Any) -> Any:
        return request(*args, _request_timeout=_request_timeout or TIMEOUT_SECONDS, **more)

    client.rest_client.request = timed
    return client


def dynamic_client(context: str, kubeconfig: str | None = None) -> DynamicClient:
    """A client for kinds known only by name. It asks the cluster when it is created; raises one of `errors()`."""
    from kubernetes.dynamic import DynamicClient

    return DynamicClient(api_client(context, kubeconfig))


def errors() -> tuple[type[Exception], ...]:
    """Errors of reading a cluster: it refuses, its kubeconfig cannot be used, or it does not answer."""
    import urllib3
    from kubernetes import client, config

    return client.ApiException, config.ConfigException, urllib3.exceptions.HTTPError
