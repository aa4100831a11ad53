"""The one client of a stack's cluster, for whoever looks at it beside Pulumi: one timeout, one list of what may fail.

Importing it is cheap; making a client loads the Kubernetes library, which takes about a second. Not here: the provider
of the stack's own resources, which the builder makes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from config.kubeconfig import kubeconfig_files, parsed

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from kubernetes.dynamic import DynamicClient

TIMEOUT_SECONDS = (3, 10)
"""To connect, and between two parts of an answer. The library's own default is to wait for ever."""
FOLLOWED_SECONDS = (3, 86400)
"""The same for a log that is followed, which may say nothing for hours. The library takes no «for ever»."""


def api_client(context: str, kubeconfig: str | None = None) -> ApiClient:
    """A client for `context` of `kubeconfig` (its content) or of this machine's files. Raises one of `errors()`."""
    from kubernetes import config

    if kubeconfig:
        made = config.new_client_from_config_dict(parsed(kubeconfig, "modelserve:kubeconfig"), context)
    else:
        made = config.new_client_from_config(os.pathsep.join(map(str, kubeconfig_files())), context)
    request = made.rest_client.request

    def timed(*args: Any, _request_timeout: Any = None, **more: Any) -> Any:
        return request(*args, _request_timeout=_request_timeout or TIMEOUT_SECONDS, **more)

    made.rest_client.request = timed
    return made


def dynamic_client(context: str, kubeconfig: str | None = None) -> DynamicClient:
    """A client for kinds that are known by name only. It asks the cluster at once; raises one of `errors()`."""
    from kubernetes.dynamic import DynamicClient

    return DynamicClient(api_client(context, kubeconfig))


def errors() -> tuple[type[Exception], ...]:
    """What a look at a cluster may raise: it refuses, its kubeconfig is of no use, or it does not answer."""
    import urllib3
    from kubernetes import client, config

    return client.ApiException, config.ConfigException, urllib3.exceptions.HTTPError
