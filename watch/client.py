"""The one client for reading a stack's cluster besides Pulumi: one timeout, one list of errors.

Importing it is cheap; creating a client loads the Kubernetes library, which takes a third of a second. Not here: the
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
WHOLE_SECONDS = (3, 60)
"""The same for a definition of a kind, which may have megabytes: an API server gives a request a minute."""
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


class Reads:
    """Reads objects as JSON and logs as text. Every read raises one of `errors()`.

    The library's own class for an API checks types as it goes, and is a second's work to load (release 37).
    """

    def __init__(self, api_client: ApiClient) -> None:
        # By this name the library finds the client, to give it another transport for a stream.
        self.api_client = api_client

    def json(self, path: str, **query: object) -> dict[str, Any]:
        """The object or list at a path of the API server."""
        return self._read("object", path, query)

    def items(self, path: str, **query: object) -> list[dict[str, Any]]:
        """The objects of the list at a path."""
        return self.json(path, **query)["items"]

    def text(self, path: str, **query: object) -> str:
        """The text at a path, such as a log."""
        return self._read("bytearray", path, query).decode(errors="replace")

    def lines(self, path: str, **query: object) -> Any:
        """The answer with the lines at a path as they come, such as those of a followed log."""
        answer = self.api_client.call_api(*self._request(path, query), _request_timeout=FOLLOWED_SECONDS)
        if answer.status != 200:
            answer.read()
            self.api_client.response_deserialize(answer, {})  # raises
        return answer.response

    def stream(self, path: str, *, _preload_content: bool = False, **query: object) -> Any:
        """For the functions of `kubernetes.stream`, which call it with another transport in the client's place."""
        return self.api_client.call_api(*self._request(path, query)).response

    def _read(self, kind: str, path: str, query: dict[str, object]) -> Any:
        answer = self.api_client.call_api(*self._request(path, query))
        answer.read()
        return self.api_client.response_deserialize(answer, {"200": kind}).data

    def _request(self, path: str, query: dict[str, object]) -> Any:
        # An API server sends text only to those who take anything.
        headers = {"Accept": "application/json, */*"}
        return self.api_client.param_serialize("GET", path, None, query, headers, auth_settings=["BearerToken"])


def dynamic_client(context: str, kubeconfig: str | None = None) -> DynamicClient:
    """A client for kinds known only by name. It asks the cluster when it is created; raises one of `errors()`."""
    from kubernetes.dynamic import DynamicClient

    return DynamicClient(api_client(context, kubeconfig))


def errors() -> tuple[type[Exception], ...]:
    """Errors of reading a cluster: it refuses, its kubeconfig cannot be used, or it does not answer."""
    import urllib3
    from kubernetes import client, config

    return client.ApiException, config.ConfigException, urllib3.exceptions.HTTPError
